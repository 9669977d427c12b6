"""Loads runs into arrays, and refuses what cannot be right.

A runs table is a CSV with the columns `table.COLUMNS`. `load_runs` also
takes tables that name things differently, by expressions on their columns, and
workdirs of runs, whose average is counted from the mask history.
"""

import os
import pathlib
import warnings
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from jax_sparse_pretrain import storage
from jax_sparse_pretrain.analysis.runs import expressions
from jax_sparse_pretrain.analysis.runs.checks import (
  check_names,
  check_numbers,
  check_origins,
  or_unknown,
)
from jax_sparse_pretrain.analysis.runs.sources import Source, read_sources
from jax_sparse_pretrain.analysis.runs.table import NUMBERS, Runs, write_runs
from jax_sparse_pretrain.shipped import shipped

__all__ = ['Runs', 'load_runs', 'write_runs']


def load_runs(
  *paths: os.PathLike | str,
  columns: Mapping[str, str] | None = None,
  where: str | Sequence[str] = (),
  drop_highest_loss: int = 0,
  unfinished: bool = False,
) -> Runs:
  """Runs of CSV tables, of workdirs, and of directories that hold workdirs.

  Args:
    *paths: of these.
    columns: for tables, name -> expression on their columns, in this order;
      each sees the file's columns and those before it. `parameters` stands
      for `average_parameters`, the N of the law.
    where: comparisons that a run must satisfy to be kept.
    drop_highest_loss: how many runs to leave out at the upper end.
    unfinished: whether to accept runs that have not ended, as they are.

  Raises:
    ValueError: naming file, row and column of what is missing, not a positive
      number, there twice, or not a count.
  """
  conditions = [where] if isinstance(where, str) else where
  columns = columns or {}
  sources = [
    _filtered(source, conditions)
    for path in paths
    for source in read_sources(_opened(path), columns, unfinished)
  ]
  check_origins(sources)
  for name in _unused(columns, conditions):
    warnings.warn(f'--column {name}: nothing uses it', stacklevel=2)
  if not any(source.names for source in sources):
    raise ValueError('no runs' + (': --where leaves none' if where else ''))
  return _without_highest(_joined(sources), drop_highest_loss)


def _opened(path: os.PathLike | str) -> pathlib.Path:
  return storage.as_path(shipped(path) if isinstance(path, str) else path)


def _unused(
  columns: Mapping[str, str], conditions: Sequence[str]
) -> Iterator[str]:
  """Derived columns that neither the law nor another expression reads."""
  for name in columns:
    others = [text for key, text in columns.items() if key != name]
    read = map(expressions.names, [*others, *conditions])
    if name not in {*NUMBERS, 'parameters'}.union(*read):
      yield name


def _filtered(source: Source, conditions: Sequence[str]) -> Source:
  keep = np.full(len(source.names), True)
  for condition in conditions:
    try:
      holds = expressions.evaluate(condition, source.column)
    except ValueError as error:
      raise ValueError(f'--where {error}') from None
    if holds.dtype != bool:
      raise ValueError(f'--where {condition!r}: must be a comparison')
    keep &= holds
  index = np.flatnonzero(keep)
  return source._replace(
    names=[source.names[i] for i in index],
    numbers={name: values[index] for name, values in source.numbers.items()},
    others={k: [cells[i] for i in index] for k, cells in source.others.items()},
    places=[source.places[i] for i in index],
  )


def _joined(sources: Sequence[Source]) -> Runs:
  for source in sources:
    check_numbers(source)
  names = [name for source in sources for name in source.names]
  places = [place for source in sources for place in source.places]
  numbers = {
    name: np.concatenate([or_unknown(source, name) for source in sources])
    for name in NUMBERS
  }
  check_names(names, places)
  shared = set.intersection(*(set(source.others) for source in sources))
  others = {
    name: tuple(cell for source in sources for cell in source.others[name])
    for name in sources[0].others
    if name in shared
  }
  return Runs(tuple(names), **numbers, others=others)


def _without_highest(runs: Runs, n: int) -> Runs:
  if n == 0:
    return runs
  if not 0 < n < len(runs):
    raise ValueError(
      f'--drop_highest_loss {n}: must be from 0 to {len(runs) - 1}'
    )
  return runs.select(np.sort(np.argsort(runs.loss, kind='stable')[:-n]))
