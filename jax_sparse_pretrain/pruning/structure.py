"""What is kept or dropped together: N of every M, or whole windows.

Windows tile a layer: single weights, blocks, channels. Their scores are pooled,
whole windows are selected exactly as weights are, and the mask of windows is
spread over their weights.

Axes are those of a layer: the axis of a kernel stacked over layers does not
count. Nothing here sorts or gathers. On sharded kernels only windows that cross
devices communicate, a few numbers a window. Where a group of N:M or the side of
a block would itself be cut by a shard's edge, so that shards do not hold whole
ones, Auto axes move the kernel and Explicit axes are an error.
"""

import dataclasses
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jax_sparse_pretrain.pruning.distribution import Distribution
from jax_sparse_pretrain.pruning.kernels import Arrays, Kernel, Kernels
from jax_sparse_pretrain.pruning.selection import keep_largest

# The compiler keeps no array of pairs when it reduces up to 32 of them.
COMPARED = 32
POOLINGS = ('mean', 'max')
MAX_WINDOW = 1 << 28


class Structure:
  """What is kept or dropped together."""

  def units(self, kernels: Kernels) -> dict[str, Kernel]:
    """The kernels as selection sees them, with one entry for each unit.

    Raises:
      ValueError: naming the kernel that the structure does not tile.
    """
    units = {}
    for name, kernel in kernels.items():
      try:
        units[name] = self.unit(kernel)
      except ValueError as error:
        raise ValueError(f'{name}: {error}') from None
    return units

  def unit(self, kernel: Kernel) -> Kernel:
    """`units` of one kernel; the error does not know its name."""
    raise NotImplementedError

  def keep(
    self,
    scores: Arrays,
    candidates: Arrays,
    kernels: Kernels,
    budget: Any,
    distribution: Distribution,
  ) -> dict[str, jax.Array]:
    """Masks of the units of largest score.

    Args:
      scores: {kernel: float[shape]}, such as magnitudes.
      candidates: {kernel: bool[shape]}; others are never kept.
      kernels: {kernel: Kernel}, the same keys.
      budget: how many units to keep, `distribution.budget` of `units`.
      distribution: an entry of `DISTRIBUTIONS`.

    Returns:
      {kernel: bool[shape]}.
    """
    raise NotImplementedError

  def layer_axis(self, axis: int, layer: tuple[int, ...]) -> int:
    """The axis of a layer of this shape, counted from 0."""
    n = len(layer)
    if not -n <= axis < n:
      raise ValueError(
        f'{self}: a layer of shape {layer} has axes {-n} to {n - 1}'
      )
    return axis % n

  def check_divides(self, size: int, axis: int, layer: tuple[int, ...]) -> None:
    """Raises ValueError if size does not divide the axis of the layer."""
    n = layer[axis]
    if n % size:
      raise ValueError(
        f'{self}: {size} must divide axis {axis} of a layer of shape'
        f' {layer}, {n}'
      )


