"""When to prune and how much: step -> fraction of the weights that is kept.

The one definition of a schedule. The planner and the analysis call it on
arrays of steps; the jitted step reads the tables it makes (`update_steps`,
`kept_fractions`), so nothing is computed twice. NumPy only.

A step costs what its kept weights cost. With T the steps of a dense run of
equal compute and g the mean density of the ramp, the paper's 25/50/25 of
compute is a dense phase of 0.25 T steps, a ramp of 0.50 T / g and a recovery
of 0.25 T / (1 - s) (arXiv 2501.12486, section 3).
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

# Tables of this length are made on the host; no real run is near it.
MAX_STEPS = 100_000_000
MAX_UPDATES = 1_000_000


@dataclasses.dataclass(frozen=True)
class PruningSchedule:
  """Mask updates at `start, start + every, ...` and at `end`.

  An update at step t comes before the forward pass of step t (0-based).

  Attributes:
    shape: a key of `SHAPES`.
    sparsity: fraction pruned from step `end` on, in [0, 1).
    start: first update step.
    end: last update step; the target is reached there exactly.
    every: steps between updates.
  """

  shape: str
  sparsity: float
  start: int
  end: int
  every: int

  def __post_init__(self):
    if self.shape not in SHAPES:
      raise ValueError(f'shape {self.shape!r}: must be one of {list(SHAPES)}')
    if not 0 <= self.sparsity < 1:
      raise ValueError(f'sparsity {self.sparsity}: must be in [0, 1)')
    if not 0 <= self.start <= self.end:
      raise ValueError(f'start {self.start}, end {self.end}: 0 <= start <= end')
    if self.every < 1:
      raise ValueError(f'every {self.every}: must be at least 1')
    if (self.end - self.start) // self.every >= MAX_UPDATES:
      raise ValueError(
        f'start {self.start}, end {self.end}, every {self.every}: at most '
        f'{MAX_UPDATES:,} mask updates'
      )

  @functools.cached_property
  def update_steps(self) -> np.ndarray:
    """Steps of the mask updates, increasing: int64[n]."""
    regular = np.arange(self.start, self.end, self.every, dtype=np.int64)
    return np.append(regular, self.end)

  @functools.cached_property
  def kept_fractions(self) -> np.ndarray:
    """Fraction kept after each update, non-increasing: float64[n]."""
    kept = SHAPES[self.shape].kept(self)
    kept[-1] = 1 - self.sparsity
    return kept

  def density(self, steps) -> np.ndarray:
    """Fraction kept in the forward pass of `steps` (any shape)."""
    n_updates_done = np.searchsorted(self.update_steps, steps, side='right')
    return np.append(1.0, self.kept_fractions)[n_updates_done]

  def compute(self, steps: int) -> float:
    """Sum of the density over the first `steps` steps, in dense steps."""
    bounds = np.concatenate([[0], self.update_steps, [steps]]).clip(max=steps)
    return float(np.diff(bounds) @ np.append(1.0, self.kept_fractions))


class Shape(NamedTuple):
  """A ramp: its kept fractions, and their mean in the continuous limit."""

  kept: Callable[[PruningSchedule], np.ndarray]
  mean_density: Callable[[float], float]


def _geometric_kept(schedule: PruningSchedule) -> np.ndarray:
  """After update k of n: (1 - s)^((k + 1) / n)."""
  n = len(schedule.update_steps)
  return (1 - schedule.sparsity) ** (np.arange(1, n + 1) / n)


def _geometric_mean(sparsity: float) -> float:
  return sparsity / -math.log1p(-sparsity) if sparsity else 1.0


def _cubic_kept(schedule: PruningSchedule) -> np.ndarray:
  """1 - s (1 - (1 - p)^3) of Zhu & Gupta (arXiv 1710.01878).

  Progress p counts the update's own step, (t + 1 - start) / (end - start), as
  in jaxpruner.
  """
  length = max(schedule.end - schedule.start, 1)
  progress = (schedule.update_steps + 1 - schedule.start) / length
  return 1 - schedule.sparsity * (1 - (1 - progress.clip(max=1)) ** 3)


def _cubic_mean(sparsity: float) -> float:
  return 1 - 0.75 * sparsity


SHAPES = {
  'geometric': Shape(_geometric_kept, _geometric_mean),
  'cubic': Shape(_cubic_kept, _cubic_mean),
}


@dataclasses.dataclass(frozen=True)
class Plan:
  """A schedule and the length of its run.

  Attributes:
    schedule: when to prune.
    steps: steps of the run.
  """

  schedule: PruningSchedule
  steps: int

  @property
  def dense_steps(self) -> float:
    """Steps of the dense run of equal compute."""
    return self.schedule.compute(self.steps)

  @property
  def mean_density(self) -> float:
    """Average over steps of the kept fraction: planned N_avg / N."""
    return self.dense_steps / self.steps

  @property
  def compute_fractions(self) -> tuple[float, float]:
    """(start, end) of the ramp as fractions of the run's compute."""
    ramp = (self.schedule.start, self.schedule.end)
    start, end = (self.schedule.compute(t) / self.dense_steps for t in ramp)
    return start, end


