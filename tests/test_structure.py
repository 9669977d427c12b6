import functools
import itertools
import json
import math
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jax_sparse_pretrain import config, sharding
from jax_sparse_pretrain.pruning import (
  DISTRIBUTIONS,
  Block,
  Channel,
  Kernel,
  NByM,
  Unstructured,
)

GOLDEN = pathlib.Path(__file__).parent / 'golden'
ROWS = json.loads((GOLDEN / 'jaxpruner.json').read_text())['masks']
NPZ = np.load(GOLDEN / 'jaxpruner_masks.npz')

KERNELS = {
  'a/kernel': Kernel((2, 8, 4, 6), stacked=True),
  'b/kernel': Kernel((16, 8), stacked=False),
}
SPECS = {
  'a/kernel': PartitionSpec(None, 'fsdp', 'tensor', None),
  'b/kernel': PartitionSpec('tensor', 'fsdp'),
}
WINDOWS = [
  Unstructured(),
  Block(4, 2),
  Block(2, 4, axes=(-1, 0)),
  Block(2, 4, pooling='max'),
  Channel(0),
  Channel(-1),
  Channel(1, pooling='max'),
]


def structure_of(row):
  if row['kind'] == 'block':
    pooling = 'mean' if row['average_pooling'] else 'max'
    return Block(*row['block'], pooling=pooling)
  if row['kind'] == 'channel':
    return Channel(row['axis'])
  if row['kind'] == 'n_by_m':
    return NByM(row['n'], row['m'], row['axis'])
  return Unstructured()


@functools.partial(jax.jit, static_argnames=('structure', 'kernel'))
def keep_one(scores, budget, structure, kernel):
  everything = {'x': jnp.ones(kernel.shape, bool)}
  how = DISTRIBUTIONS['uniform']
  return structure.keep({'x': scores}, everything, {'x': kernel}, budget, how)[
    'x'
  ]


def jaxpruner_kept(size, sparsity):
  """Rounds in float32: of 15 at 0.9 it keeps 2, float64 would say 1."""
  kept = np.float32(size) * (np.float32(1) - np.float32(sparsity))
  return max(1, round(float(kept)))


@pytest.mark.fast(30)
@pytest.mark.parametrize('row', ROWS, ids=lambda row: row['name'])
def test_masks_are_those_of_jaxpruner(row):
  weights = NPZ[row['name'] + '/scores']
  bits = np.unpackbits(NPZ[row['name'] + '/mask'], count=weights.size)
  structure, kernel = structure_of(row), Kernel(weights.shape, stacked=False)
  units = structure.units({'x': kernel})['x']
  kept = jaxpruner_kept(math.prod(units.shape), row.get('sparsity', 0))
  budget = {'x': np.full(1, kept, np.uint32)}
  mask = keep_one(np.abs(weights), budget, structure, kernel)
  np.testing.assert_array_equal(mask, bits.reshape(weights.shape))


def test_all_golden_masks_are_used():
  assert len(ROWS) == 110
  kinds = {row['kind'] for row in ROWS}
  assert kinds == {'unstructured', 'n_by_m', 'block', 'channel'}


@functools.partial(jax.jit, static_argnames=('structure', 'how'))
def keep(scores, candidates, budget, structure, how):
  return structure.keep(scores, candidates, KERNELS, budget, DISTRIBUTIONS[how])


def budget_for(structure, fraction, how):
  return DISTRIBUTIONS[how].budget(structure.units(KERNELS), fraction)


def some_scores(seed=0, levels=None):
  """Magnitudes; with few levels many tie and every sum is exact."""
  rng = np.random.default_rng(seed)
  scores = {n: np.abs(rng.normal(size=k.shape)) for n, k in KERNELS.items()}
  if levels:
    scores = {n: np.floor(levels * s) for n, s in scores.items()}
  return {n: s.astype(np.float32) for n, s in scores.items()}


def everything():
  return {n: np.ones(k.shape, bool) for n, k in KERNELS.items()}


def layers_of(x, kernel):
  return x.reshape((kernel.n_layers,) + kernel.shape[int(kernel.stacked) :])


def windows_of(structure, layer):
  """Index tuples of all windows of a layer, in order of position."""
  if isinstance(structure, Unstructured):
    steps = [1] * len(layer)
  elif isinstance(structure, Channel):
    steps = list(layer)
    steps[structure.axis] = 1
  else:
    steps = list(layer)
    steps[structure.axes[0]] = structure.height
    steps[structure.axes[1]] = structure.width
  starts = [range(0, n, s) for n, s in zip(layer, steps, strict=True)]
  return [
    tuple(slice(i, i + s) for i, s in zip(corner, steps, strict=True))
    for corner in itertools.product(*starts)
  ]


