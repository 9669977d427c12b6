"""When each run of a table began and ended pruning, as `rank` needs it."""

import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from jax_sparse_pretrain.analysis import csv_table
from jax_sparse_pretrain.analysis.runs_table import Runs

# The table of a sweep has keys of the config, which say what was asked for.
# Its columns `start` and `end` are steps.
NAMES = {'start': 'pruning.start', 'end': 'pruning.end'}
# Final sparsities of one request differ by whole weights.
DIGITS = 4
# Compute of whole steps differs by less.
EQUAL = 0.01


class Scheduled(NamedTuple):
  """One element for each run that prunes.

  Attributes:
    start: the start of pruning, as a fraction of compute.
    end: the end of pruning, as a fraction of compute.
    sparsity: the final sparsity.
    loss: the loss in nats.
    seed: the seed as text; None if the table has none.
    runs: all runs of the table, with those that do not prune; None for a
      table without counts.
  """

  start: np.ndarray
  end: np.ndarray
  sparsity: np.ndarray
  loss: np.ndarray
  seed: np.ndarray | None
  runs: Runs | None


def read_scheduled(
  path: pathlib.Path,
  read_runs: Callable[[], Runs],
  given: Sequence[str] = (),
) -> Scheduled:
  """The schedules and losses of a table.

  Args:
    path: a table of runs with `pruning.start` and `pruning.end`, or a CSV
      file with the columns start, end, sparsity, loss and, for repeats, seed.
    read_runs: reads `path` as a table of runs.
    given: columns that `read_runs` derives from others.

  Raises:
    ValueError: naming the file and the column that is missing or wrong; and
      for runs of one sparsity that differ in size or in compute, because
      then they differ by more than their schedule.
  """
  table = csv_table.read(path)
  if 'tokens' in {*table.columns, *given}:
    found = _of_runs(path, read_runs())
  else:
    columns = map(table.numbers, ('start', 'end', 'sparsity', 'loss'))
    found = Scheduled(*columns, _array(table.columns.get('seed')), None)
  for name in NAMES:
    values = getattr(found, name)
    outside = values[~((values >= 0) & (values <= 1))]
    if len(outside):
      raise ValueError(
        f'{path}, {name}: {outside[0]:g}: must be a fraction of compute, from '
        '0 to 1'
      )
  for row in np.flatnonzero(found.start > found.end)[:1]:
    raise ValueError(
      f'{path}: start {found.start[row]:g}, end {found.end[row]:g}: must not '
      'end before it starts'
    )
  return found


def _of_runs(path: pathlib.Path, runs: Runs) -> Scheduled:
  prunes = runs.select(runs.sparsity > 0)
  if not len(prunes):
    raise ValueError(f'{path}: no run that prunes')
  ends = []
  for name, key in NAMES.items():
    column = key if key in prunes.others else name
    try:
      ends.append(np.array(list(map(float, prunes.labels(column)))))
    except ValueError as error:
      raise ValueError(f'{path}, {column}: {error}') from None
  sparsity = np.round(prunes.sparsity, DIGITS)
  _check_alike(path, prunes, sparsity)
  seed = _array(prunes.others.get('seed'))
  return Scheduled(*ends, sparsity, prunes.loss, seed, runs)


def _array(cells: Sequence[str] | None) -> np.ndarray | None:
  return None if cells is None else np.array(cells)


def _check_alike(path: pathlib.Path, runs: Runs, sparsity: np.ndarray) -> None:
  compared = {
    'initial_parameters': runs.initial_parameters,
    'N_avg x tokens': runs.parameters() * runs.tokens,
  }
  for name, values in compared.items():
    for each in np.unique(sparsity):
      rows = np.flatnonzero(sparsity == each)
      least, most = rows[values[rows].argmin()], rows[values[rows].argmax()]
      if values[most] > values[least] * (1 + EQUAL):
        raise ValueError(
          f'{path}: runs {runs.run[least]!r} and {runs.run[most]!r} differ in '
          f'{name}, {values[least]:.4g} and {values[most]:.4g}: schedules can '
          'be ranked at equal size and compute only; choose runs with --where'
        )
