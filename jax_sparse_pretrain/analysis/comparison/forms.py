"""Laws as sums of terms: Chinchilla's, and two that give sparsity coefficients.

Frantar et al. (arXiv 2309.08520, equation 1) on the parameters that are left
at the end, and N = N_initial (1 - s)^c in Chinchilla's law, which runs from
initial parameters (c = 0) to final ones (c = 1).
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jax_sparse_pretrain.analysis.fitting.law import ScalingLaw
from jax_sparse_pretrain.analysis.fitting.objective import MAX_EXPONENT
from jax_sparse_pretrain.analysis.fitting.plateau import chinchilla_factors

# Slower than this, a power cannot be told from a constant; and e and c, which
# are quotients by an exponent, stay finite.
MIN_EXPONENT = 0.01
FALLS = (MIN_EXPONENT, MAX_EXPONENT)
# (1/2)^10 is a thousandth.
OF_DENSITY = (0.0, 10.0)


@dataclasses.dataclass(frozen=True)
class FrantarLaw:
  """L = (a (1 - s)^b + c) N^-d + (e / D)^f + g, N parameters at the end."""

  a: float
  b: float
  c: float
  d: float
  e: float
  f: float
  g: float

  def loss(self, final_parameters, sparsity, tokens) -> np.ndarray:
    """Predicted loss in nats; arguments broadcast."""
    kept = 1 - np.asarray(sparsity, np.float64)
    size = self.a * kept**self.b + self.c
    fallen = np.asarray(final_parameters, np.float64) ** -self.d
    data = (self.e / np.asarray(tokens, np.float64)) ** self.f
    return size * fallen + data + self.g

  def as_dict(self) -> dict[str, float]:
    return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class DensityPowerLaw:
  """L = E + A / N^alpha + B / D^beta with N = N_initial (1 - s)^c."""

  E: float
  A: float
  B: float
  alpha: float
  beta: float
  c: float

  def loss(self, initial_parameters, sparsity, tokens) -> np.ndarray:
    """Predicted loss in nats; arguments broadcast."""
    kept = 1 - np.asarray(sparsity, np.float64)
    n = np.asarray(initial_parameters, np.float64) * kept**self.c
    d = np.asarray(tokens, np.float64)
    return self.E + self.A * n**-self.alpha + self.B * d**-self.beta

  def as_dict(self) -> dict[str, float]:
    return dataclasses.asdict(self)


class Form(NamedTuple):
  """A law as a sum of terms, for `power_terms`.

  Attributes:
    factors: (log N, log (1 - s), log D), each (m,) -> (j, p, m).
    bounds: of the exponents.
    terms: law -> log sizes (j,) and exponents (p,).
    law: the inverse.
  """

  factors: Callable[..., np.ndarray]
  bounds: Sequence[tuple[float, float]]
  terms: Callable[[Any], tuple[np.ndarray, np.ndarray]]
  law: Callable[[np.ndarray, np.ndarray], Any]


def _chinchilla_law(log_sizes, exponents) -> ScalingLaw:
  A, B, E = map(float, np.exp(log_sizes))
  return ScalingLaw(E, A, B, *map(float, exponents))


def _density_power_law(log_sizes, exponents) -> DensityPowerLaw:
  A, B, E = map(float, np.exp(log_sizes))
  alpha, alpha_c, beta = map(float, exponents)
  return DensityPowerLaw(E, A, B, alpha, beta, alpha_c / alpha)


def _frantar_law(log_sizes, exponents) -> FrantarLaw:
  a, c, _, g = map(float, np.exp(log_sizes))
  b, d, f = map(float, exponents)
  return FrantarLaw(a, b, c, d, float(np.exp(log_sizes[2] / f)), f, g)


def _log(*sizes: float) -> np.ndarray:
  with np.errstate(divide='ignore'):
    return np.log(sizes)


CHINCHILLA = Form(
  lambda x, q, y: chinchilla_factors(x, y),
  [(0.0, MAX_EXPONENT)] * 2,
  lambda law: (_log(law.A, law.B, law.E), np.array([law.alpha, law.beta])),
  _chinchilla_law,
)
# Of A, B and E in alpha, alpha c and beta.
DENSITY_POWER = Form(
  lambda x, q, y: np.array(
    [[x, q, 0 * x], [0 * x, 0 * x, y], [0 * x, 0 * x, 0 * x]]
  ),
  [FALLS, (0.0, MAX_EXPONENT), FALLS],
  lambda law: (
    _log(law.A, law.B, law.E),
    np.array([law.alpha, law.alpha * law.c, law.beta]),
  ),
  _density_power_law,
)
# Of a, c, e^f and g in b, d and f.
FRANTAR = Form(
  lambda x, q, y: np.array(
    [
      [-q, x, 0 * x],
      [0 * x, x, 0 * x],
      [0 * x, 0 * x, y],
      np.zeros((3, *x.shape)),
    ]
  ),
  [OF_DENSITY, FALLS, FALLS],
  lambda law: (
    _log(law.a, law.c, law.e**law.f, law.g),
    np.array([law.b, law.d, law.f]),
  ),
  _frantar_law,
)
