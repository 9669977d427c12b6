"""What a mask update costs on shards: which messages, how much memory."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jax_sparse_pretrain import pruning
from jax_sparse_pretrain.pruning import DISTRIBUTIONS, Kernel

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
LARGEST_SHARD = max(4 * math.prod(k.shape) // 4 for k in KERNELS.values())


def shardings(axis_type):
  mesh = jax.make_mesh(
    (2, 2, 2), ('data', 'fsdp', 'tensor'), axis_types=(axis_type,) * 3
  )
  return {name: NamedSharding(mesh, spec) for name, spec in SPECS.items()}


def mask_update(how):
  """A jitted pruner.update on {path: kernel}, and a budget."""
  pruner = pruning.magnitude_pruner(KERNELS, DISTRIBUTIONS[how])
  return jax.jit(pruner.update), pruner.budget_for(0.4)


def compiled_update(how, axis_type):
  at = shardings(axis_type)

  def abstract(dtype):
    return {
      name: jax.ShapeDtypeStruct(kernel.shape, dtype, sharding=at[name])
      for name, kernel in KERNELS.items()
    }

  update, budget = mask_update(how)
  weights, masks = abstract(jnp.float32), abstract(bool)
  return update.lower(weights, masks, jnp.bool_(True), budget).compile()


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


@pytest.mark.parametrize('axis_type', [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize('how', ['global', 'uniform'])
def test_a_mask_update_moves_only_counts_and_holds_no_copy(how, axis_type):
  program = compiled_update(how, axis_type)
  moved = messages(program.as_text())
  assert {operation for _, operation in moved} == {'all-reduce'}
  # One number for each layer of a kernel and each threshold of a pass, where
  # a shard has 131,072.
  for arrays, _ in moved:
    for dims in re.findall(r'\w\[([\d,]*)\]', arrays):
      assert math.prod(map(int, filter(None, dims.split(',')))) <= 4 * 16
  assert ' sort(' not in program.as_text()
  assert program.memory_analysis().temp_size_in_bytes <= 1.5 * LARGEST_SHARD


@pytest.mark.parametrize('axis_type', [AxisType.Auto, AxisType.Explicit])
@pytest.mark.parametrize('how', ['global', 'uniform'])
def test_masks_of_a_mesh_equal_those_of_one_device(how, axis_type):
  update, budget = mask_update(how)
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
