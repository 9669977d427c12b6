"""Profile intervals: values of a coefficient which the data do not refuse.

A value of one coefficient is kept while the objective, at its best over the
others, stays within a threshold of the optimum. For a sum of Huber terms the
difference is, in large samples, lambda / 2 times a chi-squared of one degree
of freedom, where lambda = E[psi^2] / E[psi'] (Heritier & Ronchetti, 1994,
robust likelihood-ratio tests). Lambda is estimated from the residuals, and for
it Student's t replaces the normal.

With delta far below the noise psi' counts the few residuals within delta, and
the fit itself puts as many there as it has coefficients. So E[psi'], the
probability of a residual within delta, is taken from a kernel estimate of
their density, as for quantile regression.
"""

import dataclasses

import numpy as np

from jax_sparse_pretrain.analysis.fitting import search
from jax_sparse_pretrain.analysis.fitting.design import Design
from jax_sparse_pretrain.analysis.fitting.identification import ENOUGH
from jax_sparse_pretrain.analysis.fitting.objective import Problem, residuals
from jax_sparse_pretrain.analysis.fitting.solver import minimise

# Losses are not known to better than this part of themselves.
ROUNDING = 1e-9
# Any smaller delta means least absolute deviations as well, and rounding
# would decide on the share of residuals within it.
SMALLEST_DELTA = 1e-12
# A term this steep is gone within a part of the data, where its gradient
# vanishes: a start at gentler exponents is tried beside it.
STEEP = 1.0
# First distance of a side: part of the typical loss for a constant term, a
# logarithm for other sizes, units for exponents. And the farthest, past which
# a side counts as open; for exponents it is their bound.
FIRST_CONSTANT, FIRST_SIZE, FIRST_EXPONENT = 0.02, 0.2, 0.02
FARTHEST_CONSTANT, FARTHEST_SIZE = 3.0, 120.0
ACCURACY = 1e-4
MAX_ROUNDS = 40


def objective_threshold(
  design: Design, theta: np.ndarray, delta: float, level: float, k: int
) -> float:
  """What the objective of k coefficients may rise to within an interval."""
  r = residuals(theta, design.problem)
  return _threshold(r, k, max(delta, SMALLEST_DELTA), level)


def profile_intervals(
  design: Design,
  theta: np.ndarray,
  delta: float,
  level: float,
  threshold: float | None = None,
) -> dict[str, tuple[float, float]]:
  """The interval of each size and exponent; an open side is 0 or inf.

  A side is open where no value is refused up to the bound, and where the
  values that are not refused need an exponent at its bound: then the bound
  made the end, not the data. `theta` is the optimum, in the design's units;
  `threshold` replaces that of the level.
  """
  problem, delta = design.problem, max(delta, SMALLEST_DELTA)
  k, n_sizes = len(theta), problem.n_sizes
  if threshold is None:
    threshold = _threshold(residuals(theta, problem), k, delta, level)
  ends = np.tile([0.0, np.inf], (k, 1))
  if np.isfinite(threshold):
    begins = [theta]
    if theta[n_sizes:].max() > STEEP:
      begins.append(search.moderate(problem, delta))
    told = [c for c in range(k) if c not in _hopeless(design)]
    varying = np.flatnonzero(design.holders.any(axis=1)).tolist()
    # Constant terms and exponents share a design; each other size has its own.
    for group in ([c for c in range(k) if c not in varying], *zip(varying)):
      columns = [c for c in group if c in told]
      moved, points = _counted_for(design, group[0], np.stack(begins))
      if points[0, columns].any():
        ends[columns] = _ends(moved, points, columns, delta, threshold)
  _open_together(design, ends)
  ends[:n_sizes] *= np.exp(design.loss_pivot)
  return dict(zip(design.form.names, map(tuple, ends.tolist()), strict=True))


def _hopeless(design: Design) -> set[int]:
  """Columns which two different N, or two D, can say nothing about."""
  k = len(design.form.names)
  if design.n_places < k:
    return set(range(k))
  few = [p for p, count in enumerate(design.distinct) if count < ENOUGH]
  return set(design.tied(few))


