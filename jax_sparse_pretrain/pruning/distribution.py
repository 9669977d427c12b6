"""How many weights to keep where: one budget over all kernels, or one each.

`targets` gives every kernel its final sparsity, from patterns, exemptions and
Erdos-Renyi densities. A `Distribution` turns a kept fraction into whole
numbers of weights, on the host, and shares them out among layers on the
device. Per-layer numbers are `{kernel: uint32[n_layers]}`.
"""

import fnmatch
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_sparse_pretrain.pruning.kernels import Arrays, Kernels

Fractions = float | Mapping[str, float]


class Wide(NamedTuple):
  """The integer high * 2^32 + low, without jax's 64-bit mode.

  Attributes:
    high: uint32.
    low: uint32.
  """

  high: jax.Array
  low: jax.Array

  @classmethod
  def of(cls, value: int) -> 'Wide':
    """An integer below 2^64, on the host."""
    return cls(np.uint32(value >> 32), np.uint32(value & 0xFFFFFFFF))

  @classmethod
  def total(cls, counts: jax.Array) -> 'Wide':
    """The exact sum of uint32[n], for n up to 65,536.

    The 16-bit halves are summed apart, so that no sum can overflow.
    """
    if counts.size > 1 << 16:
      raise ValueError(f'{counts.size} counts: at most 65,536 can be summed')
    low = jnp.sum(counts & 0xFFFF, dtype=jnp.uint32)
    high = jnp.sum(counts >> 16, dtype=jnp.uint32) + (low >> 16)
    return cls(high >> 16, (high << 16) | (low & 0xFFFF))

  def reaches(self, other: 'Wide') -> jax.Array:
    """self >= other."""
    return (self.high > other.high) | (
      (self.high == other.high) & (self.low >= other.low)
    )

  def minus(self, other: 'Wide') -> 'Wide':
    """self - other, where self >= other."""
    high = self.high - other.high - (self.low < other.low)
    return Wide(high, self.low - other.low)

  def at_most(self, n: jax.Array) -> jax.Array:
    """min(self, n), for n uint32."""
    return jnp.where(self.high > 0, n, jnp.minimum(self.low, n))


class Distribution:
  """Whether layers share one budget or have one each."""

  def budget(self, kernels: Kernels, fractions: Fractions) -> Any:
    """How many to keep when these fractions are kept.

    Returns:
      A pytree of numpy integers. Its structure does not depend on fractions.
    """
    raise NotImplementedError

  def reached(self, counts: Arrays, budget: Any) -> Arrays:
    """Whether counts per layer reach the budget that the layer belongs to.

    Returns:
      {kernel: bool[n_layers]}.
    """
    raise NotImplementedError

  def share_ties(self, above: Arrays, ties: Arrays, budget: Any) -> Arrays:
    """How many of the weights at the threshold each layer keeps.

    Args:
      above: how many weights of each layer are above the threshold.
      ties: how many are at it.
      budget: what `budget` returned.

    Returns:
      {kernel: uint32[n_layers]}; the first layers are served first.
    """
    raise NotImplementedError


def _kept(size: int, fraction: float) -> int:
  """Rounds half to even, as jaxpruner does, and never prunes everything."""
  return max(1, round(size * fraction))


class _Global(Distribution):
  """One budget, and so one threshold, over all kernels together."""

  def budget(self, kernels: Kernels, fractions: Fractions) -> Wide:
    size = sum(math.prod(k.shape) for k in kernels.values())
    return Wide.of(_kept(size, fractions))

  def reached(self, counts: Arrays, budget: Wide) -> Arrays:
    enough = Wide.total(_concatenate(counts)).reaches(budget)
    return {n: jnp.broadcast_to(enough, c.shape) for n, c in counts.items()}

  def share_ties(self, above: Arrays, ties: Arrays, budget: Wide) -> Arrays:
    def take(left: Wide, n: jax.Array):
      taken = left.at_most(n)
      return left.minus(Wide(jnp.uint32(0), taken)), taken

    left = budget.minus(Wide.total(_concatenate(above)))
    _, taken = jax.lax.scan(take, left, _concatenate(ties))
    bounds = np.cumsum([ties[name].size for name in sorted(ties)])[:-1]
    return dict(zip(sorted(ties), jnp.split(taken, bounds), strict=True))


def _concatenate(counts: Arrays) -> jax.Array:
  return jnp.concatenate([counts[name] for name in sorted(counts)])


class _PerLayer(Distribution):
  """A budget for each layer; fractions may differ between kernels."""

  def budget(self, kernels: Kernels, fractions: Fractions):
    if isinstance(fractions, float):
      fractions = dict.fromkeys(kernels, fractions)
    return {
      name: np.full(k.n_layers, _kept(k.layer_size, fractions[name]), np.uint32)
      for name, k in kernels.items()
    }

  def reached(self, counts: Arrays, budget: Arrays) -> Arrays:
    return {name: n >= budget[name] for name, n in counts.items()}

  def share_ties(self, above: Arrays, ties: Arrays, budget: Arrays) -> Arrays:
    return {
      name: jnp.minimum(budget[name] - above[name], n)
      for name, n in ties.items()
    }


