import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jax_sparse_pretrain.config import ConfigError, Model, from_dict
from jax_sparse_pretrain.model import counts, decoder
from jax_sparse_pretrain.training import step as step_lib

SMALL = Model(
  vocab_size=48,
  n_layers=3,
  d_model=32,
  n_heads=4,
  d_ff=64,
  context_length=16,
  compute_dtype='float32',
)


def init(config, seed=0):
  model = decoder.Decoder(config)
  tokens = jnp.zeros((1, config.context_length), jnp.int32)
  params = nn.unbox(model.init(jax.random.key(seed), tokens)['params'])
  return model, params


def some_rows(config, n=2, seed=0):
  shape = (n, config.context_length + 1)
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.integers(0, config.vocab_size, shape), jnp.int32)


def unstack(params, n_layers):
  """Parameters of the scanned model -> those of the looped one."""
  params = dict(params)
  layers = params.pop('layers')
  for i in range(n_layers):
    params[f'layer_{i}'] = jax.tree.map(lambda x, i=i: x[i], layers)
  return params


def loss_and_gradients(config, params):
  model = decoder.Decoder(config)
  loss_fn = step_lib.make_loss_fn(
    lambda p, t, d: model.apply({'params': p}, t, d)
  )
  grad_fn = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
  return grad_fn(params, some_rows(config))


def assert_trees_close(a, b, rtol):
  """Within rtol of each leaf's largest entry."""
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_allclose(x, y, rtol=0, atol=rtol * float(jnp.max(abs(y))))


@pytest.mark.fast(1)
@pytest.mark.parametrize('scan', [True, False])
def test_counts_are_those_of_the_real_parameters(scan):
  config = dataclasses.replace(SMALL, scan_layers=scan)
  _, params = init(config)
  sizes = {
    jax.tree_util.keystr(path): leaf.size
    for path, leaf in jax.tree.leaves_with_path(params)
  }
  kernels = sum(n for name, n in sizes.items() if 'kernel' in name)
  assert kernels == counts.linear_parameters(config)
  assert sum(sizes.values()) == counts.total_parameters(config)


@pytest.mark.fast(1)
@pytest.mark.parametrize('scan', [True, False])
def test_kernel_shapes_are_those_of_the_real_kernels(scan):
  config = dataclasses.replace(SMALL, scan_layers=scan)
  _, params = init(config)
  shapes = {
    jax.tree_util.keystr(path, simple=True, separator='/'): leaf.shape
    for path, leaf in jax.tree.leaves_with_path(params)
  }
  kernels = {k: v for k, v in shapes.items() if k.endswith('/kernel')}
  assert counts.kernel_shapes(config) == kernels


def test_a_token_does_not_see_its_future():
  # Token i of the sequence is row i of the table, so a row's gradient is that
  # token's influence.
  length = SMALL.context_length
  model, params = init(dataclasses.replace(SMALL, vocab_size=length))
  position = 7

  def loss(table_LxD):
    own = {**params, 'embed': {'embedding': table_LxD}}
    tokens = jnp.arange(length)[None]
    return model.apply({'params': own}, tokens)[0, position].sum()

  gradient = jax.grad(loss)(params['embed']['embedding'])
  reach = np.abs(gradient).max(axis=-1)
  assert (reach[: position + 1] > 0).all()
  assert (reach[position + 1 :] == 0).all()


def test_scan_equals_loop():
  _, params = init(SMALL)
  looped = dataclasses.replace(SMALL, scan_layers=False)
  (loss, _), grads = loss_and_gradients(SMALL, params)
  (other_loss, _), other = loss_and_gradients(
    looped, unstack(params, SMALL.n_layers)
  )
  # The same operations, fused differently: a few float32 roundings.
  assert loss == pytest.approx(float(other_loss), rel=1e-6)
  assert_trees_close(unstack(grads, SMALL.n_layers), other, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('scan', [True, False])
def test_remat_equals_no_remat_and_is_really_on(scan):
  plain = dataclasses.replace(SMALL, scan_layers=scan)
  remat = dataclasses.replace(plain, remat=True)
  _, params = init(plain)
  (loss, _), grads = loss_and_gradients(plain, params)
  (other_loss, _), other = loss_and_gradients(remat, params)
  assert loss == pytest.approx(float(other_loss), rel=1e-6)
  assert_trees_close(grads, other, rtol=1e-5)

  def saved_bytes(config):
    """Bytes kept between the forward and the backward pass."""
    model = decoder.Decoder(config)
    tokens = some_rows(config)[:, :-1]
    _, backward = jax.eval_shape(
      lambda p: jax.vjp(lambda p: model.apply({'params': p}, tokens), p), params
    )
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(backward))

  assert saved_bytes(remat) < 0.6 * saved_bytes(plain)


