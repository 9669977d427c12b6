"""What happens in which step: config -> plan, pruner, controls."""

from collections.abc import Callable, Mapping

import numpy as np

from jax_sparse_pretrain import pruning
from jax_sparse_pretrain import schedule as schedule_lib
from jax_sparse_pretrain.config import Config, ConfigError
from jax_sparse_pretrain.training.step import Controls


def make_plan(config: Config) -> schedule_lib.Plan:
  """Durations and fractions of the config -> whole steps."""
  value, unit = config.duration.value, config.duration.unit
  if unit == 'tokens':
    value, unit = max(1, round(value / config.tokens_per_step)), 'steps'
  pruned = config.pruning
  try:
    return schedule_lib.plan(
      shape=pruned.schedule,
      sparsity=pruned.sparsity,
      start=pruned.start,
      end=pruned.end,
      unit=pruned.unit,
      every=pruned.every,
      **{unit: value},
    )
  except ValueError as error:
    raise ConfigError(
      f'pruning and duration.value = {config.duration.value} '
      f'{config.duration.unit} do not fit: {error}'
    ) from None


def make_pruner(
  config: Config, kernels: Mapping[str, pruning.Kernel]
) -> pruning.Pruner:
  if config.pruning.sparsity == 0:
    return pruning.no_pruning()
  distribution = pruning.DISTRIBUTIONS[config.pruning.distribution]
  return pruning.magnitude_pruner(kernels, distribution)


def make_controls(
  plan: schedule_lib.Plan, pruner: pruning.Pruner, learning_rates: np.ndarray
) -> Callable[[int], Controls]:
  schedule = plan.schedule
  budgets = {
    int(step): pruner.budget_for(float(kept))
    for step, kept in zip(
      schedule.update_steps, schedule.kept_fractions, strict=True
    )
  }
  unused = budgets[schedule.end]

  def controls(step: int) -> Controls:
    return Controls(
      learning_rate=learning_rates[step],
      prune=np.bool_(step in budgets),
      budget=budgets.get(step, unused),
    )

  return controls
