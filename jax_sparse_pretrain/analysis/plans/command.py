"""The config of a planned run, and the command line that makes it."""

import dataclasses
import math
import operator
from collections.abc import Iterator, Mapping
from typing import Any

from jax_sparse_pretrain import config as config_lib
from jax_sparse_pretrain.planning import Plan

# The project's C4 configs and their linear parameters. They differ in what
# does not follow from a plan: remat, mesh, data.
BASES = {
  'configs/c4_58m.py': 41_549_824,
  'configs/c4_162m.py': 137_822_208,
  'configs/c4_468m.py': 435_421_184,
  'configs/c4_1b.py': 1_139_277_824,
}
MICRO_BATCH = 32  # rows, as in most of them
KEYS = (
  *('batch_size', 'accumulation_steps'),
  *(
    f'model.{name}'
    for name in ('vocab_size', 'context_length', 'n_layers', 'd_model')
  ),
  *('model.n_heads', 'model.d_ff', 'duration.unit', 'duration.value'),
  *('optimizer.peak_lr', 'pruning.sparsity'),
)
RAMP_KEYS = tuple(
  f'pruning.{name}' for name in ('schedule', 'unit', 'start', 'end', 'every')
)


def run_config(
  model: config_lib.Model,
  plan: Plan,
  tokens_per_step: int,
  compute: float,
) -> config_lib.Config:
  """The recipe of the paper for this model and these steps, checked.

  Raises:
    ConfigError: naming the key.
  """
  schedule = plan.schedule
  batch_size = tokens_per_step // model.context_length
  pruning: Mapping[str, Any] = {'sparsity': schedule.sparsity}
  if schedule.sparsity:
    pruning = {
      'sparsity': schedule.sparsity,
      'schedule': schedule.shape,
      'power': schedule.power,
      'unit': 'steps',
      'start': float(schedule.start),
      'end': float(schedule.end),
      'every': schedule.every,
    }
  values = {
    'batch_size': batch_size,
    'accumulation_steps': _micro_batches(batch_size),
    'model': dataclasses.asdict(model),
    'duration': {'value': plan.steps, 'unit': 'steps'},
    'optimizer': {'peak_lr': float(f'{0.3118 * compute**-0.125:.3e}')},
    'pruning': pruning,
  }
  return config_lib.from_dict(values)


def nearest_base(linear_parameters: float) -> str:
  """The config of the project whose model is nearest in size."""
  return min(
    BASES, key=lambda name: abs(math.log(BASES[name] / linear_parameters))
  )


def _micro_batches(batch_size: int) -> int:
  fewest = math.ceil(batch_size / MICRO_BATCH)
  return next(n for n in range(fewest, batch_size + 1) if batch_size % n == 0)


def overrides(config: config_lib.Config) -> Iterator[str]:
  """`--config.KEY=VALUE` of what a plan sets, whatever the base says."""
  ramp = RAMP_KEYS if config.pruning.sparsity else ()
  power = ('pruning.power',) if config.pruning.schedule == 'polynomial' else ()
  for key in (*KEYS, *ramp, *power):
    value = operator.attrgetter(key)(config)
    if isinstance(value, float) and value.is_integer():
      value = int(value)
    yield f'--config.{key}={value}'
