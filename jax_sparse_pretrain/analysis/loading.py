"""Loads runs from CSV tables and from workdirs, and refuses what is wrong.

A table names its columns as `runs_table.COLUMNS` does, or says by expressions
how they follow from its own. Of a workdir, the average is counted in its mask
history.
"""

import dataclasses
import itertools
import math
import os
import pathlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jax_sparse_pretrain import storage
from jax_sparse_pretrain.analysis import csv_table
from jax_sparse_pretrain.analysis.averages import Average, average_parameters
from jax_sparse_pretrain.analysis.effective import path_of
from jax_sparse_pretrain.analysis.runs_table import (
  COLUMNS,
  EXEMPT,
  INIT_FROM,
  KINDS,
  MEASURED,
  NUMBERS,
  Path,
  Runs,
  check_numbers,
)
from jax_sparse_pretrain.analysis.training_log import find_begun, read_json
from jax_sparse_pretrain.runs.workdir import Workdir
from jax_sparse_pretrain.schedule import SHAPES, PruningSchedule
from jax_sparse_pretrain.shipped import shipped

PARAMETERS = {f'{kind}_parameters' for kind in KINDS}
# Their cells may be empty, and the columns may be missing.
OPTIONAL = ('initial_parameters', 'final_parameters', 'sparsity')


class _Source(NamedTuple):
  """The runs of one table or of one workdir.

  Each has a place, its file and row. `column` gives columns by name, to
  expressions; `called` says how a table calls ours, where it differs.
  """

  runs: Runs
  places: Sequence[str]
  column: csv_table.Column
  origin: pathlib.Path  # Without links.
  called: Mapping[str, str]
  is_counted: bool  # Parameters and tokens are certain to be counts.


def load_runs(
  *paths: os.PathLike | str,
  columns: Mapping[str, str] | None = None,
  where: str | Sequence[str] = (),
  drop_highest_loss: int = 0,
  unfinished: bool = False,
  include_continued: bool = False,
) -> Runs:
  """Loads the runs of CSV tables, of workdirs, and of workdirs below a folder.

  Args:
    *paths: tables, workdirs, or directories that hold workdirs.
    columns: name -> expression on the columns of the tables, in this order;
      each sees the columns of the file and those before it. `parameters`
      stands for `average_parameters`, the N of the law.
    where: comparisons; runs that fail one are left out.
    drop_highest_loss: how many runs of the highest loss to leave out.
    unfinished: whether to accept runs that have not ended.
    include_continued: whether to keep runs that began from another model. A
      run of a table did if its column `init_from` is not empty. Without this
      they are left out, with a warning.

  Raises:
    ValueError: naming the file, the row and the column of a value that is
      missing, not a positive number, there twice, or not a count.
  """
  conditions = [where] if isinstance(where, str) else where
  columns = columns or {}
  sources = [
    _filtered(source, conditions)
    for path in paths
    for source in _sources(_as_path(path), columns, unfinished)
  ]
  seen: set[pathlib.Path] = set()
  for source in sources:
    # One file under two names would count every run twice.
    if source.origin in seen:
      raise ValueError(f'{source.origin}: is there twice')
    seen.add(source.origin)
  for name in _unused(columns, conditions):
    warnings.warn(f'--column {name}: nothing uses it', stacklevel=2)
  if not any(len(source.runs) for source in sources):
    raise ValueError('no runs' + (': --where leaves none' if where else ''))
  if not include_continued:
    sources = _without_continued(sources)
  return _without_highest(_joined(sources), drop_highest_loss)


def _as_path(path: os.PathLike | str) -> pathlib.Path:
  return storage.as_path(shipped(path) if isinstance(path, str) else path)


def _sources(
  path: pathlib.Path, columns: Mapping[str, str], unfinished: bool
) -> Iterator[_Source]:
  # A pipe is no regular file, but can be read like one.
  if path.exists() and not path.is_dir():
    yield _read_table(path, columns)
    return
  for name, workdir in find_begun(path):
    source = _read_workdir(Workdir(workdir), name, unfinished)
    if source:
      yield source


