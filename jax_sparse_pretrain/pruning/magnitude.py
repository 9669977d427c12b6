"""The pruner that keeps the weights of the largest scores."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jax_sparse_pretrain.pruning.distribution import Distribution, Kernel
from jax_sparse_pretrain.pruning.pruner import (
  Apply,
  Masks,
  Pruner,
  PyTree,
  apply_masks,
  select,
)
from jax_sparse_pretrain.pruning.structure import Structure, Unstructured

# {kernel: weights} -> {kernel: scores}.
Score = Callable[[Mapping[str, jax.Array]], Mapping[str, jax.Array]]

ORDERS = ('before', 'after')
UNSTRUCTURED = Unstructured()


def magnitudes(
  weights: Mapping[str, jax.Array],
) -> Mapping[str, jax.Array]:
  """The weights: scores rank by absolute value, and no copy is held."""
  return weights


def random_scores(seed: int) -> Score:
  """The same random numbers at every update, so that masks are nested."""

  def score(weights: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    keys = jax.random.split(jax.random.key(seed), len(weights))
    return {
      name: jax.random.uniform(k, weights[name].shape)
      for name, k in zip(sorted(weights), keys, strict=True)
    }

  return score


def magnitude_pruner(
  kernels: Mapping[str, Kernel],
  distribution: Distribution,
  *,
  structure: Structure = UNSTRUCTURED,
  score: Score = magnitudes,
  order: str = 'before',
  mask_gradients: bool | None = None,
  regrow: bool = False,
) -> Pruner:
  """Keeps the weights of the largest scores; a pruned weight never returns.

  Orders inside an update step, of which the first is our default:
    before: score, mask, forward and backward, optimizer. The forward pass is
      already sparse, and pruned weights get no gradient.
    after: forward and backward, score, optimizer, mask, as jaxpruner does. The
      next step is the first whose forward pass is sparser. Scores are those
      of the weights before the optimizer, so its momentum cannot bring pruned
      weights back; pruned weights get gradients, and so moments and a share
      in the clipping norm, unless `mask_gradients`.

  Args:
    kernels: the prunable leaves by path, `layers/mlp/up/kernel`.
    distribution: an entry of `DISTRIBUTIONS`.
    structure: what is kept or dropped together.
    score: {kernel: weights} -> {kernel: scores}, ranked by absolute value.
    order: one of `ORDERS`.
    mask_gradients: whether pruned weights get no gradient; if not given, only
      in the order 'before'.
    regrow: whether a pruned weight may return: in the order 'after', where
      the optimizer has moved it, all weights compete as it leaves them.
  """
  if order not in ORDERS:
    raise ValueError(f'order = {order!r}: must be one of {ORDERS}')
  if mask_gradients is None:
    mask_gradients = order == 'before'
  rule = _Rule(kernels, distribution, structure, score, regrow)
  units = structure.units(kernels)
  pruner = Pruner(
    init=rule.dense,
    budget_for=lambda fraction: distribution.budget(units, fraction),
    mask_gradients=apply_masks
    if mask_gradients
    else lambda grads, masks: grads,
    mask=apply_masks,
    kept=lambda params, masks: masks,
  )
  if order == 'before':
    return pruner._replace(update=rule.update)
  optimize = rule.optimize_and_choose if regrow else rule.choose_and_optimize
  return pruner._replace(
    optimize=functools.partial(optimize, pruner.mask_gradients), delay=1
  )


@dataclasses.dataclass(frozen=True)
class _Rule:
  """Which weights a mask update keeps, and the verbs that apply it."""

  kernels: Mapping[str, Kernel]
  distribution: Distribution
  structure: Structure
  score: Score
  regrow: bool

  def dense(self, params: PyTree, step=0) -> Masks:
    del step
    leaves = select(params, self.kernels)
    return {name: jnp.ones(leaf.shape, bool) for name, leaf in leaves.items()}

  def new_masks(self, params: PyTree, masks: Masks, budget: Any) -> Masks:
    scores = self.score(select(params, self.kernels))
    if self.structure != UNSTRUCTURED:  # which takes it itself, without a copy
      scores = {name: jnp.abs(each) for name, each in scores.items()}
    if self.regrow:
      masks = self.dense(params)
    return self.structure.keep(
      scores, masks, self.kernels, budget, self.distribution
    )

  def choose(self, params: PyTree, masks: Masks, due, budget: Any) -> Masks:
    return jax.lax.cond(
      due, self.new_masks, lambda p, m, _: m, params, masks, budget
    )

  def prune(self, params: PyTree, masks: Masks, budget: Any):
    masks = self.new_masks(params, masks, budget)
    return apply_masks(params, masks), masks

  def update(self, params: PyTree, masks: Masks, due, budget: Any):
    return jax.lax.cond(
      due, self.prune, lambda p, m, _: (p, m), params, masks, budget
    )

  def choose_and_optimize(
    self, masked, apply: Apply, grads, opt_state, params, masks, due, budget
  ):
    masks = self.choose(params, masks, due, budget)
    return *apply(masked(grads, masks), opt_state, params), masks

  def optimize_and_choose(
    self, masked, apply: Apply, grads, opt_state, params, masks, due, budget
  ):
    updates, opt_state = apply(masked(grads, masks), opt_state, params)
    params = optax.apply_updates(params, updates)
    return updates, opt_state, self.choose(params, masks, due, budget)
