"""Where a run begins: fresh, from its checkpoint, or as a fork of it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jax_sparse_pretrain import distributed, history
from jax_sparse_pretrain.config import ConfigError
from jax_sparse_pretrain.runs import workdir as workdir_lib
from jax_sparse_pretrain.runs.checkpoint import Checkpoints, Restored

if TYPE_CHECKING:
  from jax_sparse_pretrain.training.setup import Experiment

# Tolerance of a density: counts are rounded to whole weights in every layer.
_ROUNDING = 1e-4


def start_or_resume(
  experiment: Experiment, checkpoints: Checkpoints
) -> Restored:
  """State and data as the newest checkpoint has them, or as at the start."""
  programs = experiment.programs
  restored = checkpoints.restore_newest(programs.abstract_state)
  if restored is None:
    state = distributed.together(experiment.init)
    return Restored(0, state, data={}, progress={})
  experiment.batches.set_state(restored.data)
  state = restored.state
  if state.masks is None and programs.abstract_state.masks is not None:
    masks = programs.init_masks(state.params, restored.step)
    state = state.replace(masks=masks)
  return restored._replace(state=state)


def check_fork(
  experiment: Experiment,
  workdir: workdir_lib.Workdir,
  previous: workdir_lib.Previous | None,
  saved_steps: Sequence[int],
) -> None:
  """Refuses a fork that would not do what its config says.

  Raises:
    ConfigError: if no step is left, if sparsity falls, if mask updates of a
      new schedule lie in the past, or if it would keep what is pruned.
  """
  if not saved_steps or previous is None or not previous.changes:
    return
  step, plan = saved_steps[-1], experiment.plan
  if step >= plan.steps:
    raise ConfigError(
      f'duration = {plan.steps} steps: must exceed the {step} that the '
      'checkpoint has finished'
    )
  before = previous.resolved['config']['pruning']
  sparsity = experiment.config.pruning.sparsity
  if sparsity < before['sparsity']:
    raise ConfigError(
      f'pruning.sparsity = {sparsity}: must be at least that of the run, '
      f'{before["sparsity"]}: a pruned weight does not return'
    )
  if _schedule(experiment.resolved) == _schedule(previous.resolved):
    return
  if plan.schedule.sparsity and plan.schedule.start < step:
    raise ConfigError(
      f'pruning.start, step {plan.schedule.start} of the new schedule: must be '
      f'at least {step}, where the checkpoint is; or keep the schedule of the '
      f"run with pruning.unit = 'steps' and {_as_steps(previous.resolved)}"
    )
  if plan.schedule.sparsity:
    rows = history.read(workdir.history).rows
    past = [row.nonzero for row in rows if row.step < step + experiment.delay]
    linear = experiment.header.linear_parameters
    _check_first_update(experiment, before, past[-1] / linear)


def _check_first_update(
  experiment: Experiment, before: dict[str, Any], density: float
) -> None:
  """Whether the new schedule can go on from this density.

  Raises:
    ConfigError: if it cannot.
  """
  now, schedule = experiment.config.pruning, experiment.plan.schedule
  if schedule.begins_sparse:
    raise ConfigError(
      f'pruning: {now.algorithm!r} has its sparsity from step 0 on: needs '
      'another workdir'
    )
  if density == 1:
    return
  for name in ('distribution', 'sparsities'):
    if getattr(now, name) != before[name]:
      raise ConfigError(
        f'pruning.{name} = {getattr(now, name)}: must be {before[name]} as '
        'long as pruned weights do not return'
      )
  first = float(schedule.density(schedule.start + schedule.delay))
  if first <= density + _ROUNDING:
    return
  message = (
    f'pruning.schedule = {now.schedule!r}: its first update would keep '
    f'{first:.1%} of the linear parameters, of which {density:.1%} are left'
  )
  if now.regrow or now.library == 'jaxpruner':
    raise ConfigError(f"{message}; 'constant' goes on from there")
  warnings.warn(
    f'{message}; updates do nothing until they keep less, and the plan does '
    'not know',
    stacklevel=2,
  )


def _schedule(resolved: dict[str, Any]) -> tuple:
  pruning, plan = resolved['config']['pruning'], resolved['plan']
  names = ('sparsity', 'schedule', 'power', 'distribution', 'sparsities')
  kind = [pruning[k] for k in names]
  return (*kind, *(plan.get(k) for k in ('start', 'end', 'every')))


def _as_steps(resolved: dict[str, Any]) -> str:
  return ', '.join(
    f'pruning.{k} = {resolved["plan"][k]}' for k in ('start', 'end', 'every')
  )
