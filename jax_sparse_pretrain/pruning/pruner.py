"""A pruner: pure functions that the train step calls without asking which.

Masks are `{kernel: bool[shape]}` for the prunable leaves alone, or None in a
run that never prunes.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jax_sparse_pretrain.pruning.distribution import Kernel

PyTree = Any
Masks = Mapping[str, jax.Array] | None


# Optimizer of the step: (grads, opt_state, params) -> (updates, opt_state).
Apply = Callable[[PyTree, Any, PyTree], tuple[PyTree, Any]]


def _optimize(apply, grads, opt_state, params, masks, due, budget):
  return *apply(grads, opt_state, params), masks


class Pruner(NamedTuple):
  """What the train step calls, in this order; verbs not given do nothing.

  `due` is a traced bool, whether this is an update step, and `budget` what
  `budget_for` returned.

  Attributes:
    init: (params, step=0) -> masks that keep everything, or the first ones of
      a pruner that begins sparse; of a run that has finished so many steps.
    budget_for: kept fraction, or {kernel: kept fraction} -> data for `budget`,
      on the host; its structure does not depend on the fraction.
    update: (params, masks, due, budget) -> (params, masks), before the forward
      pass. Where due: new masks, and zeros in params where they drop.
    forward: (params, masks) -> the params that the forward pass sees. The
      gradients with respect to them go to the params themselves.
    mask_gradients: (grads, masks) -> grads whose norm is reported.
    optimize: (apply, grads, opt_state, params, masks, due, budget) ->
      (updates, opt_state, masks); calls `apply`, the optimizer, and may change
      the masks around it, knowing the gradients.
    mask: (params, masks) -> params that leave the step.
    kept: (params, masks) -> {kernel: bool[shape]}, which weights the forward
      pass sees; a kernel that is left out is dense.
    delay: steps from an update to the first forward pass that sees it: 1 if
      `optimize` changes the masks, else 0.
  """

  init: Callable[..., Any]
  budget_for: Callable[[Any], Any]
  update: Callable[..., tuple[PyTree, Any]] = (
    lambda params, masks, due, budget: (params, masks)
  )
  forward: Callable[[PyTree, Any], PyTree] = lambda params, masks: params
  mask_gradients: Callable[[PyTree, Any], PyTree] = lambda grads, masks: grads
  optimize: Callable[..., tuple[PyTree, Any, Any]] = _optimize
  mask: Callable[[PyTree, Any], PyTree] = lambda params, masks: params
  kept: Callable[[PyTree, Any], Mapping[str, jax.Array]] = (
    lambda params, masks: {}
  )
  delay: int = 0


def no_pruning() -> Pruner:
  """Every verb is the identity."""
  return Pruner(
    init=lambda params, step=0: None, budget_for=lambda fraction: None
  )


def apply_masks(tree: PyTree, masks: Masks) -> PyTree:
  """Zeros where pruned; leaves without a mask pass."""

  def zero(path, leaf):
    mask = masks.get(_name(path))
    return leaf if mask is None else jnp.where(mask, leaf, jnp.zeros_like(leaf))

  return jax.tree.map_with_path(zero, tree)


def count_nonzero(
  kept: Mapping[str, jax.Array], kernels: Mapping[str, Kernel]
) -> dict[str, jax.Array]:
  """Kept weights per layer, {kernel: uint32[n_layers]}.

  Args:
    kept: {kernel: bool[shape]}; kernels that are left out are dense.
    kernels: all that are counted.
  """

  def count(name: str, kernel: Kernel) -> jax.Array:
    if name in kept:
      return kernel.count(kept[name])
    return jnp.full(kernel.n_layers, kernel.layer_size, jnp.uint32)

  return {name: count(name, kernel) for name, kernel in kernels.items()}


def select(params: PyTree, names: Iterable[str]) -> dict[str, jax.Array]:
  """The leaves that have these paths."""
  leaves = by_path(params)
  return {name: leaves[name] for name in names}


def by_path(tree: PyTree) -> dict[str, Any]:
  """Leaves of a tree, {path: leaf}."""
  return {_name(p): leaf for p, leaf in jax.tree.leaves_with_path(tree)}


def scatter(by_name: Mapping[str, Any], params: PyTree) -> PyTree:
  """A tree like params with these leaves, and None for the others."""
  return jax.tree.map_with_path(
    lambda path, _: by_name.get(_name(path)), params
  )


def _name(path) -> str:
  return jax.tree_util.keystr(path, simple=True, separator='/')
