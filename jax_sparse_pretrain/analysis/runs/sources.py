"""Where runs come from: CSV tables, and workdirs that training has written."""

import math
import pathlib
import warnings
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from jax_sparse_pretrain import storage
from jax_sparse_pretrain.analysis.runs import csv_table, expressions
from jax_sparse_pretrain.analysis.runs.average import (
  average_parameters,
  read_json,
)
from jax_sparse_pretrain.analysis.runs.table import COLUMNS, NUMBERS
from jax_sparse_pretrain.analysis.runs.workdirs import find_begun

PARAMETERS = ('average_parameters', 'initial_parameters', 'final_parameters')
# A table may leave these out, but needs one of the three parameter counts.
OPTIONAL = ('initial_parameters', 'final_parameters', 'sparsity')


class Source(NamedTuple):
  """Some runs, and where each of them is.

  Attributes:
    names: of the runs.
    numbers: name -> float64[n], of those in `NUMBERS` that are known.
    others: name -> text, of what else a table has.
    places: file and row of each run.
    column: name -> float64[n], for expressions.
    columns: name -> what the table calls it, where that is another name.
    origin: the file or workdir, without links.
    is_counted: whether parameters and tokens are certain to be counts.
  """

  names: list[str]
  numbers: dict[str, np.ndarray]
  others: dict[str, list[str]]
  places: list[str]
  column: expressions.Column
  columns: Mapping[str, str]
  origin: pathlib.Path
  is_counted: bool = False


def read_sources(
  path: pathlib.Path, columns: Mapping[str, str], unfinished: bool
) -> Iterator[Source]:
  """The runs of a table, of a workdir, or of the workdirs below a directory.

  Raises:
    ValueError: naming the file, and the row and column where there is one.
  """
  # A pipe is no file, but can be read like one.
  if path.exists() and not path.is_dir():
    yield _read_table(path, columns)
    return
  for name, workdir in find_begun(path):
    source = _read_workdir(workdir, name, unfinished)
    if source:
      yield source


def _read_table(path: pathlib.Path, columns: Mapping[str, str]) -> Source:
  table = csv_table.read(path)
  derived: dict[str, np.ndarray] = {}

  def column(name: str) -> np.ndarray:
    if name in derived:
      return derived[name]
    return table.numbers(name, np.nan if name in OPTIONAL else None)

  for name, expression in columns.items():
    try:
      values = expressions.evaluate(expression, column)
    except ValueError as error:
      raise ValueError(f'--column {name}: {error}') from None
    derived[name] = np.broadcast_to(values, len(table.lines)).astype(float)
  known = {*table.columns, *derived}
  n = 'average_parameters'
  renamed = {} if n in known else {n: 'parameters'}
  called = {name: renamed.get(name, name) for name in NUMBERS}
  numbers = {k: column(v) for k, v in called.items() if v in known}
  _check_complete(numbers, table)
  return Source(
    names=_names(table),
    numbers=numbers,
    others={k: v for k, v in table.columns.items() if k not in COLUMNS},
    places=[f'{path}, row {line}' for line in table.lines],
    column=column,
    columns=renamed,
    origin=storage.resolved(path),
  )


def _names(table: csv_table.Table) -> list[str]:
  """The column `run`; a table without one has a run in each row."""
  if 'run' not in table.columns:
    return [f'{table.path}:{line}' for line in table.lines]
  names = [cell.strip() for cell in table.columns['run']]
  if '' in names:
    raise ValueError(f'{table.where(names.index(""), "run")}: has no name')
  return names


def _check_complete(numbers: Mapping, table: csv_table.Table) -> None:
  required = {
    'average_parameters (or parameters)': numbers.keys() & set(PARAMETERS),
    'tokens': 'tokens' in numbers,
    'loss': 'loss' in numbers,
  }
  for name, is_there in required.items():
    if not is_there:
      raise ValueError(
        f'{table.path}: no column {name}; there are {csv_table.quoted(table)}.'
        ' Say how it follows with --column NAME=EXPRESSION'
      )


def _read_workdir(
  workdir: pathlib.Path, name: str, unfinished: bool
) -> Source | None:
  """None, with a warning, for a run that has not been evaluated yet."""
  average = average_parameters(workdir)
  path = workdir / 'summary.json'
  if not (average.completed or unfinished):
    raise ValueError(
      f'{path}: an unfinished run, {average.steps:,} steps so far: finish it, '
      'leave it out, or take it as it is with --unfinished'
    )
  loss = read_json(path).get('eval_loss')
  if loss is None and not average.completed:
    warnings.warn(f'{workdir}: left out: not evaluated yet', stacklevel=2)
    return None
  if type(loss) not in (int, float) or not math.isfinite(loss):
    raise ValueError(f'{path}: eval_loss = {loss}: must be a finite number')
  values = (
    average.average_parameters,
    average.linear_parameters,
    average.final_parameters,
    average.sparsity,
    average.tokens,
    loss,
  )
  numbers = {
    name: np.array([value], dtype=np.float64)
    for name, value in zip(NUMBERS, values, strict=True)
  }

  def column(name: str) -> np.ndarray:
    if name not in numbers:
      raise ValueError(f'{workdir}: no column {name!r}; there are {NUMBERS}')
    return numbers[name]

  places, origin = [str(workdir)], storage.resolved(workdir)
  return Source([name], numbers, {}, places, column, {}, origin, True)
