import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jax_sparse_pretrain import config, pruning, sharding
from jax_sparse_pretrain.pruning import DISTRIBUTIONS, Kernel
from jax_sparse_pretrain.pruning.distribution import Wide

KERNELS = {
  'a/kernel': Kernel((3, 8, 6), stacked=True),
  'b/kernel': Kernel((20, 8), stacked=False),
  'c/kernel': Kernel((2, 4, 6, 8), stacked=True),
}
SPECS = {
  'a/kernel': PartitionSpec(None, 'fsdp', 'tensor'),
  'b/kernel': PartitionSpec('tensor', 'fsdp'),
  'c/kernel': PartitionSpec(None, 'fsdp', None, 'tensor'),
}
N = sum(np.prod(k.shape) for k in KERNELS.values())


def some_weights(seed=0, ties=False, dtype=np.float32):
  rng = np.random.default_rng(seed)
  weights = {n: rng.normal(size=k.shape) for n, k in KERNELS.items()}
  if ties:
    weights = {n: np.round(2 * w) / 2 for n, w in weights.items()}
  return {n: jnp.asarray(w, dtype) for n, w in weights.items()}


def some_candidates(seed=1, share=0.8):
  rng = np.random.default_rng(seed)
  return {n: rng.random(k.shape) < share for n, k in KERNELS.items()}


@functools.partial(jax.jit, static_argnames='how')
def select(weights, candidates, budget, how):
  return pruning.keep_largest(
    weights, candidates, KERNELS, budget, DISTRIBUTIONS[how]
  )


def largest_by_sorting(weights, candidates, k):
  """NumPy: the k largest candidates of a flat array, ties by lowest index."""
  magnitude = np.abs(np.asarray(weights, np.float32)).ravel()
  candidates = np.asarray(candidates).ravel()
  order = np.lexsort((np.arange(magnitude.size), -magnitude, ~candidates))
  mask = np.zeros(magnitude.size, bool)
  mask[order[:k]] = True
  return mask & candidates


def global_oracle(weights, candidates, k):
  names = sorted(weights)
  flat = [np.asarray(weights[n], np.float32).ravel() for n in names]
  ok = [candidates[n].ravel() for n in names]
  mask = largest_by_sorting(np.concatenate(flat), np.concatenate(ok), k)
  parts = np.split(mask, np.cumsum([x.size for x in flat])[:-1])
  return {
    n: part.reshape(KERNELS[n].shape)
    for n, part in zip(names, parts, strict=True)
  }


def uniform_oracle(weights, candidates, fraction):
  def one(name, kernel):
    by_layer = (kernel.n_layers, -1)
    k = max(1, round(kernel.layer_size * fraction))
    return np.stack([
      largest_by_sorting(w, c, k)
      for w, c in zip(
        np.asarray(weights[name], np.float32).reshape(by_layer),
        candidates[name].reshape(by_layer),
        strict=True,
      )
    ]).reshape(kernel.shape)  # fmt: skip

  return {name: one(name, kernel) for name, kernel in KERNELS.items()}


def assert_same_masks(ours, theirs):
  for name in KERNELS:
    np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


@pytest.mark.parametrize('dtype', [np.float32, jnp.bfloat16, np.float16])
@pytest.mark.parametrize('ties', [False, True])
@pytest.mark.parametrize('fraction', [0.001, 0.2, 0.5, 0.79])
def test_global_selection_equals_a_stable_sort(fraction, ties, dtype):
  weights = some_weights(ties=ties, dtype=dtype)
  candidates = some_candidates()
  budget = DISTRIBUTIONS['global'].budget(KERNELS, fraction)
  ours = select(weights, candidates, budget, 'global')
  k = max(1, round(N * fraction))
  assert_same_masks(ours, global_oracle(weights, candidates, k))


@pytest.mark.parametrize('ties', [False, True])
@pytest.mark.parametrize('fraction', [0.001, 0.2, 0.5])
def test_uniform_selection_equals_a_stable_sort_of_each_layer(fraction, ties):
  weights, candidates = some_weights(ties=ties), some_candidates()
  budget = DISTRIBUTIONS['uniform'].budget(KERNELS, fraction)
  ours = select(weights, candidates, budget, 'uniform')
  assert_same_masks(ours, uniform_oracle(weights, candidates, fraction))


