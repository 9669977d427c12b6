"""One run, read from the files of its workdir."""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jax_sparse_pretrain import history, storage


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
  """Metrics and mask history; losses in nats."""

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
  """The files of a run, finished or not.

  Raises:
    FileNotFoundError: if the run has no metrics or no mask history.
    ValueError: for a malformed line, naming it, and for a run that has not
      logged a step yet.
  """
  rows = _read_metrics(workdir / 'metrics.jsonl')
  past = history.read(workdir / 'mask_history.jsonl')
  summary = _read_summary(workdir / 'summary.json')
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


def _read_metrics(path: pathlib.Path) -> list[dict]:
  # What follows the last newline is nothing, or a line being written.
  lines = path.read_text().split('\n')[:-1]
  return [
    _parse(line, f'{path}, line {number}')
    for number, line in enumerate(lines, start=1)
  ]


def _parse(line: str, where: str) -> dict:
  try:
    row = json.loads(line)
    return {'step': int(row['step']), 'tokens': int(row['tokens']), **row}
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(f'{where}: no step and tokens: {error!r}') from None


def _read_summary(path: pathlib.Path) -> Mapping:
  return json.loads(path.read_text()) if path.exists() else {}


def _series(rows: Sequence[Mapping], name: str) -> Series:
  present = [
    row for row in rows if row.get(name) is not None and np.isfinite(row[name])
  ]
  return Series(
    np.array([row['tokens'] for row in present], dtype=np.int64),
    np.array([row[name] for row in present], dtype=np.float64),
  )


def logged_steps(workdir: pathlib.Path) -> int:
  """Steps of a run by its metrics; 0 if it has not logged one yet."""
  path = workdir / 'metrics.jsonl'
  rows = _read_metrics(path) if path.is_file() else []
  return max((row['step'] for row in rows), default=0)


def phases(run: Run) -> list[Phase]:
  """Those of `phases_in_steps`, in tokens."""
  scale = run.past.header.tokens_per_step
  return [
    Phase(each.name, each.start * scale, each.end * scale)
    for each in phases_in_steps(run.past, run.steps, run.completed)
  ]


def phases_in_steps(
  past: history.History, end: int, completed: bool
) -> list[Phase]:
  """Dense, pruning, recovery; empty for a run that never pruned.

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
  bounds = {
    'dense': (0, first),
    'pruning': (first, last),
    'recovery': (last, end),
  }
  return [
    Phase(name, start, stop)
    for name, (start, stop) in bounds.items()
    if stop > start
  ]


def change_steps(past: history.History) -> list[int]:
  """Steps at which the count of nonzero parameters changes."""
  before = past.header.linear_parameters
  changes = []
  for row in past.rows:
    if row.nonzero != before:
      changes.append(row.step)
    before = row.nonzero
  return changes
