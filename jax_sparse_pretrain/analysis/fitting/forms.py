"""The laws we know, each as a sum of terms: a table that others add a line to.

A term is a size over powers of counts, such as A / N^alpha. A form says which
counts a law reads and what its terms are made of; from that alone the solver
finds its optimum, its intervals and its resamples. To add a law, write its
terms and one line of `FORMS`:

  'B': {'beta': d} is the term B / D^beta;
  'A': {'alpha': n, 'alpha c': 1 - s} is A / (N^alpha (1 - s)^(alpha c)).

So a law is linear in its sizes (E, A and B), given its exponents. An effective
count without a coefficient of its own stands in place of n, as n * (1 - s / 2)
would. With a coefficient that is no exponent, it is a form for each value of
that coefficient, which is then profiled over.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jax_sparse_pretrain.analysis.fitting.law import ScalingLaw

# Across a factor of ten in size, an exponent of 3 leaves a thousandth of the
# term. A steeper one says only that the smallest size stands apart.
MAX_EXPONENT = 3.0
# Slower than this, a power cannot be told from a constant; and e and c, which
# are quotients by an exponent, stay finite.
MIN_EXPONENT = 0.01
FREE, FALLS = (0.0, MAX_EXPONENT), (MIN_EXPONENT, MAX_EXPONENT)
# (1/2)^10 is a thousandth.
OF_DENSITY = (0.0, 10.0)

# Size -> exponent -> count.
Terms = Mapping[str, Mapping[str, np.ndarray]]


class Form(NamedTuple):
  """A law as a sum of terms, each a size times powers of counts.

  Attributes:
    name: for tables.
    formula: the loss in words of the coefficients.
    kind: the parameters it reads: average, final or initial.
    n_sparsities: different ones that it takes to tell its coefficients.
    terms: (N, s, D), each (m,) -> size -> exponent -> the count of which the
      size is divided by this power.
    bounds: lowest and highest value of each exponent.
    law: (*sizes, *exponents) -> the law, which has `as_dict`.
  """

  name: str
  formula: str
  kind: str
  n_sparsities: int
  terms: Callable[..., Terms]
  bounds: Mapping[str, tuple[float, float]]
  law: Callable[..., Any]

  @property
  def names(self) -> tuple[str, ...]:
    """The sizes and the exponents, as the solver has them."""
    return (*self.terms(1.0, 0.0, 1.0), *self.bounds)

  def factors(self, parameters, sparsity, tokens) -> np.ndarray:
    """Logarithms of the counts, (j, p, m); 0 where there is none."""
    terms = self.terms(parameters, sparsity, tokens)
    factors = np.zeros((len(terms), len(self.bounds), len(tokens)))
    for j, powers in enumerate(terms.values()):
      for p, name in enumerate(self.bounds):
        factors[j, p] = np.log(powers.get(name, 1.0))
    return factors

  def log_loss(self, coefficients, parameters, sparsity, tokens) -> np.ndarray:
    """log L, (m,), for the coefficients `names`."""
    factors = self.factors(parameters, sparsity, tokens)
    sizes, exponents = np.split(coefficients, [len(factors)])
    terms = sizes[:, None] * np.exp(-np.einsum('jpm,p->jm', factors, exponents))
    return np.log(terms.sum(axis=0))

  def at_bounds(self, law) -> list[str]:
    """Sentences on coefficients at a bound; sizes only reach zero."""
    sentences = []
    for name, value in law.as_dict().items():
      near = 1e-6 if name in self.bounds else 0.0
      for end in self.bounds.get(name, (0.0,)):
        if abs(value - end) <= near:
          sentences.append(f'{name} is at its bound of {end:g}')
    return sentences


@dataclasses.dataclass(frozen=True)
class DensityPowerLaw:
  """L = E + A / N^alpha + B / D^beta with N = N_initial (1 - s)^c.

  From c = 0 to 1 it runs from initial parameters to final ones.
  """

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


@dataclasses.dataclass(frozen=True)
class FrantarLaw:
  """L = (a (1 - s)^b + c) N^-d + (e / D)^f + g, N parameters at the end.

  Frantar et al., arXiv 2309.08520, equation 1.
  """

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


def chinchilla(kind: str) -> Form:
  """Chinchilla's law of the parameters of a kind."""
  return Form(
    f'{kind} N',
    f'E + A / N_{kind}^alpha + B / D^beta',
    kind,
    1,
    lambda n, s, d: {'E': {}, 'A': {'alpha': n}, 'B': {'beta': d}},
    {'alpha': FREE, 'beta': FREE},
    ScalingLaw,
  )


CHINCHILLA = chinchilla('average')
DENSITY_POWER = Form(
  'initial N (1-s)^c',
  'E + A / (N_initial (1-s)^c)^alpha + B / D^beta',
  'initial',
  2,
  lambda n, s, d: {
    'E': {},
    'A': {'alpha': n, 'alpha c': 1 - s},
    'B': {'beta': d},
  },
  {'alpha': FALLS, 'alpha c': FREE, 'beta': FALLS},
  lambda E, A, B, alpha, alpha_c, beta: DensityPowerLaw(
    E, A, B, alpha, beta, alpha_c / alpha
  ),
)
FRANTAR = Form(
  'Frantar',
  '(a (1-s)^b + c) / N_final^d + (e / D)^f + g',
  'final',
  3,
  lambda n, s, d: {
    'a': {'b': 1 / (1 - s), 'd': n},
    'c': {'d': n},
    'e^f': {'f': d},
    'g': {},
  },
  {'b': OF_DENSITY, 'd': FALLS, 'f': FALLS},
  lambda a, c, e_f, g, b, d, f: FrantarLaw(a, b, c, d, e_f ** (1 / f), f, g),
)

FORMS = (
  CHINCHILLA,
  chinchilla('final'),
  chinchilla('initial'),
  DENSITY_POWER,
  FRANTAR,
)
