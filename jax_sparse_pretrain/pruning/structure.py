"""What is kept or dropped together: weights, N of M, blocks, channels.

Blocks and channels are *windows* that tile a layer. Their scores are pooled,
whole windows are selected exactly as weights are, and the mask of windows is
spread over their weights. N:M needs no budget: each group ranks its own.

Axes are those of a layer: the axis of a kernel stacked over layers does not
count. Nothing here sorts or gathers. On sharded kernels only windows that
cross devices communicate, a few numbers a window. Where a group of N:M or the
side of a block would itself be cut by a shard's edge, so that shards do not
hold whole ones, Auto axes move the kernel and Explicit axes are an error.
"""

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jax_sparse_pretrain.pruning.axes import (
  Arrays,
  Kernels,
  by_name,
  check_divides,
  layer_axis,
  layer_shape,
  merge,
  split,
)
from jax_sparse_pretrain.pruning.distribution import Distribution, Kernel
from jax_sparse_pretrain.pruning.exact_mean import exact_mean
from jax_sparse_pretrain.pruning.n_by_m import NByM
from jax_sparse_pretrain.pruning.selection import keep_largest

POOLINGS = ('mean', 'max')
MAX_WINDOW = 1 << 28


class Windows:
  """Windows of equal shape, each kept or dropped whole."""

  pooling: ClassVar[str] = 'mean'

  def window(self, layer: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of a window in a layer of this shape.

    Raises:
      ValueError: if windows do not tile the layer.
    """
    raise NotImplementedError

  def units(self, kernels: Kernels) -> dict[str, Kernel]:
    """The kernels as selection sees them, one entry a window.

    Raises:
      ValueError: naming the kernel which windows do not tile.
    """
    return by_name(self._unit, kernels)

  def pool(self, scores: jax.Array, kernel: Kernel) -> jax.Array:
    """float[shape] -> pooled scores, float32[units' shape].

    The same to the last bit on any mesh. Windows of one weight pass as given.
    """
    if self._unit(kernel).shape == kernel.shape:
      return scores
    grouped, inner = self._grouped(scores.astype(jnp.float32), kernel)
    if self.pooling == 'max':
      return jnp.max(grouped, axis=inner)
    return exact_mean(grouped, inner)

  def spread(self, mask: jax.Array, kernel: Kernel) -> jax.Array:
    """bool[units' shape] -> bool[shape]."""
    for axis, size in enumerate(self._sizes(kernel)):
      if size > 1:
        mask = jnp.expand_dims(mask, axis + 1)
        shape = mask.shape[: axis + 1] + (size,) + mask.shape[axis + 2 :]
        mask = merge(jnp.broadcast_to(mask, shape), axis)
    return mask

  def keep(
    self,
    scores: Arrays,
    candidates: Arrays,
    kernels: Kernels,
    budget: Any,
    distribution: Distribution,
  ) -> dict[str, jax.Array]:
    """Masks of the windows of largest pooled score.

    Args:
      scores: {kernel: float[shape]}, not negative, such as magnitudes.
      candidates: {kernel: bool[shape]}; others are never kept. A window is a
        candidate while any weight in it is.
      kernels: {kernel: Kernel}, the same keys.
      budget: how many windows to keep, `distribution.budget` of `units`.
      distribution: an entry of `DISTRIBUTIONS`.

    Returns:
      {kernel: bool[shape]}; exactly the budgeted number of windows, ties by
      lowest flat index, or all candidates where they are fewer.
    """

    def any_in(mask: jax.Array, kernel: Kernel) -> jax.Array:
      grouped, inner = self._grouped(mask, kernel)
      return jnp.any(grouped, axis=inner)

    windows = keep_largest(
      {name: self.pool(scores[name], k) for name, k in kernels.items()},
      {name: any_in(candidates[name], k) for name, k in kernels.items()},
      self.units(kernels),
      budget,
      distribution,
    )
    return {
      name: self.spread(windows[name], k) & candidates[name]
      for name, k in kernels.items()
    }

  def _sizes(self, kernel: Kernel) -> tuple[int, ...]:
    """Shape of a window, the axis of layers included."""
    return (1,) * int(kernel.stacked) + self.window(layer_shape(kernel))

  def _unit(self, kernel: Kernel) -> Kernel:
    sizes = self._sizes(kernel)
    if math.prod(sizes) > MAX_WINDOW:
      raise ValueError(
        f'{self} takes {math.prod(sizes)} weights together:'
        f' at most {MAX_WINDOW} can be'
      )
    shape = tuple(n // w for n, w in zip(kernel.shape, sizes, strict=True))
    return kernel._replace(shape=shape)

  def _grouped(self, x: jax.Array, kernel: Kernel):
    """[shape] -> ([a/h, h, b/w, w, ...], the axes inside a window)."""
    inner = []
    for axis, size in enumerate(self._sizes(kernel)):
      if size > 1:
        axis += len(inner)
        x = split(x, axis, size)
        inner.append(axis + 1)
    return x, tuple(inner)


@dataclasses.dataclass(frozen=True)
class Unstructured(Windows):
  """Every weight by itself."""

  def window(self, layer: tuple[int, ...]) -> tuple[int, ...]:
    return (1,) * len(layer)


@dataclasses.dataclass(frozen=True)
class Block(Windows):
  """Blocks of height x width along two axes, all of the other axes in each.

  Attributes:
    height: weights along the first of `axes`, which it divides.
    width: along the second.
    axes: of a layer.
    pooling: how a block scores, by the `mean` or the `max` of its weights.
  """

  height: int
  width: int
  axes: tuple[int, int] = (0, 1)
  pooling: str = 'mean'

  def __post_init__(self):
    if self.height < 1 or self.width < 1:
      raise ValueError(f'{self}: height and width must be at least 1')
    _check_pooling(self)

  def window(self, layer: tuple[int, ...]) -> tuple[int, ...]:
    first, second = (layer_axis(self, axis, layer) for axis in self.axes)
    if first == second:
      raise ValueError(f'{self}: the two axes of a block must differ')
    sizes = list(layer)
    for axis, size in ((first, self.height), (second, self.width)):
      check_divides(self, size, axis, layer)
      sizes[axis] = size
    return tuple(sizes)


@dataclasses.dataclass(frozen=True)
class Channel(Windows):
  """All weights that share an index along the axis.

  Attributes:
    axis: of a layer.
    pooling: how a channel scores, by the `mean` or the `max` of its weights.
  """

  axis: int = -1
  pooling: str = 'mean'

  def __post_init__(self):
    _check_pooling(self)

  def window(self, layer: tuple[int, ...]) -> tuple[int, ...]:
    axis = layer_axis(self, self.axis, layer)
    return layer[:axis] + (1,) + layer[axis + 1 :]


Structure = Unstructured | Block | Channel | NByM


def _check_pooling(structure: Block | Channel):
  if structure.pooling not in POOLINGS:
    raise ValueError(f'{structure}: pooling must be one of {POOLINGS}')