def plan(
  *,
  shape: str,
  sparsity: float,
  start: float,
  end: float,
  unit: str,
  every: int,
  steps: int | None = None,
  dense_steps: int | None = None,
) -> Plan:
  """Turns fractions of compute or of steps into whole steps.

  Args:
    shape: a key of `SHAPES`.
    sparsity: final sparsity, in [0, 1).
    start: first update, in `unit`.
    end: last update, in `unit`.
    unit: 'compute_fraction', 'step_fraction' or 'steps'.
    every: steps between updates; the ramp is a whole number of them.
    steps: length of the run; or
    dense_steps: its compute, in steps of the dense model. The run is then as
      long as it takes, to within half a step of the sparse model.

  Raises:
    ValueError: if not exactly one length is given, if no period fits into
      the ramp, if the last update leaves no step after it, or if the run is
      longer than `MAX_STEPS`.
  """
  if (steps is None) == (dense_steps is None):
    raise ValueError('give one of steps and dense_steps')
  _check_length(steps or dense_steps)
  if sparsity == 0:
    length = steps or dense_steps
    return Plan(PruningSchedule(shape, 0.0, 0, 0, every), length)
  phases = _phases(shape, sparsity, start, end, unit)
  if unit == 'steps':
    schedule = PruningSchedule(shape, sparsity, int(start), int(end), every)
  elif unit == 'step_fraction':
    total = steps or round(dense_steps / phases.density)
    schedule = _ramp(
      shape, sparsity, every, round(start * total), (end - start) * total
    )
  else:
    compute = dense_steps or steps * phases.density
    schedule = _compute_ramp(
      shape, sparsity, every, start * compute, end * compute, phases.ramp
    )
  if steps is None:
    recovery = (dense_steps - schedule.compute(schedule.end)) / (1 - sparsity)
    steps = schedule.end + round(recovery)
  _check_length(steps)
  if steps <= schedule.end:
    raise ValueError(
      f'the last mask update, step {schedule.end}, must come before the end '
      f'of the run, step {steps}'
    )
  return Plan(schedule, steps)


def _check_length(steps: int) -> None:
  if steps > MAX_STEPS:
    raise ValueError(f'{steps:,} steps: must be at most {MAX_STEPS:,}')


class _Phases(NamedTuple):
  ramp: float  # mean density of the ramp
  density: float  # mean density over the steps of the run


def _phases(shape, sparsity, start, end, unit) -> _Phases:
  """Mean densities in the continuous limit."""
  ramp = SHAPES[shape].mean_density(sparsity) if end > start else 1.0
  kept = 1 - sparsity
  if unit == 'compute_fraction':
    density = 1 / (start + (end - start) / ramp + (1 - end) / kept)
  else:
    density = start + (end - start) * ramp + (1 - end) * kept
  return _Phases(ramp, density)


def _ramp(shape, sparsity, every, start, length) -> PruningSchedule:
  """The ramp of whole periods that is nearest to `length` steps."""
  end = start + _periods(length, every) * every
  return PruningSchedule(shape, sparsity, start, end, every)


def _periods(length: float, every: int) -> int:
  """Whole periods nearest to `length` steps; none only for a one-shot."""
  if 0 < length < every:
    raise ValueError(
      f'every {every}: must be at most {max(int(length), 1)}, the steps of the '
      'ramp'
    )
  return round(length / every)


def _compute_ramp(shape, sparsity, every, start, end, mean) -> PruningSchedule:
  """The ramp of whole periods that ends nearest to `end` in compute.

  The staircase of updates lies below the continuous ramp of density `mean`,
  so the periods next to the continuous answer are tried.
  """
  first = round(start)
  guess = _periods((end - start) / mean, every)
  ramps = [
    PruningSchedule(shape, sparsity, first, first + n * every, every)
    for n in range(max(guess - 1, min(guess, 1)), guess + 3)
  ]
  return min(ramps, key=lambda ramp: abs(ramp.compute(ramp.end) - end))
