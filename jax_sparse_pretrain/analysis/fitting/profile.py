"""Profile intervals: values of a coefficient which the data do not refuse.

A value of one coefficient is kept while the objective, at its best over the
other four, stays within a threshold of the optimum. For a sum of Huber terms
the difference is, in large samples, lambda / 2 times a chi-squared of one
degree of freedom, where lambda = E[psi^2] / E[psi'] (Heritier & Ronchetti,
1994, robust likelihood-ratio tests). Lambda is estimated from the residuals,
and for it Student's t replaces the normal.

With delta far below the noise psi' counts the few residuals within delta,
and the fit itself puts five of them there. So E[psi'], the probability of a
residual within delta, is taken from a kernel estimate of their density, as
for quantile regression.
"""

from collections.abc import Sequence

import numpy as np

from jax_sparse_pretrain.analysis.fitting import starts
from jax_sparse_pretrain.analysis.fitting.design import N_COEFFICIENTS, Design
from jax_sparse_pretrain.analysis.fitting.ends import MAX_ROUNDS, Side
from jax_sparse_pretrain.analysis.fitting.objective import (
  NAMES,
  Rows,
  residuals,
)
from jax_sparse_pretrain.analysis.fitting.solver import minimise

# Losses are not known to better than this part of themselves.
ROUNDING = 1e-9
# Any smaller delta means least absolute deviations as well, and rounding
# would decide on the share of residuals within it.
SMALLEST_DELTA = 1e-12
# A term this steep is gone within a part of the data, where its gradient
# vanishes: a start at gentler exponents is tried beside it.
STEEP = 1.0


def profile_intervals(
  design: Design, theta: np.ndarray, delta: float, level: float
) -> dict[str, tuple[float, float]]:
  """The interval of each coefficient; an open side is 0 or inf.

  A side is open where no value is refused up to the bound, and where the
  values that are not refused need an exponent at its bound: then the bound
  made the end, not the data.

  Args:
    design: the data.
    theta: the optimum, in the units of the design, (5,).
    delta: of the Huber loss.
    level: of confidence, in (0, 1).
  """
  delta = max(delta, SMALLEST_DELTA)
  threshold = _threshold(residuals(theta, design.rows), delta, level)
  ends = np.tile([0.0, np.inf], (5, 1))
  if np.isfinite(threshold):
    begins = [theta]
    if theta[3:].max() > STEEP:
      begins.append(starts.moderate(design.rows, delta))
    hopeless = _hopeless(design)
    for group in ((0, 3, 4), (1,), (2,)):
      columns = [column for column in group if column not in hopeless]
      rows, points = _counted_for(design, group, np.stack(begins))
      if points[0, columns].any():
        ends[columns] = _ends(rows, points, columns, delta, threshold)
  _open_together(ends)
  ends[:3] *= np.exp(design.pivots[2])
  return {
    name: (float(low), float(high))
    for name, (low, high) in zip(NAMES, ends, strict=True)
  }


def _hopeless(design: Design) -> set[int]:
  """Columns which two different N, or two D, can say nothing about.

  All of them, if the runs are at fewer places than there are coefficients.
  """
  if design.n_places < N_COEFFICIENTS:
    return set(range(N_COEFFICIENTS))
  terms = [term for term, count in enumerate(design.distinct) if count < 3]
  return {column for term in terms for column in (0, 1 + term, 3 + term)}


def _open_together(ends: np.ndarray) -> None:
  """Opens, in place, what cannot be bounded while an exponent is not.

  If the loss need not fall with N, A may be nothing, or a part of E; and a
  steeper alpha takes a larger A.
  """
  for size, exponent in ((1, 3), (2, 4)):
    if ends[exponent, 0] == 0:
      ends[[0, size], 0] = 0.0
    if np.isinf(ends[exponent, 1]):
      ends[size, 1] = np.inf


def _counted_for(design, columns, points):
  """Rows and points (k, 5) of which the columns can be held.

  A and B are losses at N = D = 1. To hold one of them, x or y is counted from
  there; the other coefficients are well determined then too.
  """
  rows, (at_x, at_y, _) = design.rows, design.pivots
  if columns == (1,):
    rows = Rows(rows.x + at_x, rows.y, rows.z)
    points[:, 1] *= np.exp(points[:, 3] * at_x)
  elif columns == (2,):
    rows = Rows(rows.x, rows.y + at_y, rows.z)
    points[:, 2] *= np.exp(points[:, 4] * at_y)
  return rows, points


def _threshold(r: np.ndarray, delta: float, level: float) -> float:
  """What the objective may exceed its optimum by; inf if nothing is left."""
  from scipy import special

  m, spare = len(r), len(r) - N_COEFFICIENTS
  if spare < 1:
    return np.inf
  # The fit takes its share out of the residuals.
  r = np.sort(np.maximum(np.abs(r) * np.sqrt(m / spare), ROUNDING))
  # The density of errors is taken to be even: residuals of both signs.
  both = np.concatenate([-r, r])
  low, high = np.quantile(both, [0.25, 0.75])
  width = 0.9 * min(both.std(), (high - low) / 1.349) * m**-0.2
  # Without the five smallest, which the fit may have put there. With delta
  # above the noise this changes nothing: the slope is one either way.
  rest = r[N_COEFFICIENTS:]
  slope = special.ndtr((rest + delta) / width)
  slope -= special.ndtr((rest - delta) / width)
  square = np.minimum(r, delta) ** 2
  quantile = special.stdtrit(spare, (1 + level) / 2)
  return float(square.mean() / slope.mean() * quantile**2 / 2)


def _ends(
  rows: Rows,
  points: np.ndarray,
  columns: Sequence[int],
  delta: float,
  threshold: float,
) -> np.ndarray:
  """Both ends of some coefficients, (len(columns), 2); 0 or inf if open.

  The first of the points (k, 5) is the optimum; the others are more starts.
  """
  start, others = points[0], points[1:]
  sides = [Side(start, c, sign) for c in columns for sign in (-1, 1)]
  centres = np.array([0.0, rows.x.mean(), rows.y.mean()])
  best = minimise(start[None], rows, delta)[1][0]
  for _ in range(MAX_ROUNDS):
    busy = [side for side in sides if not side.finished]
    if not busy:
      break
    theta = np.concatenate([side.trials(others, centres) for side in busy])
    fixed = np.repeat(
      [np.arange(5) == side.column for side in busy], len(points) + 1, axis=0
    )
    theta, f = minimise(theta, rows, delta, fixed=fixed)
    for side, found, height in zip(
      busy,
      theta.reshape(len(busy), -1, 5),
      np.reshape(f, (len(busy), -1)),
      strict=True,
    ):
      lowest = height.argmin()
      # Nearly linear in the distance, as f is nearly a parabola.
      over = max(float(height[lowest]) - best, 0.0) / threshold
      side.take(found[lowest], float(np.sqrt(over)))
  return np.reshape([side.end() for side in sides], (-1, 2))
