"""Bootstrap of a fit: resample runs, or groups of runs, and fit again."""

import dataclasses

import numpy as np

from jax_sparse_pretrain.analysis.fitting import identification, starts
from jax_sparse_pretrain.analysis.fitting.design import Design
from jax_sparse_pretrain.analysis.fitting.law import ScalingLaw
from jax_sparse_pretrain.analysis.fitting.objective import NAMES, residuals
from jax_sparse_pretrain.analysis.fitting.search import NOTHING, SAME, scattered
from jax_sparse_pretrain.analysis.fitting.solver import minimise

# Residuals of so many deltas make the objective nearly piecewise linear,
# with optima next to each other that no grid of starts tells apart.
MANY_DELTAS = 10.0
# One resample of so many tries a second start in any case.
PROBE_EVERY = 20
# Where there are several optima: how far each round of starts is scattered.
ROUNDS = (0.03, 0.15, 0.4, 0.03, 0.15, 0.4)


@dataclasses.dataclass(frozen=True)
class Bootstrap:
  """Laws of the resamples.

  Attributes:
    laws: E, A, B, alpha, beta of each, (n, 5).
    objectives: of each fit, (n,).
    counts: how often each given row was drawn, (n, m), in canonical order.
    unidentified: coefficients which a resample leaves open, (n, 5), bool.
  """

  laws: np.ndarray
  objectives: np.ndarray
  counts: np.ndarray
  unidentified: np.ndarray

  def intervals(self, level: float = 0.95) -> dict[str, tuple[float, float]]:
    """Percentile interval of each coefficient.

    A resample that leaves a coefficient open could have had any value of it.
    So it counts as 0 for the lower end and as infinite for the upper: a few
    widen the interval, and more than the level allows open it.

    Raises:
      ValueError: for a level outside (0, 1).
    """
    check_level(level)
    low = np.where(self.unidentified, 0.0, self.laws)
    high = np.where(self.unidentified, np.inf, self.laws)
    lows, highs = _percentiles(low, high, level)
    return {
      name: (float(a), float(b))
      for name, a, b in zip(NAMES, lows, highs, strict=True)
    }

  def loss_intervals(
    self, parameters, tokens, level: float = 0.95
  ) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval of the predicted loss, each of shape (k,).

    Of the law alone, without the noise of a run.

    Raises:
      ValueError: for a level outside (0, 1), or sizes that are not positive.
    """
    check_level(level)
    parameters, tokens = np.broadcast_arrays(
      np.atleast_1d(parameters), np.atleast_1d(tokens)
    )
    losses = np.stack([law.loss(parameters, tokens) for law in self])
    return _percentiles(losses, losses, level)

  def correlations(self) -> np.ndarray:
    """Between the coefficients over the resamples, A and B as logarithms.

    (5, 5); NaN for a coefficient that does not vary.
    """
    values = self.laws.copy()
    with np.errstate(divide='ignore', invalid='ignore'):
      values[:, 1:3] = np.log(values[:, 1:3])
      return np.corrcoef(values[np.isfinite(values).all(axis=1)].T)

  @property
  def warnings(self) -> tuple[str, ...]:
    """Sentences on the resamples that leave something open."""
    counts = self.unidentified.sum(axis=0)
    return tuple(
      f'{count} of {len(self.laws)} resamples do not identify {name}'
      for name, count in zip(NAMES, counts, strict=True)
      if count
    )

  def __iter__(self):
    return (ScalingLaw(*map(float, law)) for law in self.laws)


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
    ValueError: if there is nothing to resample.
  """
  if n_resamples < 1:
    raise ValueError(f'n_resamples {n_resamples}: must be at least 1')
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
  )


def _draw(design: Design, n: int, rng: np.random.Generator) -> np.ndarray:
  """How often each row is drawn, (n, m)."""
  m = len(design.rows.x)
  groups = np.arange(m) if design.groups is None else design.groups
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
  first = np.broadcast_to(theta, (len(weights), 5))
  found, f = minimise(first, rows, delta, weights)
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


def _percentiles(low, high, level):
  """Outward to the next value, so that infinite ones need no interpolation."""
  tail = (1 - level) / 2
  return (
    np.quantile(low, tail, axis=0, method='lower'),
    np.quantile(high, 1 - tail, axis=0, method='higher'),
  )


def check_level(level: float) -> None:
  if not 0 < level < 1:
    raise ValueError(f'level {level}: must be between 0 and 1')
