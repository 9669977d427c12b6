import jax
import pytest
from flax import linen as nn
from jax.sharding import PartitionSpec
from tiny import tiny_config

from jax_sparse_pretrain import sharding
from jax_sparse_pretrain.config import ConfigError, Mesh
from jax_sparse_pretrain.training import setup


def leaf(shape, names):
  value = jax.ShapeDtypeStruct(shape, 'float32')
  return nn.LogicallyPartitioned(value, names)


def test_minus_one_takes_the_remaining_devices():
  mesh = sharding.make_mesh(Mesh(data=-1, fsdp=2, tensor=2))
  assert dict(mesh.shape) == {'data': 2, 'fsdp': 2, 'tensor': 2}


@pytest.mark.parametrize('sizes', [(3, 1, 1), (-1, 3, 1), (2, 2, 4), (1, 1, 1)])
def test_a_mesh_that_does_not_fit_the_devices_is_refused(sizes):
  with pytest.raises(ConfigError, match='number of devices, 8'):
    sharding.make_mesh(Mesh(*sizes))


def test_every_leaf_must_match_a_rule():
  mesh = sharding.make_mesh(Mesh(data=-1))
  with pytest.raises(ValueError, match=r"a/odd: no sharding rule .*\['colour'"):
    sharding.parameter_shardings(
      mesh, {'a': {'odd': leaf((4, 4), ('embed', 'colour'))}}
    )
  with pytest.raises(ValueError, match='a/bare: has no logical axis names'):
    sharding.parameter_shardings(
      mesh, {'a': {'bare': jax.ShapeDtypeStruct((4,), 'float32')}}
    )


def test_rules_place_a_stacked_kernel():
  mesh = sharding.make_mesh(Mesh(data=2, fsdp=2, tensor=2))
  placed = sharding.parameter_shardings(
    mesh, {'w': leaf((3, 4, 8), ('layers', 'embed', 'mlp'))}
  )
  assert placed['w'].spec == PartitionSpec(None, 'fsdp', 'tensor')


def test_an_axis_that_cannot_be_split_is_named():
  mesh = sharding.make_mesh(Mesh(data=1, fsdp=1, tensor=8))
  with pytest.raises(ConfigError, match='mesh.tensor = 8.*w, .*size 4'):
    sharding.parameter_shardings(mesh, {'w': leaf((4,), ('heads',))})


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'batch_size': 12}, 'batch_size .* = 12: .* divisible .* 8'),
    ({'accumulation_steps': 2}, 'accumulation_steps = 4: .* divisible .* 8'),
    (
      {'evaluation': {'batch_size': 3}},
      'evaluation.batch_size = 3: .* divisible .* 8',
    ),
    ({'model': {'vocab_size': 255}}, 'vocab_size = 255: .* tokenizer, 256'),
  ],
)
def test_sizes_that_do_not_fit_are_refused_at_set_up(changes, words):
  with pytest.raises(ConfigError, match=words):
    setup.set_up(tiny_config(**changes))


def test_one_process_feeds_all_rows():
  mesh = sharding.make_mesh(Mesh(data=4, fsdp=2))
  rows = sharding.local_rows(sharding.batch_sharding(mesh), 16)
  assert rows == list(range(16))
