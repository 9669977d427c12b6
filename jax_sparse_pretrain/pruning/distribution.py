"""How many weights to keep where: one budget over all kernels, or one each.

A kernel is seen as *layers*: a kernel stacked over n layers is n of them, any
other is one. Per-layer numbers are `{kernel: uint32[n_layers]}`. Numbers of
weights to keep are exact integers worked out on the host.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_sparse_pretrain.pruning import wide

PerLayer = Mapping[str, jax.Array]


class Kernel(NamedTuple):
  """A prunable leaf.

  Attributes:
    shape: of the whole leaf.
    stacked: whether axis 0 runs over layers.
  """

  shape: tuple[int, ...]
  stacked: bool

  @property
  def n_layers(self) -> int:
    return self.shape[0] if self.stacked else 1

  @property
  def layer_size(self) -> int:
    return math.prod(self.shape) // self.n_layers

  @property
  def layer_axes(self) -> tuple[int, ...]:
    """Axes inside a layer."""
    return tuple(range(int(self.stacked), len(self.shape)))

  def count(self, selected: jax.Array) -> jax.Array:
    """bool[shape] -> number selected in each layer, uint32[n_layers]."""
    n = jnp.sum(selected, axis=self.layer_axes, dtype=jnp.uint32)
    return n.reshape(self.n_layers)

  def spread(self, per_layer: jax.Array) -> jax.Array:
    """[n_layers] -> broadcastable to the leaf."""
    layers = (self.n_layers,) if self.stacked else ()
    return per_layer.reshape(layers + (1,) * len(self.layer_axes))


class Distribution(NamedTuple):
  """Attributes:

  budget: ({kernel: Kernel}, kept fraction) -> how many to keep: a pytree of
    numpy integers, its structure independent of the fraction. Per layer, the
    fraction may be one for each kernel.
  reached: (counts per layer, budget) -> {kernel: bool[n_layers]}, whether
    the counts reach the budget that the layer belongs to.
  share_ties: (surplus counts above the threshold, ties at it, budget) ->
    how many ties of each layer to keep, uint32, first layers first.
  """

  budget: Callable[[Mapping[str, Kernel], float], Any]
  reached: Callable[[PerLayer, Any], PerLayer]
  share_ties: Callable[[PerLayer, PerLayer, Any], PerLayer]


Fractions = float | Mapping[str, float]


def _kept(size: int, fraction: float) -> int:
  """Rounds half to even, as jaxpruner does; never prunes everything."""
  return max(1, round(size * fraction))


def _global_budget(kernels: Mapping[str, Kernel], fraction: float) -> Any:
  kept = _kept(sum(math.prod(k.shape) for k in kernels.values()), fraction)
  return wide.wide(kept)


def _concatenate(counts: PerLayer) -> jax.Array:
  return jnp.concatenate([counts[name] for name in sorted(counts)])


def _global_reached(counts: PerLayer, budget: wide.Wide) -> PerLayer:
  enough = wide.at_least(wide.total(_concatenate(counts)), budget)
  return {name: jnp.broadcast_to(enough, n.shape) for name, n in counts.items()}


def _global_ties(above: PerLayer, ties: PerLayer, budget: wide.Wide):
  def take(left: wide.Wide, n: jax.Array):
    taken = wide.smaller(left, n)
    return wide.subtract(left, wide.Wide(jnp.uint32(0), taken)), taken

  left = wide.subtract(budget, wide.total(_concatenate(above)))
  _, taken = jax.lax.scan(take, left, _concatenate(ties))
  bounds = np.cumsum([ties[name].size for name in sorted(ties)])[:-1]
  return dict(zip(sorted(ties), jnp.split(taken, bounds), strict=True))


def _per_layer_budget(
  kernels: Mapping[str, Kernel], fractions: Fractions
) -> dict[str, np.ndarray]:
  if isinstance(fractions, float):
    fractions = dict.fromkeys(kernels, fractions)
  return {
    name: np.full(k.n_layers, _kept(k.layer_size, fractions[name]), np.uint32)
    for name, k in kernels.items()
  }


def _per_layer_reached(counts: PerLayer, budget: PerLayer) -> PerLayer:
  return {name: n >= budget[name] for name, n in counts.items()}


def _per_layer_ties(above: PerLayer, ties: PerLayer, budget: PerLayer):
  return {
    name: jnp.minimum(budget[name] - above[name], n) for name, n in ties.items()
  }


PER_LAYER = Distribution(_per_layer_budget, _per_layer_reached, _per_layer_ties)
DISTRIBUTIONS = {
  'global': Distribution(_global_budget, _global_reached, _global_ties),
  'uniform': PER_LAYER,
  'erk': PER_LAYER,
}
