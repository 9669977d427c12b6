"""Laws of resampled runs, and intervals from them."""

import dataclasses
import numbers
from collections.abc import Iterator, Sequence

import numpy as np

from jax_sparse_pretrain.analysis.fitting import search
from jax_sparse_pretrain.analysis.fitting.design import (
  NAMES,
  SAME_COUNT,
  Design,
  check_level,
)
from jax_sparse_pretrain.analysis.fitting.identification import (
  FEW,
  unidentified,
)
from jax_sparse_pretrain.analysis.fitting.law import ScalingLaw
from jax_sparse_pretrain.analysis.fitting.objective import residuals
from jax_sparse_pretrain.analysis.fitting.search import NOTHING, SAME, scattered
from jax_sparse_pretrain.analysis.fitting.solver import minimise
from jax_sparse_pretrain.text import listed, percent

MAX_RESAMPLES = 1_000_000
# Residuals of so many deltas make the objective nearly piecewise linear,
# with optima next to each other that no grid of starts tells apart.
MANY_DELTAS = 10.0
# One resample of so many tries a second start in any case.
PROBE_EVERY = 20
# Where there are several optima: how far each round of starts is scattered.
ROUNDS = (0.03, 0.15, 0.4, 0.03, 0.15, 0.4)
# Of a product such as 40 * 0.05.
ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True)
class Bootstrap:
  """The laws of the resamples.

  Attributes:
    laws: E, A, B, alpha, beta of each, (n, 5).
    objectives: the objective of each fit, (n,).
    counts: how often each given row was drawn, (n, m), in canonical order.
    unidentified: coefficients which a resample leaves open, (n, 5), bool.
    n_groups: how many runs, or groups of them, were drawn from.
    ranges: lowest and highest N, and D, of the runs, (2, 2).
    values: the coefficient of the count in each, (n,), infinite where it was
      at an end of its table; None if the count has none.
    name: that of the coefficient.
  """

  laws: np.ndarray
  objectives: np.ndarray
  counts: np.ndarray
  unidentified: np.ndarray
  n_groups: int
  ranges: np.ndarray
  values: np.ndarray | None = None
  name: str = ''

  def intervals(self, level: float = 0.95) -> dict[str, tuple[float, float]]:
    """Percentile interval of each coefficient.

    A resample that leaves a coefficient open could have had any value of it.
    So it counts as 0 for the lower end and as infinite for the upper: a few
    widen the interval, and more than the level allows open it. So do fewer
    resamples than the level takes: one beyond each end.

    Raises:
      ValueError: for a level outside (0, 1).
    """
    check_level(level)
    lows, highs = percentiles(self.laws, self.unidentified, level)
    ends = zip(lows.tolist(), highs.tolist(), strict=True)
    found = dict(zip(NAMES, ends, strict=True))
    if self.values is not None:
      tail = (1 - level) / 2
      found[self.name] = (
        float(np.quantile(self.values, tail, method='lower')),
        float(np.quantile(self.values, 1 - tail, method='higher')),
      )
    return found

  def loss_intervals(
    self, parameters, tokens, level: float = 0.95
  ) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval of the predicted loss, each of shape (k,).

    Of the law alone, without the noise of a run. N may be (n, k), where each
    resample counts it in its own way. Outside the N of the runs,
    or outside their D, a resample that leaves the exponent open could have
    predicted anything, and counts as in `intervals`.

    Raises:
      ValueError: for a level outside (0, 1), or sizes that are not positive.
    """
    check_level(level)
    parameters, tokens = np.broadcast_arrays(
      np.atleast_1d(parameters), np.atleast_1d(tokens)
    )
    E, A, B, alpha, beta = self.laws.T[:, :, None]
    losses = E + A * parameters**-alpha + B * tokens**-beta
    anything = np.zeros(losses.shape, bool)
    for term, sizes in enumerate((parameters, tokens)):
      low, high = np.log(self.ranges[term]) + [-SAME_COUNT, SAME_COUNT]
      outside = (np.log(sizes) < low) | (np.log(sizes) > high)
      anything |= self.unidentified[:, [3 + term]] & outside
    return percentiles(losses, anything, level)

  def counted(self, of_value, fit) -> np.ndarray:
    """N of some runs as each resample counts them, (n, k), or (k,) for all.

    Args:
      of_value: coefficient of the count, or None -> N of the runs, (k,).
      fit: the fit that was resampled.
    """
    if self.values is None:
      return of_value(None)
    table = np.stack([of_value(q) for q in fit.count.values])
    q = np.clip(self.values, *fit.count.values[[0, -1]])
    columns = [np.interp(q, fit.count.values, each) for each in table.T]
    return np.stack(columns, axis=1)

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
    """`warnings_at` the level of 95 %."""
    return self.warnings_at(0.95)

  def warnings_at(self, level: float) -> tuple[str, ...]:
    """Sentences on what resamples leave open, or are too few for."""
    return tuple(self._sentences(level))

  def _sentences(self, level: float) -> Iterator[str]:
    n, by_count = len(self.laws), {}
    for name, count in zip(NAMES, self.unidentified.sum(axis=0), strict=True):
      by_count.setdefault(int(count), []).append(name)
    by_count.pop(0, None)
    for count, names in by_count.items():
      do = 'does' if count == 1 else 'do'
      yield f'{count} of {n} resamples {do} not identify {listed(names)}'
    if _are_few(n, level):
      needed = int(np.ceil(2 / (1 - level) * (1 - ROUNDING)))
      are = 'resample is' if n == 1 else 'resamples are'
      yield f'{n} {are} too few for {percent(level, "g")}: it takes {needed}'
    if self.n_groups < FEW:
      yield (
        f'{self.n_groups} runs, or groups of runs, are few to resample: '
        'bootstrap intervals are too narrow'
      )

  def __iter__(self):
    return (ScalingLaw(*map(float, law)) for law in self.laws)


def bootstrap(
  design: Design, theta: np.ndarray, delta: float, n_resamples: int, seed: int
) -> Bootstrap:
  """Laws of resamples of a design of runs, which start at `theta`.

  The order of the given rows does not matter. Errors as of `resampled`.
  """
  found, objectives, counts = resampled(design, theta, delta, n_resamples, seed)
  pivots = design.pivots[1:].diagonal()
  logs = design.counts + pivots[:, None]
  return Bootstrap(
    design.coefficients(found),
    objectives,
    counts,
    unidentified(design, counts.astype(float), found),
    int(design.groups.max()) + 1,
    np.exp([logs.min(axis=1), logs.max(axis=1)]).T,
  )


def bootstrap_over(
  counted: Sequence[tuple[float, Design, np.ndarray]],
  delta: float,
  n_resamples: int,
  seed: int,
  name: str,
) -> Bootstrap:
  """Laws of resamples, each with its own best value of a coefficient.

  Args:
    counted: of values of the coefficient of a count, increasing in equal
      steps: the value, the runs as it counts them, and the best law, (k,).
    delta: of the Huber loss.
    n_resamples: how many.
    seed: the seed of the draws.
    name: of the coefficient.
  """
  values = np.array([q for q, _, _ in counted])
  middle = len(counted) // 2
  _, design, theta = counted[middle]
  drawn = bootstrap(design, theta, delta, n_resamples, seed)
  # A design has its rows in an order of its own.
  given = np.empty_like(drawn.counts)
  given[:, design.order] = drawn.counts
  laws = np.empty((len(counted), *drawn.laws.shape))
  f = np.empty(laws.shape[:2])
  laws[middle], f[middle] = drawn.laws, drawn.objectives
  for way in (-1, 1):
    at = middle
    while 0 <= at + way < len(counted):
      _, design, _ = counted[at + way]
      start = np.clip(
        design.theta(laws[at]), design.problem.lower, design.problem.upper
      )
      weights = given[:, design.order].astype(float)
      found, f[at + way] = minimise(start, design.problem, delta, weights)
      laws[at + way] = design.coefficients(found)
      at += way
  best, every = f.argmin(axis=0), np.arange(n_resamples)
  # The vertex of the parabola through the best and its neighbours.
  inner = best.clip(1, len(values) - 2)
  left, least, right = (f[inner + i, every] for i in (-1, 0, 1))
  bend = np.maximum(left - 2 * least + right, 1e-300)
  shift = np.clip((left - right) / (2 * bend), -1, 1)
  found = values[inner] + shift * (values[1] - values[0])
  found = np.where(best == 0, -np.inf, found)
  found = np.where(best == len(values) - 1, np.inf, found)
  return dataclasses.replace(
    drawn,
    laws=laws[best, every],
    objectives=f[best, every],
    values=found,
    name=name,
  )


def resampled(
  design: Design, theta: np.ndarray, delta: float, n_resamples: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Fits resamples of the rows, or groups of rows, for any form of the law.

  Returns:
    The optima, (n, k), in the units of the design; their objectives, (n,);
    and how often each row of the design was drawn, (n, m).

  Raises:
    ValueError: for a number of resamples that is not from 1 to a million.
  """
  if not isinstance(n_resamples, numbers.Integral):
    raise ValueError(f'n_resamples {n_resamples!r}: must be a whole number')
  if not 1 <= n_resamples <= MAX_RESAMPLES:
    raise ValueError(
      f'n_resamples {n_resamples}: must be at least 1 and at most '
      f'{MAX_RESAMPLES}'
    )
  rng = np.random.default_rng(seed)
  n_groups = int(design.groups.max()) + 1
  picks = rng.integers(0, n_groups, size=(n_resamples, n_groups))
  picks += n_groups * np.arange(n_resamples)[:, None]
  counts = np.bincount(picks.ravel(), minlength=n_resamples * n_groups)
  counts = counts.reshape(n_resamples, n_groups)[:, design.groups]
  found, f = _refit(design.problem, theta, delta, counts.astype(float), rng)
  return found, f, counts


