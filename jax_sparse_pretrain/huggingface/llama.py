"""A Llama as Hugging Face lays it out, and the same model as ours.

Their linear weights are [out, in] and one a layer; ours are [in, ..., out, ...]
and may be stacked over layers. Both turn the rotary pairs (i, i + K/2), so no
weight is permuted.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from jax_sparse_pretrain import config as config_lib
from jax_sparse_pretrain import config_checks, schema
from jax_sparse_pretrain.config import ConfigError
from jax_sparse_pretrain.huggingface.sparse_file import DTYPES
from jax_sparse_pretrain.model import counts

# Our key, theirs, and what theirs is if it is missing. A value of None must be
# given.
_SIZES = {
  'vocab_size': ('vocab_size', None),
  'n_layers': ('num_hidden_layers', None),
  'd_model': ('hidden_size', None),
  'n_heads': ('num_attention_heads', None),
  'n_kv_heads': ('num_key_value_heads', 0),
  'head_dim': ('head_dim', 0),
  'd_ff': ('intermediate_size', None),
  'context_length': ('max_position_embeddings', 2048),
  'tie_embeddings': ('tie_word_embeddings', False),
  'norm_eps': ('rms_norm_eps', 1e-6),
}
_LLAMA3 = {
  'rope_factor': 'factor',
  'rope_low_frequency_factor': 'low_freq_factor',
  'rope_high_frequency_factor': 'high_freq_factor',
  'rope_original_length': 'original_max_position_embeddings',
}
# What this decoder has not, and the value that means so.
_MUST_BE = {
  'model_type': 'llama',
  'hidden_act': 'silu',
  'attention_bias': False,
  'mlp_bias': False,
  'quantization_config': None,
}


def to_llama_config(
  model: config_lib.Model, dtype: str, bos_id: int | None, eos_id: int | None
) -> dict[str, Any]:
  """What `config.json` of the exported model holds.

  Rotary keys are those of transformers 4, which version 5 reads, too.
  """
  values = {
    theirs: getattr(model, ours) for ours, (theirs, _) in _SIZES.items()
  }
  scaling = None
  if model.rope_scaling == 'llama3':
    scaling = {theirs: getattr(model, ours) for ours, theirs in _LLAMA3.items()}
    scaling['rope_type'] = 'llama3'
  return {
    'architectures': ['LlamaForCausalLM'],
    **{key: value for key, value in _MUST_BE.items() if value is not None},
    **values,
    'num_key_value_heads': model.kv_heads,
    'head_dim': model.head_size,
    'rope_theta': model.rope_base,
    'rope_scaling': scaling,
    'bos_token_id': bos_id,
    'eos_token_id': eos_id,
    'pad_token_id': None,
    'attention_dropout': 0.0,
    'initializer_range': model.d_model**-0.5,
    'use_cache': True,
    'torch_dtype': dtype,
  }


def from_llama_config(
  values: Mapping[str, Any], where: str
) -> config_lib.Model:
  """The sizes and options of a model that `config.json` describes.

  Raises:
    ConfigError: for another architecture or an option that ours has not.
  """
  for key, value in _MUST_BE.items():
    given = values.get(key, None if key == 'model_type' else value)
    if given != value:
      raise ConfigError(f'{where}: {key} = {given!r}: must be {value!r}')
  found = {}
  for ours, (theirs, default) in _SIZES.items():
    value = values.get(theirs)
    found[ours] = default if value is None else value
    if found[ours] is None:
      raise ConfigError(f'{where}: must have {theirs}')
  dtype = values.get('dtype') or values.get('torch_dtype') or 'float32'
  found['compute_dtype'] = dtype if dtype in DTYPES else 'float32'
  try:
    rotary = _rotary(values, where)
    model = schema.build(config_lib.Model, {**found, **rotary}, 'model.')
    config_checks.check_model(model)
  except ConfigError as error:
    raise ConfigError(f'{where}: {error}') from None
  return model


def _rotary(values: Mapping[str, Any], where: str) -> dict[str, Any]:
  about = values.get('rope_parameters') or values.get('rope_scaling') or {}
  if not isinstance(about, Mapping):
    raise ConfigError(f'rope_scaling = {about!r}: must be a mapping')
  base = about.get('rope_theta', values.get('rope_theta', 10_000.0))
  kind = about.get('rope_type', about.get('type', 'default'))
  if kind == 'default':
    return {'rope_base': base}
  if kind != 'llama3':
    raise ConfigError(f"rope_type = {kind!r}: must be 'default' or 'llama3'")
  missing = [key for key in _LLAMA3.values() if key not in about]
  if missing:
    raise ConfigError(f'rope scaling: must have {", ".join(missing)}')
  given = {ours: about[theirs] for ours, theirs in _LLAMA3.items()}
  return {'rope_base': base, 'rope_scaling': 'llama3', **given}


class Tensor(NamedTuple):
  """A tensor of theirs, and the leaf of ours, or its layer, that it is.

  Attributes:
    name: theirs.
    path: of our leaf.
    layer: index on axis 0 of a leaf that is stacked over layers; else None.
    shape: of ours, of one layer.
    n_in: axes of ours, from the first on, that are inputs of a product; 0 for
      a vector or a table, which are the same in both.
  """

  name: str
  path: str
  layer: int | None
  shape: tuple[int, ...]
  n_in: int

  @property
  def their_shape(self) -> tuple[int, ...]:
    if not self.n_in:
      return self.shape
    n_in = math.prod(self.shape[: self.n_in])
    return math.prod(self.shape) // n_in, n_in

  def to_theirs(self, leaf: Any) -> np.ndarray:
    """Our leaf -> their tensor; also for masks."""
    ours = np.asarray(leaf if self.layer is None else leaf[self.layer])
    if not self.n_in:
      return ours
    return np.ascontiguousarray(ours.reshape(self.their_shape[::-1]).T)

  def to_ours(self, tensor: np.ndarray) -> np.ndarray:
    """Their tensor -> our leaf, or one layer of it."""
    return (tensor.T if self.n_in else tensor).reshape(self.shape)


# The last part of our path in a layer -> theirs, and input axes of ours.
_IN_A_LAYER = {
  'attention/query/kernel': ('self_attn.q_proj', 1),
  'attention/key/kernel': ('self_attn.k_proj', 1),
  'attention/value/kernel': ('self_attn.v_proj', 1),
  'attention/out/kernel': ('self_attn.o_proj', 2),
  'mlp/gate/kernel': ('mlp.gate_proj', 1),
  'mlp/up/kernel': ('mlp.up_proj', 1),
  'mlp/down/kernel': ('mlp.down_proj', 1),
  'attention_norm/scale': ('input_layernorm', 0),
  'mlp_norm/scale': ('post_attention_layernorm', 0),
}


def tensors(model: config_lib.Model) -> list[Tensor]:
  """All tensors of a model, in the order of the forward pass."""
  shapes = {
    **counts.kernel_shapes(model),
    'embed/embedding': (model.vocab_size, model.d_model),
  }

  def tensor(name: str, path: str, layer: int | None, n_in: int) -> Tensor:
    shape = shapes.get(path, (model.d_model,))
    if path in shapes and layer is not None:
      shape = shape[1:]
    return Tensor(f'{name}.weight', path, layer, shape, n_in)

  found = [tensor('model.embed_tokens', 'embed/embedding', None, 0)]
  for i in range(model.n_layers):
    prefix, layer = ('layers', i) if model.scan_layers else (f'layer_{i}', None)
    found += [
      tensor(f'model.layers.{i}.{name}', f'{prefix}/{path}', layer, n_in)
      for path, (name, n_in) in _IN_A_LAYER.items()
    ]
  found.append(tensor('model.norm', 'final_norm/scale', None, 0))
  if not model.tie_embeddings:
    found.append(tensor('lm_head', 'lm_head/kernel', None, 1))
  return found


def leaves_of(
  model: config_lib.Model,
  read: Callable[[str], np.ndarray],
  is_wanted: Callable[[str], bool] = lambda name: True,
) -> Iterator[tuple[str, np.ndarray]]:
  """Our leaves one after another, (path, array), made of their tensors.

  Args:
    model: sizes.
    read: their name -> their tensor.
    is_wanted: says so of their tensors; a leaf of which none is wanted is left
      out.
  """
  by_path: dict[str, list[Tensor]] = {}
  for tensor in tensors(model):
    by_path.setdefault(tensor.path, []).append(tensor)
  for path, parts in by_path.items():
    if not any(is_wanted(part.name) for part in parts):
      continue
    first = parts[0].to_ours(read(parts[0].name))
    if parts[0].layer is None:
      yield path, first
      continue
    leaf = np.empty((len(parts), *first.shape), first.dtype)
    leaf[0] = first
    for part in parts[1:]:
      leaf[part.layer] = part.to_ours(read(part.name))
    yield path, leaf


def as_tree(leaves: Mapping[str, Any]) -> dict[str, Any]:
  """{'a/b/c': leaf} -> nested dicts, as Flax has them."""
  tree: dict[str, Any] = {}
  for path, leaf in leaves.items():
    *above, last = path.split('/')
    node = tree
    for name in above:
      node = node.setdefault(name, {})
    node[last] = leaf
  return tree