def _read_table(path: pathlib.Path, columns: Mapping[str, str]) -> _Source:
  table = csv_table.read(path)
  n = len(table.lines)
  derived: dict[str, np.ndarray] = {}

  def column(name: str) -> np.ndarray:
    if name in derived:
      return derived[name]
    return table.numbers(name, np.nan if name in OPTIONAL else None)

  for name, expression in columns.items():
    try:
      values = csv_table.evaluate(expression, column)
    except ValueError as error:
      raise ValueError(f'--column {name}: {error}') from None
    derived[name] = np.broadcast_to(values, n).astype(float)
  known = {*table.columns, *derived}
  called = {}
  if 'average_parameters' not in known and 'parameters' in known:
    called = {'average_parameters': 'parameters'}
  _check_complete(known, table)
  numbers = {
    name: column(called.get(name, name))
    if called.get(name, name) in known
    else np.full(n, np.nan)
    for name in NUMBERS
  }
  others = {k: tuple(v) for k, v in table.columns.items() if k not in COLUMNS}
  for name in {EXEMPT, MEASURED} & derived.keys():
    others[name] = tuple(map(repr, derived[name].tolist()))
  places = [f'{path}, row {line}' for line in table.lines]
  runs = Runs(_names(table), **numbers, others=others)
  return _Source(
    dataclasses.replace(runs, paths=paths_of(runs)),
    places,
    column,
    storage.resolved(path),
    called,
    is_counted=False,
  )


def _check_complete(known: set[str], table: csv_table.Table) -> None:
  required = {
    'average_parameters (or parameters)': {'parameters', *PARAMETERS},
    'tokens': {'tokens'},
    'loss': {'loss'},
  }
  for name, any_of in required.items():
    if not known & any_of:
      raise ValueError(
        f'{table.path}: no column {name}; there are {table.names}.'
        ' Say how it follows with --column NAME=EXPRESSION'
      )


def _names(table: csv_table.Table) -> tuple[str, ...]:
  """The column `run`; a table without one has a run in each row."""
  if 'run' not in table.columns:
    return tuple(f'{table.path}:{line}' for line in table.lines)
  names = tuple(cell.strip() for cell in table.columns['run'])
  if '' in names:
    raise ValueError(f'{table.where(names.index(""), "run")}: has no name')
  return names


# Updates of a ramp in a table, which does not say how many there were.
N_UPDATES = 200


def paths_of(runs: Runs) -> tuple[Path | None, ...]:
  """How long each run of a table was how dense, by its schedule.

  From the columns schedule, start, end (in steps) and steps; None where a cell
  is empty. A power of a 'polynomial' ramp is not a column.
  """
  if not {'schedule', 'start', 'end', 'steps'} <= runs.others.keys():
    return ()
  exempt = runs.optional(EXEMPT, 0.0)
  share = 1 - exempt / runs.initial_parameters
  final = 1 - runs.final_parameters / runs.initial_parameters
  sparsity = np.where(np.isnan(runs.sparsity), final, runs.sparsity)
  start, end, steps = (
    runs.optional(name, np.nan) for name in ('start', 'end', 'steps')
  )
  cells = zip(
    runs.others['schedule'],
    (sparsity / share).tolist(),
    start.tolist(),
    end.tolist(),
    steps.tolist(),
    strict=True,
  )
  return tuple(itertools.starmap(_path, cells))


