"""What a mask update costs on shards: which messages, how much memory."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jax_sparse_pretrain import pruning
from jax_sparse_pretrain.pruning import DISTRIBUTIONS, Kernel, selection

KERNELS = {
  'down/kernel': Kernel((4, 512, 256), stacked=True),
  'head/kernel': Kernel((256, 2048), stacked=False),
  'key/kernel': Kernel((4, 256, 4, 64), stacked=True),
  'out/kernel': Kernel((4, 4, 64, 256), stacked=True),
  'query/kernel': Kernel((4, 256, 4, 64), stacked=True),
  'up/kernel': Kernel((4, 256, 512), stacked=True),
}
SPECS = {
  'down/kernel': PartitionSpec(None, 'tensor', 'fsdp'),
  'head/kernel': PartitionSpec('fsdp', 'tensor'),
  'key/kernel': PartitionSpec(None, 'fsdp', 'tensor', None),
  'out/kernel': PartitionSpec(None, 'tensor', None, 'fsdp'),
  'query/kernel': PartitionSpec(None, 'fsdp', 'tensor', None),
  'up/kernel': PartitionSpec(None, 'fsdp', 'tensor'),
}
# Kernels, spread over four of the eight devices, twice.
SHARDS = [4 * math.prod(k.shape) // 4 for k in KERNELS.values()]


def shardings(axis_type):
  mesh = jax.make_mesh(
    (2, 2, 2), ('data', 'fsdp', 'tensor'), axis_types=(axis_type,) * 3
  )
  return {name: NamedSharding(mesh, spec) for name, spec in SPECS.items()}


VARIANTS = {
  'global': {},
  'uniform': {'how': 'uniform'},
  'packed': {'pack': True},
  'random': {'score': pruning.random_scores(0)},
  'after': {'order': 'after'},
  'after, regrow, packed': {'order': 'after', 'regrow': True, 'pack': True},
}


# Copies of all the weights that are held: random scores and the two words a
# weight they are made of; the weights as the optimizer leaves them, from which
# a regrown mask is chosen.
HELD = {'random': 3, 'after, regrow, packed': 1}


def make_pruner(how='global', pack=False, **options):
  pruner = pruning.magnitude_pruner(KERNELS, DISTRIBUTIONS[how], **options)
  return pruning.packed(pruner, KERNELS) if pack else pruner


def mask_update(**variant):
  """What a pruner adds to a step of SGD, on {path: kernel}; and a budget.

  (weights, masks, due, budget) -> (weights, masks).
  """
  pruner = make_pruner(**variant)

  def descend(grads, opt_state, params):
    return jax.tree.map(lambda g: -0.1 * g, grads), opt_state

  def step(weights, masks, due, budget):
    weights, masks = pruner.update(weights, masks, due, budget)
    if not pruner.delay:
      return weights, masks
    updates, _, masks = pruner.optimize(
      descend, weights, (), weights, masks, due, budget
    )
    return pruner.mask(optax.apply_updates(weights, updates), masks), masks

  return jax.jit(step), pruner.budget_for(0.4)


def traced_update(axis_type, **variant):
  at = shardings(axis_type)
  weights = {
    name: jax.ShapeDtypeStruct(kernel.shape, jnp.float32, sharding=at[name])
    for name, kernel in KERNELS.items()
  }
  masks = {
    name: jax.ShapeDtypeStruct(mask.shape, mask.dtype, sharding=at[name])
    for name, mask in jax.eval_shape(
      make_pruner(**variant).init, weights
    ).items()
  }
  update, budget = mask_update(**variant)
  return update.trace(weights, masks, jnp.bool_(True), budget)


def messages(program):
  """(the arrays it moves, as text; operation) of compiled HLO."""
  return re.findall(
    r'= (\(.*?\)|\S+) (all-\w+(?:-\w+)*|ragged-all-to-all|reduce-scatter'
    r'|collective-\w+)\(',
    program,
  )


def some_arrays():
  """Weights, many of them equal, and masks."""
  rng = np.random.default_rng(0)
  weights = {
    n: np.round(2 * rng.normal(size=k.shape)).astype(np.float32)
    for n, k in KERNELS.items()
  }
  return weights, {n: rng.random(k.shape) < 0.8 for n, k in KERNELS.items()}


@pytest.mark.fast(1)
@pytest.mark.parametrize('axis_type', [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize('variant', VARIANTS)
def test_a_mask_update_moves_only_counts_and_holds_no_copy(variant, axis_type):
  traced = traced_update(axis_type, **VARIANTS[variant])
  program = traced.lower().compile()
  moved = messages(program.as_text())
  assert {operation for _, operation in moved} == {'all-reduce'}
  # One number for each layer of a kernel and each threshold of a pass, where
  # a shard has 131,072.
  for arrays, _ in moved:
    for dims in re.findall(r'\w\[([\d,]*)\]', arrays):
      assert math.prod(map(int, filter(None, dims.split(',')))) <= 4 * 16
  assert ' sort(' not in program.as_text()
  held = HELD.get(variant, 0) * sum(SHARDS)
  assert program.memory_analysis().temp_size_in_bytes <= held + 1.5 * max(
    SHARDS
  )


@pytest.mark.slow
@pytest.mark.parametrize('axis_type', [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize('how', ['global', 'uniform'])
def test_masks_of_a_mesh_equal_those_of_one_device(how, axis_type):
  update, budget = mask_update(how=how)
  weights, masks = some_arrays()
  at = shardings(axis_type)
  spread = jax.device_put((weights, masks), (at, at))
  _, alone = update(weights, masks, True, budget)
  _, sharded = update(*spread, True, budget)
  for name in KERNELS:
    assert sharded[name].sharding.is_equivalent_to(
      at[name], len(KERNELS[name].shape)
    )
    np.testing.assert_array_equal(sharded[name], alone[name], err_msg=name)


def test_a_mask_update_on_tpu_is_not_partitioned_by_hand():
  """The compiler of a TPU cannot; its program is written here all the same."""
  traced = traced_update(AxisType.Auto)
  by_hand = 'CustomSPMDPartitioning'
  assert by_hand in traced.lower(lowering_platforms=('cpu',)).as_text()
  assert by_hand not in traced.lower(lowering_platforms=('tpu',)).as_text()


def test_counts_of_a_tpu_are_the_same_and_are_summed_over_devices():
  rng = np.random.default_rng(0)
  keys = rng.integers(0, 9, (4, 256, 4, 64)).astype(np.uint32)
  thresholds = rng.integers(0, 9, (3, 4)).astype(np.uint32)
  at = shardings(AxisType.Auto)['key/kernel']
  count = jax.jit(selection._count_by_sums, in_shardings=(at, None))
  np.testing.assert_array_equal(
    count(keys, thresholds), selection._count_layers(keys, thresholds)
  )
  moved = messages(count.lower(keys, thresholds).compile().as_text())
  assert {operation for _, operation in moved} == {'all-reduce'}
