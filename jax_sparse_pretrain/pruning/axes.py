"""Axes of kernels and of their layers: cut, joined and checked."""

from collections.abc import Callable, Mapping

import jax

from jax_sparse_pretrain.pruning.distribution import Kernel

Arrays = Mapping[str, jax.Array]
Kernels = Mapping[str, Kernel]


def split(x: jax.Array, axis: int, size: int) -> jax.Array:
  """Axis of n -> axes of n / size and size."""
  n = x.shape[axis]
  return x.reshape(x.shape[:axis] + (n // size, size) + x.shape[axis + 1 :])


def merge(x: jax.Array, axis: int) -> jax.Array:
  """The inverse of `split`: two axes become one."""
  n = x.shape[axis] * x.shape[axis + 1]
  return x.reshape(x.shape[:axis] + (n,) + x.shape[axis + 2 :])


def layer_shape(kernel: Kernel) -> tuple[int, ...]:
  """Shape of one layer of a kernel."""
  return kernel.shape[int(kernel.stacked) :]


def by_name(
  unit: Callable[[Kernel], Kernel], kernels: Kernels
) -> dict[str, Kernel]:
  """The unit of each kernel; a ValueError names the kernel."""
  units = {}
  for name, kernel in kernels.items():
    try:
      units[name] = unit(kernel)
    except ValueError as error:
      raise ValueError(f'{name}: {error}') from None
  return units


def layer_axis(structure: object, axis: int, layer: tuple[int, ...]) -> int:
  """The axis of a layer of this shape, from 0."""
  n = len(layer)
  if not -n <= axis < n:
    raise ValueError(
      f'{structure}: a layer of shape {layer} has axes {-n} to {n - 1}'
    )
  return axis % n


def check_divides(
  structure: object, size: int, axis: int, layer: tuple[int, ...]
) -> None:
  """Raises ValueError if size does not divide the axis of the layer."""
  n = layer[axis]
  if n % size:
    raise ValueError(
      f'{structure}: {size} must divide axis {axis} of a layer of shape'
      f' {layer}, {n}'
    )