DISTRIBUTIONS = {
  'global': _Global(),
  'uniform': _PerLayer(),
  'erk': _PerLayer(),
}


def targets(
  kernels: Kernels,
  sparsity: float,
  distribution: str,
  exempt: Sequence[str] = (),
  sparsities: Sequence[tuple[str, float]] = (),
) -> dict[str, float]:
  """Final sparsity of every kernel that is pruned; exempt ones are left out.

  Args:
    kernels: all kernels by path.
    sparsity: the sparsity of the kernels that no pattern names.
    distribution: 'global', 'uniform' or 'erk'.
    exempt: patterns of kernels to leave dense, `lm_head/*`.
    sparsities: (pattern, sparsity) pairs; not for 'global', which has one
      threshold.

  Raises:
    ValueError: if a pattern matches nothing, if patterns contradict each
      other, if nothing is left to prune, or if a distribution cannot reach
      its sparsity.
  """
  if sparsities and distribution == 'global':
    raise ValueError("sparsities: must be empty for distribution 'global'")
  spared = {name for p in exempt for name in matching('exempt', p, kernels)}
  given = _given(kernels, sparsities, spared)
  free = {k: v for k, v in kernels.items() if k not in spared | given.keys()}
  if not free and not given:
    raise ValueError(f'exempt = {tuple(exempt)}: must leave kernels to prune')
  shared = (
    erdos_renyi(free, sparsity)
    if distribution == 'erk' and free
    else dict.fromkeys(free, sparsity)
  )
  return {
    name: {**shared, **given}[name] for name in kernels if name not in spared
  }


def kept_on_the_way(
  final: Mapping[str, float], sparsity: float, kept: float
) -> dict[str, float]:
  """The schedule's kept fraction -> the kept fraction of each kernel.

  Kernels go to their own targets in step: when a part of the schedule's
  sparsity is reached, the same part of each target is.

  Args:
    final: `targets`.
    sparsity: the schedule's final sparsity, not 0.
    kept: the schedule's kept fraction after an update.
  """
  # Exactly 1 at the last update, which reaches each target exactly.
  part = 1.0 if kept == 1 - sparsity else (1 - kept) / sparsity
  return {name: 1 - target * part for name, target in final.items()}


def erdos_renyi(kernels: Kernels, sparsity: float) -> dict[str, float]:
  """Sparsities whose densities go as sum(dims) / prod(dims), ERK.

  Kernels that would exceed density 1 stay dense and the others make up for
  it (Evci et al., arXiv 1911.11134). The dims are those of one layer.

  Raises:
    ValueError: if all kernels would have to be dense.
  """
  ratio = {n: sum(k.layer_shape) / k.layer_size for n, k in kernels.items()}
  sizes = {n: k.layer_size * k.n_layers for n, k in kernels.items()}
  zeros = {n: math.floor(sparsity * size) for n, size in sizes.items()}
  sparse = dict(kernels) if any(zeros.values()) else {}
  while sparse:
    dense_zeros = sum(zeros[n] for n in kernels if n not in sparse)
    ones = sum(sizes[n] - zeros[n] for n in sparse) - dense_zeros
    if ones <= 0:
      break
    scale = ones / sum(ratio[n] * sizes[n] for n in sparse)
    largest = max(ratio[n] for n in sparse)
    if scale * largest <= 1:
      density = {n: scale * ratio[n] if n in sparse else 1.0 for n in kernels}
      return {n: 1 - d for n, d in density.items()}
    sparse = {n: k for n, k in sparse.items() if ratio[n] != largest}
  raise ValueError(
    f"sparsity = {sparsity}: cannot be reached by distribution 'erk', which "
    "would leave every kernel dense; must be larger, or use 'uniform'"
  )


def _given(kernels, sparsities, spared: set[str]) -> dict[str, float]:
  """The sparsities that patterns give to kernels."""
  given: dict[str, float] = {}
  for pattern, value in sparsities:
    if not 0 <= value < 1:
      raise ValueError(f'sparsities: {pattern!r}, {value}: must be in [0, 1)')
    for name in matching('sparsities', pattern, kernels):
      if name in spared or given.get(name, value) != value:
        raise ValueError(
          f'sparsities: {pattern!r}: contradicts another at {name}'
        )
      given[name] = value
  return given


def matching(key: str, pattern: str, kernels: Kernels) -> list[str]:
  """The names that a pattern matches; a ValueError if there are none."""
  names = fnmatch.filter(kernels, pattern)
  if not names:
    raise ValueError(
      f'{key}: {pattern!r} matches no kernel; there are {", ".join(kernels)}'
    )
  return names
