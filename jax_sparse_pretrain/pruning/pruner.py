"""A pruner: pure functions that the train step calls without asking which."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import optax

from jax_sparse_pretrain.pruning.distribution import Distribution, Fractions
from jax_sparse_pretrain.pruning.kernels import (
  Arrays,
  Kernels,
  Masks,
  PyTree,
  apply_masks,
  select,
)
from jax_sparse_pretrain.pruning.structure import Structure, Unstructured

# The optimizer of the step: (grads, opt_state, params) -> (updates, opt_state).
Apply = Callable[[PyTree, Any, PyTree], tuple[PyTree, Any]]
# {kernel: weights} -> {kernel: scores}.
Score = Callable[[Arrays], Arrays]

ORDERS = ('before', 'after')
UNSTRUCTURED = Unstructured()


class Pruner:
  """What the train step calls, in this order. Here, every verb does nothing.

  A pruner overrides the verbs that it needs. `due` is a traced bool, whether
  this is an update step, and `budget` what `budget_for` returned.

  Attributes:
    delay: steps from an update to the first forward pass that sees it: 1 if
      `optimize` changes the masks, 0 if `update` does.
    straight_through: whether the forward pass sees other params than those of
      the state; only then does `forward` do anything.
  """

  delay: ClassVar[int] = 0
  straight_through: ClassVar[bool] = False

  def init(self, params: PyTree, step=0) -> Any:
    """The masks of a run that has finished so many steps.

    They keep everything, or are the first ones of a pruner that begins sparse.
    """
    return None

  def budget_for(self, kept: Fractions) -> Any:
    """Kept fraction, or {kernel: kept fraction} -> `budget`, on the host.

    The structure of the budget does not depend on the fraction.
    """
    return None

  def update(self, params: PyTree, masks, due, budget) -> tuple[PyTree, Any]:
    """(params, masks) before the forward pass.

    Where due: new masks, and zeros in params where they drop.
    """
    return params, masks

  def forward(self, params: PyTree, masks) -> PyTree:
    """The params that the forward pass sees.

    The gradients with respect to them go to the params themselves.
    """
    return params

  def mask_gradients(self, grads: PyTree, masks) -> PyTree:
    """The gradients whose norm is reported."""
    return grads

  def optimize(
    self, apply: Apply, grads: PyTree, opt_state, params, masks, due, budget
  ) -> tuple[PyTree, Any, Any]:
    """(updates, opt_state, masks).

    Calls `apply`, the optimizer, and may change the masks around it, knowing
    the gradients.
    """
    return *apply(grads, opt_state, params), masks

  def mask(self, params: PyTree, masks) -> PyTree:
    """The params that leave the step."""
    return params

  def kept(self, params: PyTree, masks) -> Arrays:
    """{kernel: bool[shape]}, the weights that the forward pass sees.

    A kernel that is left out is dense.
    """
    return {}


def no_pruning() -> Pruner:
  """A pruner whose every verb is the identity."""
  return Pruner()


def magnitudes(weights: Arrays) -> Arrays:
  """The weights: scores rank by absolute value, and no copy is held."""
  return weights


def random_scores(seed: int) -> Score:
  """The same random numbers at every update, so that masks are nested."""

  def score(weights: Arrays) -> dict[str, jax.Array]:
    keys = jax.random.split(jax.random.key(seed), len(weights))
    return {
      name: jax.random.uniform(k, weights[name].shape)
      for name, k in zip(sorted(weights), keys, strict=True)
    }

  return score


def magnitude_pruner(
  kernels: Kernels,
  distribution: Distribution,
  *,
  structure: Structure = UNSTRUCTURED,
  score: Score = magnitudes,
  order: str = 'before',
  mask_gradients: bool | None = None,
  regrow: bool = False,
  from_zeros: bool = False,
) -> Pruner:
  """Keeps the weights of the largest scores; a pruned weight never returns.

  Orders inside an update step, of which the first is the default:
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
    from_zeros: whether weights that are zero at the start count as pruned.

  Raises:
    ValueError: for an unknown order, or a kernel that the structure does not
      fit.
  """
  if order not in ORDERS:
    raise ValueError(f'order = {order!r}: must be one of {ORDERS}')
  if mask_gradients is None:
    mask_gradients = order == 'before'
  return _ByScore(
    kernels=kernels,
    units=structure.units(kernels),
    distribution=distribution,
    structure=structure,
    score=score,
    delay=ORDERS.index(order),
    sparse_gradients=mask_gradients,
    regrow=regrow,
    from_zeros=from_zeros,
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _ByScore(Pruner):
  """The pruner of `magnitude_pruner`.

  Attributes:
    units: what `structure` selects, windows or weights, by kernel.
    delay: 0 in the order 'before', 1 in the order 'after'.
    sparse_gradients: whether pruned weights get no gradient.
  """

  kernels: Kernels
  units: Kernels
  distribution: Distribution
  structure: Structure
  score: Score
  delay: int
  sparse_gradients: bool
  regrow: bool
  from_zeros: bool

  def init(self, params: PyTree, step=0) -> Masks:
    del step
    if not self.from_zeros:
      return self._everything(params)
    leaves = select(params, self.kernels)
    return {name: leaf != 0 for name, leaf in leaves.items()}

  def _everything(self, params: PyTree) -> Masks:
    leaves = select(params, self.kernels)
    return {name: jnp.ones(leaf.shape, bool) for name, leaf in leaves.items()}

  def budget_for(self, kept: Fractions) -> Any:
    return self.distribution.budget(self.units, kept)

  def update(self, params: PyTree, masks: Masks, due, budget):
    if self.delay:
      return params, masks
    return jax.lax.cond(
      due, self._prune, lambda p, m, _: (p, m), params, masks, budget
    )

  def mask_gradients(self, grads: PyTree, masks: Masks) -> PyTree:
    return apply_masks(grads, masks) if self.sparse_gradients else grads

  def optimize(
    self, apply: Apply, grads: PyTree, opt_state, params, masks, due, budget
  ):
    if not self.delay:
      return *apply(grads, opt_state, params), masks
    if not self.regrow:
      masks = self._choose(params, masks, due, budget)
    grads = self.mask_gradients(grads, masks)
    updates, opt_state = apply(grads, opt_state, params)
    if self.regrow:
      moved = optax.apply_updates(params, updates)
      masks = self._choose(moved, masks, due, budget)
    return updates, opt_state, masks

  def mask(self, params: PyTree, masks: Masks) -> PyTree:
    return apply_masks(params, masks)

  def kept(self, params: PyTree, masks: Masks) -> Arrays:
    return masks

  def _choose(self, params: PyTree, masks: Masks, due, budget) -> Masks:
    return jax.lax.cond(
      due, self._new_masks, lambda p, m, _: m, params, masks, budget
    )

  def _prune(self, params: PyTree, masks: Masks, budget):
    masks = self._new_masks(params, masks, budget)
    return apply_masks(params, masks), masks

  def _new_masks(self, params: PyTree, masks: Masks, budget) -> Masks:
    scores = self.score(select(params, self.kernels))
    if self.structure != UNSTRUCTURED:  # which takes it itself, without a copy
      scores = {name: jnp.abs(each) for name, each in scores.items()}
    if self.regrow:
      masks = self._everything(params)
    return self.structure.keep(
      scores, masks, self.kernels, budget, self.distribution
    )


def packed(pruner: Pruner, kernels: Kernels) -> Pruner:
  """The pruner with its masks at one bit a weight wherever a step leaves them.

  Bits are packed along the last axis of a leaf, so that the packed mask splits
  over devices like its parameter.

  Args:
    pruner: one whose masks are {kernel: bool[shape]}.
    kernels: those that it prunes.
  """
  return _Packed(pruner, kernels)


@dataclasses.dataclass(frozen=True)
class _Packed(Pruner):
  """The pruner of `packed`; masks are {kernel: uint8[..., ceil(d / 8)]}."""

  pruner: Pruner
  kernels: Kernels

  @property
  def delay(self) -> int:
    return self.pruner.delay

  @property
  def straight_through(self) -> bool:
    return self.pruner.straight_through

  def init(self, params: PyTree, step=0) -> Arrays:
    return _pack(self.pruner.init(params, step))

  def budget_for(self, kept: Fractions) -> Any:
    return self.pruner.budget_for(kept)

  def update(self, params: PyTree, bits: Arrays, due, budget):
    if self.delay:  # The masks change in `optimize`.
      return params, bits

    # Unpacked only where an update is due.
    def prune(params, bits, budget):
      masks = self._unpack(bits)
      params, masks = self.pruner.update(params, masks, True, budget)
      return params, _pack(masks)

    return jax.lax.cond(
      due, prune, lambda p, b, _: (p, b), params, bits, budget
    )

  def forward(self, params: PyTree, bits: Arrays) -> PyTree:
    return self.pruner.forward(params, self._unpack(bits))

  def mask_gradients(self, grads: PyTree, bits: Arrays) -> PyTree:
    return self.pruner.mask_gradients(grads, self._unpack(bits))

  def optimize(
    self, apply: Apply, grads: PyTree, opt_state, params, bits, due, budget
  ):
    if not self.delay:
      return *apply(grads, opt_state, params), bits
    updates, opt_state, masks = self.pruner.optimize(
      apply, grads, opt_state, params, self._unpack(bits), due, budget
    )
    # Packed only where an update is due.
    bits = jax.lax.cond(due, lambda m, _: _pack(m), lambda _, b: b, masks, bits)
    return updates, opt_state, bits

  def mask(self, params: PyTree, bits: Arrays) -> PyTree:
    return self.pruner.mask(params, self._unpack(bits))

  def kept(self, params: PyTree, bits: Arrays) -> Arrays:
    return self.pruner.kept(params, self._unpack(bits))

  def _unpack(self, bits: Arrays) -> dict[str, jax.Array]:
    def unpack(name: str, b: jax.Array) -> jax.Array:
      width = self.kernels[name].shape[-1]
      return jnp.unpackbits(b, axis=-1, count=width).astype(bool)

    return {name: unpack(name, b) for name, b in bits.items()}


def _pack(masks: Arrays) -> dict[str, jax.Array]:
  return {name: jnp.packbits(mask, axis=-1) for name, mask in masks.items()}
