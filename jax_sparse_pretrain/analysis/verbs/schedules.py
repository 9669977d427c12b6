"""A schedule on the command line: which flags, and the plan they make."""

import argparse
from collections.abc import Mapping
from typing import Any

from jax_sparse_pretrain import config as config_lib
from jax_sparse_pretrain.analysis.averages import Average, planned_average
from jax_sparse_pretrain.analysis.plans.planner import check_one_shot
from jax_sparse_pretrain.planning import Plan, plan
from jax_sparse_pretrain.schedule import SHAPES

KEYS = ('sparsity', 'start', 'end', 'unit', 'every', 'schedule', 'power')
LENGTHS = ('steps', 'dense_steps')
FLAGS = ('linear_parameters', 'tokens_per_step', *LENGTHS, *KEYS)
LARGEST = 10**18
UNITS = ('compute_fraction', 'step_fraction', 'steps')


def count(text: str) -> int:
  """41549824 or 1.1e9, of parameters, tokens or steps."""
  try:
    value = float(text)
    if 1 <= value <= LARGEST and value.is_integer():
      # Digits beyond those of a float are kept.
      return int(text) if text.isdigit() else int(value)
  except (OverflowError, ValueError):
    pass
  raise argparse.ArgumentTypeError(
    f'{text!r}: must be a whole number above 0, such as 41549824 or 1.1e9, '
    f'and at most {LARGEST:.0e}'
  )


def add_schedule(parser: argparse.ArgumentParser) -> None:
  """Flags with the names and defaults of the config's keys."""
  default = config_lib.Pruning()
  group = parser.add_argument_group(
    'a schedule, with the names and defaults of the config'
  )

  def add(name: str, text: str, **more) -> None:
    group.add_argument(f'--{name}', help=text, **more)

  number = {'type': count, 'metavar': 'N'}
  real = {'type': float, 'metavar': 'X'}
  add('linear_parameters', 'of the dense model, its matmul kernels', **number)
  add('sparsity', 'at the end, in [0, 1)', **real)
  add('steps', 'of the run; or', **number)
  add('dense_steps', 'its compute, in steps of the dense model', **number)
  add('tokens_per_step', 'predicted tokens in a batch', **number)
  add('start', f'first mask update ({default.start})', **real)
  add('end', f'last mask update ({default.end})', **real)
  units = ', '.join(UNITS)
  add('unit', f'of start and end: {units}', metavar='UNIT', choices=UNITS)
  add('every', f'steps between updates ({default.every})', **number)
  shapes = ', '.join(SHAPES)
  add('schedule', f'{shapes}', metavar='SHAPE', choices=list(SHAPES))
  add('power', f"of the shape 'polynomial' ({default.power})", **real)


def is_given(arguments: argparse.Namespace) -> bool:
  return any(getattr(arguments, name) is not None for name in FLAGS)


def read_schedule(arguments: argparse.Namespace) -> Average | None:
  """What the flags of `add_schedule` plan; None if none of them is given.

  Raises:
    ValueError: naming the flag.
  """
  if not is_given(arguments):
    return None
  for name in ('linear_parameters', 'sparsity'):
    if getattr(arguments, name) is None:
      raise ValueError(f'--{name}: must be given for a schedule')
  lengths = {name: getattr(arguments, name) for name in LENGTHS}
  if (lengths['steps'] is None) == (lengths['dense_steps'] is None):
    raise ValueError('--steps, --dense_steps: give one of them')
  asked = {name: getattr(arguments, name) for name in KEYS}
  planned = make_plan(asked, **lengths)
  return planned_average(
    arguments.linear_parameters, planned, arguments.tokens_per_step
  )


def make_plan(asked: Mapping[str, Any], **lengths: int | None) -> Plan:
  """The plan of keys of the config's `pruning`; None is the default.

  Raises:
    ValueError: by the config's own checks, in words of the command line.
  """
  given = {name: value for name, value in asked.items() if value is not None}
  try:
    pruning = config_lib.from_dict({'pruning': given}).pruning
  except config_lib.ConfigError as error:
    raise ValueError(str(error).replace('pruning.', '--')) from None
  check_one_shot(pruning.schedule, pruning.start, pruning.end)
  try:
    return plan(
      shape=pruning.schedule,
      sparsity=pruning.sparsity,
      start=pruning.start,
      end=pruning.end,
      unit=pruning.unit,
      every=pruning.every,
      power=pruning.power,
      **lengths,
    )
  except ValueError as error:
    raise ValueError(f'the schedule does not fit: {error}') from None
