"""The global optimum of one fit.

Where the law fits, every start ends in the same optimum, and a batch of them
shows it. With residuals of many deltas, or a coefficient which the data hardly
identify, there are several. Then the search goes on around the best so far,
until two rounds find nothing better.

The optimum may also be a plateau. Far from zero Huber's loss is linear; where
each place (N, D) has as many runs above the law as below it, the law can move
between them at no cost, and a solver stops anywhere on it, by units and
rounding. Of the laws on a plateau the answer is that of least squared error.
"""

import numpy as np

from jax_sparse_pretrain.analysis.fitting import starts
from jax_sparse_pretrain.analysis.fitting.objective import (
  Problem,
  objective,
  residuals,
)
from jax_sparse_pretrain.analysis.fitting.solver import descend, minimise

# The best grid points, and a spread over the rest.
N_BEST, EVERY = 12, 11
# Starts that must find the optimum of a law of three exponents or more.
N_AGREE = 3
# Two optima are one if their objectives agree to this part, or are both of
# rounding alone.
SAME, NOTHING = 1e-9, 1e-24
# How far a round looks in logarithms of the coefficients; and of exponents
# whose sizes are then found anew.
SPREADS, EXPONENT_SPREADS = (0.03, 0.15, 0.5), (0.1, 0.4)
N_ROUND, PATIENCE = 12, 2
# Weights of squared errors: of a few steps, as far as shows that there is a
# plateau; and of the way to its end, where larger ones go first, since a small
# weight takes hundreds of steps. The end costs a millionth part of the
# objective at most, or there was no plateau.
TRACE, TRACE_STEPS = 1e-6, 60
SQUARES = (1e-2, 1e-3, 1e-4)
LEVEL = 1e-6
# Squares of that weight are a small part of the objective.
FLAT_TOLERANCE = 1e-16
# Of log loss: predictions that differ by less are the same.
NOTICED = 1e-4


def lowest(problem: Problem, delta: float) -> tuple[np.ndarray, float]:
  """The best optimum found, (k,), and its objective.

  Random numbers of a fixed seed place the starts of later rounds: the same
  data give the same answer to the bit.
  """
  ranked = starts.ranked(problem, delta)
  begin, n_agree = ranked[:N_BEST], N_AGREE
  # With more exponents the spread takes ten times the time of the best.
  if len(problem.bounds) < 3:
    begin = np.concatenate([begin, ranked[N_BEST::EVERY]])
    n_agree = len(begin)
  theta, f = minimise(begin, problem, delta)
  best, low = theta[f.argmin()], f.min()
  if (f <= low * (1 + SAME) + NOTHING).sum() >= n_agree:
    return best, float(low)
  rng, fruitless = np.random.default_rng(0), 0
  while fruitless < PATIENCE:
    theta, f = minimise(_around(best, problem, delta, rng), problem, delta)
    fruitless += 1
    if f.min() < low * (1 - SAME) - NOTHING:
      fruitless = 0
      best, low = theta[f.argmin()], f.min()
  return best, float(low)


def settled(
  problem: Problem, delta: float, theta: np.ndarray
) -> np.ndarray | None:
  """Of fits as good as this optimum (k,), that of least squared error.

  Returns:
    Its theta; None if there is no other fit as good.
  """
  if _is_pinned(problem, delta, theta):
    return None
  traced, _ = descend(
    theta[None],
    problem,
    delta,
    tolerance=FLAT_TOLERANCE,
    squares=TRACE,
    steps=TRACE_STEPS,
  )
  before, after = residuals(np.stack([theta, traced[0]]), problem)
  if np.abs(after - before).max() < NOTICED:
    return None
  found = theta[None]
  for squares in SQUARES:
    found, _ = descend(
      found, problem, delta, tolerance=FLAT_TOLERANCE, squares=squares
    )
  costs = objective(np.stack([theta, found[0]]), problem, delta)
  return found[0] if costs[1] <= costs[0] * (1 + LEVEL) else None


def scattered(
  theta: np.ndarray, spread: float, problem: Problem, rng: np.random.Generator
) -> np.ndarray:
  """Each coefficient times a log-normal factor, within the bounds."""
  theta = theta * np.exp(spread * rng.normal(size=theta.shape))
  return np.clip(theta, problem.lower, problem.upper)


def _around(best, problem, delta, rng):
  copies = np.tile(best, (N_ROUND, 1))
  moved = [scattered(copies, spread, problem, rng) for spread in SPREADS]
  # An exponent of zero would stay there.
  gentlest, steepest = starts.grid(problem).min(axis=0), problem.bounds[:, 1]
  exponents = np.maximum(copies[:, problem.n_sizes :], gentlest)
  for spread in EXPONENT_SPREADS:
    points = exponents * np.exp(spread * rng.normal(size=exponents.shape))
    points = np.clip(points, problem.bounds[:, 0], steepest)
    moved.append(starts.ranked(problem, delta, points))
  return np.concatenate(moved)


def _is_pinned(problem: Problem, delta: float, theta: np.ndarray) -> bool:
  """Whether runs within delta of the law hold every free coefficient."""
  free = (theta > problem.lower) & (theta < problem.upper)
  near = np.abs(residuals(theta, problem)) < delta
  columns = problem.slopes(theta)[near][:, free]
  return len(columns) > 0 and np.linalg.matrix_rank(columns) == free.sum()
