"""Pruning inside any optax optimizer: jaxpruner's two lines, with our engine.

  tx = pruning.wrap(
    optax.adamw(1e-3), sparsity=0.8, start=1000, end=9000, every=100
  )
  ...
  params = pruning.apply(optax.apply_updates(params, updates), opt_state)

The masks live in the optimizer's state. `wrap` says which leaves are pruned,
in which order, and what is exact.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jax_sparse_pretrain.pruning.distribution import (
  DISTRIBUTIONS,
  Wide,
  kept_on_the_way,
  matching,
  targets,
)
from jax_sparse_pretrain.pruning.kernels import (
  Kernel,
  PyTree,
  apply_masks,
  by_path,
  path_name,
)
from jax_sparse_pretrain.pruning.pruner import (
  UNSTRUCTURED,
  Pruner,
  Score,
  magnitude_pruner,
  magnitudes,
)
from jax_sparse_pretrain.pruning.structure import NByM, Structure
from jax_sparse_pretrain.schedule import PruningSchedule


class PrunedState(NamedTuple):
  """The state of `wrap`: a plain pytree of arrays.

  Attributes:
    count: finished updates, int32.
    masks: a tree like params, bool[shape] for each leaf that is pruned; others
      hold `optax.MaskedNode()`, as in `optax.masked`.
    inner: the state of the optimizer that is wrapped.
  """

  # optax names it so in its own states, too.
  count: jax.Array  # pyright: ignore[reportIncompatibleMethodOverride]
  masks: PyTree
  inner: optax.OptState


def wrap(
  tx: optax.GradientTransformation,
  schedule: PruningSchedule | None = None,
  *,
  sparsity: float | None = None,
  start: int | None = None,
  end: int | None = None,
  every: int | None = None,
  shape: str | None = None,
  distribution: str = 'global',
  structure: Structure = UNSTRUCTURED,
  exempt: Sequence[str] = (),
  sparsities: Sequence[tuple[str, float]] = (),
  stacked: Sequence[str] = (),
  score: Score = magnitudes,
  mask_gradients: bool = False,
) -> optax.GradientTransformationExtraArgs:
  """The optimizer `tx`, which also prunes the parameters that it updates.

  When: at the updates `start, start + every, ...` and `end`, counted from 0 by
  the calls of `tx.update` (under `optax.MultiSteps`, by the steps that it
  takes). Counts of weights to keep are exact integers. They are worked out on
  the host from the schedule and the shapes, as a table that the compiled
  program reads: nothing is compiled anew from step to step.

  What: every floating-point leaf of two or more axes, convolutions and
  embeddings too, unless `exempt` names it. Biases and scales stay dense.

  Order: an optimizer sees params and gradients, not the forward pass. So an
  update chooses masks from the params that it is given, lets `tx` make its
  updates, and replaces those of pruned weights by -params: then
  `optax.apply_updates` leaves exact zeros, since p + (-p) = 0. The next forward
  pass is the first one that is sparser. A pruned weight never returns. `apply`
  changes nothing after that; it is the safeguard for what happens to updates
  or params later on, such as a transformation that follows in a chain.

  Args:
    tx: any optax transformation.
    schedule: when and how much, or else these five:
    sparsity: fraction that is pruned in the end, in [0, 1).
    start: first update that prunes.
    end: last update that prunes, which reaches the sparsity exactly.
    every: updates from one that prunes to the next.
    shape: 'geometric' (the default), 'cubic' as in jaxpruner, 'linear',
      'constant', or 'one_shot', for which start and end are equal.
    distribution: 'global', one threshold over all pruned leaves; 'uniform', the
      same sparsity in every layer; or 'erk', Erdos-Renyi densities.
    structure: what is kept or dropped together: `NByM`, `Block`, `Channel`.
    exempt: patterns of leaves to leave dense, `('*/embedding', 'head/*')`.
    sparsities: (pattern, sparsity) pairs for leaves that get their own final
      sparsity; not for 'global'.
    stacked: patterns of leaves whose axis 0 runs over layers, as `nn.scan`
      makes them. Each layer then counts as one, and the axis does not count
      where two or more axes are asked for.
    score: {path: weights} -> {path: scores}, ranked by absolute value, such as
      `random_scores(seed)`.
    mask_gradients: whether `tx` sees zeros as gradients of pruned weights, so
      that they have no share in a clipping norm or in moments.

  Returns:
    A transformation whose `update` needs the params, and passes on extra
    arguments. Its state is a `PrunedState`.

  Raises:
    ValueError: for a schedule that is not one. `init` and `update` raise it if
      there is nothing to prune, a pattern matches nothing, a structure does not
      fit a leaf, or params are missing.
  """
  schedule = _schedule(
    schedule, sparsity=sparsity, start=start, end=end, every=every, shape=shape
  )
  if distribution not in DISTRIBUTIONS:
    raise ValueError(
      f'distribution = {distribution!r}: must be one of {list(DISTRIBUTIONS)}'
    )
  _check_structure(structure, schedule)
  tx = optax.with_extra_args_support(tx)

  def plan(params: PyTree) -> tuple[Pruner, dict[str, float]]:
    found = _prunable(params, stacked)
    final = targets(found, schedule.sparsity, distribution, exempt, sparsities)
    pruner = magnitude_pruner(
      {name: found[name] for name in final},
      DISTRIBUTIONS[distribution],
      structure=structure,
      score=score,
      order='after',
      mask_gradients=mask_gradients,
    )
    return pruner, final

  def init(params: PyTree) -> PrunedState:
    if not jax.tree.leaves(params):  # As in `optax.tree.map_params`.
      masks = params
    else:
      _, final = plan(params)
      masks = jax.tree.map_with_path(
        lambda path, leaf: (
          jnp.ones_like(leaf, bool)
          if path_name(path) in final
          else optax.MaskedNode()
        ),
        params,
      )
    return PrunedState(jnp.zeros((), jnp.int32), masks, tx.init(params))

  def update(updates, state: Any, params: Any = None, **extra):
    if params is None:
      raise ValueError('params: must be given, tx.update(grads, state, params)')
    if not jax.tree.leaves(params):
      updates, inner = tx.update(updates, state.inner, params, **extra)
      return updates, state._replace(inner=inner)
    pruner, final = plan(params)
    before = by_path(state.masks)
    if before.keys() != final.keys():
      raise ValueError('state: its masks are not those of the leaves to prune')
    due, budget = _look_up(schedule, distribution, pruner, final, state.count)

    def optimize(grads, inner, params):
      return tx.update(grads, inner, params, **extra)

    updates, inner, masks = pruner.optimize(
      optimize,
      updates,
      state.inner,
      params,
      before,
      due,
      budget,
    )
    updates = jax.tree.map_with_path(
      functools.partial(_to_zero, masks), updates, params
    )
    return updates, PrunedState(
      count=jnp.asarray(optax.safe_increment(state.count)),
      masks=jax.tree.map_with_path(
        lambda path, _: masks[path_name(path)], state.masks
      ),
      inner=inner,
    )

  return optax.GradientTransformationExtraArgs(init, update)


def masks(state: optax.OptState) -> dict[str, jax.Array]:
  """The masks in the state of an optimizer that `wrap` has part in.

  Args:
    state: that of `wrap`, or of whatever holds it: `optax.chain`,
      `optax.MultiSteps`, `optax.multi_transform`, ...

  Returns:
    {path: bool[shape]}, the leaves that are pruned.

  Raises:
    ValueError: if there are none, or two for the same leaf.
  """
  found: dict[str, jax.Array] = {}
  for pruned in _states(state):
    new = by_path(pruned.masks)
    if twice := found.keys() & new.keys():
      raise ValueError(f'{min(twice)}: is pruned by two wraps of one optimizer')
    found |= new
  if not found:
    raise ValueError('state: has no masks; was its optimizer made by wrap?')
  return found


def apply(params: PyTree, state: optax.OptState) -> PyTree:
  """The params with zeros where the masks in the state prune.

  After `optax.apply_updates`; see `wrap` for when it changes anything.
  """
  return apply_masks(params, masks(state))


# The name of jaxpruner's verb.
post_gradient_update = apply


def kept(state: optax.OptState) -> dict[str, tuple[int, int]]:
  """{path: (kept weights, all weights)} of the leaves that are pruned."""
  return {
    name: (int(_count(mask)), mask.size) for name, mask in masks(state).items()
  }


def sparsity(state: optax.OptState) -> float:
  """The fraction of the weights of prunable leaves that is pruned."""
  counts = kept(state).values()
  total = sum(size for _, size in counts)
  return (total - sum(n for n, _ in counts)) / total


def _schedule(schedule: PruningSchedule | None, **given) -> PruningSchedule:
  """The schedule, or one made of the keywords; they are None if not given."""
  given = {name: value for name, value in given.items() if value is not None}
  if schedule is None:
    needed = ('sparsity', 'start', 'end', 'every')
    missing = [name for name in needed if name not in given]
    if missing:
      raise ValueError(f'{", ".join(missing)}: must be given, or a schedule')
    schedule = PruningSchedule(**{'shape': 'geometric', **given})
  elif given:
    raise ValueError(f'{", ".join(given)}: must not be given beside a schedule')
  if not isinstance(schedule, PruningSchedule):
    raise ValueError(f'schedule = {schedule!r}: must be a PruningSchedule')
  if schedule.sparsity == 0:
    raise ValueError('sparsity = 0: must be above 0, or nothing is pruned')
  if schedule.begins_sparse:
    raise ValueError('begins_sparse = True: wrap begins with all weights')
  if schedule.end >= np.iinfo(np.int32).max:
    raise ValueError(f'end = {schedule.end}: must be below 2^31 - 1')
  return schedule


def _check_structure(structure: Structure, schedule: PruningSchedule) -> None:
  if not isinstance(structure, Structure):
    raise ValueError(f'structure = {structure!r}: must be a Structure')
  if not isinstance(structure, NByM):
    return
  has_ramp = schedule.shape not in ('one_shot', 'constant')
  share = 1 - structure.n / structure.m
  if has_ramp or not math.isclose(schedule.sparsity, share):
    raise ValueError(
      f'structure = {structure}: has no ramp; needs sparsity = {share} and '
      "shape 'one_shot' or 'constant'"
    )


def _prunable(params: PyTree, stacked: Sequence[str]) -> dict[str, Kernel]:
  """Floating-point leaves whose layers have two or more axes."""
  leaves = by_path(params)
  if len(leaves) < len(jax.tree.leaves(params)):
    raise ValueError('params: two leaves have the same path')
  layered = {n for p in stacked for n in matching('stacked', p, leaves)}
  kernels = {
    name: Kernel(np.shape(leaf), stacked=name in layered)
    for name, leaf in leaves.items()
    if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
  }
  found = {n: k for n, k in kernels.items() if len(k.layer_shape) >= 2}
  if not found:
    raise ValueError(
      'params: have nothing to prune, no leaf of two or more axes; there are '
      + ', '.join(leaves)
    )
  return found


def _look_up(
  schedule: PruningSchedule,
  distribution: str,
  pruner: Pruner,
  final: dict[str, float],
  count: jax.Array,
):
  """(whether an update of the masks is due, its budget) at this count."""
  fractions = schedule.kept_fractions.tolist()
  if distribution != 'global':
    fractions = [
      kept_on_the_way(final, schedule.sparsity, kept) for kept in fractions
    ]
  budgets = [pruner.budget_for(kept) for kept in fractions]
  table = jax.tree.map(lambda *rows: jnp.asarray(np.stack(rows)), *budgets)
  steps = jnp.asarray(schedule.update_steps, jnp.int32)
  row = jnp.minimum(jnp.sum(steps < count), len(steps) - 1)
  return steps[row] == count, jax.tree.map(lambda rows: rows[row], table)


def _to_zero(masks, path, update: jax.Array, param: jax.Array) -> jax.Array:
  """The update, or the one that makes a pruned weight zero exactly."""
  mask = masks.get(path_name(path))
  return update if mask is None else jnp.where(mask, update, -param)


def _states(state: optax.OptState):
  """Every `PrunedState` in the state of an optimizer."""
  for part in jax.tree.leaves(
    state, is_leaf=lambda x: isinstance(x, PrunedState)
  ):
    if isinstance(part, PrunedState):
      yield part
      yield from _states(part.inner)


def _count(mask: jax.Array) -> int:
  """How many are True, exactly: row by row, lest 32 bits overflow."""
  rows = Kernel(mask.shape, stacked=mask.ndim > 2)
  n = Wide.total(rows.count(mask))
  return (int(n.high) << 32) + int(n.low)
