"""Resamples of runs, or of groups of runs, and their fits."""

import numbers

import numpy as np

from jax_sparse_pretrain.analysis.fitting import identification, starts
from jax_sparse_pretrain.analysis.fitting.bootstrap import Bootstrap
from jax_sparse_pretrain.analysis.fitting.design import Design
from jax_sparse_pretrain.analysis.fitting.objective import residuals
from jax_sparse_pretrain.analysis.fitting.search import NOTHING, SAME, scattered
from jax_sparse_pretrain.analysis.fitting.solver import minimise

MAX_RESAMPLES = 1_000_000
# Residuals of so many deltas make the objective nearly piecewise linear,
# with optima next to each other that no grid of starts tells apart.
MANY_DELTAS = 10.0
# One resample of so many tries a second start in any case.
PROBE_EVERY = 20
# Where there are several optima: how far each round of starts is scattered.
ROUNDS = (0.03, 0.15, 0.4, 0.03, 0.15, 0.4)


def bootstrap(
  design: Design,
  theta: np.ndarray,
  delta: float,
  n_resamples: int,
  seed: int,
) -> Bootstrap:
  """Fits resamples of the rows, or of the groups of the design.

  Args:
    design: the data.
    theta: the optimum of the data, (5,), where the resamples start.
    delta: of the Huber loss.
    n_resamples: how many.
    seed: of the draws, which do not depend on the order of the given rows.

  Raises:
    ValueError: for a number of resamples that is not whole, or not from 1 to
      a million.
  """
  if not isinstance(n_resamples, numbers.Integral):
    raise ValueError(f'n_resamples {n_resamples!r}: must be a whole number')
  if not 1 <= n_resamples <= MAX_RESAMPLES:
    raise ValueError(
      f'n_resamples {n_resamples}: must be at least 1 and at most '
      f'{MAX_RESAMPLES}'
    )
  rng = np.random.default_rng(seed)
  counts = _draw(design, n_resamples, rng)
  found, f = _refit(design, theta, delta, counts.astype(float), rng)
  return Bootstrap(
    laws=design.coefficients(found),
    objectives=f,
    counts=counts,
    unidentified=identification.unidentified(
      design, counts.astype(float), found
    ),
    n_groups=int(_groups(design).max()) + 1,
    ranges=_ranges(design),
  )


def _ranges(design: Design) -> np.ndarray:
  x, y = design.rows.x + design.pivots[0], design.rows.y + design.pivots[1]
  return np.exp([[x.min(), x.max()], [y.min(), y.max()]])


def _groups(design: Design) -> np.ndarray:
  """Index of the group of each row; each is its own without groups."""
  m = len(design.rows.x)
  return np.arange(m) if design.groups is None else design.groups


def _draw(design: Design, n: int, rng: np.random.Generator) -> np.ndarray:
  """How often each row is drawn, (n, m)."""
  groups = _groups(design)
  k = int(groups.max()) + 1
  picks = rng.integers(0, k, size=(n, k))
  picks += k * np.arange(n)[:, None]
  counts = np.bincount(picks.ravel(), minlength=n * k).reshape(n, k)
  return counts[:, groups]


def _refit(design, theta, delta, weights, rng):
  """The best optimum of each resample from several starts.

  The first start is the optimum of all data, the second the resample's own
  best point of a grid of exponents. Where that point is next to the optimum
  found, the second would end there too and is skipped, but for a probe. If a
  second start ends elsewhere, or residuals are of many deltas, there are
  several optima: then every resample has both, and starts around the best.
  """
  rows = design.rows
  everyone = np.ones(len(weights), bool)
  found, f = minimise(theta, rows, delta, weights)
  own = starts.projected(rows, weights, theta)
  before, after = (np.maximum(each[:, 3:], 1e-9) for each in (own, found))
  far = (np.abs(np.log(before / after)) > starts.COARSE_STEP).any(axis=1)
  far[::PROBE_EVERY] = True
  data = (rows, delta, weights)
  is_hard = _improve(found, f, own, far, *data)
  is_hard |= np.median(np.abs(residuals(theta, rows))) > MANY_DELTAS * delta
  if is_hard:
    _improve(found, f, own, ~far, *data)
    for spread in ROUNDS:
      _improve(found, f, scattered(found, spread, rng), everyone, *data)
  return found, f


def _improve(found, f, start, which, rows, delta, weights) -> bool:
  """Replaces optima, in place, by better ones from other starts.

  Returns whether a start ended elsewhere, better or worse.
  """
  if not which.any():
    return False
  theta, again = minimise(start[which], rows, delta, weights[which])
  old = f[which]
  better = again < old
  index = np.flatnonzero(which)[better]
  found[index], f[index] = theta[better], again[better]
  same = np.abs(again - old) <= SAME * old + NOTHING
  return not bool(same.all())
