"""When to prune and how much: step -> fraction of the weights that is kept.

This is the only definition of a schedule. The planner and the analysis call it
on arrays of steps. The training loop reads its tables, `update_steps` and
`kept_fractions`. NumPy only.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

# Tables of this length are made on the host; no real schedule is near it.
MAX_UPDATES = 1_000_000


@dataclasses.dataclass(frozen=True)
class PruningSchedule:
  """Mask updates at steps `start, start + every, ...` and at `end`.

  The forward pass of step t + delay (0-based) is the first to see the update
  of step t.

  Attributes:
    shape: a key of `SHAPES`.
    sparsity: the fraction pruned from step `end` on, in [0, 1).
    start: the step of the first update.
    end: the step of the last update, which reaches the target exactly.
    every: steps between updates.
    power: the exponent of the shape 'polynomial'.
    share: the fraction of all linear parameters that the schedule acts on;
      below 1 where kernels are exempt. Density and compute count the others
      as dense.
    delay: steps from an update to the first forward pass that sees it.
    begins_sparse: whether weights are pruned before the first update; the
      shape is then 'constant'.
  """

  shape: str
  sparsity: float
  start: int
  end: int
  every: int
  power: float = 3.0
  share: float = 1.0
  delay: int = 0
  begins_sparse: bool = False

  def __post_init__(self):
    if self.shape not in SHAPES:
      raise ValueError(f'shape {self.shape!r}: must be one of {list(SHAPES)}')
    if not 0 <= self.sparsity < 1:
      raise ValueError(f'sparsity {self.sparsity}: must be in [0, 1)')
    if not 0 <= self.start <= self.end:
      raise ValueError(f'start {self.start}, end {self.end}: 0 <= start <= end')
    if self.every < 1:
      raise ValueError(f'every {self.every}: must be at least 1')
    if self.shape == 'one_shot' and self.start != self.end:
      raise ValueError(
        f'start {self.start}, end {self.end}: must be equal for one_shot'
      )
    if self.begins_sparse and self.shape != 'constant':
      raise ValueError(
        f"shape {self.shape!r}: must be 'constant' where weights are pruned "
        'from the beginning'
      )
    if (self.end - self.start) // self.every >= MAX_UPDATES:
      raise ValueError(
        f'start {self.start}, end {self.end}, every {self.every}: at most '
        f'{MAX_UPDATES:,} mask updates'
      )

  @functools.cached_property
  def update_steps(self) -> np.ndarray:
    """The steps of the mask updates, increasing: int64[n]."""
    regular = np.arange(self.start, self.end, self.every, dtype=np.int64)
    return np.append(regular, self.end)

  @functools.cached_property
  def kept_fractions(self) -> np.ndarray:
    """Fraction of its weights that each update keeps, falling: float64[n]."""
    kept = SHAPES[self.shape].kept(self)
    kept[-1] = 1 - self.sparsity
    return kept

  @property
  def first_density(self) -> float:
    """Fraction of all linear parameters that is there before `start`."""
    return self.final_density if self.begins_sparse else 1.0

  @property
  def final_density(self) -> float:
    """Fraction of all linear parameters that is left after `end`."""
    return 1 - self.share * self.sparsity

  @property
  def ramp_density(self) -> float:
    """Mean density from `start` to `end` if updates were continuous."""
    if self.end == self.start:
      return self.first_density
    mean = SHAPES[self.shape].mean_density(self.sparsity, self.power)
    return 1 - self.share * (1 - mean)

  @functools.cached_property
  def _densities(self) -> np.ndarray:
    """Density before the first update and after each: float64[n + 1]."""
    before = self.kept_fractions[0] if self.begins_sparse else 1.0
    return (1 - self.share) + self.share * np.append(
      before, self.kept_fractions
    )

  @functools.cached_property
  def _seen_from(self) -> np.ndarray:
    """The step whose forward pass is the first to see each update: int64[n]."""
    return self.update_steps + self.delay

  def density(self, steps) -> np.ndarray:
    """Fraction of all linear parameters in the forward pass of `steps`."""
    n_updates_done = np.searchsorted(self._seen_from, steps, side='right')
    return self._densities[n_updates_done]

  def compute(self, steps: int) -> float:
    """The cost of the first `steps` steps, in steps of the dense model."""
    bounds = np.concatenate([[0], self._seen_from, [steps]]).clip(max=steps)
    return float(np.diff(bounds) @ self._densities)


class Shape(NamedTuple):
  """A ramp: its kept fractions, and their mean in the continuous limit.

  Attributes:
    kept: schedule -> float64[n].
    mean_density: (sparsity, power) -> mean over the ramp.
  """

  kept: Callable[[PruningSchedule], np.ndarray]
  mean_density: Callable[[float, float], float]


def _geometric_kept(schedule: PruningSchedule) -> np.ndarray:
  """After update k of n: (1 - s)^((k + 1) / n)."""
  n = len(schedule.update_steps)
  return (1 - schedule.sparsity) ** (np.arange(1, n + 1) / n)


def _geometric_mean(sparsity: float, power: float) -> float:
  del power
  return sparsity / -math.log1p(-sparsity) if sparsity else 1.0


def _polynomial_kept(schedule: PruningSchedule, power: float) -> np.ndarray:
  """1 - s (1 - (1 - p)^power), after Zhu & Gupta (arXiv 1710.01878).

  Progress p counts the update's own step, (t + 1 - start) / (end - start), as
  in jaxpruner.
  """
  length = max(schedule.end - schedule.start, 1)
  progress = (schedule.update_steps + 1 - schedule.start) / length
  return 1 - schedule.sparsity * (1 - (1 - progress.clip(max=1)) ** power)


def _polynomial_mean(sparsity: float, power: float) -> float:
  return 1 - sparsity * power / (power + 1)


def _constant_kept(schedule: PruningSchedule) -> np.ndarray:
  """The target from the first update on."""
  return np.full(len(schedule.update_steps), 1 - schedule.sparsity)


def _constant_mean(sparsity: float, power: float) -> float:
  del power
  return 1 - sparsity


def _polynomial(power: float) -> Shape:
  return Shape(
    lambda schedule: _polynomial_kept(schedule, power),
    lambda sparsity, _: _polynomial_mean(sparsity, power),
  )


SHAPES = {
  'geometric': Shape(_geometric_kept, _geometric_mean),
  'polynomial': Shape(
    lambda schedule: _polynomial_kept(schedule, schedule.power),
    _polynomial_mean,
  ),
  'cubic': _polynomial(3.0),
  'linear': _polynomial(1.0),
  'one_shot': Shape(_constant_kept, _constant_mean),
  'constant': Shape(_constant_kept, _constant_mean),
}