def test_rotary_scores_depend_on_distance_alone():
  rng = np.random.default_rng(0)
  q, k = rng.normal(size=(2, 1, 1, 1, 8)).astype(np.float32)
  frequency = decoder.rotary_frequencies(Model(d_model=8, n_heads=1))
  turned_q = decoder.rotate(jnp.tile(q, (1, 12, 1, 1)), frequency)
  turned_k = decoder.rotate(jnp.tile(k, (1, 12, 1, 1)), frequency)
  scores = np.einsum('bqhk,bvhk->qv', turned_q, turned_k)
  for distance in range(-5, 6):
    diagonal = np.diagonal(scores, distance)
    np.testing.assert_allclose(diagonal, diagonal[0], rtol=0, atol=1e-5)
  assert np.ptp(scores) > 0.1
  np.testing.assert_allclose(turned_q[:, 0], q[:, 0], atol=1e-7)


def test_rotation_matches_the_definition():
  x = np.random.default_rng(0).normal(size=(1, 5, 1, 4)).astype(np.float32)
  sizes = Model(d_model=4, n_heads=1, rope_base=100.0)
  frequency = decoder.rotary_frequencies(sizes)
  turned = decoder.rotate(jnp.asarray(x), frequency)
  shifted = decoder.rotate(
    jnp.asarray(x), frequency, jnp.arange(2, 7, dtype=jnp.int32)[None]
  )
  again = decoder.rotate(turned, frequency, jnp.full((1, 5), 2, jnp.int32))
  np.testing.assert_allclose(shifted, again, atol=1e-6)
  for position in range(5):
    for pair, frequency in ((0, 1.0), (1, 0.1)):
      z = complex(x[0, position, 0, pair], x[0, position, 0, pair + 2])
      z *= np.exp(1j * position * frequency)
      assert turned[0, position, 0, pair] == pytest.approx(z.real, abs=1e-6)
      assert turned[0, position, 0, pair + 2] == pytest.approx(z.imag, abs=1e-6)


@pytest.mark.slow
def test_initial_activations_have_unit_scale():
  config = dataclasses.replace(SMALL, d_model=256, d_ff=1024, vocab_size=500)
  model, params = init(config)
  for path, leaf in jax.tree.leaves_with_path(params):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    if name.endswith('kernel'):
      fan_in = 1024 if 'down' in name else 256
      assert float(leaf.std()) == pytest.approx(fan_in**-0.5, rel=0.03), name
  logits = model.apply({'params': params}, some_rows(config)[:, :-1])
  assert float(logits.std()) == pytest.approx(1.0, abs=0.15)


def test_the_norm_divides_by_the_root_mean_square():
  x = np.random.default_rng(0).normal(size=(1, 2, 6)).astype(np.float32)
  norm = decoder.RMSNorm(eps=1e-5, dtype='float32')
  scale = np.arange(1.0, 7.0, dtype=np.float32)
  ours = norm.apply({'params': {'scale': scale}}, x)
  rms = np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-5)
  np.testing.assert_allclose(ours, x / rms * scale, rtol=1e-6)


