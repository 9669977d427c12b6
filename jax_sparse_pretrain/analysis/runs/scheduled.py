"""Where runs began and ended pruning, from a table of runs or of schedules."""

import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jax_sparse_pretrain.analysis.runs import csv_table
from jax_sparse_pretrain.analysis.runs.table import Runs

# A sweep's table has what was asked for as keys of the config; its `start` and
# `end` are steps, and its fractions are those of whole steps, all different.
NAMES = {'start': 'pruning.start', 'end': 'pruning.end'}
# Final sparsities of one request differ by whole weights.
DIGITS = 4


class Scheduled(NamedTuple):
  """One element a run that prunes.

  Attributes:
    start: of pruning, as a fraction of compute.
    end: likewise.
    sparsity: at the end.
    loss: in nats.
    seed: as text; None if the table has none.
    runs: all of the table, those that do not prune too; None for a table that
      has no counts.
  """

  start: np.ndarray
  end: np.ndarray
  sparsity: np.ndarray
  loss: np.ndarray
  seed: np.ndarray | None
  runs: Runs | None


def read_scheduled(
  path: pathlib.Path, read_runs: Callable[[], Runs]
) -> Scheduled:
  """Schedules and losses of a table.

  Args:
    path: of a table of runs, with `pruning.start` and `pruning.end`, or else
      of a CSV file with the columns start, end, sparsity and loss.
    read_runs: reads `path` as a table of runs.

  Raises:
    ValueError: naming the file and the column that is missing or wrong, and
      for fractions outside 0 to 1.
  """
  table = csv_table.read(path)
  if 'tokens' not in table.columns:
    columns = map(table.numbers, ('start', 'end', 'sparsity', 'loss'))
    return _checked(path, Scheduled(*columns, None, None))
  runs = read_runs()
  prunes = runs.select(runs.sparsity > 0)
  if not len(prunes):
    raise ValueError(f'{path}: no run that prunes')
  start, end = (_fractions(path, prunes, *each) for each in NAMES.items())
  seed = prunes.others.get('seed')
  return _checked(
    path,
    Scheduled(
      start,
      end,
      np.round(prunes.sparsity, DIGITS),
      prunes.loss,
      None if seed is None else np.array(seed),
      runs,
    ),
  )


def _fractions(path: pathlib.Path, runs: Runs, name: str, key: str):
  found = key if key in runs.others else name
  try:
    return np.array([float(cell) for cell in runs.labels(found)])
  except ValueError as error:
    raise ValueError(f'{path}, {found}: {error}') from None


def _checked(path: pathlib.Path, found: Scheduled) -> Scheduled:
  for name in NAMES:
    values = getattr(found, name)
    outside = values[~((values >= 0) & (values <= 1))]
    if len(outside):
      raise ValueError(
        f'{path}, {name}: {outside[0]:g}: must be a fraction of compute, from '
        '0 to 1'
      )
  return found