def percentiles(values, are_open, level) -> tuple[np.ndarray, np.ndarray]:
  """Outward to the next value, so that infinite ones need no interpolation.

  Open values count as 0 for the lower end and as infinite for the upper.
  """
  are_open = are_open | _are_few(len(values), level)
  low = np.where(are_open, 0.0, values)
  high = np.where(are_open, np.inf, values)
  tail = (1 - level) / 2
  return (
    np.quantile(low, tail, axis=0, method='lower'),
    np.quantile(high, 1 - tail, axis=0, method='higher'),
  )


def _are_few(n: int, level: float) -> bool:
  """Whether there is less than one resample beyond each end."""
  return n * (1 - level) / 2 < 1 - ROUNDING


def _refit(problem, theta, delta, weights, rng):
  """The best optimum of each resample from several starts.

  The first start is the optimum of all data, the second the resample's own
  best point of a grid of exponents. Where that point is next to the optimum
  found, the second would end there too and is skipped, but for a probe. If a
  second start ends elsewhere, or residuals are of many deltas, there are
  several optima: then every resample has both, and starts around the best.
  """
  everyone = np.ones(len(weights), bool)
  found, f = minimise(theta, problem, delta, weights)
  own = search.projected(problem, weights, theta)
  before, after = (
    np.maximum(each[:, problem.n_sizes :], 1e-9) for each in (own, found)
  )
  axes = np.log(search.coarse_axes(problem))
  far = (np.abs(np.log(before / after)) > axes[:, 1] - axes[:, 0]).any(axis=1)
  far[::PROBE_EVERY] = True
  data = (problem, delta, weights)
  is_hard = _improve(found, f, own, far, *data)
  is_hard |= np.median(np.abs(residuals(theta, problem))) > MANY_DELTAS * delta
  if is_hard:
    _improve(found, f, own, ~far, *data)
    for spread in ROUNDS:
      start = scattered(found, spread, problem, rng)
      _improve(found, f, start, everyone, *data)
  return found, f


def _improve(found, f, start, which, problem, delta, weights) -> bool:
  """Replaces optima, in place, by better ones from other starts.

  Returns whether a start ended elsewhere, better or worse.
  """
  if not which.any():
    return False
  theta, again = minimise(start[which], problem, delta, weights[which])
  old = f[which]
  better = again < old
  index = np.flatnonzero(which)[better]
  found[index], f[index] = theta[better], again[better]
  same = np.abs(again - old) <= SAME * old + NOTHING
  return not bool(same.all())
