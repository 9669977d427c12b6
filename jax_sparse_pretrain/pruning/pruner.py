"""A pruner: pure functions that the train step calls without asking which.

Masks are `{kernel: bool[shape]}` for the prunable leaves alone, or None in a
run that never prunes.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jax_sparse_pretrain.pruning.distribution import Distribution, Kernel
from jax_sparse_pretrain.pruning.selection import keep_largest

PyTree = Any
Masks = Mapping[str, jax.Array] | None


class Pruner(NamedTuple):
  """Attributes:

  init: params -> masks that keep everything.
  update: (params, masks, due, budget) -> (params, masks). Where `due`, a
    traced bool, is true: new masks, and the params with zeros where they
    drop. `budget` is what `budget_for` returned.
  mask: (tree like params, masks) -> tree with zeros where pruned.
  budget_for: kept fraction -> numbers of weights to keep, on the host.
  """

  init: Callable[[PyTree], Masks]
  update: Callable[[PyTree, Masks, jax.Array, Any], tuple[PyTree, Masks]]
  mask: Callable[[PyTree, Masks], PyTree]
  budget_for: Callable[[float], Any]


def no_pruning() -> Pruner:
  """Every verb is the identity."""
  return Pruner(
    init=lambda params: None,
    update=lambda params, masks, due, budget: (params, masks),
    mask=lambda tree, masks: tree,
    budget_for=lambda fraction: None,
  )


def magnitude_pruner(
  kernels: Mapping[str, Kernel], distribution: Distribution
) -> Pruner:
  """Keeps the largest weights; a pruned weight never returns.

  Args:
    kernels: the prunable leaves by path, `layers/mlp/up/kernel`.
    distribution: an entry of `DISTRIBUTIONS`.
  """

  def init(params: PyTree) -> Masks:
    leaves = _select(params, kernels)
    return {name: jnp.ones(leaf.shape, bool) for name, leaf in leaves.items()}

  def prune(params: PyTree, masks: Masks, budget: Any):
    weights = _select(params, kernels)
    masks = keep_largest(weights, masks, kernels, budget, distribution)
    return apply_masks(params, masks), masks

  def update(params, masks, due, budget):
    return jax.lax.cond(
      due, prune, lambda p, m, _: (p, m), params, masks, budget
    )

  return Pruner(
    init=init,
    update=update,
    mask=apply_masks,
    budget_for=lambda fraction: distribution.budget(kernels, fraction),
  )


def apply_masks(tree: PyTree, masks: Masks) -> PyTree:
  """Zeros where pruned; leaves without a mask pass."""

  def zero(path, leaf):
    mask = masks.get(_name(path))
    return leaf if mask is None else jnp.where(mask, leaf, jnp.zeros_like(leaf))

  return jax.tree.map_with_path(zero, tree)


def count_nonzero(
  masks: Masks, kernels: Mapping[str, Kernel]
) -> dict[str, jax.Array]:
  """Kept weights per layer, {kernel: uint32[n_layers]}."""
  return {name: kernel.count(masks[name]) for name, kernel in kernels.items()}


def _select(params: PyTree, kernels: Mapping[str, Kernel]) -> dict:
  named = jax.tree.leaves_with_path(params)
  leaves = {_name(path): leaf for path, leaf in named}
  return {name: leaves[name] for name in kernels}


def _name(path) -> str:
  return jax.tree_util.keystr(path, simple=True, separator='/')