@pytest.mark.slow
def test_bfloat16_computes_near_float32_with_float32_weights_and_logits():
  half = dataclasses.replace(SMALL, compute_dtype='bfloat16')
  model, params = init(half)
  assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype('float32')}
  tokens = some_rows(half)[:, :-1]
  logits = model.apply({'params': params}, tokens)
  assert logits.dtype == jnp.float32
  exact = decoder.Decoder(SMALL).apply({'params': params}, tokens)
  error = float(jnp.abs(logits - exact).max())
  # bfloat16 has 8 bits: relative errors near 2^-8, a few of them added up.
  assert 1e-4 < error < 0.1
  _, grads = loss_and_gradients(half, params)
  assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(grads))


def test_the_head_multiplies_narrow_numbers_forward_and_backward():
  """Its logits are float32; a float32 backward pass would take twice as long.

  Read from the program, since the gradients hardly differ.
  """
  config = dataclasses.replace(SMALL, compute_dtype='bfloat16')
  model, params = init(config)
  loss_fn = step_lib.make_loss_fn(
    lambda p, t, d: model.apply({'params': p}, t, d)
  )
  gradient = jax.jit(jax.grad(loss_fn, has_aux=True))
  text = gradient.lower(params, some_rows(config)).as_text()
  products = re.findall(r'dot_general.* : \((.*)\) -> tensor<(.*)>', text)
  # The products of the head alone have the vocabulary, 48, as an axis.
  of_head = [p for p in products if '48x' in f'{p[0]} {p[1]}']
  assert [result for _, result in of_head] == [
    '2x16x48xf32',  # logits
    '2x16x32xbf16',  # gradient of the activations
    '32x48xbf16',  # gradient of the kernel
  ]
  assert all(operands.count('bf16') == 2 for operands, _ in of_head)


def test_the_loss_is_mean_cross_entropy_of_the_next_token():
  model, params = init(SMALL)
  rows = some_rows(SMALL)
  (loss, metrics), _ = loss_and_gradients(SMALL, params)
  logits = np.asarray(model.apply({'params': params}, rows[:, :-1]), np.float64)
  log_z = np.log(np.exp(logits).sum(-1))
  target = np.take_along_axis(logits, np.asarray(rows)[:, 1:, None], -1)[..., 0]
  assert loss == pytest.approx((log_z - target).mean(), rel=1e-6)
  assert metrics['train_loss'] == loss


@pytest.mark.slow
def test_z_loss_adds_the_mean_squared_log_normaliser():
  model, params = init(SMALL)
  rows = some_rows(SMALL)

  def apply(p, tokens, documents=None):
    return model.apply({'params': p}, tokens, documents)

  plain, _ = step_lib.make_loss_fn(apply)(params, rows)
  total, metrics = step_lib.make_loss_fn(apply, z_loss=0.1)(params, rows)
  logits = np.asarray(apply(params, rows[:, :-1]), np.float64)
  log_z = np.log(np.exp(logits).sum(-1))
  assert total - plain == pytest.approx(0.1 * (log_z**2).mean(), rel=1e-5)
  assert metrics['train_loss'] == plain


@pytest.mark.parametrize('scan', [True, False])
def test_attention_stays_within_documents(scan):
  config = dataclasses.replace(SMALL, scan_layers=scan)
  model, params = init(config)
  tokens = some_rows(config)[:1, :-1]
  documents = np.repeat([0, 1, 2], [5, 8, 3])[None]
  apply = jax.jit(model.apply)
  together = apply({'params': params}, tokens, documents)
  for document in range(3):
    own = documents[0] == document
    alone = apply({'params': params}, tokens[:, own])
    # Rotary embeddings see distances only, up to float32 rounding.
    np.testing.assert_allclose(together[:, own], alone, atol=2e-5)
  unmasked = apply({'params': params}, tokens)
  assert np.abs(unmasked - together)[:, 5:].max() > 0.1


def test_attention_that_cannot_mask_documents_is_refused_or_avoided():
  auto = dataclasses.replace(SMALL, compute_dtype='bfloat16')
  assert decoder.attention_implementation(auto, masks_documents=True) == 'xla'
  with pytest.raises(ConfigError, match='takes no mask of documents'):
    from_dict(
      {
        'data': {'path': 'x', 'mask_documents': True},
        'model': {'attention': 'cudnn'},
      }
    )
