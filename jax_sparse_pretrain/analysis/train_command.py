"""A run to train: its model, its whole steps, and the command for them."""

import collections
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from jax_sparse_pretrain import config as config_lib
from jax_sparse_pretrain.model import counts
from jax_sparse_pretrain.planning import Plan
from jax_sparse_pretrain.text import closed

# The project's C4 configs and their linear parameters. They differ in what a
# plan does not set: remat, mesh, data.
BASES = {
  'configs/c4_58m.py': 41_549_824,
  'configs/c4_162m.py': 137_822_208,
  'configs/c4_468m.py': 435_421_184,
  'configs/c4_1b.py': 1_139_277_824,
}
MICRO_BATCH = 32  # rows, as in most of them
SHAPE = (
  *('vocab_size', 'context_length'),
  *('n_layers', 'd_model', 'n_heads', 'd_ff'),
)


@dataclasses.dataclass(frozen=True)
class NextRun:
  """A run in whole layers, steps and mask updates.

  Attributes:
    config: its checked config, but for what only its base sets.
    plan: its ramp and length in steps.
    base: the config file that the command starts from.
    settings: dotted key of the config -> what the plan sets it to.
    wanted_parameters: dense linear parameters, before there was a model.
    wanted_compute: FLOPs, before there were whole steps.
    loss: the predicted loss, in nats per token.
    interval: of the law at this point, (low, high), where an open side is 0
      or infinite; None if not known.
  """

  config: config_lib.Config
  plan: Plan
  base: str
  settings: Mapping[str, Any]
  wanted_parameters: float
  wanted_compute: float
  loss: float
  interval: tuple[float, float] | None = None

  @property
  def sparsity(self) -> float:
    return self.plan.schedule.sparsity

  @property
  def linear_parameters(self) -> int:
    """The exact count of the model before it is pruned."""
    return counts.linear_parameters(self.config.model)

  @property
  def average_parameters(self) -> float:
    """N_avg over the planned steps."""
    return self.plan.mean_density * self.linear_parameters

  @property
  def final_parameters(self) -> int:
    """Nonzero linear parameters at the end."""
    return round((1 - self.sparsity) * self.linear_parameters)

  @property
  def final_total_parameters(self) -> int:
    """The same with input embedding and norm scales, which stay dense."""
    total = counts.total_parameters(self.config.model)
    return total - self.linear_parameters + self.final_parameters

  @property
  def tokens(self) -> int:
    return self.plan.steps * self.config.tokens_per_step

  @property
  def compute_flops(self) -> float:
    """C = 6 N_avg D."""
    return counts.training_flops(self.average_parameters, self.tokens)

  @property
  def inference_flops(self) -> int:
    """FLOPs a token, forward, without attention, if kernels skip zeros."""
    return 2 * self.final_parameters

  def fewer_than(self, other: 'NextRun') -> float:
    """Share of its linear parameters, and FLOPs, saved at inference."""
    return 1 - self.final_parameters / other.final_parameters

  @property
  def off_parameters(self) -> float:
    """By how much the model differs from the wanted size, as a share."""
    return self.linear_parameters / self.wanted_parameters - 1

  @property
  def off_compute(self) -> float:
    """By how much 6 N_avg D differs from the wanted compute, as a share."""
    return self.compute_flops / self.wanted_compute - 1

  @property
  def command(self) -> tuple[str, ...]:
    """Arguments of `python -m jax_sparse_pretrain.train`."""
    words = [f'--config={self.base}']
    for key, value in self.settings.items():
      is_whole = isinstance(value, float) and value.is_integer()
      words.append(f'--config.{key}={int(value) if is_whole else value}')
    return tuple(words)

  def as_dict(self) -> dict[str, Any]:
    """All of it in plain values, for JSON."""
    model, schedule = self.config.model, self.plan.schedule
    ramp = {name: getattr(schedule, name) for name in ('start', 'end', 'every')}
    ramp['updates'] = len(schedule.update_steps)
    ramp['compute_fractions'] = self.plan.compute_fractions
    shape = ('n_layers', 'd_model', 'n_heads', 'head_dim', 'd_ff')
    return {
      'sparsity': self.sparsity,
      'model': {name: getattr(model, name) for name in shape},
      'steps': self.plan.steps,
      'tokens_per_step': self.config.tokens_per_step,
      'ramp': ramp if self.sparsity else None,
      'mean_density': self.plan.mean_density,
      **{name: getattr(self, name) for name in NUMBERS},
      'interval': self.interval and closed(self.interval),
      'command': ' '.join(
        ['python -m jax_sparse_pretrain.train', *self.command]
      ),
    }


NUMBERS = (
  *('linear_parameters', 'wanted_parameters', 'off_parameters'),
  *('average_parameters', 'final_parameters', 'final_total_parameters'),
  *('tokens', 'compute_flops', 'wanted_compute', 'off_compute'),
  *('inference_flops', 'loss'),
)


def make_settings(
  model: config_lib.Model, plan: Plan, tokens_per_step: int, compute: float
) -> dict[str, Any]:
  """Dotted key of the config -> value, by the recipe of the paper.

  The peak learning rate is that of the project's configs, 0.3118 C^-0.125.
  """
  schedule = plan.schedule
  batch_size = tokens_per_step // model.context_length
  fewest = math.ceil(batch_size / MICRO_BATCH)
  micro_batches = range(fewest, batch_size + 1)
  settings = {
    'batch_size': batch_size,
    'accumulation_steps': next(n for n in micro_batches if not batch_size % n),
  }
  for name in SHAPE:
    settings[f'model.{name}'] = getattr(model, name)
  settings |= {
    'duration.unit': 'steps',
    'duration.value': plan.steps,
    'optimizer.peak_lr': float(f'{0.3118 * compute**-0.125:.3e}'),
    'pruning.sparsity': schedule.sparsity,
  }
  if schedule.sparsity:
    settings |= {
      'pruning.schedule': schedule.shape,
      'pruning.unit': 'steps',
      'pruning.start': float(schedule.start),
      'pruning.end': float(schedule.end),
      'pruning.every': schedule.every,
    }
    if schedule.shape == 'polynomial':
      settings['pruning.power'] = schedule.power
  return settings


def make_config(settings: Mapping[str, Any]) -> config_lib.Config:
  """The config with these settings, checked."""
  sections = collections.defaultdict(dict)
  for key, value in settings.items():
    section, _, name = key.rpartition('.')
    sections[section][name] = value
  return config_lib.from_dict({**sections.pop(''), **sections})


def nearest_base(linear_parameters: float) -> str:
  """The config of the project whose model is nearest in size."""
  return min(
    BASES, key=lambda name: abs(math.log(BASES[name] / linear_parameters))
  )
