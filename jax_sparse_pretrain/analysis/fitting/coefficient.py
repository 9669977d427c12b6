"""The coefficient of an effective count: profiled over, law by law.

N of the law depends on it in any way at all, so that it is no exponent. Given
its value the law is Chinchilla's, of which the global optimum is found. So a
grid of values is fitted, at some of which the search is global and from which
the others follow, and the best of them is refined.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jax_sparse_pretrain.analysis.effective import EFFECTIVE, Coefficient
from jax_sparse_pretrain.analysis.fitting import search
from jax_sparse_pretrain.analysis.fitting.design import SAME_COUNT, Design
from jax_sparse_pretrain.analysis.fitting.intervals import objective_threshold
from jax_sparse_pretrain.analysis.fitting.solver import minimise
from jax_sparse_pretrain.analysis.runs_table import Runs

N_GRID, GLOBAL_EVERY = 17, 8
# Parts of the range of values: of the least distance that is told apart.
ACCURACY = 1e-7


class Candidate(NamedTuple):
  """A value of the coefficient, and the best law for it.

  Attributes:
    q: the value.
    design: the runs, as this value counts them.
    theta: the law, in units of the design, (k,).
    objective: at the law.
  """

  q: float
  design: Design
  theta: np.ndarray
  objective: float


def best(
  make: Callable[[float], Design], coefficient: Coefficient, delta: float
) -> Candidate:
  """The value of least objective.

  Args:
    make: value -> the runs, as it counts them.
    coefficient: which has the range of values.
    delta: of the Huber loss.
  """
  from scipy.optimize import minimize_scalar

  grid = np.linspace(coefficient.low, coefficient.high, N_GRID)
  anchors = [candidate(q, make(q), delta) for q in grid[4::GLOBAL_EVERY]]
  found = [candidate(q, make(q), delta, *anchors) for q in grid]
  at = int(np.argmin([each.objective for each in found]))
  lowest = min(
    found[at], candidate(grid[at], make(grid[at]), delta), key=_objective
  )
  between = grid[max(at - 1, 0)], grid[min(at + 1, N_GRID - 1)]

  def near(q: float) -> Candidate:
    return candidate(q, make(q), delta, lowest)

  refined = near(
    minimize_scalar(
      lambda q: near(q).objective,
      bounds=between,
      method='bounded',
      options={'xatol': ACCURACY * (coefficient.high - coefficient.low)},
    ).x
  )
  # At a bound the bounded search stops just inside.
  return min(refined, lowest, key=_objective)


def _objective(each: Candidate) -> float:
  return each.objective


def candidate(
  q: float, design: Design, delta: float, *starts: Candidate
) -> Candidate:
  """The best law for a value, searched for globally or from those of others."""
  if not starts:
    return Candidate(q, design, *search.lowest(design.problem, delta))
  # At once: a batch takes little longer than one.
  begin = [
    design.theta(each.design.coefficients(each.theta)) for each in starts
  ]
  begin = np.clip(begin, design.problem.lower, design.problem.upper)
  theta, objectives = minimise(begin, design.problem, delta)
  best = objectives.argmin()
  return Candidate(q, design, theta[best], float(objectives[best]))


# Part of the range of a coefficient within which it is at its bound.
BOUND = 1e-4
# Values of the table around a coefficient, and how far it goes: where the
# objective has risen by so many thresholds of a 95 % interval.
N_TABLE, TABLE_REACH = 25, 6.0
# Of these a resample tries every second.
EVERY = 2


@dataclasses.dataclass(frozen=True, eq=False)
class FittedCount:
  """The coefficient of an effective count, with values around it.

  Attributes:
    kind: the name of the count.
    name: of the coefficient.
    value: at the optimum.
    values: of a table around it, increasing, (v,).
    parameters: N of each run by each value, (v, m).
    laws: the five coefficients of the best law of each, (v, 5).
    objectives: of these, (v,).
  """

  kind: str
  name: str
  value: float
  values: np.ndarray
  parameters: np.ndarray
  laws: np.ndarray
  objectives: np.ndarray

  @property
  def warnings(self) -> tuple[str, ...]:
    """Sentences on a coefficient that means nothing, or is at its bound."""
    if np.ptp(np.log(self.parameters), axis=0).max() < SAME_COUNT:
      return (f'{self.name} does not matter to N of these runs',)
    ends = EFFECTIVE[self.kind].coefficient
    return tuple(
      f'{self.name} is at its bound of {end:g}'
      for end in (ends.low, ends.high)
      if abs(self.value - end) <= BOUND * (ends.high - ends.low)
    )

  def interval(self, risen: np.ndarray, threshold: float):
    """The values whose objective has risen by less; infinite sides are open."""
    # Nearly linear in the distance on each side.
    height = np.sqrt(risen / threshold) if threshold > 0 else 0 * risen
    ends = []
    for side, none in ((-1, -np.inf), (1, np.inf)):
      away = side * (self.values - self.value) >= 0
      x = np.append(self.value, self.values[away][::side])
      y = np.append(0.0, height[away][::side])
      out = np.flatnonzero(y >= 1)
      if not len(out):
        ends.append(none)
        continue
      j, i = out[0], max(out[0] - 1, 0)
      ends.append(float(np.interp(1.0, [y[i], y[j]], [x[i], x[j]])))
    return tuple(ends)

  def as_dict(self) -> dict[str, Any]:
    return {
      name: each.tolist() if isinstance(each, np.ndarray) else each
      for name, each in vars(self).items()
    }

  @classmethod
  def from_dict(cls, values, m: int) -> 'FittedCount':
    """The inverse of `as_dict`, for m runs; a ValueError if it is not."""
    made = cls(
      **{
        name: np.asarray(each, float) if isinstance(each, list) else each
        for name, each in values.items()
      }
    )
    v = len(made.values)
    shapes = [made.parameters.shape, made.laws.shape, made.objectives.shape]
    is_right = made.kind in EFFECTIVE and isinstance(made.value, float)
    if not is_right or shapes != [(v, m), (v, 5), (v,)] or not v:
      raise ValueError('count: is not what fit has written')
    return made


def table(
  runs: Runs,
  kind: str,
  found: Candidate,
  make: Callable[[float], Design],
  delta: float,
) -> FittedCount:
  """Values around the best, as far as the data could want them."""
  coefficient = EFFECTIVE[kind].coefficient
  k = len(found.theta) + 1
  far = found.objective + TABLE_REACH * objective_threshold(
    found.design, found.theta, delta, 0.95, k
  )

  def rises(q: float) -> bool:
    each = candidate(q, make(q), delta, found)
    return each.objective > far

  ends = []
  for bound in (coefficient.low, coefficient.high):
    inner, outer = found.q, bound
    if rises(outer):
      for _ in range(12):
        middle = (inner + outer) / 2
        inner, outer = (inner, middle) if rises(middle) else (middle, outer)
    ends.append(outer)
  values = np.linspace(*ends, N_TABLE)
  each = [candidate(q, make(q), delta, found) for q in values]
  return FittedCount(
    kind,
    coefficient.name,
    float(found.q),
    values,
    np.stack([runs.parameters(kind, q) for q in values]),
    np.stack([c.design.coefficients(c.theta) for c in each]),
    np.array([c.objective for c in each]),
  )