@dataclasses.dataclass(frozen=True)
class NByM(Structure):
  """The largest n of every m consecutive weights along the axis.

  Each group ranks its own weights, so there is no budget to share out.

  Attributes:
    n: how many of a group are kept, 1 to m.
    m: the size of a group; divides the axis.
    axis: an axis of a layer.
  """

  n: int
  m: int
  axis: int = -1

  def __post_init__(self):
    if not 1 <= self.n <= self.m:
      raise ValueError(f'{self}: n must be in 1 to m = {self.m}')

  def unit(self, kernel: Kernel) -> Kernel:
    """The kernel as it is."""
    self._axis(kernel)
    return kernel

  def keep(
    self,
    scores: Arrays,
    candidates: Arrays,
    kernels: Kernels,
    budget: Any = None,
    distribution: Distribution | None = None,
  ) -> dict[str, jax.Array]:
    """Masks of the n largest candidates in each group of m.

    Ties go to the lowest index. All candidates of a group are kept where they
    are fewer. Scores must not be NaN. There is no budget to share out.
    """
    del budget, distribution
    return {
      name: self._keep(scores[name], candidates[name], kernel)
      for name, kernel in kernels.items()
    }

  def _axis(self, kernel: Kernel) -> int:
    """The axis of the whole leaf."""
    axis = self.layer_axis(self.axis, kernel.layer_shape)
    self.check_divides(self.m, axis, kernel.layer_shape)
    return axis + int(kernel.stacked)

  def _keep(self, scores: jax.Array, candidates: jax.Array, kernel: Kernel):
    axis = self._axis(kernel)
    score, candidate = (split(x, axis, self.m) for x in (scores, candidates))
    mine, theirs = axis + 1, axis + 2

    n_compared = min(self.m, COMPARED)

    def add_better(i, n_better: jax.Array) -> jax.Array:
      # The last weights overlap those before, which have been counted.
      start = jnp.minimum(i * n_compared, self.m - n_compared)
      other, eligible = (
        jnp.expand_dims(
          jax.lax.dynamic_slice_in_dim(x, start, n_compared, axis=mine), mine
        )
        for x in (score, candidate)
      )
      one = jnp.expand_dims(score, theirs)
      pairs = one.shape[:theirs] + (n_compared,) + one.shape[theirs + 1 :]
      place = jax.lax.broadcasted_iota(jnp.int32, pairs, mine)
      other_place = start + jax.lax.broadcasted_iota(jnp.int32, pairs, theirs)
      better = (other > one) | ((other == one) & (other_place < place))
      better &= eligible & (other_place >= i * n_compared)
      return n_better + jnp.sum(better, axis=theirs, dtype=n_better.dtype)

    n_better = jnp.zeros_like(score, np.min_scalar_type(self.m))
    n_rounds = -(-self.m // n_compared)
    n_better = jax.lax.fori_loop(0, n_rounds, add_better, n_better)
    return merge((n_better < self.n) & candidate, axis)


class Windows(Structure):
  """Windows of equal shape, each kept or dropped whole."""

  pooling: ClassVar[str] = 'mean'

  def window(self, layer: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of a window in a layer of this shape.

    Raises:
      ValueError: if windows do not tile the layer.
    """
    raise NotImplementedError

  def unit(self, kernel: Kernel) -> Kernel:
    """The kernel with one entry for each window."""
    sizes = self._sizes(kernel)
    if math.prod(sizes) > MAX_WINDOW:
      raise ValueError(
        f'{self} takes {math.prod(sizes)} weights together:'
        f' at most {MAX_WINDOW} can be'
      )
    shape = tuple(n // w for n, w in zip(kernel.shape, sizes, strict=True))
    return kernel._replace(shape=shape)

  def pool(self, scores: jax.Array, kernel: Kernel) -> jax.Array:
    """float[shape] -> pooled scores, float32[units' shape].

    The same to the last bit on any mesh. Windows of one weight pass as given.
    """
    if self.unit(kernel).shape == kernel.shape:
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

    Exactly the budgeted number of windows is kept, ties by lowest flat index,
    or all candidates where they are fewer. A window is a candidate while any
    weight in it is. Scores must not be negative.
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
    """Shape of a window in the leaf, with 1 for an axis of layers."""
    return (1,) * int(kernel.stacked) + self.window(kernel.layer_shape)

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
    height: weights along the first of `axes`, whose size it divides.
    width: weights along the second of `axes`, whose size it divides.
    axes: two axes of a layer.
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
    first, second = (self.layer_axis(axis, layer) for axis in self.axes)
    if first == second:
      raise ValueError(f'{self}: the two axes of a block must differ')
    sizes = list(layer)
    for axis, size in ((first, self.height), (second, self.width)):
      self.check_divides(size, axis, layer)
      sizes[axis] = size
    return tuple(sizes)


@dataclasses.dataclass(frozen=True)
class Channel(Windows):
  """All weights that share an index along the axis.

  Attributes:
    axis: an axis of a layer.
    pooling: how a channel scores, by the `mean` or the `max` of its weights.
  """

  axis: int = -1
  pooling: str = 'mean'

  def __post_init__(self):
    _check_pooling(self)

  def window(self, layer: tuple[int, ...]) -> tuple[int, ...]:
    axis = self.layer_axis(self.axis, layer)
    return layer[:axis] + (1,) + layer[axis + 1 :]


def _check_pooling(structure: Block | Channel):
  if structure.pooling not in POOLINGS:
    raise ValueError(f'{structure}: pooling must be one of {POOLINGS}')


def split(x: jax.Array, axis: int, size: int) -> jax.Array:
  """One axis of n -> two axes, of n / size and of size."""
  n = x.shape[axis]
  return x.reshape(x.shape[:axis] + (n // size, size) + x.shape[axis + 1 :])


def merge(x: jax.Array, axis: int) -> jax.Array:
  """The inverse of `split`: two axes become one."""
  n = x.shape[axis] * x.shape[axis + 1]
  return x.reshape(x.shape[:axis] + (n,) + x.shape[axis + 2 :])


def exact_mean(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
  """Mean of float32 over the axes, the same to the bit on any mesh.

  A sum of floats depends on its order, and so on the mesh; one of integers
  does not. So weights are scaled by the power of two above their window's
  largest and cut into two limbs, as wide as int32 can sum, which are summed
  apart. What is cut off is below 2^-(62 - 2 log2(window)) of the largest
  weight, or of 2^-94 where that is larger. Magnitudes beyond 2^124 count as
  2^124; NaN stays NaN.
  """
  size = math.prod(x.shape[axis] for axis in axes)
  unit = 2.0 ** (31 - (size - 1).bit_length())
  bound = 2.0**124
  top = jnp.max(jnp.abs(x).clip(max=bound), axis=axes, keepdims=True)
  # Far enough from both ends for the compiler to multiply in any order.
  exponent = jax.lax.bitcast_convert_type(top, jnp.int32) >> 23
  exponent = jnp.clip(exponent, 32, 251)

  def add_up(shift: jax.Array) -> jax.Array:
    # Nothing as large as x is to be kept from one limb to the next.
    again, shift = jax.lax.optimization_barrier((x, shift))
    scaled = jnp.clip(again, -bound, bound) * _power_of_two(253 - exponent)
    scaled *= shift
    limb = jnp.trunc((scaled - jnp.trunc(scaled)) * unit).astype(jnp.int32)
    return jnp.sum(limb, axis=axes, keepdims=True, dtype=jnp.int32)

  high, low = jax.lax.map(add_up, jnp.array([1, unit], jnp.float32))
  total = high.astype(jnp.float32) + low.astype(jnp.float32) / unit
  mean = total / (size * unit) * _power_of_two(exponent + 1)
  return jnp.squeeze(jnp.where(jnp.isnan(top), top, mean), axes)


def _power_of_two(biased: jax.Array) -> jax.Array:
  """2^(biased - 127) for 1 <= biased <= 254, float32."""
  return jax.lax.bitcast_convert_type(biased << 23, jnp.float32)
