"""Where to prune: schedules of equal compute, ranked by their loss.

How far a schedule must be from the best to be told from it follows from the
noise floor: how much the losses of runs differ that differ in seed alone.
"""

import dataclasses
import math
import pathlib
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np
from scipy import integrate, optimize, stats

from jax_sparse_pretrain.analysis import csv_table
from jax_sparse_pretrain.analysis.runs_table import Runs

# Columns of a sweep's table that follow from the config, besides section.key.
CONFIG_COLUMNS = (
  *('batch_size', 'accumulation_steps'),
  *('schedule', 'start', 'end', 'init_from'),
)
# Points of the integrals over a normal and a chi variate.
POINTS = 80
# Beyond it the ends of those integrals would matter.
HIGHEST_LEVEL = 0.9999


@dataclasses.dataclass(frozen=True)
class Noise:
  """How much the loss of one run varies with its seed.

  Attributes:
    sd: standard deviation in nats, pooled over groups of seeds.
    dof: degrees of freedom of `sd`; infinite where `sd` was given.
    groups: number of groups of seeds; 0 where `sd` was given.
  """

  sd: float
  dof: float = math.inf
  groups: int = 0

  def __post_init__(self):
    if not (self.sd >= 0 and math.isfinite(self.sd)):
      raise ValueError(f'noise {self.sd}: must be at least 0, and finite')


def replicate_noise(runs: Runs) -> Noise | None:
  """The noise of runs that differ in nothing but their seed, or None.

  Runs are alike if they have equal N, D and sparsity, and equal values in every
  column that is a key of the config or of its plan, as a sweep's table has
  them. The column `seed` tells them apart. A seed that comes again is the same
  run and counts once. Without two such runs the answer is None.
  """
  if 'seed' not in runs.others:
    return None
  groups = defaultdict(dict)
  for config, seed, loss in zip(
    _configs(runs), runs.others['seed'], runs.loss, strict=True
  ):
    groups[config].setdefault(seed, loss)
  repeated = [
    np.array(list(losses.values()))
    for losses in groups.values()
    if len(losses) > 1
  ]
  dof = sum(len(losses) - 1 for losses in repeated)
  if not dof:
    return None
  squares = sum(((losses - losses.mean()) ** 2).sum() for losses in repeated)
  return Noise(math.sqrt(squares / dof), dof, len(repeated))


def _configs(runs: Runs) -> list[tuple]:
  keys = [
    cells
    for name, cells in runs.others.items()
    if '.' in name or name in CONFIG_COLUMNS
  ]
  numbers = (runs.initial_parameters, runs.tokens, runs.sparsity)
  return list(zip(*numbers, *keys, strict=True))


@dataclasses.dataclass(frozen=True)
class Schedule:
  """A start and an end, as fractions of compute, and the loss they lead to."""

  start: float
  end: float
  loss: float


@dataclasses.dataclass(frozen=True)
class Ranking:
  """Schedules of one sparsity.

  Attributes:
    sparsity: the share of zeros at the end.
    schedules: in order of their loss, the least first.
    asked: the schedule whose rank was asked for; None if it is not there.
    margin: loss above the best from which on a schedule is worse than it,
      in nats; None without a noise floor.
  """

  sparsity: float
  schedules: Sequence[Schedule]
  asked: Schedule | None
  margin: float | None

  @property
  def best(self) -> Schedule:
    return self.schedules[0]

  @property
  def rank(self) -> int | None:
    """The rank of the schedule asked for, from 1."""
    return None if self.asked is None else self.schedules.index(self.asked) + 1

  @property
  def gap(self) -> float | None:
    """The loss of the schedule asked for above the best, in nats."""
    return None if self.asked is None else self.asked.loss - self.best.loss

  @property
  def n_not_told_apart(self) -> int | None:
    """Schedules, with the best, that the noise does not tell from it."""
    if self.margin is None:
      return None
    most = self.best.loss + self.margin
    return sum(each.loss <= most for each in self.schedules)


def rank_schedules(
  start,
  end,
  sparsity,
  loss,
  seed=None,
  asked: tuple[float, float] = (0.25, 0.75),
  noise: Noise | None = None,
  level: float = 0.95,
) -> list[Ranking]:
  """Rankings by sparsity, in increasing order of it.

  The margin takes losses as independent, as they are between seeds. Schedules
  of one seed have initialisation and data in common, so it may be too wide.

  A schedule's loss is its mean over the seeds that every schedule of its
  sparsity has, so that none has an advantage by more of them.

  Args:
    start: where pruning starts, as a fraction of compute, (m,).
    end: where it ends, likewise, (m,).
    sparsity: the sparsity at the end, (m,).
    loss: the loss of each run in nats, (m,).
    seed: the seed of each run, (m,); by default all have the same.
    asked: the (start, end) whose rank is asked for.
    noise: how much the loss of one run varies.
    level: the level of confidence at which a schedule is worse than the best.

  Raises:
    ValueError: if schedules of one sparsity have no seed in common, or one
      has a seed twice.
  """
  seed = np.zeros(len(np.atleast_1d(loss))) if seed is None else seed
  columns = [np.asarray(each) for each in (start, end, sparsity, loss, seed)]
  rankings = []
  for value in np.unique(columns[2]):
    rows = [each[columns[2] == value] for each in columns]
    schedules, n_seeds = _averaged(rows, value)
    found = [s for s in schedules if np.allclose((s.start, s.end), asked)]
    rankings.append(
      Ranking(
        float(value),
        schedules,
        found[0] if found else None,
        _margin(noise, len(schedules), n_seeds, level),
      )
    )
  return rankings


