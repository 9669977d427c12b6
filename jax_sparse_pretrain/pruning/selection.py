"""Exact selection of the largest weights, without sorting.

The bits of a non-negative float, read as an integer, are ordered like the
float. So the k-th largest magnitude is found digit by digit, two bits each:
a pass counts the weights at or above three trial thresholds, and 16 passes
fix all bits. On sharded weights a pass needs no more communication than the
sum of its counts, and since all arithmetic is on integers the answer does not
depend on the mesh.

Exactly k weights are kept. Ties at the threshold go to the lowest flat index,
kernels in the order of their sorted names.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec

from jax_sparse_pretrain.pruning.distribution import Distribution
from jax_sparse_pretrain.pruning.kernels import Arrays, Kernel, Kernels

_DIGIT_BITS = 2  # Of 2 and 4, 2 is the faster on CPU.


def keep_largest(
  weights: Arrays,
  candidates: Arrays,
  kernels: Kernels,
  budget: Any,
  distribution: Distribution,
) -> dict[str, jax.Array]:
  """Masks of the largest |weights| among the candidates.

  Args:
    weights: {kernel: float[shape]}; float32, bfloat16 or float16.
    candidates: {kernel: bool[shape]}; others are never kept.
    kernels: {kernel: Kernel}, the same keys.
    budget: how many to keep, what `distribution.budget` returned.
    distribution: an entry of `DISTRIBUTIONS`.

  Returns:
    {kernel: bool[shape]} with exactly the budgeted number of weights, or all
    candidates where they are fewer.
  """
  arrays = {name: (weights[name], candidates[name]) for name in kernels}
  threshold = _last_reached(
    lambda name, arrays: _ordered_bits(*arrays[name]),
    arrays,
    kernels,
    lambda counts: distribution.reached(counts, budget),
    n_bits=32,
  )
  above, ties = {}, {}
  for name, kernel in kernels.items():
    at, key = threshold[name], _ordered_bits(*arrays[name])
    reach, above[name] = _count(key, jnp.stack([at, at + 1]), kernel)
    ties[name] = reach - above[name]
  kept_ties = distribution.share_ties(above, ties, budget)

  def mask(name: str) -> jax.Array:
    kernel, at = kernels[name], kernels[name].spread(threshold[name])
    key = _ordered_bits(*arrays[name])
    last = _last(
      lambda arrays: _ordered_bits(*arrays) == at,
      arrays[name],
      ties[name],
      kept_ties[name],
      kernel,
    )
    kept = (key > at) | ((key == at) & _up_to(last, kernel))
    return kept & candidates[name]

  return {name: mask(name) for name in kernels}


def _ordered_bits(weight: jax.Array, candidate: jax.Array) -> jax.Array:
  """uint32, ordered like |weight|; 0 for weights that are no candidates."""
  magnitude = jnp.abs(weight).astype(jnp.float32)
  bits = jax.lax.bitcast_convert_type(magnitude, jnp.uint32)
  return jnp.where(candidate, bits + 1, 0)


def _last_reached(
  keys: Callable[[str, Any], jax.Array],
  arrays: Any,
  kernels: Kernels,
  reached: Callable[[Arrays], Arrays],
  n_bits: int,
) -> Arrays:
  """The highest thresholds that enough keys reach.

  Args:
    keys: (kernel, arrays) -> uint32[shape], below 2^n_bits. They are made
      again in every pass, which is cheaper than a copy of all the keys.
    arrays: the arrays from which keys are made.
    kernels: {kernel: Kernel}.
    reached: {kernel: keys at or above, uint32[n_layers]} ->
      {kernel: whether they are enough, bool[n_layers]}.
    n_bits: bits of a key, at most 32.
  """
  n_digits = -(-n_bits // _DIGIT_BITS)
  digits = np.arange(1, 1 << _DIGIT_BITS, dtype=np.uint32)[:, None]

  def refine(i, threshold: Arrays) -> Arrays:
    # Without the barrier the compiler moves the keys out of the loop.
    i, held = jax.lax.optimization_barrier((i, arrays))
    place = jnp.uint32(_DIGIT_BITS) * (n_digits - 1 - i).astype(jnp.uint32)
    counts = {
      name: _count(keys(name, held), t | (digits << place), kernels[name])
      for name, t in threshold.items()
    }
    # Counts fall as thresholds rise: as many are reached as the digit says.
    digit = {
      name: jnp.sum(enough, axis=0, dtype=jnp.uint32)
      for name, enough in jax.vmap(reached)(counts).items()
    }
    return {name: t | (digit[name] << place) for name, t in threshold.items()}

  zero = {n: jnp.zeros(k.n_layers, jnp.uint32) for n, k in kernels.items()}
  return jax.lax.fori_loop(0, n_digits, refine, zero)


def _last(
  selected: Callable[[Any], jax.Array],
  arrays: Any,
  n_selected: jax.Array,
  n_first: jax.Array,
  kernel: Kernel,
) -> tuple[jax.Array, ...]:
  """Where the n_first-th selected weight of each layer is.

  One coordinate is found after the other, so that only counts cross devices.
  Skipped where all or none are wanted.

  Args:
    selected: arrays -> bool[shape].
    arrays: the arrays from which `selected` is made.
    n_selected: how many are selected in each layer, uint32[n_layers].
    n_first: uint32[n_layers], at most n_selected.
    kernel: the kernel of this shape.

  Returns:
    For each axis of a layer, uint32[n_layers] as `_from_end` counts: 0 where
    all are wanted, more than the size where none are.
  """
  none = jnp.uint32(0xFFFFFFFF)

  def search() -> tuple[jax.Array, ...]:
    left, last = n_first, ()
    for axis in kernel.layer_axes:

      def keys(_, arrays, axis=axis, last=last):
        here = selected(arrays)
        for earlier, at in zip(kernel.layer_axes, last, strict=False):
          here &= _from_end(kernel, earlier) == kernel.spread(at)
        return jnp.where(here, _from_end(kernel, axis), 0)

      at = _last_reached(
        keys,
        arrays,
        {'': kernel},
        lambda counts, left=left: {'': counts[''] >= left},
        n_bits=kernel.shape[axis].bit_length(),
      )['']
      left -= _count(keys('', arrays), jnp.stack([at, at + 1]), kernel)[1]
      last += (at,)
    return tuple(jnp.where(n_first > 0, at, none) for at in last)

  def whole() -> tuple[jax.Array, ...]:
    return (jnp.where(n_first > 0, 0, none),) * len(kernel.layer_axes)

  partial = jnp.any((n_first > 0) & (n_first < n_selected))
  return jax.lax.cond(partial, search, whole)


def _from_end(kernel: Kernel, axis: int) -> jax.Array:
  """uint32[shape]; size of the axis ... 1 along it."""
  index = jax.lax.broadcasted_iota(jnp.uint32, kernel.shape, axis)
  return kernel.shape[axis] - index


def _up_to(last: tuple[jax.Array, ...], kernel: Kernel) -> jax.Array:
  """bool[shape], whether a weight is `last` or before it in flat order."""
  before, here = jnp.bool_(False), jnp.bool_(True)
  for axis, at in zip(kernel.layer_axes, last, strict=True):
    from_end, at = _from_end(kernel, axis), kernel.spread(at)
    before |= here & (from_end > at)
    here &= from_end == at
  return before | here


def _count(keys: jax.Array, thresholds: jax.Array, kernel: Kernel) -> jax.Array:
  """How many keys of each layer are at or above each threshold, in one pass.

  Args:
    keys: uint32[shape].
    thresholds: uint32[n, n_layers], n > 1.

  Returns:
    uint32[n, n_layers].
  """
  layers = keys.reshape(kernel.n_layers, *kernel.layer_shape)
  return jax.lax.platform_dependent(
    layers, thresholds, tpu=_count_by_sums, default=_count_layers
  )


def _count_by_sums(keys: jax.Array, thresholds: jax.Array) -> jax.Array:
  """`_count_layers` for TPU, whose compiler has no partitioning by hand.

  It says "Custom emitter for CustomSPMDPartitioning not found" (jax issue
  38196). It merges these sums into one that reads the keys once, and splits
  them over devices well by itself.
  """
  axes = tuple(range(1, keys.ndim))
  return jnp.stack(
    [
      jnp.sum(keys >= jnp.expand_dims(t, axes), axes, dtype=jnp.uint32)
      for t in thresholds
    ]
  )


@custom_partitioning
def _count_layers(keys: jax.Array, thresholds: jax.Array) -> jax.Array:
  """uint32[n_layers, ...], uint32[n, n_layers] -> uint32[n, n_layers].

  One reduction with n results, which reads the keys once. (On CPU, XLA would
  first write what a reduction with one result sums to memory: several times
  slower.) Partitioned by hand, since the compiler would gather the results of
  the devices, each by itself, instead of summing them.
  """
  axes = tuple(range(1, keys.ndim))
  reached = [
    (keys >= jnp.expand_dims(t, axes)).astype(jnp.uint32) for t in thresholds
  ]
  counts = jax.lax.reduce(
    reached,
    [np.uint32(0)] * len(reached),
    lambda a, b: [x + y for x, y in zip(a, b, strict=True)],
    axes,
  )
  # The barrier keeps results that nobody uses, lest one alone remain.
  return jnp.stack(jax.lax.optimization_barrier(counts))


def _partition(mesh, args, result):
  """Each device counts in its shard; then one sum over the devices."""
  keys = args[0].sharding
  layers, *within = keys.spec
  per_layer = NamedSharding(mesh, PartitionSpec(None, layers))

  def count(keys, thresholds):
    counts = _count_layers.fun(keys, thresholds)
    return jnp.stack(
      jax.lax.psum(tuple(counts), tuple(jax.tree.leaves(within)))
    )

  return mesh, count, per_layer, (keys, per_layer)


def _sharding_rule(mesh, args, results) -> str:
  within = ' '.join(f'i{axis}' for axis in range(1, args[0].rank))
  return f'layers {within}, n layers -> n layers'


_count_layers.def_partition(_partition, sharding_rule=_sharding_rule)
