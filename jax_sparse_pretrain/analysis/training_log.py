"""What training has logged of its runs: losses, masks and phases.

Also finds the workdirs of runs below a directory.
"""

import json
import os
import pathlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jax_sparse_pretrain import history, storage
from jax_sparse_pretrain.runs.workdir import Workdir

# A directory with this file is the workdir of a run.
MARK = Workdir(pathlib.Path()).history.name


def find_workdirs(
  path: pathlib.Path,
) -> Iterator[tuple[str, pathlib.Path]]:
  """The name and the path of each workdir at or below `path`.

  A workdir below is named by its path from there; a ValueError if there is
  none.
  """
  if not path.exists():
    raise ValueError(f'{path}: no such file or directory')
  walk = _walk_remote if storage.is_remote(path) else _walk_local
  found = list(walk(path))
  if not found:
    raise ValueError(f'{path}: no run: no {MARK} in it or below')
  for workdir in found:
    inside = workdir.relative_to(path)
    name = str(inside) if inside.parts else storage.resolved(workdir).name
    yield name, workdir


def find_begun(path: pathlib.Path) -> Iterator[tuple[str, pathlib.Path]]:
  """The workdirs of runs that have logged a step; warns of the others."""
  for name, workdir in find_workdirs(path):
    has_summary = Workdir(workdir).summary.exists()
    if has_summary or workdir == path or logged_steps(workdir):
      yield name, workdir
    else:
      text = f'{workdir}: left out: no step has been logged yet'
      warnings.warn(text, stacklevel=2)


def _walk_remote(path: pathlib.Path) -> Iterator[pathlib.Path]:
  below = sorted(path.iterdir())
  if any(each.name == MARK for each in below):
    yield path
    return
  for each in below:
    if each.is_dir():
      yield from _walk_remote(each)


def _walk_local(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """In order of name. Links are followed, but never twice."""
  seen = set()
  for directory, below, files in os.walk(path, followlinks=True):
    real = os.path.realpath(directory)
    if MARK in files and real not in seen:
      yield pathlib.Path(directory)
    if MARK in files or real in seen:
      below.clear()
    below.sort()
    seen.add(real)


class Series(NamedTuple):
  """A metric over tokens; missing values are left out."""

  tokens: np.ndarray
  values: np.ndarray


class Phase(NamedTuple):
  """A span of tokens, or of steps."""

  name: str
  start: int
  end: int


class Run(NamedTuple):
  """The metrics and the mask history of a run; losses are in nats."""

  name: str
  train: Series
  evaluation: Series
  unigram_loss: float | None
  past: history.History
  steps: int
  completed: bool

  @property
  def tokens(self) -> int:
    return self.steps * self.past.header.tokens_per_step


def read_run(workdir: pathlib.Path) -> Run:
  """Reads the files of a run, finished or not.

  Raises:
    FileNotFoundError: if the run has no metrics or no mask history.
    ValueError: for a malformed line, naming it, and for a run that has not
      logged a step yet.
  """
  files = Workdir(workdir)
  rows = _read_metrics(files.metrics)
  past = history.read(files.history)
  summary = read_json(files.summary)
  # Each file of an unfinished run may be ahead of the others.
  logged = [row['step'] for row in rows]
  steps = max([*logged, summary.get('steps', 0)])
  done = [row for row in past.rows if row.step < steps]
  if not logged or not done:
    raise ValueError(f'{workdir}: no step has been logged yet')
  return Run(
    name=storage.resolved(workdir).name,
    train=_series(rows, 'train_loss'),
    evaluation=_series(rows, 'eval_loss'),
    unigram_loss=summary.get('unigram_loss'),
    past=history.History(past.header, done),
    steps=steps,
    completed=summary.get('completed', False),
  )


def read_json(path: pathlib.Path) -> Mapping[str, Any]:
  """The JSON object in a file; empty if there is no file.

  A ValueError names a file that holds anything else.
  """
  if not path.exists():
    return {}
  if not path.is_file():
    raise ValueError(f'{path}: must be a file')
  try:
    found = json.loads(path.read_text())
  except ValueError as error:
    raise ValueError(f'{path}: not JSON: {error}') from None
  if not isinstance(found, dict):
    raise ValueError(f'{path}: must be a JSON object')
  return found


def logged_steps(workdir: pathlib.Path) -> int:
  """The steps that the metrics of a run tell of; 0 before the first."""
  path = Workdir(workdir).metrics
  rows = _read_metrics(path) if path.is_file() else []
  return max((row['step'] for row in rows), default=0)


def _read_metrics(path: pathlib.Path) -> list[dict]:
  rows = []
  # After the last newline there is nothing, or a line that is being written.
  for number, line in enumerate(path.read_text().split('\n')[:-1], start=1):
    try:
      row = json.loads(line)
      row.update(step=int(row['step']), tokens=int(row['tokens']))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
      raise ValueError(
        f'{path}, line {number}: no step and tokens: {error!r}'
      ) from None
    rows.append(row)
  return rows


def _series(rows: Sequence[Mapping], name: str) -> Series:
  present = [
    row for row in rows if row.get(name) is not None and np.isfinite(row[name])
  ]
  return Series(
    np.array([row['tokens'] for row in present], dtype=np.int64),
    np.array([row[name] for row in present], dtype=np.float64),
  )


def phases(run: Run) -> list[Phase]:
  """The phases of a run, in tokens."""
  scale = run.past.header.tokens_per_step
  return [
    Phase(each.name, each.start * scale, each.end * scale)
    for each in phases_in_steps(run.past, run.steps, run.completed)
  ]


def phases_in_steps(
  past: history.History, end: int, completed: bool
) -> list[Phase]:
  """Dense, pruning and recovery; empty for a run that never pruned.

  Pruning lasts from the first change of the count to the last. An unfinished
  run counts as pruning until it has gone without a change for longer than
  ever before.
  """
  changes = change_steps(past)
  if not changes:
    return []
  first, last = changes[0], changes[-1]
  longest_gap = max(np.diff(changes), default=0)
  if not completed and end - last <= longest_gap:
    last = end
  spans = (
    Phase('dense', 0, first),
    Phase('pruning', first, last),
    Phase('recovery', last, end),
  )
  return [each for each in spans if each.end > each.start]


def change_steps(past: history.History) -> list[int]:
  """The steps at which the count of nonzero parameters changes."""
  before = past.header.linear_parameters
  changes = []
  for row in past.rows:
    if row.nonzero != before:
      changes.append(row.step)
    before = row.nonzero
  return changes
