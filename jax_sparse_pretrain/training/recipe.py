"""What happens in which step: config -> plan, controls."""

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jax_sparse_pretrain import planning, pruning
from jax_sparse_pretrain.config import Config, ConfigError, Model, Optimizer
from jax_sparse_pretrain.model import counts
from jax_sparse_pretrain.training import optimizer, pruners
from jax_sparse_pretrain.training.step import Controls


def model_kernels(model: Model) -> dict[str, pruning.Kernel]:
  """The linear parameters by path, from the config alone."""
  return {
    name: pruning.Kernel(shape, stacked=name.startswith('layers/'))
    for name, shape in counts.kernel_shapes(model).items()
  }


def make_targets(config: Config) -> dict[str, float]:
  """Final sparsity of every kernel that is pruned; none in a dense run.

  Raises:
    ConfigError: for patterns or a distribution that cannot be met.
  """
  asked = config.pruning
  if asked.sparsity == 0:
    return {}
  try:
    return pruning.targets(
      model_kernels(config.model),
      asked.sparsity,
      asked.distribution,
      asked.exempt,
      asked.sparsities,
    )
  except ValueError as error:
    raise ConfigError(f'pruning.{error}') from None


def make_plan(config: Config) -> planning.Plan:
  """Durations and fractions of the config -> whole steps."""
  value, unit = config.duration.value, config.duration.unit
  if unit == 'tokens':
    value, unit = max(1, round(value / config.tokens_per_step)), 'steps'
  asked = config.pruning
  acts = pruners.traits(asked) if asked.sparsity else pruners.Traits()
  share = _share(config) if acts.prunes else 0.0
  try:
    plan = planning.plan(
      shape=asked.schedule,
      sparsity=asked.sparsity,
      start=asked.start,
      end=asked.end,
      unit=asked.unit,
      every=asked.every,
      power=asked.power,
      share=share,
      delay=acts.delay,
      begins_sparse=acts.begins_sparse,
      **{unit: value},
    )
  except ValueError as error:
    raise ConfigError(
      f'pruning and duration.value = {config.duration.value} '
      f'{config.duration.unit} do not fit: {error}'
    ) from None
  _check_warmup(config.optimizer, plan.steps)
  return plan


def _check_warmup(asked: Optimizer, steps: int) -> None:
  """Fractions are checked with the config, steps where the run's are known."""
  decay = 0
  if asked.schedule == 'warmup_stable_decay':
    decay = optimizer.decay_steps(asked, steps)
  if asked.warmup_steps > steps - decay:
    raise ConfigError(
      f'optimizer.warmup_steps = {asked.warmup_steps}: must be at most '
      f'{steps - decay} of the {steps} steps of the run'
    )


def _share(config: Config) -> float:
  """Final sparsity of all linear parameters over `pruning.sparsity`."""
  if config.pruning.sparsity == 0:
    return 1.0
  kernels = model_kernels(config.model)
  pruned = math.fsum(
    target * math.prod(kernels[name].shape)
    for name, target in make_targets(config).items()
  )
  total = counts.linear_parameters(config.model)
  return pruned / total / config.pruning.sparsity


def make_pruner(
  config: Config, plan: planning.Plan, kernels: Mapping[str, pruning.Kernel]
) -> pruning.Pruner:
  """The pruner of a run, checked against its plan.

  Raises:
    ConfigError: naming the key that does not fit.
  """
  pruner = pruners.make_pruner(
    config.pruning,
    kernels,
    make_targets(config),
    end_step=plan.schedule.end,
    seed=config.seed,
  )
  _check_updates(config, plan, pruner)
  return pruner


def _check_updates(
  config: Config, plan: planning.Plan, pruner: pruning.Pruner
) -> None:
  """A forward pass must see the last update, and snapshots must be taken."""
  asked, last = config.pruning, plan.schedule.end + pruner.delay
  if asked.sparsity and last >= plan.steps:
    raise ConfigError(
      f'pruning.end, step {plan.schedule.end}: must be below '
      f'{plan.steps - pruner.delay}, for a step that sees its masks'
    )
  for step in asked.snapshots:
    if not (asked.sparsity and 1 <= step <= plan.steps):
      raise ConfigError(
        f'pruning.snapshots: {step}: must be from 1 to {plan.steps}, of a '
        'sparse run'
      )


def make_controls(
  config: Config,
  plan: planning.Plan,
  pruner: pruning.Pruner,
  learning_rates: np.ndarray,
) -> Callable[[int], Controls]:
  """Returns step -> controls of that step."""
  schedule = plan.schedule
  fractions = _kept_fractions(config)
  steps = schedule.update_steps.tolist()
  kept = dict(zip(steps, schedule.kept_fractions.tolist(), strict=True))

  @functools.lru_cache(maxsize=2)
  def budget_at(update_step: int) -> Any:
    return pruner.budget_for(fractions(kept[update_step]))

  def controls(step: int) -> Controls:
    return Controls(
      learning_rate=learning_rates[step],
      prune=np.bool_(step in kept),
      # One that is not used, too, has to have the structure of a budget.
      budget=budget_at(step if step in kept else schedule.end),
    )

  return controls


def _kept_fractions(config: Config) -> Callable:
  """The schedule's kept fraction -> that of each kernel.

  Kernels go to their own targets in step: when a part of the schedule's
  sparsity is reached, the same part of each target is.
  """
  sparsity = config.pruning.sparsity
  if sparsity == 0 or config.pruning.distribution == 'global':
    return lambda kept: kept
  final = make_targets(config)

  def fractions(kept: float) -> dict[str, float]:
    # Exactly 1 at the last update, which reaches each target exactly.
    part = 1.0 if kept == 1 - sparsity else (1 - kept) / sparsity
    return {name: 1 - target * part for name, target in final.items()}

  return fractions
