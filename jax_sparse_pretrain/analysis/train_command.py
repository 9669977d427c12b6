"""A run to train: its model, its whole steps, and the command for them.

Shapes are those of the family of arXiv 2501.12486: d_ff is 4 d_model, d_model
is 128/3 to 128 times the number of layers, as in its four models, and head_dim
is 64 or near it.
"""

import collections
import dataclasses
import math
from collections.abc import Iterator, Mapping
from fractions import Fraction
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
    effective_parameters: N of the law.
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
  effective_parameters: float
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
  *('average_parameters', 'effective_parameters'),
  *('final_parameters', 'final_total_parameters'),
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


# d_model / n_layers. The paper's: 85 and 64, 128/3 at 468M, 128 at 1.2B.
WIDEST, DEEPEST = 128, Fraction(128, 3)
USUAL_ASPECT, USUAL_HEAD = 64, 64
HEADS = (48, 96)  # head_dim, from and to, of models that are wide enough
# Hardware likes multiples of 64, but small models would be few.
GRID = ((512, 16), (1024, 32), (math.inf, 64))  # d_model below, its multiples
# Sizes that differ by less are the same to a law: 2e-4 nats at 1B.
ALIKE = 0.0025
# No larger model has been trained; beyond it a budget is a slip of units.
MAX_PARAMETERS = 1e14


def choose_architecture(
  linear_parameters: float, vocab_size: int, context_length: int
) -> config_lib.Model:
  """The member of the family nearest to a count of linear parameters.

  The count includes the LM head. Of those within 0.25 %, it is the one whose
  aspect ratio is nearest to 64, unless one is met exactly.

  Raises:
    ValueError: if it is below the smallest such model, or above
      `MAX_PARAMETERS`.
  """
  base = config_lib.Model(vocab_size=vocab_size, context_length=context_length)
  smallest = counts.linear_parameters(_shaped(base, GRID[0][1], 1))
  if not smallest <= linear_parameters <= MAX_PARAMETERS:
    form = ',.0f' if linear_parameters < MAX_PARAMETERS else '.3g'
    raise ValueError(
      f'{linear_parameters:{form}} linear parameters: must be at least '
      f'{smallest:,}, the smallest model with a vocabulary of {vocab_size:,}, '
      f'and at most {MAX_PARAMETERS:.0e}'
    )

  def distance(model: config_lib.Model) -> tuple[float, float]:
    off = abs(counts.linear_parameters(model) / linear_parameters - 1)
    aspect = model.d_model / model.n_layers
    return (
      max(off, ALIKE) if off else 0.0,
      abs(math.log(aspect / USUAL_ASPECT)),
    )

  return min(_near(base, linear_parameters), key=distance)


def depths(d_model: int) -> range:
  """Numbers of layers that the family has at this width."""
  fewest = math.ceil(d_model / WIDEST)
  return range(fewest, max(fewest, math.floor(d_model / DEEPEST)) + 1)


def widths() -> Iterator[int]:
  """The d_model that the family has, increasing, without end."""
  d_model = 0
  while True:
    d_model += next(step for below, step in GRID if d_model < below)
    if HEADS[0] <= head_dim(d_model) <= HEADS[1] or d_model < HEADS[0]:
      yield d_model


def head_dim(d_model: int) -> int:
  """The divisor nearest to 64 among multiples of 8."""
  divisors = (n for n in range(8, 2 * USUAL_HEAD, 8) if d_model % n == 0)
  return min(divisors, key=lambda n: abs(math.log(n / USUAL_HEAD)))


def _near(base: config_lib.Model, wanted: float) -> Iterator[config_lib.Model]:
  """Of each width, the depths next to the wanted size."""
  for d_model in widths():
    allowed = depths(d_model)
    shallow = _shaped(base, d_model, allowed[0])
    yield shallow
    if counts.linear_parameters(shallow) > wanted:
      return
    head = d_model * base.vocab_size
    layer = counts.linear_parameters(_shaped(base, d_model, 1)) - head
    n_layers = math.floor((wanted - head) / layer)
    for each in (n_layers, n_layers + 1):
      yield _shaped(base, d_model, min(max(each, allowed[0]), allowed[-1]))


def _shaped(
  base: config_lib.Model, d_model: int, n_layers: int
) -> config_lib.Model:
  return dataclasses.replace(
    base,
    n_layers=n_layers,
    d_model=d_model,
    n_heads=d_model // head_dim(d_model),
    d_ff=4 * d_model,
  )
