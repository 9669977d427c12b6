"""Loads runs into arrays, and refuses what cannot be right.

A runs table is a CSV with the columns `runs_table.COLUMNS`. `load_runs` also
takes tables that name things differently, by expressions on their columns, and
workdirs of runs, whose average is counted from the mask history.
"""

import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from jax_sparse_pretrain.analysis.runs import expressions
from jax_sparse_pretrain.analysis.runs.sources import (
  PARAMETERS,
  Source,
  read_sources,
)
from jax_sparse_pretrain.analysis.runs.table import NUMBERS, Runs, write_runs

__all__ = ['Runs', 'load_runs', 'write_runs']

# Smaller counts of parameters or tokens are in thousands or billions.
SMALLEST_COUNT = 1000
# ln(1,000,000) nats: no vocabulary starts higher. Perplexities do.
HIGHEST_LOSS = 13.8
# Published counts are rounded to two or three digits.
ROUNDING = 1.02


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
  sources = [
    _filtered(source, conditions)
    for path in paths
    for source in read_sources(pathlib.Path(path), columns or {}, unfinished)
  ]
  if not any(source.names for source in sources):
    raise ValueError('no runs' + (': --where leaves none' if where else ''))
  return _without_highest(_joined(sources), drop_highest_loss)


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
    _check_numbers(source)
  names = [name for source in sources for name in source.names]
  places = [place for source in sources for place in source.places]
  numbers = {
    name: np.concatenate([_or_unknown(source, name) for source in sources])
    for name in NUMBERS
  }
  _check_names(names, places)
  shared = set.intersection(*(set(source.others) for source in sources))
  others = {
    name: tuple(cell for source in sources for cell in source.others[name])
    for name in sources[0].others
    if name in shared
  }
  return Runs(tuple(names), **numbers, others=others)


def _or_unknown(source: Source, name: str) -> np.ndarray:
  return source.numbers.get(name, np.full(len(source.names), np.nan))


def _check_names(names: Sequence[str], places: Sequence[str]) -> None:
  first: dict[str, str] = {}
  for name, place in zip(names, places, strict=True):
    if name in first:
      raise ValueError(
        f'{place}, run: {name!r} is there twice, first at {first[name]}'
      )
    first[name] = place


def _check_numbers(source: Source) -> None:
  """NaN is what is not known, and passes every comparison below."""
  numbers = {name: _or_unknown(source, name) for name in NUMBERS}

  def refuse(bad: np.ndarray, name: str, why: str) -> None:
    for row in np.flatnonzero(bad)[:1]:
      column = source.columns.get(name, name)
      value = f'{numbers[name][row]:.10g}'
      raise ValueError(f'{source.places[row]}, {column}: {value}: {why}')

  for name, values in numbers.items():
    refuse(np.isinf(values), name, 'must be finite')
    if name != 'sparsity':
      refuse(values <= 0, name, 'must be above 0')
  for name in (*PARAMETERS, 'tokens'):
    refuse(numbers[name] < SMALLEST_COUNT, name, _UNITS)
  sparsity = numbers['sparsity']
  refuse((sparsity < 0) | (sparsity >= 1), 'sparsity', 'must be in [0, 1)')
  why = 'expected nats per token, not a perplexity'
  refuse(numbers['loss'] > HIGHEST_LOSS, 'loss', why)
  average, initial, final = (numbers[name] for name in PARAMETERS)
  why = 'must lie between final_parameters and initial_parameters'
  outside = (average > initial * ROUNDING) | (average * ROUNDING < final)
  refuse(outside, 'average_parameters', why)


_UNITS = (
  'expected a count, not thousands, millions or billions; '
  "--column 'tokens = tokens * 1e9' makes one"
)


def _without_highest(runs: Runs, n: int) -> Runs:
  if n == 0:
    return runs
  if not 0 < n < len(runs):
    raise ValueError(
      f'--drop_highest_loss {n}: must be from 0 to {len(runs) - 1}'
    )
  return runs.select(np.sort(np.argsort(runs.loss, kind='stable')[:-n]))