def _averaged(rows, sparsity: float) -> tuple[list[Schedule], int]:
  """Schedules, the best first, and how many seeds they have in common."""
  losses: dict[tuple[float, float], dict] = {}
  for start, end, _, loss, seed in zip(*rows, strict=True):
    of_schedule = losses.setdefault((float(start), float(end)), {})
    if seed in of_schedule:
      raise ValueError(
        f'sparsity {sparsity:g}, start {start:g}, end {end:g}: seed {seed} is '
        'there twice'
      )
    of_schedule[seed] = float(loss)
  common = set.intersection(*map(set, losses.values()))
  if not common:
    raise ValueError(f'sparsity {sparsity:g}: schedules share no seed')
  schedules = [
    Schedule(*ends, float(np.mean([each[seed] for seed in sorted(common)])))
    for ends, each in losses.items()
  ]
  return sorted(schedules, key=lambda each: each.loss), len(common)


def _margin(
  noise: Noise | None, n_schedules: int, n_seeds: int, level: float
) -> float | None:
  if noise is None or n_schedules < 2:
    return None
  critical = critical_gap(n_schedules, noise.dof, level)
  return critical * noise.sd / math.sqrt(n_seeds)


def critical_gap(n: int, dof: float, level: float = 0.95) -> float:
  """How far one of n equal things is above the least of them, by chance alone.

  The quantile of that at `level`, in standard deviations that are themselves
  estimated with `dof` degrees of freedom. It is the constant of Hsu's multiple
  comparisons with the best (Annals of Statistics 9, 1981), sqrt(2) times
  Dunnett's one-sided t.

  Raises:
    ValueError: for a level that no gap above 0 has, or too near 1.
  """
  if not 1 / n < level <= HIGHEST_LEVEL:
    raise ValueError(
      f'level {level}: must be above 1/{n}, with {n} schedules, and at most '
      f'{HIGHEST_LEVEL}'
    )
  z, weight = np.polynomial.hermite_e.hermegauss(POINTS)
  weight = weight / weight.sum()

  def probability(gap: float, scale: float) -> float:
    return float(weight @ stats.norm.sf(z - gap * scale) ** (n - 1))

  def excess(gap: float) -> float:
    if math.isinf(dof):
      return probability(gap, 1.0) - level
    chi = stats.chi(dof, scale=1 / math.sqrt(dof))
    mass, _ = integrate.quad(
      lambda scale: chi.pdf(scale) * probability(gap, scale),
      chi.ppf(1e-9),
      chi.ppf(1 - 1e-9),
    )
    return mass - level

  return float(optimize.brentq(excess, 0, 1e3, xtol=1e-6))


# The table of a sweep has keys of the config, which say what was asked for.
# Its columns `start` and `end` are steps.
NAMES = {'start': 'pruning.start', 'end': 'pruning.end'}
# Final sparsities of one request differ by whole weights.
DIGITS = 4
# Compute of whole steps differs by less.
EQUAL = 0.01


def read_scheduled(
  path: pathlib.Path,
  read_runs: Callable[[], Runs],
  given: Sequence[str] = (),
) -> tuple[tuple, Runs | None]:
  """The start, end, sparsity, loss and seed of each run that prunes.

  Args:
    path: a table of runs with `pruning.start` and `pruning.end`, or a CSV
      file with the columns start, end, sparsity, loss and, for repeats, seed.
    read_runs: reads `path` as a table of runs.
    given: columns that `read_runs` derives from others.

  Returns:
    The columns, the seed as text or None; and all runs of the table, with
    those that do not prune, or None for a table without counts.

  Raises:
    ValueError: naming the file and the column that is missing or wrong; and
      for runs of one sparsity that differ in size or in compute, because
      then they differ by more than their schedule.
  """
  table, runs = csv_table.read(path), None
  if 'tokens' in {*table.columns, *given}:
    runs = read_runs()
    columns, seed = _of_runs(path, runs)
  else:
    names = ('start', 'end', 'sparsity', 'loss')
    columns, seed = list(map(table.numbers, names)), table.columns.get('seed')
  start, end, *_ = columns
  for name, values in (('start', start), ('end', end)):
    outside = values[~((values >= 0) & (values <= 1))]
    if len(outside):
      raise ValueError(
        f'{path}, {name}: {outside[0]:g}: must be a fraction of compute, from '
        '0 to 1'
      )
  for row in np.flatnonzero(start > end)[:1]:
    raise ValueError(
      f'{path}: start {start[row]:g}, end {end[row]:g}: must not '
      'end before it starts'
    )
  return (*columns, None if seed is None else np.array(seed)), runs


def _of_runs(path: pathlib.Path, runs: Runs) -> tuple[list, Sequence | None]:
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
  return [*ends, sparsity, prunes.loss], prunes.others.get('seed')


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
