"""What happens in which step: config -> plan, pruner, controls."""

import ast
import math
from collections.abc import Callable, Mapping

import numpy as np

from jax_sparse_pretrain import planning, pruning
from jax_sparse_pretrain.config import Config, ConfigError, Model
from jax_sparse_pretrain.config import Pruning as PruningConfig
from jax_sparse_pretrain.model import counts
from jax_sparse_pretrain.pruning import bridge
from jax_sparse_pretrain.training.step import Controls


def model_kernels(model: Model) -> dict[str, pruning.Kernel]:
  """The linear parameters by path, from the config alone."""
  return {
    name: pruning.Kernel(shape, stacked=name.startswith('layers/'))
    for name, shape in counts.kernel_shapes(model).items()
  }


def make_targets(config: Config) -> dict[str, float]:
  """Final sparsity of every kernel that is pruned.

  Raises:
    ConfigError: for patterns or a distribution that cannot be met.
  """
  asked = config.pruning
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
  asked, share = config.pruning, _share(config)
  try:
    return planning.plan(
      shape=asked.schedule,
      sparsity=asked.sparsity,
      start=asked.start,
      end=asked.end,
      unit=asked.unit,
      every=asked.every,
      power=asked.power,
      share=share,
      **{unit: value},
    )
  except ValueError as error:
    raise ConfigError(
      f'pruning and duration.value = {config.duration.value} '
      f'{config.duration.unit} do not fit: {error}'
    ) from None


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
  config: Config, kernels: Mapping[str, pruning.Kernel]
) -> pruning.Pruner:
  """The pruner that the config asks for, of the kernels that it prunes."""
  if config.pruning.sparsity == 0:
    return pruning.no_pruning()
  pruned = {name: kernels[name] for name in make_targets(config)}
  asked = config.pruning
  if asked.library == 'jaxpruner':
    return _jaxpruner_pruner(config, pruned)
  try:
    pruner = pruning.magnitude_pruner(
      pruned,
      pruning.DISTRIBUTIONS[asked.distribution],
      structure=_structure(asked),
      score=_SCORES[asked.algorithm](config.seed),
      order=asked.order,
      mask_gradients=asked.mask_gradients or None,
      regrow=asked.regrow,
    )
  except ValueError as error:
    raise ConfigError(f'pruning.structure: {error}') from None
  return pruning.packed(pruner, pruned) if asked.pack_masks else pruner


_SCORES = {
  'magnitude': lambda seed: pruning.magnitudes,
  'random': pruning.random_scores,
}


def _structure(asked: PruningConfig) -> pruning.Structure:
  structures = {
    'unstructured': lambda: pruning.Unstructured(),
    'n_by_m': lambda: pruning.NByM(asked.n, asked.m, asked.axis),
    'block': lambda: pruning.Block(asked.block_height, asked.block_width),
    'channel': lambda: pruning.Channel(asked.axis),
  }
  return structures[asked.structure]()


def _jaxpruner_pruner(config: Config, kernels) -> pruning.Pruner:
  asked = config.pruning
  try:
    return bridge.jaxpruner_pruner(
      kernels,
      make_targets(config),
      asked.algorithm,
      sparsity=asked.sparsity,
      end_step=make_plan(config).schedule.end,
      options={name: _literal(value) for name, value in asked.options},
      seed=config.seed,
    )
  # jaxpruner checks little of what it is given.
  except (ValueError, TypeError, AttributeError, IndexError) as error:
    raise ConfigError(f'pruning.{error}') from None


def _literal(text: str):
  """'0.2' -> 0.2, 'true' -> True; what is no literal is itself."""
  if text.lower() in ('true', 'false'):
    return text.lower() == 'true'
  try:
    return ast.literal_eval(text)
  except (SyntaxError, ValueError):
    return text


def check_updates(
  config: Config, plan: planning.Plan, pruner: pruning.Pruner
) -> None:
  """A forward pass must see the last update, and snapshots must be taken.

  Raises:
    ConfigError: naming the key.
  """
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
  budgets = {
    int(step): pruner.budget_for(fractions(float(kept)))
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
    part = (1 - kept) / sparsity
    return {name: 1 - target * part for name, target in final.items()}

  return fractions
