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
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jax_sparse_pretrain.pruning.distribution import Distribution, Kernel
from jax_sparse_pretrain.pruning.selection import keep_largest

Arrays = Mapping[str, jax.Array]
Kernels = Mapping[str, Kernel]

POOLINGS = ('mean', 'max')
MAX_WINDOW = 1 << 28
# The compiler keeps no array of pairs when it reduces up to 32 of them.
COMPARED = 32


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
    return _by_name(self._unit, kernels)

  def pool(self, scores: jax.Array, kernel: Kernel) -> jax.Array:
    """float[shape] -> pooled scores, float32[units' shape].

    The same to the last bit on any mesh. Windows of one weight pass as given.
    """
    if self._unit(kernel).shape == kernel.shape:
      return scores
    grouped, inner = self._grouped(scores.astype(jnp.float32), kernel)
    if self.pooling == 'max':
      return jnp.max(grouped, axis=inner)
    return _exact_mean(grouped, inner)

  def spread(self, mask: jax.Array, kernel: Kernel) -> jax.Array:
    """bool[units' shape] -> bool[shape]."""
    for axis, size in enumerate(self._sizes(kernel)):
      if size > 1:
        mask = jnp.expand_dims(mask, axis + 1)
        shape = mask.shape[: axis + 1] + (size,) + mask.shape[axis + 2 :]
        mask = _merge(jnp.broadcast_to(mask, shape), axis)
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
    return (1,) * int(kernel.stacked) + self.window(_layer(kernel))

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
        x = _split(x, axis, size)
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
    first, second = (_axis(self, axis, layer) for axis in self.axes)
    if first == second:
      raise ValueError(f'{self}: the two axes of a block must differ')
    sizes = list(layer)
    for axis, size in ((first, self.height), (second, self.width)):
      _check_divides(self, size, axis, layer)
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
    axis = _axis(self, self.axis, layer)
    return layer[:axis] + (1,) + layer[axis + 1 :]


@dataclasses.dataclass(frozen=True)
class NByM:
  """The largest n of every m consecutive weights along the axis.

  Attributes:
    n: kept, 1 to m.
    m: divides the axis.
    axis: of a layer.
  """

  n: int
  m: int
  axis: int = -1

  def __post_init__(self):
    if not 1 <= self.n <= self.m:
      raise ValueError(f'{self}: n must be in 1 to m = {self.m}')

  def units(self, kernels: Kernels) -> dict[str, Kernel]:
    """The kernels as they are.

    Raises:
      ValueError: naming the kernel which groups do not tile.
    """

    def check(kernel: Kernel) -> Kernel:
      self._axis(kernel)
      return kernel

    return _by_name(check, kernels)

  def keep(
    self,
    scores: Arrays,
    candidates: Arrays,
    kernels: Kernels,
    budget: Any = None,
    distribution: Distribution | None = None,
  ) -> dict[str, jax.Array]:
    """Masks of the n largest candidates in each group of m.

    Args:
      scores: {kernel: float[shape]} without NaN.
      candidates: {kernel: bool[shape]}; others are never kept.
      kernels: {kernel: Kernel}, the same keys.
      budget: not used, there is nothing to share out.
      distribution: not used.

    Returns:
      {kernel: bool[shape]}; n in every group, ties by lowest index, or all
      candidates of a group where they are fewer.
    """
    del budget, distribution
    return {
      name: self._keep(scores[name], candidates[name], kernel)
      for name, kernel in kernels.items()
    }

  def _axis(self, kernel: Kernel) -> int:
    """The axis of the whole leaf."""
    layer = _layer(kernel)
    axis = _axis(self, self.axis, layer)
    _check_divides(self, self.m, axis, layer)
    return axis + int(kernel.stacked)

  def _keep(self, scores: jax.Array, candidates: jax.Array, kernel: Kernel):
    axis = self._axis(kernel)
    score, candidate = (_split(x, axis, self.m) for x in (scores, candidates))
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
    return _merge((n_better < self.n) & candidate, axis)


Structure = Unstructured | Block | Channel | NByM


def _exact_mean(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
  """Mean of float32 over the axes, in whatever order devices add up.

  A sum of floats depends on its order, and so on the mesh. Integers do not:
  weights are scaled by the power of two above their window's largest and cut
  into two limbs, as wide as int32 can sum, that are summed apart. What is cut
  off is below 2^-(62 - 2 log2(window)) of the largest weight, or of 2^-94
  where that is larger. Magnitudes beyond 2^124 count as 2^124; NaN stays NaN.
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


def _split(x: jax.Array, axis: int, size: int) -> jax.Array:
  """Axis of n -> axes of n / size and size."""
  n = x.shape[axis]
  return x.reshape(x.shape[:axis] + (n // size, size) + x.shape[axis + 1 :])


def _merge(x: jax.Array, axis: int) -> jax.Array:
  """The inverse of `_split`."""
  n = x.shape[axis] * x.shape[axis + 1]
  return x.reshape(x.shape[:axis] + (n,) + x.shape[axis + 2 :])


def _layer(kernel: Kernel) -> tuple[int, ...]:
  return kernel.shape[int(kernel.stacked) :]


def _by_name(unit, kernels: Kernels) -> dict[str, Kernel]:
  units = {}
  for name, kernel in kernels.items():
    try:
      units[name] = unit(kernel)
    except ValueError as error:
      raise ValueError(f'{name}: {error}') from None
  return units


def _axis(structure: Structure, axis: int, layer: tuple[int, ...]) -> int:
  n = len(layer)
  if not -n <= axis < n:
    raise ValueError(
      f'{structure}: a layer of shape {layer} has axes {-n} to {n - 1}'
    )
  return axis % n


def _check_divides(
  structure: Structure, size: int, axis: int, layer: tuple[int, ...]
):
  n = layer[axis]
  if n % size:
    raise ValueError(
      f'{structure}: {size} must divide axis {axis} of a layer of shape'
      f' {layer}, {n}'
    )


def _check_pooling(structure: Block | Channel):
  if structure.pooling not in POOLINGS:
    raise ValueError(f'{structure}: pooling must be one of {POOLINGS}')
