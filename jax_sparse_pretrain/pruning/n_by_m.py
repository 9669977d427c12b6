"""N of every M along an axis: each group ranks its own, without a budget."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

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

# The compiler keeps no array of pairs when it reduces up to 32 of them.
COMPARED = 32


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

    return by_name(check, kernels)

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
    layer = layer_shape(kernel)
    axis = layer_axis(self, self.axis, layer)
    check_divides(self, self.m, axis, layer)
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
