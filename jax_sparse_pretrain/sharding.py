"""Where every array lives: mesh, logical axis -> mesh axes, NamedSharding.

Mesh axes: `data` splits the batch; `fsdp` splits the batch and the
parameters; `tensor` splits heads, feed-forward and vocabulary.
"""

import math
from typing import Any

import jax
from flax import linen as nn
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jax_sparse_pretrain import config as config_lib

AXES = ('data', 'fsdp', 'tensor')

# Logical axis -> mesh axes. An axis that is not listed is an error.
RULES: dict[str, str | tuple[str, ...] | None] = {
  # parameters
  'layers': None,
  'vocab': 'tensor',
  'embed': 'fsdp',
  'heads': 'tensor',
  'kv_heads': 'tensor',
  'head_dim': None,
  'mlp': 'tensor',
  'norm': None,
  # activations
  'batch': ('data', 'fsdp'),
  'length': None,
  'features': None,
  '': None,
}


def make_mesh(config: config_lib.Mesh, devices=None) -> Mesh:
  """A (data, fsdp, tensor) mesh over all devices.

  Axes are Auto: the compiler derives the sharding of intermediates, which
  `constrain_to` pins where it matters.

  Raises:
    ConfigError: if the axes do not multiply to the number of devices, or do
      not fit the shape of a slice of TPUs.
  """
  devices = jax.devices() if devices is None else devices
  sizes = [getattr(config, axis) for axis in AXES]
  fixed = math.prod(size for size in sizes if size != -1)
  sizes = [len(devices) // fixed if size == -1 else size for size in sizes]
  given = ' x '.join(f'mesh.{a} = {getattr(config, a)}' for a in AXES)
  if math.prod(sizes) != len(devices):
    raise config_lib.ConfigError(
      f'{given}: must multiply to the number of devices, {len(devices)}'
    )
  try:
    return jax.make_mesh(
      sizes, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices
    )
  except NotImplementedError as error:
    said = str(error).split('. ')[0]
    raise config_lib.ConfigError(f'{given}: {said}') from error


def replicated(mesh: Mesh) -> NamedSharding:
  return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Rows split over data and fsdp: for int[B, L + 1]."""
  return NamedSharding(mesh, _spec(('batch', 'length')))


def constrain_to(mesh: Mesh):
  """Returns a function that pins activations by logical axis names."""

  def constrain(x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, _spec(axes)))

  return constrain


def parameter_shardings(mesh: Mesh, boxed: Any) -> Any:
  """NamedSharding for every parameter of a Flax tree with logical names.

  Args:
    mesh: what `make_mesh` returned.
    boxed: `eval_shape(model.init, ...)['params']` with the boxes of its leaves.

  Raises:
    ValueError: for a leaf without logical axes or with one that no rule names.
    ConfigError: for a mesh axis that does not divide a leaf.
  """

  def place(path, leaf):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    if not isinstance(leaf, nn.LogicallyPartitioned):
      raise ValueError(f'{name}: has no logical axis names')
    unknown = [axis for axis in leaf.names if axis not in RULES]
    if unknown:
      raise ValueError(f'{name}: no sharding rule for logical axes {unknown}')
    spec = _spec(leaf.names)
    _check_divides(name, leaf.value.shape, spec, mesh)
    return NamedSharding(mesh, spec)

  return jax.tree.map_with_path(
    place, boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned)
  )


def check_batch(config: config_lib.Config, mesh: Mesh) -> None:
  """Every micro-batch must split evenly over the batch axes of the mesh."""
  shards = mesh.shape['data'] * mesh.shape['fsdp']
  micro_batch = config.batch_size // config.accumulation_steps
  if micro_batch % shards:
    raise config_lib.ConfigError(
      f'batch_size / accumulation_steps = {micro_batch}: must be divisible by '
      f'the devices of mesh.data x mesh.fsdp, {shards}'
    )


def local_rows(sharding: NamedSharding, n_rows: int) -> list[int]:
  """The rows of a global batch on the devices of this process, in order."""
  indices = sharding.addressable_devices_indices_map((n_rows, 1)).values()
  rows = {row for index in indices for row in range(n_rows)[index[0]]}
  return sorted(rows)


def _spec(names: tuple[str, ...]) -> PartitionSpec:
  return PartitionSpec(*(RULES[name] for name in names))


def _check_divides(name, shape, spec, mesh) -> None:
  for size, axis in zip(shape, spec, strict=True):
    if axis and size % mesh.shape[axis]:
      raise config_lib.ConfigError(
        f'mesh.{axis} = {mesh.shape[axis]}: must divide {name}, whose axis of '
        f'size {size} it splits'
      )
