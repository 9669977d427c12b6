"""The fit as Hoffmann et al. did it, as a check: many starts of L-BFGS-B.

Written from the objective alone: logarithms of E, A and B, log-sum-exp, no
centring. It shares nothing with the solver but the bounds of the exponents.
"""

import itertools

import numpy as np

from jax_sparse_pretrain.analysis.fitting.forms import MAX_EXPONENT
from jax_sparse_pretrain.analysis.fitting.law import ScalingLaw

BOUNDS = [(None, None)] * 3 + [(0.0, MAX_EXPONENT)] * 2


def hoffmann_starts() -> np.ndarray:
  """a, b, e, alpha, beta of the published grid: (4500, 5)."""
  sizes = np.arange(0.0, 30.0, 5.0)
  floors = np.arange(-1.0, 1.5, 0.5)
  exponents = np.arange(0.0, 2.5, 0.5)
  axes = (sizes, sizes, floors, exponents, exponents)
  return np.array(list(itertools.product(*axes)))


def objective(point, log_n, log_d, log_loss, delta) -> tuple[float, np.ndarray]:
  """The summed Huber loss at (a, b, e, alpha, beta), and its gradient."""
  a, b, e, alpha, beta = point
  terms = np.stack(
    [a - alpha * log_n, b - beta * log_d, np.full_like(log_n, e)]
  )
  top = terms.max(axis=0)
  shares = np.exp(terms - top)
  total = shares.sum(axis=0)
  r = log_loss - top - np.log(total)
  psi = np.clip(r, -delta, delta)
  pulls = -psi * shares / total
  gradient = np.array(
    [*pulls.sum(axis=1), -(pulls[0] @ log_n), -(pulls[1] @ log_d)]
  )
  return float((psi * (r - psi / 2)).sum()), gradient


def search(
  parameters, tokens, loss, delta: float, starts: np.ndarray | None = None
) -> tuple[ScalingLaw, float]:
  """The best end of all starts, and its objective."""
  from scipy import optimize

  data = [np.log(values) for values in (parameters, tokens, loss)]
  # Tight, since the objective itself is of the order of a thousandth.
  options = {'ftol': 1e-15, 'gtol': 1e-12, 'maxiter': 2000, 'maxfun': 5000}
  ends = [
    optimize.minimize(
      objective,
      start,
      args=(*data, delta),
      jac=True,
      method='L-BFGS-B',
      bounds=BOUNDS,
      options=options,
    )
    for start in (hoffmann_starts() if starts is None else starts)
  ]
  best = min(ends, key=lambda end: end.fun)
  a, b, e, alpha, beta = (float(value) for value in best.x)
  law = ScalingLaw(*(float(np.exp(v)) for v in (e, a, b)), alpha, beta)
  return law, float(best.fun)