@pytest.mark.parametrize('value', [0.0, 1.0])
def test_equal_weights_go_by_flat_index(value):
  weights = {n: jnp.full(k.shape, value) for n, k in KERNELS.items()}
  everything = {n: np.ones(k.shape, bool) for n, k in KERNELS.items()}
  for k in (1, 143, 144, 145, 300, N - 1, N):
    budget = Wide(np.uint32(0), np.uint32(k))
    mask = select(weights, everything, budget, 'global')
    flat = np.concatenate([np.ravel(mask[n]) for n in sorted(mask)])
    np.testing.assert_array_equal(flat, np.arange(N) < k)


def test_extreme_magnitudes_are_ordered():
  values = np.array([0.0, 1e-45, 1e-38, 1.0, 3e38, np.inf], np.float32)
  kernels = {'x': Kernel((6,), stacked=False)}
  ordered = jax.jit(
    lambda weights, k: pruning.keep_largest(
      {'x': weights},
      {'x': jnp.ones(6, bool)},
      kernels,
      Wide(jnp.uint32(0), k),
      DISTRIBUTIONS['global'],
    )['x']
  )
  for k in range(1, 7):
    mask = ordered(-values, np.uint32(k))
    np.testing.assert_array_equal(mask, np.arange(6) >= 6 - k)


@pytest.mark.fast(2)
@pytest.mark.parametrize('how', ['global', 'uniform'])
@pytest.mark.parametrize('ties', [False, True])
def test_masks_are_the_same_bit_for_bit_on_eight_devices(how, ties):
  mesh = sharding.make_mesh(config.Mesh(data=2, fsdp=2, tensor=2))

  def spread(tree):
    return {
      n: jax.device_put(x, NamedSharding(mesh, SPECS[n]))
      for n, x in tree.items()
    }

  weights, candidates = some_weights(ties=ties), some_candidates()
  budget = DISTRIBUTIONS[how].budget(KERNELS, 0.4)
  alone = select(weights, candidates, budget, how)
  sharded = select(spread(weights), spread(candidates), budget, how)
  assert len(sharded['a/kernel'].sharding.device_set) == 8
  assert_same_masks(sharded, alone)


def params_tree(weights):
  return {
    'a': {'kernel': weights['a/kernel']},
    'b': {'kernel': weights['b/kernel']},
    'c': {'kernel': weights['c/kernel'], 'scale': jnp.zeros(4)},
  }


@functools.cache
def pruner_and_update(how):
  pruner = pruning.magnitude_pruner(KERNELS, DISTRIBUTIONS[how])
  return pruner, jax.jit(pruner.update)


@pytest.mark.parametrize('how', ['global', 'uniform'])
def test_a_pruned_weight_never_returns(how):
  pruner, update = pruner_and_update(how)
  masks = pruner.init(params_tree(some_weights()))
  for seed, fraction in enumerate((0.8, 0.5, 0.2)):
    before = masks
    # New weights every time: what was pruned would often be kept again.
    params = pruner.mask(params_tree(some_weights(seed)), masks)
    params, masks = update(params, masks, True, pruner.budget_for(fraction))
    for name in KERNELS:
      assert not (masks[name] & ~before[name]).any()
    kept = sum(int(m.sum()) for m in masks.values())
    if how == 'global':
      assert kept == round(N * fraction)
    flat = {n: params[n[0]]['kernel'] for n in KERNELS}
    for name, mask in masks.items():
      assert not np.any(np.where(mask, 0, flat[name]))


def test_nothing_changes_when_no_update_is_due():
  pruner, update = pruner_and_update('global')
  params = params_tree(some_weights())
  masks = pruner.init(params)
  new_params, new_masks = update(params, masks, False, pruner.budget_for(0.2))
  assert_same_masks(new_masks, masks)
  jax.tree.map(np.testing.assert_array_equal, new_params, params)