def _open_together(design: Design, ends: np.ndarray) -> None:
  """Opens, in place, what cannot be bounded while an exponent is not.

  If the loss need not fall with N, A may be nothing, or a part of E; and a
  steeper alpha takes a larger A.
  """
  n_sizes = design.problem.n_sizes
  for p, held in enumerate(design.holders.T):
    if ends[n_sizes + p, 0] == 0:
      ends[design.tied([p]), 0] = 0.0
    if np.isinf(ends[n_sizes + p, 1]):
      ends[:n_sizes][held, 1] = np.inf


def _counted_for(design, column, points):
  """A problem, and points (k, t), of which this column can be held.

  A and B are losses at N = D = 1. To hold one of them, its counts are not
  centred; the other coefficients are well determined then too.
  """
  problem, n_sizes = design.problem, design.problem.n_sizes
  if column >= n_sizes or not design.holders[column].any():
    return problem, points
  factors, pivots = problem.factors.copy(), design.pivots[column]
  factors[column] += np.where(design.holders[column], pivots, 0.0)[:, None]
  points[:, column] *= np.exp(points[:, n_sizes:] @ pivots)
  return dataclasses.replace(problem, factors=factors), points


def _threshold(r: np.ndarray, k: int, delta: float, level: float) -> float:
  """What the objective may exceed its optimum by; inf if nothing is left."""
  from scipy import special

  m, spare = len(r), len(r) - k
  if spare < 1:
    return np.inf
  # The fit takes its share out of the residuals.
  r = np.sort(np.maximum(np.abs(r) * np.sqrt(m / spare), ROUNDING))
  # The density of errors is taken to be even: residuals of both signs.
  both = np.concatenate([-r, r])
  low, high = np.quantile(both, [0.25, 0.75])
  width = 0.9 * min(both.std(), (high - low) / 1.349) * m**-0.2
  # Without the smallest, which the fit may have put there. With delta above
  # the noise this changes nothing: the slope is one either way.
  rest = r[k:]
  slope = special.ndtr((rest + delta) / width)
  slope -= special.ndtr((rest - delta) / width)
  square = np.minimum(r, delta) ** 2
  quantile = special.stdtrit(spare, (1 + level) / 2)
  return float(square.mean() / slope.mean() * quantile**2 / 2)


def _ends(problem, points, columns, delta, threshold) -> np.ndarray:
  """Both ends of some coefficients, (len(columns), 2); 0 or inf if open.

  The first of the points (k, t) is the optimum; the others are more starts.
  """
  start, others = points[0], points[1:]
  sides = [Side(start, c, sign, problem) for c in columns for sign in (-1, 1)]
  best = minimise(start[None], problem, delta)[1][0]
  for _ in range(MAX_ROUNDS):
    busy = [side for side in sides if not side.finished]
    if not busy:
      break
    theta = np.concatenate([side.trials(others) for side in busy])
    held = [np.arange(len(start)) == side.column for side in busy]
    fixed = np.repeat(held, len(points) + 1, axis=0)
    theta, f = minimise(theta, problem, delta, fixed=fixed)
    for side, found, height in zip(
      busy,
      theta.reshape(len(busy), -1, len(start)),
      np.reshape(f, (len(busy), -1)),
      strict=True,
    ):
      lowest = height.argmin()
      # Nearly linear in the distance, as f is nearly a parabola.
      over = max(float(height[lowest]) - best, 0.0) / threshold
      side.take(found[lowest], float(np.sqrt(over)))
  return np.reshape([side.end() for side in sides], (-1, 2))


