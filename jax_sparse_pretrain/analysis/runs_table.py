"""Runs as arrays, their CSV file, and numbers that cannot be right.

`loading.load_runs` reads tables. Counts and losses out of range are refused,
by file, row and column.
"""

import csv
import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Mapping, Sequence

import numpy as np

from jax_sparse_pretrain import storage
from jax_sparse_pretrain.analysis.effective import EFFECTIVE, Densities, Path

# Kinds of parameters that are columns of tables.
KINDS = ('average', 'final', 'initial')
NUMBERS = (
  'average_parameters',
  'initial_parameters',
  'final_parameters',
  'sparsity',
  'tokens',
  'loss',
)
COLUMNS = ('run', *NUMBERS)
# Tables may lack these: no kernel is then exempt, and no mass was measured.
EXEMPT, MEASURED = 'exempt_parameters', 'l1_measured_parameters'
# The column with the model that a run began from; tables may lack it.
INIT_FROM = 'init_from'


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
    paths: of each run, how long it was how dense; empty where no run says so.
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
  paths: tuple[Path | None, ...] = ()

  def __len__(self) -> int:
    return len(self.run)

  @property
  def began_from(self) -> tuple[str, ...]:
    """The model that each run began from; empty for random weights."""
    return self.others.get(INIT_FROM, ('',) * len(self))

  @property
  def continued(self) -> np.ndarray:
    """Which runs began from another model, bool[n].

    Their tokens are not all that the model has seen, and the law of the loss
    does not hold for them.
    """
    return np.array([bool(x.strip()) for x in self.began_from], dtype=bool)

  def parameters(
    self, kind: str = 'average', q: float | None = None
  ) -> np.ndarray:
    """The effective counts of one kind of `EFFECTIVE`, float64[n].

    Args:
      kind: the name of the count.
      q: its coefficient, if it has one.

    Raises:
      ValueError: if the count of a run is not known, naming the run.
    """
    if kind not in EFFECTIVE:
      raise ValueError(f'parameters {kind!r}: must be one of {list(EFFECTIVE)}')
    if kind in KINDS:  # Known, perhaps, where the others are not.
      return self._complete(f'{kind}_parameters')
    runs = self.completed()
    exempt = runs.optional(EXEMPT, 0.0)
    counts = EFFECTIVE[kind].count(
      runs.initial_parameters, exempt, runs.densities, q
    )
    return self._checked(counts, f'parameters {kind!r}')

  @property
  def densities(self) -> Densities:
    """Of the prunable weights; NaN where not known."""
    exempt = self.optional(EXEMPT, 0.0)
    average, final, measured = (
      (counts - exempt) / (self.initial_parameters - exempt)
      for counts in (
        self.average_parameters,
        self.final_parameters,
        self.optional(MEASURED, np.nan),
      )
    )
    is_dense = self.sparsity == 0
    measured = np.where(is_dense & np.isnan(measured), 1.0, measured)
    paths = self.paths or (None,) * len(self)
    always = np.ones(1), np.ones(1)
    return Densities(
      average,
      final,
      measured,
      [always if s else p for s, p in zip(is_dense, paths, strict=True)],
    )

  def optional(self, name: str, otherwise: float) -> np.ndarray:
    """Numbers of a column that tables may lack, or leave empty, (n,)."""
    cells = self.others.get(name, ('',) * len(self))
    try:
      return np.array([float(cell) if cell else otherwise for cell in cells])
    except ValueError as error:
      raise ValueError(f'column {name!r}: {error}') from None

  def completed(self) -> 'Runs':
    """Sparsity, initial and final N where they follow from each other."""
    for row in np.flatnonzero(self.final_parameters > self.initial_parameters):
      raise ValueError(
        f'run {self.run[row]!r}: final_parameters '
        f'{self.final_parameters[row]:.10g}: must be at most '
        f'initial_parameters {self.initial_parameters[row]:.10g}'
      )
    s = self.sparsity
    initial, final = self.initial_parameters, self.final_parameters
    s = np.where(np.isnan(s), 1 - final / initial, s)
    initial = np.where(np.isnan(initial), final / (1 - s), initial)
    final = np.where(np.isnan(final), initial * (1 - s), final)
    return dataclasses.replace(
      self, sparsity=s, initial_parameters=initial, final_parameters=final
    )

  def _complete(self, name: str) -> np.ndarray:
    return self._checked(getattr(self, name), name)

  def _checked(self, values: np.ndarray, name: str) -> np.ndarray:
    missing = np.flatnonzero(np.isnan(values))
    if len(missing):
      raise ValueError(
        f'{name}: not known of {len(missing)} of {len(self)} runs, such as '
        f'{self.run[missing[0]]!r}'
      )
    return values

  def labels(self, name: str) -> tuple[str, ...]:
    """A column as text, for grouping runs; an error names those there are."""
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
      paths=tuple(self.paths[i] for i in index) if self.paths else (),
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


