"""What is kept or dropped together, and the simplest answer: N of every M.

Axes are those of a layer: the axis of a kernel stacked over layers does not
count. Nothing here or in `windows` sorts or gathers. On sharded kernels only
windows that cross devices communicate, a few numbers a window. Where a group
of N:M or the side of a block would itself be cut by a shard's edge, so that
shards do not hold whole ones, Auto axes move the kernel and Explicit axes are
an error.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_sparse_pretrain.pruning.distribution import Distribution
from jax_sparse_pretrain.pruning.kernels import Arrays, Kernel, Kernels

# The compiler keeps no array of pairs when it reduces up to 32 of them.
COMPARED = 32


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


def split(x: jax.Array, axis: int, size: int) -> jax.Array:
  """One axis of n -> two axes, of n / size and of size."""
  n = x.shape[axis]
  return x.reshape(x.shape[:axis] + (n // size, size) + x.shape[axis + 1 :])


def merge(x: jax.Array, axis: int) -> jax.Array:
  """The inverse of `split`: two axes become one."""
  n = x.shape[axis] * x.shape[axis + 1]
  return x.reshape(x.shape[:axis] + (n,) + x.shape[axis + 2 :])
