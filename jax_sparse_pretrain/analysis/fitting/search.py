"""The global optimum of one fit.

Where the law fits, every start ends in the same optimum, and a batch of them
shows it. With residuals of many deltas, or a coefficient which the data hardly
identify, there are several. Then the search goes on around the best so far,
until two rounds find nothing better.
"""

import numpy as np

from jax_sparse_pretrain.analysis.fitting import starts
from jax_sparse_pretrain.analysis.fitting.objective import MAX_EXPONENT, Rows
from jax_sparse_pretrain.analysis.fitting.solver import minimise

# The best grid points, and a spread over the rest.
N_BEST, EVERY = 12, 11
# Two optima are one if their objectives agree to this part, or are both of
# rounding alone.
SAME, NOTHING = 1e-9, 1e-24
# How far a round looks in logarithms of the coefficients; and of exponents
# whose E, A and B are then found anew.
SPREADS, EXPONENT_SPREADS = (0.03, 0.15, 0.5), (0.1, 0.4)
N_ROUND, PATIENCE = 12, 2


def lowest(rows: Rows, delta: float) -> tuple[np.ndarray, float]:
  """The best optimum found, (5,), and its objective.

  Random numbers of a fixed seed place the starts of later rounds: the same
  data give the same answer to the bit.
  """
  ranked = starts.ranked(rows, delta)
  begin = np.concatenate([ranked[:N_BEST], ranked[N_BEST::EVERY]])
  theta, f = minimise(begin, rows, delta)
  best, low = theta[f.argmin()], f.min()
  if (f <= low * (1 + SAME) + NOTHING).all():
    return best, float(low)
  rng, fruitless = np.random.default_rng(0), 0
  while fruitless < PATIENCE:
    theta, f = minimise(_around(best, rows, delta, rng), rows, delta)
    fruitless += 1
    if f.min() < low * (1 - SAME) - NOTHING:
      fruitless = 0
      best, low = theta[f.argmin()], f.min()
  return best, float(low)


def scattered(
  theta: np.ndarray, spread: float, rng: np.random.Generator
) -> np.ndarray:
  """Each coefficient times a log-normal factor, within the bounds."""
  theta = theta * np.exp(spread * rng.normal(size=theta.shape))
  theta[..., 3:] = np.minimum(theta[..., 3:], MAX_EXPONENT)
  return theta


def _around(best, rows, delta, rng):
  copies = np.tile(best, (N_ROUND, 1))
  moved = [scattered(copies, spread, rng) for spread in SPREADS]
  # An exponent of zero would stay there.
  exponents = np.maximum(copies[:, 3:], starts.EXPONENTS[0])
  for spread in EXPONENT_SPREADS:
    pairs = exponents * np.exp(spread * rng.normal(size=exponents.shape))
    pairs = np.minimum(pairs, MAX_EXPONENT)
    moved.append(starts.ranked(rows, delta, pairs))
  return np.concatenate(moved)
