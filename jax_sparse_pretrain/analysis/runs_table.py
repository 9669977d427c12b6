"""Runs as arrays, and as a CSV file with the columns `COLUMNS`.

`loading.load_runs` reads them.
"""

import csv
import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Mapping

import numpy as np

from jax_sparse_pretrain import storage

# Kind of parameters -> its name in tables and pictures.
NAMES = {'average': 'N_avg', 'final': 'N final', 'initial': 'N initial'}
KINDS = tuple(NAMES)
NUMBERS = (
  'average_parameters',
  'initial_parameters',
  'final_parameters',
  'sparsity',
  'tokens',
  'loss',
)
COLUMNS = ('run', *NUMBERS)


@dataclasses.dataclass(frozen=True, eq=False)
class Runs:
  """Each array has one element for each run; NaN is a value not known.

  Attributes:
    run: the names of the runs, all different.
    average_parameters: N_avg, the mean over training of the nonzero linear
      parameters.
    initial_parameters: linear parameters before pruning.
    final_parameters: nonzero linear parameters at the end.
    sparsity: 1 - final_parameters / initial_parameters.
    tokens: D, the tokens predicted in training.
    loss: the final loss in nats per token.
    others: the other columns of the tables, as text.
  """

  run: tuple[str, ...]
  average_parameters: np.ndarray
  initial_parameters: np.ndarray
  final_parameters: np.ndarray
  sparsity: np.ndarray
  tokens: np.ndarray
  loss: np.ndarray
  others: Mapping[str, tuple[str, ...]] = dataclasses.field(
    default_factory=dict
  )

  def __len__(self) -> int:
    return len(self.run)

  def parameters(self, kind: str = 'average') -> np.ndarray:
    """The counts of one kind of `KINDS`, float64[n].

    Raises:
      ValueError: if the count of a run is not known, naming the run.
    """
    if kind not in KINDS:
      raise ValueError(f'parameters {kind!r}: must be one of {list(KINDS)}')
    return self._complete(f'{kind}_parameters')

  def _complete(self, name: str) -> np.ndarray:
    values = getattr(self, name)
    missing = np.flatnonzero(np.isnan(values))
    if len(missing):
      raise ValueError(
        f'{name}: not known of {len(missing)} of {len(self)} runs, such as '
        f'{self.run[missing[0]]!r}'
      )
    return values

  def labels(self, name: str) -> tuple[str, ...]:
    """A column as text, for grouping runs.

    Raises:
      ValueError: if there is no such column, naming the columns there are.
    """
    if name == 'run':
      return self.run
    if name in self.others:
      return self.others[name]
    if name in NUMBERS:
      return tuple(map(repr, self._complete(name).tolist()))
    known = ', '.join(map(repr, [*self.others, *COLUMNS]))
    raise ValueError(f'no column {name!r}; there are {known}')

  def select(self, which: np.ndarray) -> 'Runs':
    """The runs that a mask or indices pick."""
    index = np.arange(len(self))[which]
    others = {
      name: tuple(cells[i] for i in index)
      for name, cells in self.others.items()
    }
    return dataclasses.replace(
      self,
      run=tuple(self.run[i] for i in index),
      others=others,
      **{name: getattr(self, name)[index] for name in NUMBERS},
    )

  @property
  def fingerprint(self) -> str:
    """SHA-256 of the numbers in their order, without the names."""
    rows = np.stack([getattr(self, name) for name in NUMBERS]).tolist()
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def write_runs(path: os.PathLike | str, runs: Runs) -> None:
  """Writes a CSV table of runs; unknown values are empty cells."""
  storage.replace(path, as_csv(runs))


def as_csv(runs: Runs) -> str:
  """The text of a CSV table of runs."""
  columns = [getattr(runs, name) for name in NUMBERS]
  text = io.StringIO()
  writer = csv.writer(text, lineterminator='\n')
  writer.writerow([*COLUMNS, *runs.others])
  for name, *row in zip(runs.run, *columns, *runs.others.values(), strict=True):
    writer.writerow([name, *map(_cell, row)])
  return text.getvalue()


def _cell(value: float | str) -> str:
  """The shortest text that keeps every bit."""
  if isinstance(value, str):
    return value
  if np.isnan(value):
    return ''
  is_count = value == round(value) and abs(value) < 2**53
  return str(int(value)) if is_count else repr(float(value))