class Side:
  """One end of an interval: the distance at which the height is one.

  A side walks away from the optimum of one coefficient until it finds the
  root of the height, which is what the objective has risen by, over the
  threshold. Sizes of terms that fall move by factors, the others by steps.

  Attributes:
    column: of the coefficient.
    finished: whether the search is over.
  """

  def __init__(
    self, start: np.ndarray, column: int, sign: int, problem: Problem
  ):
    self.start, self.column, self.sign = start, column, sign
    self.problem, self.n_sizes = problem, problem.n_sizes
    is_size = column < self.n_sizes
    self.held = problem.active[column] if is_size else []
    self.point = self.kept = start
    value, bound = start[column], problem.upper[column]
    # The distance to the bound, or as far as it makes sense to look.
    if self.held:
      first, self.room = FIRST_SIZE, FARTHEST_SIZE
    elif is_size:
      first = FIRST_CONSTANT
      self.room = value if sign < 0 else FARTHEST_CONSTANT
    else:
      first = FIRST_EXPONENT
      low = problem.lower[column]
      self.room = value - low if sign < 0 else bound - value
    self.distance = min(first, self.room)
    self.inner, self.outer = (0.0, 0.0), None
    self.open = self.finished = self.room == 0

  def value(self) -> float:
    """The coefficient at the present distance."""
    value, move = self.start[self.column], self.sign * self.distance
    return value * np.exp(move) if self.held else max(value + move, 0.0)

  def trials(self, others: np.ndarray) -> np.ndarray:
    """The coefficient at its next value; the rest from answers so far.

    From the last one, from the last that was not refused and from the others.
    A trial far too far may lose a term, and with it all gradient to find it
    again: its answer alone is no place to go on from.
    """
    column, value, problem = self.column, self.value(), self.problem
    theta = np.vstack([self.point, self.kept, others])
    if self.held:
      # An exponent goes along: the term stays as it was at the centre of the
      # data, and the solver begins close by.
      sizes = theta[:, column]
      shift = np.log(value) - np.log(np.where(sizes > 0, sizes, value))
      centres = problem.factors[column].mean(axis=1)
      p = np.abs(centres).argmax()
      along = self.n_sizes + p
      low, high = problem.bounds[p]
      moved = theta[:, along] + shift / centres[p]
      theta[:, along] = np.clip(moved, low, high)
    theta[:, column] = value
    if column < self.n_sizes and not self.held:
      # Without E a law of no other terms would predict a loss of zero.
      first = next(j for j, active in enumerate(problem.active) if active)
      theta[:, first] = np.maximum(theta[:, first], 0.001)
    return theta

  def take(self, point: np.ndarray, height: float) -> None:
    """The best point with the coefficient held there, and its height."""
    self.point = point
    if height < 1:
      self.inner, self.kept = (self.distance, height), point
      self.open = self.distance >= self.room
    else:
      self.outer = (self.distance, height)
    # The height may jump, from one local optimum to another.
    narrow = self.outer and self.outer[0] - self.inner[0] < (
      ACCURACY * self.outer[0]
    )
    self.finished = bool(self.open or narrow or abs(height - 1) < ACCURACY)
    if not self.finished:
      self.distance = self._next(height)

  def _next(self, height: float) -> float:
    near, low = self.inner
    if self.outer is None:
      factor = np.clip(1.1 / max(height, 0.01), 1.5, 8.0)
      return min(self.room, factor * self.distance)
    far, high = self.outer
    part = (1 - low) / (high - low)
    # Off the ends of the bracket, so that both of them move.
    return near + float(np.clip(part, 0.05, 0.95)) * (far - near)

  def end(self) -> float:
    """The value at the end; 0 or inf if open."""
    open_end = 0.0 if self.sign < 0 else np.inf
    if self.open or not self.finished:
      return open_end
    # An end that an exponent at its bound has made is not the data's.
    exponents, bounds = self.point[self.n_sizes :], self.problem.bounds.T
    flat, steep = exponents <= bounds[0], exponents >= bounds[1]
    if (flat | steep)[self.held].any():
      return open_end
    is_constant = self.column < self.n_sizes and not self.held
    if is_constant and self.sign < 0 and flat.any():
      return open_end
    return self.value()