def _path(shape, sparsity, start, end, steps) -> Path | None:
  if shape not in SHAPES or shape == 'polynomial' or not 0 < sparsity < 1:
    return None
  if not (0 <= start <= end < steps):
    return None
  every = max(int(end - start) // N_UPDATES, 1)
  return path_of(
    PruningSchedule(shape, sparsity, int(start), int(end), every), int(steps)
  )


def _read_workdir(
  files: Workdir, name: str, unfinished: bool
) -> _Source | None:
  """None, with a warning, for a run that has not been evaluated yet."""
  average = average_parameters(files.root)
  if not (average.completed or unfinished):
    raise ValueError(
      f'{files.summary}: an unfinished run, {average.steps:,} steps so far: '
      'finish it, leave it out, or take it as it is with --unfinished'
    )
  summary = read_json(files.summary)
  loss = summary.get('eval_loss')
  if loss is None and not average.completed:
    warnings.warn(f'{files.root}: left out: not evaluated yet', stacklevel=2)
    return None
  if type(loss) not in (int, float) or not math.isfinite(loss):
    raise ValueError(
      f'{files.summary}: eval_loss = {loss}: must be a finite number'
    )
  numbers = {
    'average_parameters': average.average_parameters,
    'initial_parameters': average.linear_parameters,
    'final_parameters': average.final_parameters,
    'sparsity': average.sparsity,
    'tokens': average.tokens,
    'loss': loss,
  }
  arrays = {k: np.array([value], np.float64) for k, value in numbers.items()}

  def column(asked: str) -> np.ndarray:
    if asked not in arrays:
      raise ValueError(
        f'{files.root}: no column {asked!r}; there are {NUMBERS}'
      )
    return arrays[asked]

  began_from = summary.get(INIT_FROM)
  others = {INIT_FROM: (str(began_from),)} if began_from else {}
  for key in (EXEMPT, MEASURED):
    known = getattr(average, key)
    others |= {} if known is None else {key: (repr(known),)}
  path = _counted_path(average)
  runs = Runs((name,), **arrays, others=others, paths=(path,))
  origin = storage.resolved(files.root)
  return _Source(runs, [str(files.root)], column, origin, {}, is_counted=True)


def _counted_path(average: Average) -> Path | None:
  """How long a run was how dense, by its mask history."""
  exempt, linear = average.exempt_parameters or 0, average.linear_parameters
  if exempt == linear:
    return None
  starts, nonzero = np.array(average.counts, float).T
  weights = np.diff(np.append(starts, average.steps)) / average.steps
  return weights, (nonzero - exempt) / (linear - exempt)


def _filtered(source: _Source, conditions: Sequence[str]) -> _Source:
  keep = np.full(len(source.runs), True)
  for condition in conditions:
    try:
      holds = csv_table.evaluate(condition, source.column)
    except ValueError as error:
      raise ValueError(f'--where {error}') from None
    if holds.dtype != bool:
      raise ValueError(f'--where {condition!r}: must be a comparison')
    keep &= holds
  return _select(source, keep)


def _select(source: _Source, keep: np.ndarray) -> _Source:
  places = [source.places[i] for i in np.flatnonzero(keep)]
  return source._replace(runs=source.runs.select(keep), places=places)


def _without_continued(sources: Sequence[_Source]) -> list[_Source]:
  names = [name for source in sources for name in source.runs.run]
  masks = [source.runs.continued for source in sources]
  continued = np.flatnonzero(np.concatenate(masks))
  if len(continued) == len(names):
    raise ValueError(
      f'no runs: all began from another model ({INIT_FROM}); '
      '--include_continued keeps them'
    )
  if len(continued):
    warnings.warn(
      f'left out: {len(continued)} of {len(names)} runs, which began from '
      f'another model ({INIT_FROM}), such as {names[continued[0]]!r}; '
      '--include_continued keeps them',
      stacklevel=3,
    )
  return [
    _select(source, ~mask) for source, mask in zip(sources, masks, strict=True)
  ]


def _unused(
  columns: Mapping[str, str], conditions: Sequence[str]
) -> Iterator[str]:
  """Derived columns that neither the law nor another expression reads."""
  for name in columns:
    others = [text for key, text in columns.items() if key != name]
    read = map(csv_table.names, [*others, *conditions])
    if name not in {*NUMBERS, 'parameters'}.union(*read):
      yield name


def _joined(sources: Sequence[_Source]) -> Runs:
  first: dict[str, str] = {}
  for source in sources:
    check_numbers(source.runs, source.places, source.called, source.is_counted)
  for source in sources:
    for name, place in zip(source.runs.run, source.places, strict=True):
      if name in first:
        raise ValueError(
          f'{place}, run: {name!r} is there twice, first at {first[name]}; '
          'rename one of them, or give the directory above both'
        )
      first[name] = place
  every = _all_with_optional([source.runs for source in sources])
  shared = set.intersection(*(set(runs.others) for runs in every))
  return Runs(
    tuple(first),
    **{
      name: np.concatenate([getattr(runs, name) for runs in every])
      for name in NUMBERS
    },
    others={
      name: tuple(cell for runs in every for cell in runs.others[name])
      for name in every[0].others
      if name in shared
    },
    paths=tuple(
      path for runs in every for path in (runs.paths or (None,) * len(runs))
    ),
  )


def _all_with_optional(every: Sequence[Runs]) -> Sequence[Runs]:
  """If one source has a column that others may lack, all have it, empty."""
  for name in (INIT_FROM, EXEMPT, MEASURED):
    if any(any(runs.others.get(name, ())) for runs in every):
      every = [
        dataclasses.replace(
          runs, others={name: ('',) * len(runs), **runs.others}
        )
        for runs in every
      ]
  return every


def _without_highest(runs: Runs, n: int) -> Runs:
  if n == 0:
    return runs
  if not 0 < n < len(runs):
    raise ValueError(
      f'--drop_highest_loss {n}: must be from 0 to {len(runs) - 1}'
    )
  return runs.select(np.sort(np.argsort(runs.loss, kind='stable')[:-n]))