def test_masking_zeroes_kernels_and_passes_the_rest():
  pruner = pruning.magnitude_pruner(KERNELS, DISTRIBUTIONS['global'])
  params = params_tree(some_weights())
  params['c']['scale'] = jnp.full(4, jnp.nan)
  masks = some_candidates()
  masked = pruner.mask(params, masks)
  assert np.isnan(masked['c']['scale']).all()
  np.testing.assert_array_equal(
    masked['b']['kernel'],
    np.where(masks['b/kernel'], params['b']['kernel'], 0),
  )


def test_masking_stops_infinite_gradients_of_pruned_weights():
  masks = {n: np.zeros(k.shape, bool) for n, k in KERNELS.items()}
  infinite = {n: jnp.full(k.shape, jnp.inf) for n, k in KERNELS.items()}
  pruner = pruning.magnitude_pruner(KERNELS, DISTRIBUTIONS['global'])
  masked = pruner.mask(params_tree(infinite), masks)
  assert all((leaf == 0).all() for leaf in jax.tree.leaves(masked))


def test_counts_are_of_each_layer():
  masks = some_candidates()
  counts = pruning.count_nonzero(masks, KERNELS)
  np.testing.assert_array_equal(
    counts['a/kernel'], masks['a/kernel'].sum(axis=(1, 2))
  )
  np.testing.assert_array_equal(counts['b/kernel'], [masks['b/kernel'].sum()])


def test_no_pruning_is_the_identity():
  pruner = pruning.no_pruning()
  params = {'kernel': jnp.ones(3)}
  assert pruner.init(params) is None
  assert pruner.update(params, None, True, None) == (params, None)
  assert pruner.mask(params, None) is params


@pytest.mark.parametrize('seed', range(20))
def test_wide_counts_are_exact_beyond_32_bits(seed):
  rng = np.random.default_rng(seed)
  n = rng.integers(1, 2000)
  counts = rng.integers(0, 2**32, size=n, dtype=np.uint32)
  oracle = int(counts.astype(object).sum())
  total = Wide.total(jnp.asarray(counts))
  assert (int(total.high) << 32) + int(total.low) == oracle
  for other in (0, oracle - 1, oracle, oracle + 1, oracle ^ (1 << 32)):
    if other >= 0:
      reached = total.reaches(Wide.of(other))
      assert bool(reached) == (oracle >= other)
    if 0 <= other <= oracle:
      left = total.minus(Wide.of(other))
      assert (int(left.high) << 32) + int(left.low) == oracle - other
      smaller = left.at_most(jnp.uint32(2**32 - 1))
      assert int(smaller) == min(oracle - other, 2**32 - 1)


def test_the_largest_sum_of_counts_does_not_overflow():
  counts = jnp.full(1 << 16, 2**32 - 1, jnp.uint32)
  total = Wide.total(counts)
  assert (int(total.high) << 32) + int(total.low) == (1 << 16) * (2**32 - 1)
  with pytest.raises(ValueError, match='65,536'):
    Wide.total(jnp.zeros((1 << 16) + 1, jnp.uint32))


def test_budgets_beyond_32_bits_are_shared_out_exactly():
  # Counts of a model of 6e9 weights, without the weights.
  kernels = {n: Kernel((3_000_000_000,), stacked=False) for n in 'ab'}
  budget = DISTRIBUTIONS['global'].budget(kernels, 0.75)
  assert (int(budget.high) << 32) + int(budget.low) == 4_500_000_000
  above = {n: jnp.array([1_000_000_000], jnp.uint32) for n in 'ab'}
  ties = {n: jnp.array([1_500_000_000], jnp.uint32) for n in 'ab'}
  share = DISTRIBUTIONS['global'].share_ties(above, ties, budget)
  assert {n: int(x[0]) for n, x in share.items()} == {
    'a': 1_500_000_000,
    'b': 1_000_000_000,
  }
  reached = DISTRIBUTIONS['global'].reached
  full = {n: jnp.array([2_250_000_000], jnp.uint32) for n in 'ab'}
  assert reached(full, budget)['a'].all()
  full['b'] -= 1
  assert not reached(full, budget)['a'].any()
