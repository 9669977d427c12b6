"""Effective counts: what N of Chinchilla's law a sparse run is worth.

Each is one small function of how dense the run was, and of one coefficient of
its own or none: it gives the share of the prunable weights that count. Exempt
kernels are dense, and count whole in every one. To add a count, write a line of
`EFFECTIVE`; `fit`, `compare`, `predict`, `plan`, the pictures and the report
then know it by its name. Others that were tried are a line each as well:

  Effective('s_power', 'N', '(1 - s)^q', lambda d, q: d.final**q, Q)
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from jax_sparse_pretrain.history import gaussian_mass
from jax_sparse_pretrain.planning import Plan
from jax_sparse_pretrain.schedule import PruningSchedule

# Shares of the steps of a run, and densities of its prunable weights.
Path = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Densities:
  """How dense runs were, as shares of their prunable weights; NaN: not known.

  Attributes:
    average: the mean over training, (n,).
    final: at the end, (n,).
    measured: the share of the sum of |w| that all cuts left, (n,).
    paths: of each run (shares of its steps, densities), which say how long it
      was how dense; None where that is not known.
  """

  average: np.ndarray
  final: np.ndarray
  measured: np.ndarray
  paths: Sequence[Path | None]


class Coefficient(NamedTuple):
  """The one coefficient of an effective count.

  Attributes:
    name: for tables and files.
    low: the least value that is searched.
    high: the largest.
  """

  name: str
  low: float
  high: float


class Effective(NamedTuple):
  """An effective count.

  Attributes:
    name: that of `--parameters`.
    symbol: for tables and pictures.
    formula: what it counts, in words.
    share: (densities, coefficient or None) -> share of the prunable weights
      that count, (n,); NaN where the run does not say enough.
    coefficient: its own; None if it has none.
  """

  name: str
  symbol: str
  formula: str
  share: Callable[[Densities, float | None], np.ndarray]
  coefficient: Coefficient | None = None

  def count(self, initial, exempt, densities: Densities, q=None) -> np.ndarray:
    """N_eff, (n,): exempt weights whole, and the share of the others.

    Args:
      initial: N before pruning, (n,).
      exempt: weights of kernels that are never pruned, (n,).
      densities: of the others.
      q: the coefficient, if the count has one.

    Raises:
      ValueError: if it has one and none is given, or the other way round.
    """
    if (q is None) != (self.coefficient is None):
      has = 'no coefficient' if q is not None else self.coefficient
      raise ValueError(f'{self.name}: coefficient {q}: it has {has}')
    return exempt + (initial - exempt) * self.share(densities, q)

  def of_plan(self, plan: Plan, q=None) -> float:
    """N_eff / N of a run as it is planned.

    Raises:
      ValueError: for a count that only a finished run has.
    """
    schedule = plan.schedule
    exempt = 1 - schedule.share
    if not schedule.share:
      return 1.0
    densities = Densities(
      np.array([(plan.mean_density - exempt) / schedule.share]),
      np.array([1 - schedule.sparsity]),
      np.array([np.nan if schedule.sparsity else 1.0]),
      [path_of(schedule, plan.steps)],
    )
    (count,) = self.count(np.ones(1), exempt, densities, q)
    if np.isnan(count):
      raise ValueError(
        f'{self.name}: no plan says it, only a finished run; use l1'
      )
    return float(count)


def path_of(schedule: PruningSchedule, steps: int) -> Path:
  """How long a run of so many steps is how dense, by its schedule."""
  starts = np.unique(np.append(0, schedule.update_steps + schedule.delay))
  starts = starts[starts < steps]
  density = 1 - (1 - schedule.density(starts)) / schedule.share
  return np.diff(np.append(starts, steps)) / steps, density


def l1_mass(density) -> np.ndarray:
  """The share of sum |w| in the largest weights, of Gaussian ones.

  N_eff / N = exp(-z^2 / 2) with z = Phi^-1((1 + s) / 2): the member p = 1 of
  `moment`. Nearest published idea: the capacity of a number format from its
  error on Gaussian data (arXiv 2506.01863).
  """
  density = np.asarray(density, np.float64)
  flat = [math.nan if d != d else gaussian_mass(d) for d in density.ravel()]
  return np.reshape(flat, density.shape)


def moment_mass(density, p: float) -> np.ndarray:
  """The share of sum |w|^p in the largest weights, of Gaussian ones.

  Q((p + 1) / 2, z^2 / 2), the regularised upper incomplete gamma function: the
  density itself at p = 0, the L1 mass at 1, the energy at 2.
  """
  density = np.asarray(density, np.float64)
  a = (p + 1) / 2
  with np.errstate(divide='ignore'):
    x = -np.log(l1_mass(density))
  inside = np.isfinite(x)
  x = np.where(inside, x, 0.0)
  # P(a, x) = x^a e^-x / Gamma(a + 1) (1 + x / (a + 1) + ...).
  term = total = np.ones_like(x)
  for n in range(1, 200):
    term = term * x / (a + n)
    total = total + term
  lower = x**a * np.exp(-x) / math.gamma(a + 1) * total
  outside = np.where(np.isnan(density), np.nan, 0.0)
  return np.where(inside, 1 - lower, outside)


def power_mean(densities: Densities, q: float) -> np.ndarray:
  """(mean over training of N_t^q)^(1 / q): N_avg at q = 1."""
  return np.array(
    [math.nan if path is None else _mean(*path, q) for path in densities.paths]
  )


def _mean(weights: np.ndarray, values: np.ndarray, q: float) -> float:
  logs = np.log(values)
  if abs(q) < 1e-6:
    return float(np.exp(weights @ logs))
  # Relative to the largest power, which cannot overflow.
  scaled = q * logs
  top = scaled.max()
  return float(np.exp((top + np.log(weights @ np.exp(scaled - top))) / q))


def _between(densities: Densities, q: float) -> np.ndarray:
  return densities.final + q * (l1_mass(densities.final) - densities.final)


EFFECTIVE = {
  each.name: each
  for each in (
    Effective('average', 'N_avg', 'average parameters', lambda d, q: d.average),
    Effective('final', 'N final', 'final parameters', lambda d, q: d.final),
    Effective(
      'initial', 'N initial', 'initial parameters', lambda d, q: 1 + 0 * d.final
    ),
    Effective(
      'l1',
      'N L1',
      'N x kept share of sum |w|, if Gaussian',
      lambda d, q: l1_mass(d.final),
    ),
    Effective(
      'l1_measured',
      'N L1 measured',
      'N x kept share of sum |w|, measured',
      lambda d, q: d.measured,
    ),
    Effective(
      'moment',
      'N moment',
      'N x kept share of sum |w|^p, if Gaussian',
      lambda d, q: moment_mass(d.final, q),
      Coefficient('p', 0.0, 4.0),
    ),
    Effective(
      'power',
      'N power',
      'N (1 - s^q)',
      lambda d, q: 1 - (1 - d.final) ** q,
      Coefficient('q', 0.2, 20.0),
    ),
    Effective(
      'power_mean',
      'N power mean',
      '(mean of N_t^q)^(1/q)',
      power_mean,
      Coefficient('q', -8.0, 8.0),
    ),
    Effective(
      'between',
      'N between',
      'final + q (L1 - final)',
      _between,
      Coefficient('q', -0.5, 2.0),
    ),
  )
}
