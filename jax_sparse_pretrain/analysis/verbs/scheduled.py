"""Pruning schedules of a table, for `rank` and `plot schedules`."""

import argparse
import pathlib

from jax_sparse_pretrain.analysis.contrasts.noise import Noise, replicate_noise
from jax_sparse_pretrain.analysis.runs.scheduled import (
  Scheduled,
  read_scheduled,
)
from jax_sparse_pretrain.analysis.verbs.arguments import read_runs


def add_noise(group) -> None:
  group.add_argument(
    '--noise',
    type=float,
    metavar='NATS',
    help='standard deviation of the loss of one schedule; by default from '
    'runs that are alike in all but their seed',
  )


def read(arguments: argparse.Namespace) -> tuple[Scheduled, Noise | None]:
  """The schedules of the one table given, and the noise of their losses.

  Raises:
    ValueError: naming the flag or the file.
  """
  if len(arguments.paths) != 1:
    raise ValueError(
      'PATH: give one table: of a sweep, or with start, end, sparsity, loss'
    )
  path = pathlib.Path(arguments.paths[0])
  found = read_scheduled(path, lambda: read_runs(arguments))
  if found.runs is None and (arguments.column or arguments.where):
    raise ValueError(f'--column, --where: {path} is no table of runs')
  if arguments.noise is not None:
    try:
      return found, Noise(arguments.noise)
    except ValueError as error:
      raise ValueError(f'--noise: {error}') from None
  return found, found.runs and replicate_noise(found.runs)
