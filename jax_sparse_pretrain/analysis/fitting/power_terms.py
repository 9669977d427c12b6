"""Fits laws that are sums of terms, each a size times powers.

  L_i = sum_j c_j exp(-sum_p q_p F_jpi),    c >= 0, q within bounds,

where the factors F are logarithms: log N where a term falls as N^-q. This
covers laws with more coefficients than Chinchilla's, whose own solver is
`solver`. The objective is the same: summed Huber losses of log loss.

Given the exponents q the law is linear in the sizes c. So starts come from a
grid over exponents alone, with sizes by nonnegative least squares (variable
projection), and SciPy's trust-region solver takes the best to the optimum.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from jax_sparse_pretrain.analysis.fitting.objective import huber

# Refined, best first. In every data set tried all of them ended together.
N_STARTS = 3
GRID = 6
# A size below this part of the typical loss is zero: the solver, which stays
# inside the bounds, comes as close as it likes but never there.
NOTHING = 1e-8
MAX_EVALUATIONS = 2000


@dataclasses.dataclass(frozen=True)
class Fitted:
  """The optimum.

  Attributes:
    log_sizes: log of c, (j,); -inf for a term that is not there.
    exponents: q, (p,).
    objective: sum of Huber losses.
  """

  log_sizes: np.ndarray
  exponents: np.ndarray
  objective: float


def fit(
  factors: np.ndarray,
  loss: np.ndarray,
  delta: float,
  bounds: Sequence[tuple[float, float]],
) -> Fitted:
  """The coefficients of least objective; row order changes no bit of them.

  Args:
    factors: F, (j, p, m); zero where a term does not depend on an exponent.
    loss: measured, in nats, (m,).
    delta: of the Huber loss, in log loss.
    bounds: lowest and highest value of each exponent; lowest may be 0.
  """
  problem, units = centred(factors, loss, delta, bounds)
  ends = [problem.refine(start) for start in problem.starts()]
  theta = min(ends, key=problem.objective)
  return Fitted(*problem.terms(theta, units), problem.objective(theta))


def centred(factors, loss, delta, bounds):
  """The problem, and exponents -> log of the units of its sizes."""
  order = np.lexsort((*factors.reshape(-1, len(loss)), loss))
  pivots = factors[:, :, order].mean(axis=2)
  centred = factors[:, :, order] - pivots[:, :, None]
  z = np.log(loss[order])
  problem = Problem(centred, z - z.mean(), delta, np.array(bounds))
  return problem, lambda exponents: z.mean() + pivots @ exponents


@dataclasses.dataclass(frozen=True)
class Problem:
  """Centred factors and log losses: sizes are of the order of one."""

  factors: np.ndarray
  z: np.ndarray
  delta: float
  bounds: np.ndarray

  def split(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.split(theta, [len(self.factors)])

  def terms(self, theta, units) -> tuple[np.ndarray, np.ndarray]:
    """log_sizes, in the units of the data, and exponents."""
    sizes, exponents = self.split(theta)
    with np.errstate(divide='ignore'):
      return np.log(sizes) + units(exponents), exponents

  def residuals(self, theta: np.ndarray) -> np.ndarray:
    sizes, exponents = self.split(theta)
    return self.z - np.log(sizes @ self._powers(exponents))

  def jacobian(self, theta: np.ndarray) -> np.ndarray:
    """Of the residuals, (m, j + p)."""
    sizes, exponents = self.split(theta)
    powers = self._powers(exponents)
    terms = sizes[:, None] * powers
    slopes = np.einsum('jm,jpm->pm', terms, self.factors)
    return (np.concatenate([-powers, slopes]) / terms.sum(axis=0)).T

  def objective(self, theta: np.ndarray) -> float:
    return float(huber(self.residuals(theta), self.delta).sum())

  def starts(self) -> list[np.ndarray]:
    axes = [
      np.geomspace(max(low, high / 60), 0.9 * high, GRID)
      for low, high in self.bounds
    ]
    grid = map(np.array, itertools.product(*axes))
    return sorted(map(self._with_sizes, grid), key=self.objective)[:N_STARTS]

  def refine(self, theta: np.ndarray) -> np.ndarray:
    """Delta is approached from above: far off, it leaves only signs."""
    widest = max(np.abs(self.residuals(theta)).max() / self.delta, 1.0)
    for factor in 10.0 ** np.arange(np.ceil(np.log10(widest)), -1, -1):
      # Roughly on the way; to rounding in the end.
      tolerance = 1e-6 if factor > 1 else 1e-14
      width = self.delta * factor
      theta = self.descend(theta, 'huber', width, tolerance, MAX_EVALUATIONS)
    return self.trimmed(theta)

  def trimmed(self, theta: np.ndarray) -> np.ndarray:
    """Sizes of nothing as zeros."""
    is_size = np.arange(len(theta)) < len(self.factors)
    return np.where(is_size & (theta < NOTHING), 0, theta)

  def descend(self, theta, loss, width, tolerance, steps) -> np.ndarray:
    from scipy import optimize

    sizes = [(0.0, np.inf)] * len(self.factors)
    low, high = np.array([*sizes, *self.bounds]).T
    return optimize.least_squares(
      self.residuals,
      np.clip(theta, low + 1e-9, high - 1e-9),
      self.jacobian,
      bounds=(low, high),
      loss=loss,
      f_scale=width,
      x_scale='jac',
      ftol=tolerance,
      xtol=tolerance,
      gtol=tolerance,
      max_nfev=steps,
    ).x

  def _powers(self, exponents: np.ndarray) -> np.ndarray:
    return np.exp(-np.einsum('jpm,p->jm', self.factors, exponents))

  def _with_sizes(self, exponents: np.ndarray) -> np.ndarray:
    """Sizes of least squared relative error, 1 - s / L."""
    from scipy import optimize

    columns = self._powers(exponents) / np.exp(self.z)
    sizes, _ = optimize.nnls(columns.T, np.ones(len(self.z)))
    return np.concatenate([sizes, exponents])


def log_loss(
  log_sizes: np.ndarray, exponents: np.ndarray, factors: np.ndarray
) -> np.ndarray:
  """log L of the law, (m,)."""
  logs = log_sizes[:, None] - np.einsum('jpm,p->jm', factors, exponents)
  return np.logaddexp.reduce(logs)
