"""Intervals, and what else there is to say, from laws of resampled runs."""

import dataclasses
from collections.abc import Iterator

import numpy as np

from jax_sparse_pretrain.analysis.fitting.design import SAME_COUNT
from jax_sparse_pretrain.analysis.fitting.identification import (
  FEW,
  listed,
  shown,
)
from jax_sparse_pretrain.analysis.fitting.law import ScalingLaw
from jax_sparse_pretrain.analysis.fitting.objective import NAMES

# Of a product such as 40 * 0.05.
ROUNDING = 1e-9


@dataclasses.dataclass(frozen=True)
class Bootstrap:
  """Laws of the resamples.

  Attributes:
    laws: E, A, B, alpha, beta of each, (n, 5).
    objectives: of each fit, (n,).
    counts: how often each given row was drawn, (n, m), in canonical order.
    unidentified: coefficients which a resample leaves open, (n, 5), bool.
    n_groups: how many runs, or groups of them, were drawn from.
    ranges: lowest and highest N, and D, of the runs, (2, 2).
  """

  laws: np.ndarray
  objectives: np.ndarray
  counts: np.ndarray
  unidentified: np.ndarray
  n_groups: int
  ranges: np.ndarray

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
    lows, highs = _percentiles(self.laws, self.unidentified, level)
    return {
      name: (float(a), float(b))
      for name, a, b in zip(NAMES, lows, highs, strict=True)
    }

  def loss_intervals(
    self, parameters, tokens, level: float = 0.95
  ) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval of the predicted loss, each of shape (k,).

    Of the law alone, without the noise of a run. Outside the N of the runs,
    or outside their D, a resample that leaves the exponent open could have
    predicted anything, and counts as in `intervals`.

    Raises:
      ValueError: for a level outside (0, 1), or sizes that are not positive.
    """
    check_level(level)
    parameters, tokens = np.broadcast_arrays(
      np.atleast_1d(parameters), np.atleast_1d(tokens)
    )
    losses = np.stack([law.loss(parameters, tokens) for law in self])
    anything = np.zeros(losses.shape, bool)
    for term, sizes in enumerate((parameters, tokens)):
      low, high = np.log(self.ranges[term]) + [-SAME_COUNT, SAME_COUNT]
      outside = (np.log(sizes) < low) | (np.log(sizes) > high)
      anything |= self.unidentified[:, [3 + term]] & outside
    return _percentiles(losses, anything, level)

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
      yield f'{n} {are} too few for {shown(level)}: it takes {needed}'
    if self.n_groups < FEW:
      yield (
        f'{self.n_groups} runs, or groups of runs, are few to resample: '
        'bootstrap intervals are too narrow'
      )

  def __iter__(self):
    return (ScalingLaw(*map(float, law)) for law in self.laws)


def _percentiles(values, are_open, level):
  """Outward to the next value, so that infinite ones need no interpolation.

  Open values count as 0 for the lower end and as infinite for the upper.
  """
  are_open = are_open | _are_few(len(values), level)
  low, high = (
    np.where(are_open, 0.0, values),
    np.where(are_open, np.inf, values),
  )
  tail = (1 - level) / 2
  return (
    np.quantile(low, tail, axis=0, method='lower'),
    np.quantile(high, 1 - tail, axis=0, method='higher'),
  )


def _are_few(n: int, level: float) -> bool:
  """Whether there is less than one resample beyond each end."""
  return n * (1 - level) / 2 < 1 - ROUNDING


def check_level(level: float) -> None:
  if not 0 < level < 1:
    raise ValueError(f'level {level}: must be between 0 and 1')
