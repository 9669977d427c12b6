"""Pruning schedules of a table, for `rank` and `plot schedules`."""

import argparse

from jax_sparse_pretrain import storage
from jax_sparse_pretrain.analysis.contrasts.noise import Noise, replicate_noise
from jax_sparse_pretrain.analysis.contrasts.ranking import (
  Ranking,
  rank_schedules,
)
from jax_sparse_pretrain.analysis.schedule_table import (
  Scheduled,
  read_scheduled,
)
from jax_sparse_pretrain.analysis.verbs.arguments import OF_RUNS, read_runs


def add_noise(group) -> None:
  group.add_argument(
    '--noise',
    type=float,
    metavar='NATS',
    help='standard deviation of the loss of one run; by default from '
    'runs that are alike in all but their seed',
  )


def read(arguments: argparse.Namespace) -> tuple[Scheduled, Noise | None]:
  """The schedules of the one table given, and the noise of their losses.

  Raises:
    ValueError: naming the flag or the file.
  """
  if len(arguments.paths) != 1 or storage.as_path(arguments.paths[0]).is_dir():
    raise ValueError(
      'PATH: give one table: the runs.csv of a sweep, or one with the columns '
      'start, end, sparsity, loss'
    )
  path = storage.as_path(arguments.paths[0])
  given = [each.partition('=')[0].strip() for each in arguments.column]
  found = read_scheduled(path, lambda: read_runs(arguments), given)
  if found.runs is None:
    for name in OF_RUNS:
      if getattr(arguments, name):
        raise ValueError(f'--{name}: {path} is no table of runs')
  if arguments.noise is not None:
    try:
      return found, Noise(arguments.noise)
    except ValueError as error:
      raise ValueError(f'--noise: {error}') from None
  return found, found.runs and replicate_noise(found.runs)


def rank(
  found: Scheduled,
  noise: Noise | None,
  asked: tuple[float, float] = (0.25, 0.75),
  level: float = 0.95,
) -> list[Ranking]:
  """`rank_schedules` of a table."""
  return rank_schedules(
    found.start,
    found.end,
    found.sparsity,
    found.loss,
    found.seed,
    asked,
    noise,
    level,
  )
