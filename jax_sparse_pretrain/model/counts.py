"""Parameters and FLOPs from shapes alone. Standard library only.

Linear parameters are the matmul kernels, the LM head included: the N of the
loss law. The input embedding and the norm scales are not counted in N. A head
that is tied to the embedding is a lookup table too: it is counted in N if the
config says that it is linear.
"""

from jax_sparse_pretrain import config as config_lib


def kernel_shapes(model: config_lib.Model) -> dict[str, tuple[int, ...]]:
  """Path -> shape of every matmul kernel; axis 0 over layers where scanned."""
  d, heads = model.d_model, (model.n_heads, model.head_size)
  kv_heads = (model.kv_heads, model.head_size)
  block = {
    'attention/key/kernel': (d, *kv_heads),
    'attention/out/kernel': (*heads, d),
    'attention/query/kernel': (d, *heads),
    'attention/value/kernel': (d, *kv_heads),
    'mlp/down/kernel': (model.d_ff, d),
    'mlp/gate/kernel': (d, model.d_ff),
    'mlp/up/kernel': (d, model.d_ff),
  }
  if model.scan_layers:
    layers = {f'layers/{k}': (model.n_layers, *v) for k, v in block.items()}
  else:
    layers = {
      f'layer_{i}/{k}': v
      for i in range(model.n_layers)
      for k, v in block.items()
    }
  if model.tie_embeddings and not model.tied_is_linear:
    return layers
  if model.tie_embeddings:
    return {**layers, 'embed/embedding': (model.vocab_size, d)}
  return {**layers, 'lm_head/kernel': (d, model.vocab_size)}


def linear_parameters(model: config_lib.Model) -> int:
  """q, k, v, o, gate, up and down of every layer, and the LM head."""
  heads = 2 * model.n_heads + 2 * model.kv_heads
  attention = heads * model.head_size * model.d_model
  feed_forward = 3 * model.d_model * model.d_ff
  is_head_linear = not model.tie_embeddings or model.tied_is_linear
  head = is_head_linear * model.d_model * model.vocab_size
  return model.n_layers * (attention + feed_forward) + head


def total_parameters(model: config_lib.Model) -> int:
  """Linear parameters, input embedding and norm scales."""
  norms = (2 * model.n_layers + 1) * model.d_model
  embedding = (not model.tied_is_linear) * model.vocab_size * model.d_model
  return linear_parameters(model) + embedding + norms


def attention_flops_per_token(model: config_lib.Model) -> int:
  """Forward and backward FLOPs of QK^T and AV, both over the full length.

  12 n_layers n_heads head_dim L, the convention of PaLM's MFU (arXiv
  2204.02311, appendix B); the causal half is not subtracted.
  """
  width = model.n_heads * model.head_size
  return 12 * model.n_layers * width * model.context_length


def flops_per_token(model: config_lib.Model, nonzero: float) -> float:
  """Model FLOPs of a training token with `nonzero` linear parameters.

  A tied head is a matmul even where it is not among them.
  """
  is_head_left_out = model.tie_embeddings and not model.tied_is_linear
  head = is_head_left_out * model.d_model * model.vocab_size
  return 6 * (nonzero + head) + attention_flops_per_token(model)


def training_flops(parameters: float, tokens: float) -> float:
  """C = 6 N D: two FLOPs a weight forward and four backward, for each token.

  Args:
    parameters: N, or N_avg for a run that is pruned on its way.
    tokens: D.
  """
  return 6 * parameters * tokens