def windows_oracle(structure, scores, fraction, how):
  """NumPy: ranks all windows in a list; ties stay in their order."""
  pool = np.max if getattr(structure, 'pooling', '') == 'max' else np.mean
  masks = {n: np.zeros(k.shape, bool) for n, k in KERNELS.items()}
  scored = []
  for name in sorted(KERNELS):
    for layer, x in enumerate(layers_of(scores[name], KERNELS[name])):
      mask = layers_of(masks[name], KERNELS[name])[layer]
      for window in windows_of(structure, x.shape):
        score = pool(x[window].astype(np.float64))
        scored.append(((name, layer), score, mask, window))
  group = (lambda w: None) if how == 'global' else (lambda w: w[0])
  for _, members in itertools.groupby(scored, group):
    members = list(members)
    ranked = sorted(members, key=lambda w: -w[1])
    for _, _, mask, window in ranked[: round(len(members) * fraction) or 1]:
      mask[window] = True
  return masks


def assert_same_masks(ours, theirs):
  for name in KERNELS:
    np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def some_candidates(seed=1, share=0.7):
  rng = np.random.default_rng(seed)
  return {n: rng.random(k.shape) < share for n, k in KERNELS.items()}


@pytest.mark.fast(3)
@pytest.mark.parametrize(
  'structure, how',
  [(w, 'global' if i % 2 else 'uniform') for i, w in enumerate(WINDOWS)],
  ids=str,
)
def test_windows_are_kept_as_a_stable_sort_keeps_them(structure, how):
  for levels, fraction in itertools.product((None, 3), (0.2, 0.6, 1.0)):
    scores = some_scores(levels=levels)
    budget = budget_for(structure, fraction, how)
    ours = keep(scores, everything(), budget, structure, how)
    assert_same_masks(ours, windows_oracle(structure, scores, fraction, how))
  # The same program: new scores would bring much of what is dropped back.
  masks = everything()
  for seed, fraction in enumerate((0.8, 0.5, 0.2)):
    budget = budget_for(structure, fraction, how)
    kept = keep(some_scores(seed), masks, budget, structure, how)
    for name in KERNELS:
      assert not (kept[name] & ~masks[name]).any()
    n_kept = sum(
      x[window].all()
      for name in KERNELS
      for x in layers_of(np.asarray(kept[name]), KERNELS[name])
      for window in windows_of(structure, x.shape)
    )
    assert n_kept == total(budget)
    masks = kept


def total(budget):
  if isinstance(budget, dict):
    return sum(int(n.sum()) for n in budget.values())
  return int(budget.low)


def test_a_window_is_a_candidate_while_any_weight_in_it_is():
  # Masks of another structure: what they dropped stays dropped.
  candidates = some_candidates()
  budget = budget_for(Block(4, 2), 1.0, 'uniform')
  ours = keep(some_scores(), candidates, budget, Block(4, 2), 'uniform')
  assert_same_masks(ours, candidates)


def n_by_m_oracle(scores, candidates, kernel, structure):
  """NumPy: sorts every group."""
  axis = structure.axis % len(kernel.layer_axes) + kernel.stacked
  groups, ok = (
    np.moveaxis(x, axis, -1).reshape(-1, structure.m)
    for x in (scores.astype(np.float32), candidates)
  )
  mask = np.zeros_like(ok)
  for group, allowed, kept in zip(groups, ok, mask, strict=True):
    order = np.lexsort((np.arange(structure.m), -group, ~allowed))
    kept[order[: structure.n]] = True
  moved = np.moveaxis(scores, axis, -1).shape
  return np.moveaxis((mask & ok).reshape(moved), -1, axis)


@functools.partial(jax.jit, static_argnums=(2, 3))
def n_by_m_mask(scores, candidates, structure, kernel):
  masks = structure.keep({'x': scores}, {'x': candidates}, {'x': kernel})
  return masks['x']


@pytest.mark.parametrize('seed', range(16))
def test_n_by_m_keeps_what_sorting_each_group_keeps(seed):
  rng = np.random.default_rng(seed)
  n_dims, stacked = rng.integers(1, 4), bool(rng.integers(2))
  axis = int(rng.integers(-n_dims, n_dims))
  m = 70 if seed == 0 else int(rng.integers(1, 9))
  structure = NByM(int(rng.integers(1, m + 1)), m, axis)
  layer = rng.integers(1, 7, size=n_dims)
  layer[axis] *= m
  shape = (3,) * stacked + tuple(int(n) for n in layer)
  kernel = Kernel(shape, stacked)
  # Signs, many ties, infinities; half floats on odd seeds.
  scores = np.round(2 * rng.normal(size=shape)) / 2
  scores[rng.random(shape) < 0.05] = -np.inf
  scores = scores.astype(np.float16 if seed % 2 else np.float32)
  candidates = rng.random(shape) < rng.choice([0.3, 0.8, 1.0])
  ours = n_by_m_mask(scores, candidates, structure, kernel)
  expected = n_by_m_oracle(scores, candidates, kernel, structure)
  np.testing.assert_array_equal(ours, expected)


