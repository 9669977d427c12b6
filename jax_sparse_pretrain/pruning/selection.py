"""Exact selection of the largest weights, without sorting.

The bits of a non-negative float, read as an integer, are ordered like the
float. So the k-th largest magnitude is found bit by bit: each pass counts the
weights at or above a trial threshold, and 32 passes fix all bits. On sharded
weights a pass needs no more communication than the sum of its counts, and
since all arithmetic is on integers the answer does not depend on the mesh.

Exactly k weights are kept. Ties at the threshold go to the lowest flat index,
kernels in the order of their sorted names.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jax_sparse_pretrain.pruning.distribution import (
  Distribution,
  Kernel,
  PerLayer,
)

Arrays = Mapping[str, jax.Array]


def keep_largest(
  weights: Arrays,
  candidates: Arrays,
  kernels: Mapping[str, Kernel],
  budget: Any,
  distribution: Distribution,
) -> dict[str, jax.Array]:
  """Masks of the largest |weights| among the candidates.

  Args:
    weights: {kernel: float[shape]}; float32, bfloat16 or float16.
    candidates: {kernel: bool[shape]}; others are never kept.
    kernels: {kernel: Kernel}, the same keys.
    budget: how many to keep, of `distribution.budget`.
    distribution: global or per layer.

  Returns:
    {kernel: bool[shape]} with exactly the budgeted number of weights, or all
    candidates where they are fewer.
  """

  def keys(name: str) -> jax.Array:
    # Recomputed in every pass: cheaper than a copy of all the weights.
    return _ordered_bits(weights[name], candidates[name])

  def count(select: Callable[[str], jax.Array]) -> PerLayer:
    return {name: k.count(select(name)) for name, k in kernels.items()}

  def spread(threshold: PerLayer, name: str) -> jax.Array:
    return kernels[name].spread(threshold[name])

  def refine(i, threshold: PerLayer) -> PerLayer:
    bit = jnp.uint32(1) << jnp.uint32(31 - i)
    trial = {name: t | bit for name, t in threshold.items()}
    counts = count(lambda name: keys(name) >= spread(trial, name))
    enough = distribution.reached(counts, budget)
    return {
      name: jnp.where(enough[name], trial[name], t)
      for name, t in threshold.items()
    }

  zero = {n: jnp.zeros(k.n_layers, jnp.uint32) for n, k in kernels.items()}
  threshold = jax.lax.fori_loop(0, 32, refine, zero)
  above = count(lambda name: keys(name) > spread(threshold, name))
  ties = count(lambda name: keys(name) == spread(threshold, name))
  kept_ties = distribution.share_ties(above, ties, budget)

  def mask(name: str) -> jax.Array:
    key, at = keys(name), spread(threshold, name)
    first = _first(
      lambda: keys(name) == at, ties[name], kept_ties[name], kernels[name]
    )
    return ((key > at) | ((key == at) & first)) & candidates[name]

  return {name: mask(name) for name in kernels}


def _ordered_bits(weight: jax.Array, candidate: jax.Array) -> jax.Array:
  """uint32, ordered like |weight|; 0 for weights that are no candidates."""
  magnitude = jnp.abs(weight).astype(jnp.float32)
  bits = jax.lax.bitcast_convert_type(magnitude, jnp.uint32)
  return jnp.where(candidate, bits + 1, 0)


def _first(
  selected: Callable[[], jax.Array],
  n_selected: jax.Array,
  n_first: jax.Array,
  kernel: Kernel,
) -> jax.Array:
  """Weights before the point at which `n_first` selected ones have passed.

  The point is found one coordinate after the other, each by bisection, so
  that only counts cross devices. Skipped where all or none are wanted.

  Returns:
    bool[shape]; selected ones inside it number n_first in each layer.
  """

  def search() -> jax.Array:
    left, here = n_first, jnp.bool_(True)  # here: coordinates so far agree
    passed = jnp.bool_(False)
    for axis in kernel.layer_axes:
      index = jax.lax.broadcasted_iota(jnp.uint32, kernel.shape, axis)
      point, taken = _coordinate(
        lambda end, index=index, here=here: kernel.count(
          selected() & here & (index < kernel.spread(end))
        ),
        left,
        kernel.shape[axis],
      )
      at = kernel.spread(point)
      passed |= here & (index < at)
      here &= index == at
      left -= taken
    return passed

  def whole() -> jax.Array:
    return jnp.broadcast_to(kernel.spread(n_first > 0), kernel.shape)

  partial = jnp.any((n_first > 0) & (n_first < n_selected))
  return jax.lax.cond(partial, search, whole)


def _coordinate(count_before, n: jax.Array, size: int):
  """The largest coordinate with at most n selected before it, and how many.

  Args:
    count_before: uint32[n_layers] end -> selected with coordinate < end.
    n: uint32[n_layers].
    size: of the axis.
  """

  def refine(i, point: jax.Array) -> jax.Array:
    trial = point | (jnp.uint32(1) << jnp.uint32(size.bit_length() - 1 - i))
    fits = (trial <= size) & (count_before(trial) <= n)
    return jnp.where(fits, trial, point)

  point = jax.lax.fori_loop(0, size.bit_length(), refine, jnp.zeros_like(n))
  return point, count_before(point)
