"""The prunable leaves of a tree of parameters: their names, shapes and layers.

A leaf is named by its path, `layers/mlp/up/kernel`. A kernel that is stacked
over n layers counts as n *layers*, any other kernel as one.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

PyTree = Any
# {kernel: array}, such as {'mlp/up/kernel': bool[d, d_ff]}.
Arrays = Mapping[str, jax.Array]
# The masks of a run: {kernel: bool[shape]}, or None if it never prunes.
Masks = Arrays | None


class Kernel(NamedTuple):
  """A prunable leaf.

  Attributes:
    shape: the shape of the whole leaf.
    stacked: whether axis 0 runs over layers.
  """

  shape: tuple[int, ...]
  stacked: bool

  @property
  def n_layers(self) -> int:
    return self.shape[0] if self.stacked else 1

  @property
  def layer_shape(self) -> tuple[int, ...]:
    return self.shape[int(self.stacked) :]

  @property
  def layer_size(self) -> int:
    return math.prod(self.layer_shape)

  @property
  def layer_axes(self) -> tuple[int, ...]:
    """The axes of the leaf that lie inside a layer."""
    return tuple(range(int(self.stacked), len(self.shape)))

  def count(self, selected: jax.Array) -> jax.Array:
    """bool[shape] -> how many are selected in each layer, uint32[n_layers]."""
    n = jnp.sum(selected, axis=self.layer_axes, dtype=jnp.uint32)
    return n.reshape(self.n_layers)

  def spread(self, per_layer: jax.Array) -> jax.Array:
    """[n_layers] -> an array that broadcasts to the leaf."""
    layers = (self.n_layers,) if self.stacked else ()
    return per_layer.reshape(layers + (1,) * len(self.layer_axes))


Kernels = Mapping[str, Kernel]


def path_name(path) -> str:
  """Key path of a leaf -> 'layers/attention/query/kernel'."""
  return jax.tree_util.keystr(path, simple=True, separator='/')


def by_path(tree: PyTree) -> dict[str, Any]:
  """The leaves of a tree, {path: leaf}."""
  return {path_name(p): leaf for p, leaf in jax.tree.leaves_with_path(tree)}


def select(params: PyTree, names: Iterable[str]) -> dict[str, jax.Array]:
  """The leaves that have these paths."""
  leaves = by_path(params)
  return {name: leaves[name] for name in names}


def scatter(leaves: Mapping[str, Any], params: PyTree) -> PyTree:
  """A tree like params that holds these leaves, and None for the others."""
  return jax.tree.map_with_path(
    lambda path, _: leaves.get(path_name(path)), params
  )


def apply_masks(tree: PyTree, masks: Masks) -> PyTree:
  """Zeros where pruned; leaves without a mask pass."""

  def zero(path, leaf):
    mask = masks.get(path_name(path))
    return leaf if mask is None else jnp.where(mask, leaf, jnp.zeros_like(leaf))

  return jax.tree.map_with_path(zero, tree)


def count_nonzero(kept: Arrays, kernels: Kernels) -> dict[str, jax.Array]:
  """Kept weights of each layer, {kernel: uint32[n_layers]}.

  Args:
    kept: {kernel: bool[shape]}; kernels that are left out are dense.
    kernels: all kernels to count.
  """

  def count(name: str, kernel: Kernel) -> jax.Array:
    if name in kept:
      return kernel.count(kept[name])
    return jnp.full(kernel.n_layers, kernel.layer_size, jnp.uint32)

  return {name: count(name, kernel) for name, kernel in kernels.items()}


def sums_of_magnitudes(
  leaves: Arrays, kernels: Kernels
) -> dict[str, jax.Array]:
  """{kernel: float32[n_layers]}: the sum of |w| in each layer.

  Args:
    leaves: {kernel: weights}.
    kernels: those of `leaves`, and perhaps others.
  """

  def total(leaf: jax.Array, kernel: Kernel) -> jax.Array:
    sizes = jnp.abs(leaf.astype(jnp.float32))
    return sizes.sum(kernel.layer_axes).reshape(kernel.n_layers)

  return {name: total(leaf, kernels[name]) for name, leaf in leaves.items()}