def test_n_by_m_of_masked_weights_never_returns_one():
  masks = everything()
  for seed, n in enumerate((3, 2, 1)):
    kept = NByM(n, 4, axis=0).keep(some_scores(seed), masks, KERNELS)
    for name in KERNELS:
      assert not (kept[name] & ~masks[name]).any()
      assert 4 * kept[name].sum() == n * kept[name].size
    masks = kept


@functools.partial(jax.jit, static_argnums=1)
def channel_means(scores, kernel):
  return Channel(0).pool(scores, kernel)


def means_of(scores):
  kernel = Kernel(scores.shape, stacked=False)
  return np.asarray(channel_means(scores, kernel))


@pytest.mark.parametrize('scale', [1e-30, 1.0, 1e30])
@pytest.mark.parametrize('size', [2, 24, 1000, 40_000])
def test_pooled_means_are_those_of_float64(size, scale):
  rng = np.random.default_rng(size)
  # Signed, over many orders of magnitude.
  weights = rng.normal(size=(4, size)) * np.exp(2 * rng.normal(size=(4, 1)))
  weights = (scale * weights).astype(np.float32)
  for signed in (weights, np.abs(weights)):
    exact = signed.astype(np.float64).mean(axis=1, keepdims=True)
    # Of the largest weight, what the limbs cut off; the rest is rounding.
    top = np.abs(signed).max(axis=1, keepdims=True)
    allowed = top * 2.0**-25 + np.abs(exact) * 2.0**-22
    assert (np.abs(means_of(signed) - exact) <= allowed).all()


def test_the_order_of_adding_up_does_not_change_a_mean():
  rng = np.random.default_rng(0)
  weights = np.abs(rng.normal(size=(1, 3000))).astype(np.float32)
  means, sums = set(), set()
  for _ in range(20):
    weights = rng.permuted(weights, axis=1)
    means.add(means_of(weights).item())
    sums.add(np.cumsum(weights)[-1].item())
  assert len(means) == 1
  assert len(sums) > 1  # of floats, added one by one


def test_means_of_extremes_are_ordered():
  big = 2.0**124
  rows = [[0, 0], [0, 1e-37], [1, 1], [big, 0], [big, big], [np.inf, np.inf]]
  means = means_of(np.array(rows, np.float32)).ravel()
  np.testing.assert_array_equal(means[2:], [1, big / 2, big, big])
  assert means[0] == 0 and means[1] > 0
  rows[2][0] = np.nan
  means = means_of(np.array(rows, np.float32)).ravel()
  np.testing.assert_array_equal(np.isnan(means), np.arange(6) == 2)


def mesh_of(axis_type):
  if axis_type is AxisType.Auto:
    return sharding.make_mesh(config.Mesh(data=2, fsdp=2, tensor=2))
  return jax.make_mesh((2, 2, 2), sharding.AXES, axis_types=(axis_type,) * 3)


def on_mesh(tree, mesh):
  return {
    n: jax.device_put(x, NamedSharding(mesh, SPECS[n])) for n, x in tree.items()
  }


@pytest.mark.fast(1)
@pytest.mark.parametrize('structure', [Block(4, 2), Channel(0)], ids=str)
def test_masks_are_the_same_bit_for_bit_on_eight_devices(structure):
  mesh = mesh_of(AxisType.Auto)
  scores, candidates = some_scores(), some_candidates(share=0.95)
  budget = budget_for(structure, 0.4, 'global')
  alone = keep(scores, candidates, budget, structure, 'global')
  sharded = keep(
    on_mesh(scores, mesh),
    on_mesh(candidates, mesh),
    budget,
    structure,
    'global',
  )
  assert len(sharded['a/kernel'].sharding.device_set) == 8
  assert_same_masks(sharded, alone)


@functools.partial(jax.jit, static_argnums=(2, 3))
def there_and_back(scores, candidates, structure, kernel):
  """All of a mask update but the selection of windows."""
  if isinstance(structure, NByM):
    return n_by_m_mask(scores, candidates, structure, kernel)
  return structure.spread(structure.pool(scores, kernel) > 0.6, kernel)


