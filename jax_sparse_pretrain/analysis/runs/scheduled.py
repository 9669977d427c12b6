"""Where runs began and ended pruning, from a table of runs or of schedules."""

import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from jax_sparse_pretrain.analysis.runs import csv_table
from jax_sparse_pretrain.analysis.runs.table import Runs

# A sweep's table has what was asked for as keys of the config; its `start` and
# `end` are steps, and its fractions are those of whole steps, all different.
NAMES = {'start': 'pruning.start', 'end': 'pruning.end'}
# Final sparsities of one request differ by whole weights.
DIGITS = 4
# Compute that differs by less is that of whole steps.
EQUAL = 0.01


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
  path: pathlib.Path,
  read_runs: Callable[[], Runs],
  given: Sequence[str] = (),
) -> Scheduled:
  """Schedules and losses of a table.

  Args:
    path: of a table of runs, with `pruning.start` and `pruning.end`, or else
      of a CSV file with the columns start, end, sparsity, loss and, if it has
      repeats, seed.
    read_runs: reads `path` as a table of runs.
    given: columns that `read_runs` derives from others.

  Raises:
    ValueError: naming the file and the column that is missing or wrong; for
      fractions that are none; and for runs of one sparsity that differ in size
      or in compute, for of these the schedule is not all that differs.
  """
  table = csv_table.read(path)
  if 'tokens' not in {*table.columns, *given}:
    columns = map(table.numbers, ('start', 'end', 'sparsity', 'loss'))
    seed = table.columns.get('seed')
    seed = None if seed is None else np.array(seed)
    return _checked(path, Scheduled(*columns, seed, None))
  runs = read_runs()
  prunes = runs.select(runs.sparsity > 0)
  if not len(prunes):
    raise ValueError(f'{path}: no run that prunes')
  start, end = (_fractions(path, prunes, *each) for each in NAMES.items())
  seed = prunes.others.get('seed')
  sparsity = np.round(prunes.sparsity, DIGITS)
  _check_alike(path, prunes, sparsity)
  seed = None if seed is None else np.array(seed)
  return _checked(
    path, Scheduled(start, end, sparsity, prunes.loss, seed, runs)
  )


def _fractions(path: pathlib.Path, runs: Runs, name: str, key: str):
  found = key if key in runs.others else name
  try:
    return np.array([float(cell) for cell in runs.labels(found)])
  except ValueError as error:
    raise ValueError(f'{path}, {found}: {error}') from None


def _check_alike(path: pathlib.Path, runs: Runs, sparsity: np.ndarray) -> None:
  compute = runs.parameters() * runs.tokens
  for name, values in (
    ('initial_parameters', runs.initial_parameters),
    ('N_avg x tokens', compute),
  ):
    for each in np.unique(sparsity):
      rows = np.flatnonzero(sparsity == each)
      least, most = (
        rows[pick(values[rows])] for pick in (np.argmin, np.argmax)
      )
      if values[most] > values[least] * (1 + EQUAL):
        raise ValueError(
          f'{path}: runs {runs.run[least]!r} and {runs.run[most]!r} differ in '
          f'{name}, {values[least]:.4g} and {values[most]:.4g}: schedules can '
          'be ranked at equal size and compute only; choose runs with --where'
        )


def _checked(path: pathlib.Path, found: Scheduled) -> Scheduled:
  for name in NAMES:
    values = getattr(found, name)
    outside = values[~((values >= 0) & (values <= 1))]
    if len(outside):
      raise ValueError(
        f'{path}, {name}: {outside[0]:g}: must be a fraction of compute, from '
        '0 to 1'
      )
  backwards = np.flatnonzero(found.start > found.end)
  if len(backwards):
    row = backwards[0]
    raise ValueError(
      f'{path}: start {found.start[row]:g}, end {found.end[row]:g}: must not '
      'end before it starts'
    )
  return found
