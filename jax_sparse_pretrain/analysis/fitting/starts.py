"""Where to begin a fit: variable projection over the two exponents.

Given alpha and beta the law is linear in E, A and B, and for small residuals
log L - log s is 1 - s / L. So the best nonnegative E, A and B of each pair of
exponents on a grid are a linear least-squares problem in relative errors, and
what is left to search are two exponents which the grid covers.
"""

import itertools

import numpy as np

from jax_sparse_pretrain.analysis.fitting.objective import (
  MAX_EXPONENT,
  Rows,
  huber,
  residuals,
)

# From a law that hardly falls to the bound, about a factor 1.7 apart.
EXPONENTS = np.geomspace(0.03, MAX_EXPONENT, 10)
# The optimum is at zero for some of the terms: each subset is tried.
SUBSETS = [
  subset
  for size in (1, 2, 3)
  for subset in itertools.combinations(range(3), size)
]


# Enough for resamples, which have another start as well; and its spacing.
COARSE = np.geomspace(0.06, 0.6 * MAX_EXPONENT, 6)
COARSE_STEP = float(np.log(COARSE[1] / COARSE[0]))


def _pairs(exponents: np.ndarray) -> np.ndarray:
  """All (alpha, beta): (g, 2)."""
  return np.array(list(itertools.product(exponents, exponents)))


def moderate(rows: Rows, delta: float) -> np.ndarray:
  """The best grid point of exponents as laws of language models have."""
  usual = EXPONENTS[(EXPONENTS > 0.1) & (EXPONENTS < 1)]
  return ranked(rows, delta, _pairs(usual))[0]


def ranked(
  rows: Rows, delta: float, exponents: np.ndarray | None = None
) -> np.ndarray:
  """Every pair of exponents with its best E, A and B: (g, 5).

  The pair of least objective comes first.

  Args:
    rows: the data.
    delta: of the Huber loss.
    exponents: alpha and beta, (g, 2); those of the grid by default.
  """
  if exponents is None:
    exponents = _pairs(EXPONENTS)
  moments, targets = _moments(rows, exponents, np.ones((1, len(rows.x))))
  linear = _nonnegative(moments[0], targets[0])
  theta = np.concatenate([linear, exponents], axis=1)
  f = huber(residuals(theta, rows), delta).sum(axis=1)
  return theta[np.argsort(f, kind='stable')]


def projected(
  rows: Rows, weights: np.ndarray, otherwise: np.ndarray
) -> np.ndarray:
  """The best grid point in least squares of each problem: (n, 5).

  Only points whose E, A and B come out positive unconstrained are looked at,
  which is a formula instead of a search. Next to an optimum on a bound there
  are such points too; a problem that has none gets `otherwise`, (5,).

  Args:
    rows: the data, m rows.
    weights: of the rows, (n, m).
    otherwise: start of last resort.
  """
  exponents = _pairs(COARSE)
  moments, targets = _moments(rows, exponents, weights)
  linear = _solve3(moments, targets)
  gain = np.einsum('ngk,ngk->ng', linear, targets)
  gain = np.where((linear > 0).all(axis=-1), gain, -np.inf)
  best = gain.argmax(axis=1)
  index = np.arange(len(weights))
  theta = np.concatenate([linear[index, best], exponents[best]], axis=1)
  return np.where(np.isfinite(gain[index, best])[:, None], theta, otherwise)


def _moments(rows, exponents, weights):
  """Normal equations of relative errors: (n, g, 3, 3) and (n, g, 3)."""
  loss = np.exp(rows.z)
  columns = np.stack(
    [
      np.broadcast_to(1 / loss, (len(exponents), len(loss))),
      np.exp(-exponents[:, :1] * rows.x) / loss,
      np.exp(-exponents[:, 1:] * rows.y) / loss,
    ]
  )
  pairs = np.einsum('jgm,kgm->gjkm', columns, columns)
  n, g = len(weights), len(exponents)
  moments = weights @ pairs.reshape(g * 9, -1).T
  targets = weights @ columns.transpose(1, 0, 2).reshape(g * 3, -1).T
  return moments.reshape(n, g, 3, 3), targets.reshape(n, g, 3)


def _nonnegative(moments, targets):
  """min |1 - F c|^2 over c >= 0 for (g, 3, 3), (g, 3): (g, 3)."""
  best, best_gain = np.zeros_like(targets), np.full(len(targets), -np.inf)
  for subset in SUBSETS:
    inside = np.ix_(range(len(targets)), subset, subset)
    c = np.zeros_like(targets)
    c[:, subset] = _solve(moments[inside], targets[:, subset])
    gain = (c * targets).sum(axis=1)
    better = (c >= 0).all(axis=1) & (gain > best_gain)
    best[better], best_gain[better] = c[better], gain[better]
  return best


def _solve(moments, targets):
  """Solutions of small systems, with a ridge where columns are equal."""
  ridge = 1e-12 * np.einsum('gjj->gj', moments)
  moments = moments + ridge[:, :, None] * np.eye(moments.shape[-1])
  return np.linalg.solve(moments, targets[..., None])[..., 0]


def _solve3(M, t):
  """Cramer's rule for symmetric (..., 3, 3) and (..., 3); -1 if singular."""
  a, b, c = M[..., 0, 0], M[..., 0, 1], M[..., 0, 2]
  d, e, f = M[..., 1, 1], M[..., 1, 2], M[..., 2, 2]
  aa, ab, ac = d * f - e * e, c * e - b * f, b * e - c * d
  bb, bc, cc = a * f - c * c, b * c - a * e, a * d - b * b
  determinant = a * aa + b * ab + c * ac
  # Columns that rounding cannot tell apart solve nothing.
  usable = determinant > 1e-10 * a * d * f
  inverse = 1 / np.where(usable, determinant, 1.0)
  p, q, r = t[..., 0], t[..., 1], t[..., 2]
  solution = np.stack(
    [
      aa * p + ab * q + ac * r,
      ab * p + bb * q + bc * r,
      ac * p + bc * q + cc * r,
    ],
    axis=-1,
  )
  return np.where(usable[..., None], solution * inverse[..., None], -1.0)
