"""Local optima of many fits at once: projected, damped Newton.

Problems of a batch share the data; weights, start and what is held fixed
differ. Those that are solved leave the batch.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from jax_sparse_pretrain.analysis.fitting.objective import (
  MAX_EXPONENT,
  Rows,
  derivatives,
  derivatives_of_one,
  residuals,
)

LOWER = np.zeros(5)
UPPER = np.array([np.inf, np.inf, np.inf, MAX_EXPONENT, MAX_EXPONENT])

# Part of f which the next step would still gain when a problem is solved.
TOLERANCE = 1e-12
ROUGH_TOLERANCE = 1e-3
MAX_ITERATIONS = 400
# Damping that is left when rounding alone decides: there is no better point.
MAX_DAMPING = 1e10
# Part of the largest entry of a Hessian that is added to its diagonal.
RIDGE = 1e-12
# Iterations for which the metric of the damping is kept; any one will do.
METRIC_EVERY = 8
# Elements of a chunk of problems times rows: its arrays stay in the cache.
CHUNK_ELEMENTS = 60_000


def minimise(
  theta: np.ndarray,
  rows: Rows,
  delta: float,
  weights: np.ndarray | None = None,
  fixed: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """Local optima of a batch of problems.

  A delta far below the residuals is approached from theirs by factors of
  ten: the objective is then nearly piecewise linear, and a Newton step from
  afar is of no use.

  Args:
    theta: starts, (n, 5), within the bounds and with s > 0; or one for all
      of the weights, (5,).
    rows: the data, m rows.
    delta: of the Huber loss, in log loss.
    weights: of the rows, (n, m); ones by default.
    fixed: coefficients to hold, (n, 5); none by default.

  Returns:
    The optima, (n, 5), and their objectives, (n,).
  """
  is_one = theta.ndim == 1
  if is_one:
    theta = np.broadcast_to(theta, (len(weights), 5))
  if weights is None:
    weights = np.broadcast_to(1.0, (len(theta), len(rows.x)))
  if fixed is None:
    fixed = np.zeros(theta.shape, bool)
  scale = np.median(np.abs(residuals(theta[:: len(theta) // 64 + 1], rows)))
  levels = int(np.clip(np.log10(max(scale, delta) / delta), 0, 12))
  for level in range(levels, 0, -1):
    wide = delta * 10.0**level
    theta, _ = _newton(
      theta, rows, wide, weights, fixed, ROUGH_TOLERANCE, is_one
    )
    is_one = False
  return _newton(theta, rows, delta, weights, fixed, TOLERANCE, is_one)


def _newton(theta, rows, delta, weights, fixed, tolerance, is_one):
  """Projected Newton steps, damped where they would not go down.

  The damping metric is the Hessian of the quadratic that bounds each Huber
  term from above: positive, and of the same units as the step.
  """
  found, best = theta.copy(), np.full(len(theta), np.inf)
  active, trial = np.arange(len(theta)), theta
  damping, at = np.full(len(theta), 1e-3), None
  for iteration in range(MAX_ITERATIONS):
    if is_one and iteration == 0:
      derived = derivatives_of_one(theta[0], rows, delta, weights)
      new = _Point(theta, *derived)
    else:
      new = _evaluate(
        trial, rows, delta, weights, active, iteration % METRIC_EVERY == 0
      )
    if at is None:
      at = new
    else:
      better = new.f < at.f
      damping = np.where(better, damping / 10, np.maximum(10 * damping, 1e-4))
      at = at.replaced(new, better)
    trial, gain = _step(at, damping, fixed[active])
    done = (gain <= tolerance * at.f) & (damping <= 1)
    done |= damping > MAX_DAMPING
    found[active], best[active] = at.theta, at.f
    left = ~done
    if not left.any():
      break
    at, active = at[left], active[left]
    trial, damping = trial[left], damping[left]
  return found, best


def _step(at, damping, fixed):
  """Where to go, and what the linear model gains by it, halved."""
  blocked = ((at.theta <= LOWER) & (at.gradient > 0)) | (
    (at.theta >= UPPER) & (at.gradient < 0)
  )
  free = ~(blocked | fixed)
  gradient = at.gradient * free
  matrix = at.hessian + damping[:, None, None] * at.metric
  matrix *= free[:, :, None] & free[:, None, :]
  diagonal = np.einsum('nii->ni', matrix)
  # Held coefficients, and those that change nothing, take no step.
  diagonal += ~free
  step = _solved(matrix, gradient, RIDGE)
  trial = np.clip(at.theta - step, LOWER, UPPER)
  gain = (gradient * (at.theta - trial)).sum(axis=1) / 2
  # An uphill step, from a Hessian that is not positive: stay, damp more.
  uphill = gain < 0
  trial[uphill] = at.theta[uphill]
  return trial, np.where(uphill, np.inf, gain)


def _solved(matrix, gradient, ridge):
  """Steps, with a ridge where rounding alone tells coefficients apart.

  An indefinite matrix may be singular in spite of one ridge, not of another.
  """
  diagonal = np.einsum('nii->ni', matrix)
  diagonal += ridge * np.abs(diagonal).max(axis=1, keepdims=True)
  try:
    return np.linalg.solve(matrix, gradient[..., None])[..., 0]
  except np.linalg.LinAlgError:
    return _solved(matrix, gradient, 100 * ridge)


@dataclasses.dataclass
class _Point:
  """A batch of points and the derivatives of f there."""

  theta: np.ndarray
  f: np.ndarray
  gradient: np.ndarray
  hessian: np.ndarray
  metric: np.ndarray | None

  def fields(self) -> Iterator[np.ndarray | None]:
    return (getattr(self, f.name) for f in dataclasses.fields(self))

  def __getitem__(self, index) -> '_Point':
    return _Point(*(values[index] for values in self.fields()))

  def replaced(self, new: '_Point', better: np.ndarray) -> '_Point':
    """New where better; a metric which is not there leaves the old one."""
    pairs = zip(self.fields(), new.fields(), strict=True)
    return _Point(
      *(
        old
        if values is None
        else np.where(better.reshape(-1, *[1] * (values.ndim - 1)), values, old)
        for old, values in pairs
      )
    )


def _evaluate(theta, rows, delta, weights, active, with_metric) -> _Point:
  """Derivatives at theta (n, 5), a chunk of problems at a time."""
  size = max(1, CHUNK_ELEMENTS // len(rows.x))
  parts = [
    derivatives(
      theta[i : i + size],
      rows,
      delta,
      weights[active[i : i + size]],
      with_metric,
    )
    for i in range(0, len(theta), size)
  ]
  f, gradient, hessian, metric = zip(*parts, strict=True)
  return _Point(
    theta,
    np.concatenate(f),
    np.concatenate(gradient),
    np.concatenate(hessian),
    np.concatenate(metric) if with_metric else None,
  )
