"""What a config asks for: how long a run is, what prunes it, and when.

From the checked config alone: the kernels and their targets, the plan, the
pruner, and the controls of every step.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jax_sparse_pretrain import config as config_lib
from jax_sparse_pretrain import data, hardware, planning, pruning, schema
from jax_sparse_pretrain.config import Config, ConfigError
from jax_sparse_pretrain.model import counts
from jax_sparse_pretrain.planning import Plan
from jax_sparse_pretrain.pruning.jaxpruner import bridge, upstream
from jax_sparse_pretrain.text import Line, listing
from jax_sparse_pretrain.training import optimizer
from jax_sparse_pretrain.training.step import Controls

_SCORES = {
  'magnitude': lambda seed: pruning.magnitudes,
  'random': pruning.random_scores,
}


def model_kernels(model: config_lib.Model) -> dict[str, pruning.Kernel]:
  """The linear parameters by path."""
  return {
    name: pruning.Kernel(shape, stacked=name.startswith('layers/'))
    for name, shape in counts.kernel_shapes(model).items()
  }


def make_targets(config: Config) -> dict[str, float]:
  """The final sparsity of every kernel with a mask; none in a dense run.

  Masks that only hold the zeros a run begins with have a sparsity of 0 here.

  Raises:
    ConfigError: for patterns or a distribution that cannot be met.
  """
  asked, kernels = config.pruning, model_kernels(config.model)
  if not config.has_masks:
    return {}
  try:
    return pruning.targets(
      kernels,
      asked.sparsity,
      asked.distribution if asked.sparsity else 'uniform',
      asked.exempt,
      asked.sparsities,
    )
  except ValueError as error:
    raise ConfigError(f'pruning.{error}') from None


def exempt_parameters(config: Config) -> int:
  """The linear parameters in kernels without a mask; 0 in a dense run."""
  targets = make_targets(config)
  if not targets:
    return 0
  kernels = model_kernels(config.model)
  return sum(
    math.prod(kernel.shape)
    for name, kernel in kernels.items()
    if name not in targets
  )


def make_plan(config: Config) -> Plan:
  """The schedule and the length of the run, in whole steps.

  Raises:
    ConfigError: if the schedule or the warm-up does not fit the run.
  """
  value, unit = config.duration.value, config.duration.unit
  if unit == 'tokens':
    value, unit = max(1, round(value / config.tokens_per_step)), 'steps'
  traits = upstream.Traits()
  if config.pruning.sparsity:
    traits = _traits(config.pruning)
  try:
    plan = planning.plan_config(
      config.pruning,
      share=_share(config) if traits.prunes else 0.0,
      delay=traits.delay,
      begins_sparse=traits.begins_sparse,
      **{unit: value},
    )
  except ValueError as error:
    raise ConfigError(
      f'pruning and duration.value = {config.duration.value} '
      f'{config.duration.unit} do not fit: {error}'
    ) from None
  _check_warmup(config.optimizer, plan.steps)
  return plan


def _share(config: Config) -> float:
  """The final sparsity of all linear parameters over `pruning.sparsity`."""
  if config.pruning.sparsity == 0:
    return 1.0
  kernels = model_kernels(config.model)
  pruned = math.fsum(
    target * math.prod(kernels[name].shape)
    for name, target in make_targets(config).items()
  )
  total = counts.linear_parameters(config.model)
  return pruned / total / config.pruning.sparsity


def _check_warmup(asked: config_lib.Optimizer, steps: int) -> None:
  """`config` checks fractions; whole steps are known only here."""
  decay = 0
  if asked.schedule == 'warmup_stable_decay':
    decay = optimizer.decay_steps(asked, steps)
  if asked.warmup_steps > steps - decay:
    raise ConfigError(
      f'optimizer.warmup_steps = {asked.warmup_steps}: must be at most '
      f'{steps - decay} of the {steps} steps of the run'
    )


def plan_table(config: Config, plan: Plan) -> str:
  """What a run will be and cost.

  Hours are those of one H100 at 40 % of its dense bfloat16 peak. Hardware
  computes the pruned weights too, so the hours are those of a dense model.
  """
  return listing('Plan', list(_plan_lines(config, plan)))


def _plan_lines(config: Config, plan: Plan) -> Iterator[Line]:
  model, schedule = config.model, plan.schedule
  linear = counts.linear_parameters(model)
  tokens = plan.steps * config.tokens_per_step
  average = plan.mean_density * linear
  yield Line('Linear parameters', f'{linear:,}', 'N of the dense model')
  if schedule.sparsity:
    share = f'{plan.mean_density:.1%} of dense'
    yield Line('  average', f'{average:,.0f}', f'N_avg, {share}')
    end = linear * float(schedule.density(plan.steps - 1))
    yield Line('  at the end', f'{end:,.0f}', f'{end / linear:.1%} of dense')
  if config.init_masks_from_zeros:
    yield Line('  zeros of init_from', 'not counted', 'they come off these')
  yield Line('All parameters', f'{counts.total_parameters(model):,}')
  yield Line()
  yield Line('Steps', f'{plan.steps:,}')
  if schedule.sparsity:
    start, end = plan.compute_fractions
    yield Line(
      '  pruned from', f'{schedule.start:,}', f'{start:.1%} of compute'
    )
    yield Line('  to', f'{schedule.end:,}', f'{end:.1%} of compute')
  yield Line('Tokens', f'{tokens:,}', f'D, {config.tokens_per_step:,} a step')
  compute = counts.training_flops(average, tokens)
  yield Line('Compute', f'{compute:.3e}', 'FLOPs, 6 N_avg D')
  executed = tokens * counts.flops_per_token(model, linear)
  hours = executed / (0.4 * hardware.CHIPS['H100'].peak_flops) / 3600
  text = 'below 0.1' if hours < 0.1 else f'{hours:,.1f}'
  yield Line('H100 hours', text, 'at 40 % of its peak')


def corpus_notes(config: Config) -> list[str]:
  """Lines about the data, as far as they can be told without reading them."""
  return data.describe(config.data)


def make_pruner(config: Config, plan: Plan) -> pruning.Pruner:
  """The pruner of a run, of either library, checked against the plan.

  Raises:
    ConfigError: naming the key that does not fit.
  """
  asked, targets = config.pruning, make_targets(config)
  kernels = model_kernels(config.model)
  pruned = {name: kernels[name] for name in targets}
  pruner = pruning.no_pruning()
  if config.has_masks and asked.library == 'builtin':
    pruner = _builtin(config, pruned)
  elif asked.sparsity:
    try:
      pruner = bridge.jaxpruner_pruner(
        pruned,
        targets,
        asked.algorithm,
        sparsity=asked.sparsity,
        end_step=plan.schedule.end,
        options=_options(asked),
        seed=config.seed,
      )
    except ValueError as error:
      raise ConfigError(f'pruning.{error}') from None
  _check_updates(asked, plan, pruner)
  return pruner


def _builtin(config: Config, kernels) -> pruning.Pruner:
  asked = config.pruning
  try:
    pruner = pruning.magnitude_pruner(
      kernels,
      pruning.DISTRIBUTIONS[asked.distribution],
      structure=_structure(asked),
      score=_SCORES[asked.algorithm](config.seed),
      order=asked.order,
      mask_gradients=asked.mask_gradients or None,
      regrow=asked.regrow,
      from_zeros=config.init_masks_from_zeros,
    )
  except ValueError as error:
    raise ConfigError(f'pruning.structure: {error}') from None
  return pruning.packed(pruner, kernels) if asked.pack_masks else pruner


def _structure(asked: config_lib.Pruning) -> pruning.Structure:
  match asked.structure:
    case 'n_by_m':
      return pruning.NByM(asked.n, asked.m, asked.axis)
    case 'block':
      return pruning.Block(asked.block_height, asked.block_width)
    case 'channel':
      return pruning.Channel(asked.axis)
  return pruning.Unstructured()


def _traits(asked: config_lib.Pruning) -> upstream.Traits:
  """What a plan has to know of the pruner.

  Raises:
    ConfigError: for a schedule that the pruner would not follow.
  """
  if asked.library == 'builtin':
    return upstream.Traits(delay=int(asked.order == 'after'))
  try:
    found = upstream.traits(
      upstream.load_jaxpruner(), asked.algorithm, _options(asked)
    )
  except ValueError as error:
    raise ConfigError(f'pruning.{error}') from None
  if found.begins_sparse and asked.schedule != 'constant':
    raise ConfigError(
      f"pruning.schedule = {asked.schedule!r}: must be 'constant' for "
      f'{asked.algorithm!r}, which is sparse from step 0'
    )
  if found.n_by_m:
    _check_n_by_m(asked, *found.n_by_m)
  return found


def _check_n_by_m(asked: config_lib.Pruning, n: int, m: int) -> None:
  if asked.sparsities or asked.distribution == 'erk':
    raise ConfigError(
      f'pruning.options: sparsity_type: {n}:{m} needs pruning.sparsities = () '
      "and distribution 'uniform': every group keeps its share"
    )
  has_ramp = asked.schedule not in ('one_shot', 'constant')
  if has_ramp or not math.isclose(asked.sparsity, 1 - n / m):
    raise ConfigError(
      f'pruning.options: sparsity_type: {n}:{m} has no ramp: needs '
      f'pruning.sparsity = {1 - n / m} and schedule one_shot or constant'
    )


def _options(asked: config_lib.Pruning) -> dict[str, Any]:
  names = [name for name, _ in asked.options]
  for name in names:
    if names.count(name) > 1:
      raise ValueError(f'options: {name} is given twice')
  return {name: schema.literal(value) for name, value in asked.options}


def _check_updates(
  asked: config_lib.Pruning, plan: Plan, pruner: pruning.Pruner
) -> None:
  """A forward pass must see the last update, and snapshots must be taken."""
  last = plan.schedule.end + pruner.delay
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
  plan: Plan,
  pruner: pruning.Pruner,
  learning_rates: np.ndarray,
) -> Callable[[int], Controls]:
  """Returns step (0-based) -> the controls of that step.

  Kernels approach their own targets together: when the schedule has reached a
  part of its sparsity, each kernel has reached the same part of its target.
  """
  asked, schedule, targets = config.pruning, plan.schedule, make_targets(config)
  steps = schedule.update_steps.tolist()
  kept = dict(zip(steps, schedule.kept_fractions.tolist(), strict=True))

  @functools.lru_cache(maxsize=2)
  def budget_at(update_step: int) -> Any:
    fraction = kept[update_step]
    if asked.sparsity and asked.distribution != 'global':
      fraction = pruning.kept_on_the_way(targets, asked.sparsity, fraction)
    return pruner.budget_for(fraction)

  def controls(step: int) -> Controls:
    return Controls(
      learning_rate=learning_rates[step],
      prune=np.bool_(asked.sparsity > 0 and step in kept),
      # A step without an update gets a budget too: the structure is compiled.
      budget=budget_at(step if step in kept else schedule.end),
    )

  return controls
