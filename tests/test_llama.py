"""The decoder against transformers' Llama, and the same weights both ways."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from jax_sparse_pretrain import load_config, pruning
from jax_sparse_pretrain.config import ConfigError, Model
from jax_sparse_pretrain.huggingface import llama, model_directory
from jax_sparse_pretrain.inference import exporting
from jax_sparse_pretrain.inference.language_model import (
  LanguageModel,
  load_model,
)
from jax_sparse_pretrain.model import counts
from jax_sparse_pretrain.model.decoder import Decoder
from jax_sparse_pretrain.training import step as step_lib

BASE = Model(
  vocab_size=101,
  n_layers=2,
  d_model=32,
  n_heads=4,
  d_ff=48,
  context_length=64,
  compute_dtype='float32',
)
LLAMA3 = {
  'rope_scaling': 'llama3',
  'rope_original_length': 32,
  'rope_factor': 4.0,
}
VARIANTS = [
  {},
  {'n_kv_heads': 2},
  {'n_kv_heads': 1, 'scan_layers': False},
  {'tie_embeddings': True},
  {'head_dim': 12, 'rope_base': 5e5},
  {'rope_base': 5e5, **LLAMA3},
  {'n_kv_heads': 2, 'head_dim': 6, 'tie_embeddings': True, **LLAMA3},
  {'scan_layers': False, 'norm_eps': 1e-3, **LLAMA3},
]


def named(variant):
  return ' '.join(variant) or 'plain'


@pytest.fixture(params=VARIANTS, ids=named)
def config(request):
  return dataclasses.replace(BASE, **request.param)


def random_model(config, seed=0):
  """A model whose norm scales are random, too."""
  tokens = np.zeros((1, 2), np.int32)
  params = nn.unbox(
    Decoder(config).init(jax.random.key(seed), tokens)['params']
  )
  rng = np.random.default_rng(seed)
  params = jax.tree.map(
    lambda x: x + 0.1 * rng.normal(size=x.shape).astype(np.float32), params
  )
  return LanguageModel(config, params, None, None)


def exported(model, folder, dtype='float32'):
  """The directory of a model without a tokenizer."""
  exporting.write_model(model, folder, dtype)
  return folder


def transformers_model(folder):
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  model = transformers.AutoModelForCausalLM.from_pretrained(
    folder, attn_implementation='eager', dtype=torch.float32
  )
  assert type(model) is transformers.LlamaForCausalLM
  return model


def some_tokens(config, rows=3, length=50, seed=1):
  rng = np.random.default_rng(seed)
  return rng.integers(0, config.vocab_size, (rows, length))


def test_logits_are_those_of_transformers(config, tmp_path):
  torch = pytest.importorskip('torch')
  model = random_model(config)
  theirs = transformers_model(exported(model, tmp_path))
  tokens = some_tokens(config)
  with torch.no_grad():
    expected = theirs(torch.tensor(tokens)).logits.numpy()
  found = np.asarray(model.logits(tokens))
  np.testing.assert_allclose(
    found, expected, rtol=0, atol=1e-5 * np.abs(expected).max()
  )


def test_there_and_back_is_the_identity(config, tmp_path):
  model = random_model(config)
  back = load_model(exported(model, tmp_path))
  same = dataclasses.replace(back.config, scan_layers=config.scan_layers)
  for name in (field.name for field in dataclasses.fields(config)):
    ours, theirs = getattr(config, name), getattr(same, name)
    if name in ('n_kv_heads', 'head_dim'):
      ours, theirs = ((c.kv_heads, c.head_size) for c in (config, same))
    assert ours == theirs or name.startswith('rope_'), name
  leaves = dict(
    llama.leaves_of(config, model_directory.ModelDirectory(tmp_path).read)
  )
  ours = pruning.by_path(model.params)
  assert leaves.keys() == ours.keys()
  for path, leaf in ours.items():
    assert np.array_equal(leaves[path], leaf), path


def test_their_weights_are_saved_again_to_the_bit(config, tmp_path):
  """Theirs -> ours -> theirs."""
  torch = pytest.importorskip('torch')
  theirs = transformers_model(exported(random_model(config), tmp_path / 'a'))
  theirs.to(torch.bfloat16).save_pretrained(tmp_path / 'b')
  again = transformers_model(
    exported(load_model(tmp_path / 'b'), tmp_path / 'c', 'bfloat16')
  )
  for name, weight in theirs.state_dict().items():
    assert torch.equal(weight.float(), again.state_dict()[name].float()), name


def test_counts_are_those_of_transformers(config, tmp_path):
  theirs = transformers_model(exported(random_model(config), tmp_path))
  assert counts.total_parameters(config) == theirs.num_parameters()
  shapes = counts.kernel_shapes(config)
  assert counts.linear_parameters(config) == sum(map(np.prod, shapes.values()))
  linear = sum(
    parameter.numel()
    for name, parameter in theirs.named_parameters()
    if parameter.ndim == 2 and 'embed' not in name
  )
  assert counts.linear_parameters(config) == linear


SHIPPED = ['c4_58m', 'c4_162m', 'c4_468m', 'c4_1b', 'smoke', 'small']


@pytest.mark.parametrize('name', SHIPPED)
def test_counts_of_shipped_configs_are_those_of_transformers(name):
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  model = load_config(name).model
  values = llama.to_llama_config(model, 'float32', None, 1)
  with torch.device('meta'):
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**values))
  assert counts.total_parameters(model) == theirs.num_parameters()
  linear = theirs.num_parameters(exclude_embeddings=True)
  norms = (2 * model.n_layers + 1) * model.d_model
  assert counts.linear_parameters(model) == linear - norms


def test_a_tied_matrix_can_be_linear():
  tied = dataclasses.replace(BASE, tie_embeddings=True)
  linear = dataclasses.replace(tied, tied_is_linear=True)
  table = BASE.vocab_size * BASE.d_model
  assert counts.linear_parameters(BASE) == counts.linear_parameters(linear)
  assert (
    counts.linear_parameters(tied) == counts.linear_parameters(linear) - table
  )
  assert counts.total_parameters(tied) == counts.total_parameters(linear)
  assert counts.kernel_shapes(linear)['embed/embedding'] == (101, 32)
  # The head multiplies all the same.
  of = [
    counts.flops_per_token(c, counts.linear_parameters(c))
    for c in (tied, linear)
  ]
  assert of[0] == of[1]


def loss_of(config):
  decoder = Decoder(config)

  def apply(params, tokens, documents=None):
    return decoder.apply({'params': params}, tokens, documents)

  return step_lib.make_loss_fn(apply)


def torch_loss(theirs, rows):
  torch = pytest.importorskip('torch')
  logits = theirs(torch.tensor(rows[:, :-1])).logits
  labels = torch.tensor(rows[:, 1:])
  return torch.nn.functional.cross_entropy(
    logits.flatten(0, 1), labels.flatten()
  )


def test_gradients_are_those_of_transformers(config, tmp_path):
  model = random_model(config)
  theirs = transformers_model(exported(model, tmp_path))
  rows = some_tokens(config, length=40)
  torch_loss(theirs, rows).backward()
  ours = pruning.by_path(
    jax.grad(loss_of(config), has_aux=True)(model.params, jnp.asarray(rows))[0]
  )
  expected = {n: p.grad.numpy() for n, p in theirs.named_parameters()}
  for tensor in llama.tensors(config):
    found = tensor.to_theirs(np.asarray(ours[tensor.path]))
    np.testing.assert_allclose(
      found,
      expected[tensor.name],
      rtol=0,
      atol=1e-5 * np.abs(expected[tensor.name]).max(),
      err_msg=tensor.name,
    )


def test_three_steps_of_adamw_lose_the_same(config, tmp_path):
  torch = pytest.importorskip('torch')
  model = random_model(config)
  theirs = transformers_model(exported(model, tmp_path))
  # A large eps: else Adam makes steps of gradients that are rounding alone.
  rate, eps = 1e-2, 1e-3
  optimizer = torch.optim.AdamW(
    theirs.parameters(), lr=rate, betas=(0.9, 0.95), eps=eps, weight_decay=0.1
  )
  tx = optax.adamw(rate, b1=0.9, b2=0.95, eps=eps, weight_decay=0.1)
  params, loss_fn = (
    model.params,
    jax.jit(jax.value_and_grad(loss_of(config), has_aux=True)),
  )
  state = tx.init(params)
  for step in range(3):
    rows = some_tokens(config, length=40, seed=step)
    expected = torch_loss(theirs, rows)
    (loss, _), grads = loss_fn(params, jnp.asarray(rows))
    assert float(loss) == pytest.approx(expected.item(), rel=1e-5)
    optimizer.zero_grad()
    expected.backward()
    optimizer.step()
    updates, state = tx.update(grads, state, params)
    params = optax.apply_updates(params, updates)


def damaged(folder, **values):
  path = folder / 'config.json'
  config = json.loads(path.read_text())
  path.write_text(json.dumps({**config, **values}))


@pytest.mark.parametrize(
  'values, message',
  [
    ({'model_type': 'mistral'}, "model_type = 'mistral': must be 'llama'"),
    ({'attention_bias': True}, 'attention_bias = True'),
    ({'hidden_size': None}, 'must have hidden_size'),
    ({'hidden_size': 'wide'}, 'model.d_model'),
    ({'rope_scaling': {'rope_type': 'yarn', 'factor': 2.0}}, "'yarn'"),
    ({'rope_scaling': {'rope_type': 'llama3'}}, 'must have factor'),
    ({'intermediate_size': 47}, r'mlp.gate_proj.weight: must have shape'),
    ({'num_hidden_layers': 3}, 'has no tensor model.layers.2'),
    ({'num_hidden_layers': 1}, 'model.layers.1.* is no tensor of this Llama'),
    ({'tie_word_embeddings': True}, None),  # Some save the head nevertheless.
  ],
)
def test_a_directory_that_is_no_such_llama_is_refused(
  values, message, tmp_path
):
  exported(random_model(BASE), tmp_path)
  damaged(tmp_path, **values)
  if message is None:
    assert load_model(tmp_path).config.tie_embeddings
    return
  with pytest.raises(ConfigError, match=message) as caught:
    load_model(tmp_path)
  assert '\n' not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_large_models_are_in_several_files(tmp_path, monkeypatch):
  monkeypatch.setattr(exporting, 'FILE_BYTES', 10_000)
  model = random_model(BASE)
  exported(model, tmp_path)
  assert len(list(tmp_path.glob('model-*.safetensors'))) > 3
  tokens = some_tokens(BASE)
  back = load_model(tmp_path)
  np.testing.assert_array_equal(back.logits(tokens), model.logits(tokens))
  transformers_model(tmp_path)
  next(tmp_path.glob('model-00002*')).unlink()
  with pytest.raises(ConfigError, match='model-00002'):
    load_model(tmp_path)
