"""The coefficient of an effective count: profiled over, law by law.

N of the law depends on it in any way at all, so that it is no exponent. Given
its value the law is Chinchilla's, of which the global optimum is found. So a
grid of values is fitted, at some of which the search is global and from which
the others follow, and the best of them is refined.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jax_sparse_pretrain.analysis.effective import Coefficient
from jax_sparse_pretrain.analysis.fitting import search
from jax_sparse_pretrain.analysis.fitting.design import Design
from jax_sparse_pretrain.analysis.fitting.solver import minimise

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
