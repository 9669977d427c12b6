"""Plateaus: where many laws fit equally well, the one of least squared error.

Far from zero Huber's loss is linear. Where each place (N, D) has as many runs
above the law as below it, the law can move between them at no cost: the
optimum is a plateau, on which a solver stops anywhere, by units and rounding.
"""

from collections.abc import Callable, Sequence

import numpy as np

from jax_sparse_pretrain.analysis.fitting.objective import MAX_EXPONENT, Rows
from jax_sparse_pretrain.analysis.fitting.power_terms import (
  MAX_EVALUATIONS,
  NOTHING,
  Problem,
  centred,
)

# Weight of squared errors, and steps to follow them: along a plateau to its
# end, and as far as shows that there is one. The end costs a millionth part of
# the objective at most, or there was no plateau.
SQUARES, TRACE = 1e-4, 1e-6
TRACE_STEPS = 60
SAME = 1e-6
# Of log loss: predictions that differ by less are the same.
NOTICED = 1e-4


def settled_theta(
  rows: Rows, delta: float, theta: np.ndarray
) -> np.ndarray | None:
  """`settled` for Chinchilla's law: theta (5,), or None."""
  E, A, B, *exponents = theta
  with np.errstate(divide='ignore'):
    log_sizes = np.log([A, B, E])
  found = settled(
    chinchilla_factors(rows.x, rows.y),
    np.exp(rows.z),
    delta,
    [(0.0, MAX_EXPONENT)] * 2,
    log_sizes,
    np.array(exponents),
  )
  if found is None:
    return None
  A, B, E = np.exp(found[0])
  return np.array([E, A, B, *found[1]])


def chinchilla_factors(x: np.ndarray, y: np.ndarray) -> np.ndarray:
  """Of A, B and E in alpha and beta, (3, 2, m), for `power_terms`."""
  return np.array([[x, 0 * x], [0 * x, y], [0 * x, 0 * x]])


def settled(
  factors: np.ndarray,
  loss: np.ndarray,
  delta: float,
  bounds: Sequence[tuple[float, float]],
  log_sizes: np.ndarray,
  exponents: np.ndarray,
) -> tuple[np.ndarray, np.ndarray] | None:
  """Of fits as good as this optimal one, that of least squared error.

  Returns:
    log_sizes and exponents; None if there is no other fit as good.
  """
  problem, units = centred(factors, loss, delta, bounds)
  theta = np.concatenate([np.exp(log_sizes - units(exponents)), exponents])
  if _is_pinned(problem, theta):
    return None
  traced = problem.descend(theta, _huber_and(TRACE), delta, 1e-14, TRACE_STEPS)
  moved = np.abs(problem.residuals(traced) - problem.residuals(theta)).max()
  if moved < NOTICED:
    return None
  found = problem.trimmed(
    problem.descend(theta, _huber_and(SQUARES), delta, 1e-14, MAX_EVALUATIONS)
  )
  if problem.objective(found) > problem.objective(theta) * (1 + SAME):
    return None
  return problem.terms(found, units)


def _is_pinned(problem: Problem, theta: np.ndarray) -> bool:
  """Whether runs within delta of the law hold every free coefficient."""
  sizes, exponents = problem.split(theta)
  low, high = problem.bounds.T
  inside = (exponents > low + NOTHING) & (exponents < high - NOTHING)
  free = np.concatenate([sizes > NOTHING, inside])
  near = np.abs(problem.residuals(theta)) < problem.delta
  columns = problem.jacobian(theta)[near][:, free]
  return len(columns) > 0 and np.linalg.matrix_rank(columns) == free.sum()


def _huber_and(weight: float) -> Callable[[np.ndarray], np.ndarray]:
  """Huber's rho of z = (r / delta)^2, its derivatives, and squares."""

  def rho(z: np.ndarray) -> np.ndarray:
    root = np.sqrt(np.maximum(z, 1))
    value = np.where(z > 1, 2 * root - 1, z) + weight * z
    bend = np.where(z > 1, -0.5 / root**3, 0)
    return np.stack([value, 1 / root + weight, bend])

  return rho