def moved_between_devices(program):
  """(what, numbers in the largest array) of all collectives."""
  found = re.findall(
    r' = (.*?) (all-\w+|collective-\w+|reduce-scatter)(?:-start)?\(', program
  )
  for result, what in found:
    shapes = re.findall(r'\[([\d,]*)\]', result)
    yield (
      what,
      max(math.prod(map(int, s.split(',') if s else [])) for s in shapes),
    )


@pytest.mark.parametrize('axis_type', [AxisType.Auto, AxisType.Explicit])
def test_shards_exchange_no_more_than_a_number_a_window(axis_type):
  mesh = mesh_of(axis_type)
  scores, candidates = some_scores(), some_candidates()
  on_shards = [on_mesh(x, mesh) for x in (scores, candidates)]
  moving = 0
  for structure, (name, kernel) in itertools.product(
    [Block(4, 2), Channel(-1), Channel(1, 'max'), NByM(2, 4, 0)],
    KERNELS.items(),
  ):
    n_windows = math.prod(structure.units({'x': kernel})['x'].shape)
    args = [x[name] for x in on_shards]
    with jax.set_mesh(mesh):
      compiled = there_and_back.lower(*args, structure, kernel).compile()
      sharded = compiled(*args)
    program = compiled.as_text()
    for what, size in moved_between_devices(program):
      assert what == 'all-reduce' and size <= n_windows
      moving += 1
    assert not re.search(r' (sort|gather|scatter)\(', program)
    alone = there_and_back(scores[name], candidates[name], structure, kernel)
    np.testing.assert_array_equal(sharded, alone)
  assert moving  # channels do cross devices


@pytest.mark.parametrize(
  'structure', [Channel(0), Block(8, 8), NByM(2, 4), NByM(30, 64)], ids=str
)
def test_memory_beside_the_scores_is_no_more_than_theirs(structure):
  kernel = Kernel((128, 256), stacked=False)
  compiled = there_and_back.lower(
    jax.ShapeDtypeStruct(kernel.shape, jnp.float32),
    jax.ShapeDtypeStruct(kernel.shape, bool),
    structure,
    kernel,
  ).compile()
  size = 4 * math.prod(kernel.shape)
  assert compiled.memory_analysis().temp_size_in_bytes <= 1.1 * size


@pytest.mark.parametrize(
  'structure, allowed',
  [
    (NByM(2, 5), r'a/kernel: NByM.* 5 must divide axis 2 .*\(8, 4, 6\), 6'),
    (NByM(1, 2, axis=2), 'b/kernel: .* axes -2 to 1'),
    (NByM(2, 4, axis=-4), 'axes -3 to 2'),
    (Block(3, 2), '3 must divide axis 0 .*, 8'),
    (Block(16, 8), 'a/kernel: Block.* 16 must divide'),
    (Block(2, 2, axes=(0, 2)), 'b/kernel: .* axes -2 to 1'),
    (Block(2, 2, axes=(0, -3)), 'axes of a block must differ'),
    (Channel(2), 'b/kernel: Channel.*shape .16, 8. has axes -2 to 1'),
  ],
)
def test_a_structure_that_does_not_fit_says_what_would(structure, allowed):
  with pytest.raises(ValueError, match=allowed):
    structure.units(KERNELS)


def test_a_kernel_of_one_axis_has_no_blocks():
  with pytest.raises(ValueError, match='axes -1 to 0'):
    Block(1, 4).units({'x': Kernel((8,), stacked=False)})
  # Nor has one stacked over layers, whose first axis does not count.
  with pytest.raises(ValueError, match='axes -1 to 0'):
    Block(1, 4).units({'x': Kernel((4, 8), stacked=True)})


def test_windows_too_large_to_add_up_are_refused():
  with pytest.raises(ValueError, match='at most 268435456'):
    Channel(0).units({'x': Kernel((4, (1 << 28) + 1), stacked=False)})


@pytest.mark.parametrize(
  'make, allowed',
  [
    (lambda: NByM(5, 4), 'n must be in 1 to m = 4'),
    (lambda: NByM(0, 4), 'n must be in 1 to m = 4'),
    (lambda: Block(0, 4), 'height and width must be at least 1'),
    (lambda: Block(4, 4, pooling='sum'), "one of .'mean', 'max'"),
    (lambda: Channel(pooling='avg'), "one of .'mean', 'max'"),
  ],
)
def test_a_structure_that_cannot_be_is_refused(make, allowed):
  with pytest.raises(ValueError, match=allowed):
    make()