# A smaller count in a table is in thousands, millions or billions.
SMALLEST_COUNTS = {
  'average_parameters': 1e3,
  'initial_parameters': 1e3,
  'final_parameters': 1e3,
  'tokens': 1e5,
}
# A larger count has been multiplied once too often.
LARGEST_COUNT = 1e16
FEWEST_TOKENS = 1e-2  # for each parameter
# ln(1,000,000) nats: no vocabulary starts higher, but perplexities do.
HIGHEST_LOSS = 13.8
# Published counts and sparsities are rounded to two or three digits.
ROUNDING = 1.02


def check_numbers(
  runs: Runs,
  places: Sequence[str],
  called: Mapping[str, str],
  is_counted: bool,
) -> None:
  """Raises a ValueError for the first number that cannot be right.

  Args:
    runs: the runs of one source. NaN, a value not known, passes every check.
    places: the file and row of each run.
    called: name -> the name of this column in the table, where it differs.
    is_counted: whether parameters and tokens are certain to be counts.
  """

  def refuse(bad: np.ndarray, name: str, why: str) -> None:
    for row in np.flatnonzero(bad)[:1]:
      value = f'{getattr(runs, name)[row]:.10g}'
      column = called.get(name, name)
      raise ValueError(f'{places[row]}, {column}: {value}: {why}')

  def too_few(name: str) -> str:
    column = called.get(name, name)
    return (
      'expected a count, not thousands, millions or billions; of millions '
      f"--column '{column} = {column} * 1e6' makes one"
    )

  for name in NUMBERS:
    values = getattr(runs, name)
    refuse(np.isinf(values), name, 'must be finite')
    if name != 'sparsity':
      refuse(values <= 0, name, 'must be above 0')
  initial, final = runs.initial_parameters, runs.final_parameters
  average = runs.average_parameters
  if not is_counted:
    for name, smallest in SMALLEST_COUNTS.items():
      values, most = getattr(runs, name), f'at most {LARGEST_COUNT:.0e}'
      refuse(values < smallest, name, too_few(name))
      refuse(values > LARGEST_COUNT, name, f'must be {most}')
    few = runs.tokens < FEWEST_TOKENS * np.fmin(
      np.fmin(average, initial), final
    )
    refuse(few, 'tokens', f'hardly any for the N; {too_few("tokens")}')
  sparsity = runs.sparsity
  refuse((sparsity < 0) | (sparsity >= 1), 'sparsity', 'must be in [0, 1)')
  why = 'expected nats per token, not a perplexity'
  refuse(runs.loss > HIGHEST_LOSS, 'loss', why)
  why = 'must lie between final_parameters and initial_parameters'
  outside = (average > initial * ROUNDING) | (average * ROUNDING < final)
  refuse(outside, 'average_parameters', why)
  for name in (EXEMPT, MEASURED):
    counts = runs.optional(name, np.nan)
    most = final if name == EXEMPT else initial
    least = 0 if name == EXEMPT else 1
    for row in np.flatnonzero((counts < least) | (counts > most * ROUNDING)):
      of = 'final' if name == EXEMPT else 'initial'
      raise ValueError(
        f'{places[row]}, {name}: {counts[row]:.10g}: must be a count, at most '
        f'{of}_parameters'
      )
  off = np.abs(1 - final / initial - sparsity) > ROUNDING - 1
  why = 'must be 1 - final_parameters / initial_parameters'
  refuse(off, 'sparsity', why)
