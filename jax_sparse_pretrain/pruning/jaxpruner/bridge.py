"""Any updater that jaxpruner registers, as a `Pruner`.

jaxpruner (github.com/google-research/jaxpruner) decides which weights go. Our
schedule decides when and how many, so that plans, histories and resumed runs
mean the same with it. Its masks live in `TrainState.masks`, by kernel. It is
an optional extra, which `upstream` imports.
"""

import copy
import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jax_sparse_pretrain.pruning.jaxpruner import upstream
from jax_sparse_pretrain.pruning.kernels import (
  Arrays,
  Kernels,
  PyTree,
  by_path,
  scatter,
  select,
)
from jax_sparse_pretrain.pruning.pruner import Apply, Pruner


class BridgeState(NamedTuple):
  """What jaxpruner has to remember from step to step.

  Attributes:
    masks: {kernel: uint8[shape]}, bit-packed and flat with `use_packed_masks`;
      empty for updaters that have none.
    sparsities: {kernel: float32} of the last update, or one float32 for global
      updaters.
    count: finished steps, int32.
  """

  masks: dict[str, jax.Array]
  sparsities: Any
  count: jax.Array


def jaxpruner_pruner(
  kernels: Kernels,
  targets: Mapping[str, float],
  algorithm: str,
  *,
  sparsity: float,
  end_step: int,
  options: Mapping[str, Any] | None = None,
  seed: int = 0,
) -> Pruner:
  """A jaxpruner updater inside our step.

  A kernel stacked over layers is one kernel to it, not one for each layer.

  Args:
    kernels: the prunable leaves by path.
    targets: final sparsity of each kernel; updaters that begin sparse begin
      there.
    algorithm: a name that jaxpruner has registered, such as `rigl`.
    sparsity: final sparsity over all kernels, for `global_*`.
    end_step: the step of the last update, at which the drop fraction of `rigl`
      and `set` reaches 0.
    options: other keys of jaxpruner's config, `sparsity_type`, `drop_fraction`,
      `is_sparse_gradients`, `skip_gradients`, `use_packed_masks`,
      `use_normalization`, `eps`, where the updater has them.
    seed: the seed of its random scores.

  Raises:
    ValueError: in one line, if jaxpruner is not installed, or does not know
      the algorithm or an option, or cannot prune a kernel as asked.
  """
  jaxpruner = upstream.load_jaxpruner()
  config = {'sparsity': sparsity, 'update_end_step': end_step}
  updater = upstream.create_updater(jaxpruner, algorithm, options or {}, config)
  updater.sparsity_distribution_fn = lambda params: scatter(targets, params)
  updater.filter_fn = lambda path, _: '/'.join(path) in targets
  updater.rng_seed = jax.random.PRNGKey(seed)
  upstream.check_kernels(updater, kernels)
  return _Bridge(jaxpruner, updater, kernels, targets)


@dataclasses.dataclass(frozen=True)
class _Bridge(Pruner):
  """The verbs of a `Pruner`, said in jaxpruner's words."""

  jaxpruner: Any
  updater: Any
  kernels: Kernels
  targets: Mapping[str, float]

  @property
  def is_global(self) -> bool:
    global_pruners = self.jaxpruner.algorithms.global_pruners
    return isinstance(self.updater, global_pruners.GlobalPruningMixin)

  @property
  def straight_through(self) -> bool:
    return upstream.is_straight_through(self.jaxpruner, type(self.updater))

  @property
  def delay(self) -> int:
    return 0 if self.straight_through else 1

  def init(self, params: PyTree, step=0) -> BridgeState:
    masks = by_path(self.updater.init_state(params).masks)
    nothing = jax.tree.map(jnp.zeros_like, self.budget_for(0.0))
    return BridgeState(masks, nothing, jnp.int32(step))

  def budget_for(self, kept: float | Mapping[str, float]) -> Any:
    if self.is_global:
      if isinstance(kept, Mapping):
        raise ValueError("distribution: must be 'global' for global updaters")
      return np.float32(1 - kept)
    if not isinstance(kept, Mapping):
      kept = dict.fromkeys(self.targets, kept)
    return {name: np.float32(1 - kept[name]) for name in self.targets}

  def update(self, params: PyTree, state: BridgeState, due, budget):
    sparsities = jax.tree.map(
      lambda new, old: jnp.where(due, new, old), budget, state.sparsities
    )
    return params, state._replace(sparsities=sparsities)

  def forward(self, params: PyTree, state: BridgeState) -> PyTree:
    return self._now(False).pre_forward_update(
      params, self._theirs(params, state)
    )

  def optimize(
    self, apply: Apply, grads, opt_state, params, state: BridgeState, due, _
  ):
    tx = self._now(due).wrap_optax(optax.GradientTransformation(None, apply))
    updates, new = tx.update(
      grads, self._theirs(params, state, opt_state), params
    )
    state = state._replace(masks=by_path(new.masks), count=new.count)
    return updates, new.inner_state, state

  def mask(self, params: PyTree, state: BridgeState) -> PyTree:
    return self._now(False).post_gradient_update(
      params, self._theirs(params, state)
    )

  def kept(self, params: PyTree, state: BridgeState) -> Arrays:
    if self.straight_through:
      seen = select(self.forward(params, state), self.targets)
      return {name: weight != 0 for name, weight in seen.items()}
    return {n: self._as_bool(n, mask) for n, mask in state.masks.items()}

  def _as_bool(self, name: str, mask: jax.Array) -> jax.Array:
    if self.updater.use_packed_masks:
      shape = self.kernels[name].shape
      mask = jnp.unpackbits(mask, count=math.prod(shape)).reshape(shape)
    return mask.astype(bool)

  def _now(self, due):
    """The updater, told whether this is an update step."""
    updater = copy.copy(self.updater)
    updater.scheduler = _Given(due)
    return updater

  def _theirs(self, params: PyTree, state: BridgeState, opt_state=None):
    return self.jaxpruner.SparseState(
      masks=scatter(state.masks, params),
      inner_state=opt_state,
      target_sparsities=state.sparsities
      if self.is_global
      else scatter(state.sparsities, params),
      count=state.count,
    )


class _Given(NamedTuple):
  """A jaxpruner schedule that is decided elsewhere."""

  due: Any

  def get_sparsity_at_step(self, sparsities: PyTree, step) -> PyTree:
    return sparsities

  def is_mask_update_iter(self, step):
    return self.due
