"""Local optima of many fits at once: projected, damped Newton.

Problems of a batch share the data; weights, start and what is held fixed
differ. Those that are solved leave the batch.
"""

import dataclasses

import numpy as np

from jax_sparse_pretrain.analysis.fitting.objective import (
  Problem,
  derivatives,
  derivatives_of_one,
  residuals,
)

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
  theta: np.ndarray, problem: Problem, delta: float, weights=None, fixed=None
) -> tuple[np.ndarray, np.ndarray]:
  """Local optima of a batch of problems, (n, k), and their objectives, (n,).

  A delta far below the residuals is approached from theirs by factors of
  ten: the objective is then nearly piecewise linear, and a Newton step from
  afar is of no use.

  Args:
    theta: starts, (n, k), within the bounds and with s > 0; or one for all
      of the weights, (k,).
    problem: the data, m rows.
    delta: where the Huber loss turns from a parabola to a line, in log loss.
    weights: the weight of each row, (n, m); ones by default.
    fixed: coefficients to hold, (n, k); none by default.
  """
  is_one = theta.ndim == 1
  if is_one:
    theta = np.broadcast_to(theta, (len(weights), len(theta)))
  scale = np.median(np.abs(residuals(theta[:: len(theta) // 64 + 1], problem)))
  levels = int(np.clip(np.log10(max(scale, delta) / delta), 0, 12))
  for level in range(levels, 0, -1):
    wide = delta * 10.0**level
    theta, _ = descend(
      theta, problem, wide, weights, fixed, ROUGH_TOLERANCE, is_one=is_one
    )
    is_one = False
  return descend(theta, problem, delta, weights, fixed, is_one=is_one)


def descend(
  theta: np.ndarray,
  problem: Problem,
  delta: float,
  weights=None,
  fixed=None,
  tolerance: float = TOLERANCE,
  *,
  squares: float = 0.0,
  steps: int = MAX_ITERATIONS,
  is_one: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
  """Projected Newton steps, damped where they would not go down.

  The damping metric is the Hessian of the quadratic that bounds each Huber
  term from above: positive, and of the same units as the step. Takes and
  returns what `minimise` does.

  Args:
    tolerance: part of the objective that a step must gain to be taken.
    squares: weight of r^2 / 2, which is added to the Huber loss.
    steps: how many to take at most.
    is_one: whether all starts are the same.
  """
  n, m = len(theta), len(problem.z)
  weights = np.broadcast_to(1.0, (n, m)) if weights is None else weights
  fixed = np.zeros(theta.shape, bool) if fixed is None else fixed
  found, best = theta.copy(), np.full(n, np.inf)
  active, trial = np.arange(n), theta
  damping, at = np.full(n, 1e-3), None
  for iteration in range(steps):
    if is_one and iteration == 0:
      derived = derivatives_of_one(theta[0], problem, delta, weights, squares)
      new = _Point(theta, *derived)
    else:
      with_metric = iteration % METRIC_EVERY == 0
      new = _evaluate(
        trial, problem, delta, weights, active, with_metric, squares
      )
    if at is None:
      at = new
    else:
      better = new.f < at.f
      damping = np.where(better, damping / 10, np.maximum(10 * damping, 1e-4))
      at = at.replaced(new, better)
    trial, gain = _step(at, damping, fixed[active], problem)
    done = (gain <= tolerance * at.f) & (damping <= 1)
    done |= damping > MAX_DAMPING
    found[active], best[active] = at.theta, at.f
    left = ~done
    if not left.any():
      break
    at, active = at[left], active[left]
    trial, damping = trial[left], damping[left]
  return found, best


def _step(at, damping, fixed, problem):
  """Where to go, and what the linear model gains by it, halved."""
  lower, upper = problem.lower, problem.upper
  blocked = ((at.theta <= lower) & (at.gradient > 0)) | (
    (at.theta >= upper) & (at.gradient < 0)
  )
  free = ~(blocked | fixed)
  gradient = at.gradient * free
  matrix = at.hessian + damping[:, None, None] * at.metric
  matrix *= free[:, :, None] & free[:, None, :]
  diagonal = np.einsum('nii->ni', matrix)
  # Held coefficients, and those that change nothing, take no step.
  diagonal += ~free
  step = _solved(matrix, gradient, RIDGE)
  trial = np.clip(at.theta - step, lower, upper)
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

  def __getitem__(self, index) -> '_Point':
    return _Point(*(values[index] for values in vars(self).values()))

  def replaced(self, new: '_Point', better: np.ndarray) -> '_Point':
    """New where better; a metric which is not there leaves the old one."""
    pairs = zip(vars(self).values(), vars(new).values(), strict=True)
    return _Point(
      *(
        old
        if values is None
        else np.where(better.reshape(-1, *[1] * (values.ndim - 1)), values, old)
        for old, values in pairs
      )
    )


def _evaluate(
  theta, problem, delta, weights, active, with_metric, squares
) -> _Point:
  """Derivatives at theta (n, k), a chunk of problems at a time."""
  size = max(1, CHUNK_ELEMENTS // len(problem.z))
  parts = []
  for i in range(0, len(theta), size):
    some = weights[active[i : i + size]]
    points = theta[i : i + size], problem, delta, some
    parts.append(derivatives(*points, with_metric, squares))
  *always, metric = zip(*parts, strict=True)
  metric = np.concatenate(metric) if with_metric else None
  return _Point(theta, *map(np.concatenate, always), metric)
