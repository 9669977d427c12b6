"""The laws we know, each as a sum of terms: a table that others add a line to.

A term is a size over powers of counts, such as A / N^alpha. A form says which
counts a law reads and what its terms are made of; from that alone the solver
finds its optimum, its intervals and its resamples. To add a law, write its
terms and one line of `FORMS`:

  'B': {'beta': d} is the term B / D^beta;
  'a': {'b': 1 / (1 - s), 'd': n} is a (1 - s)^b / N^d.

So a law is linear in its sizes (E, A and B), given its exponents. An effective
count (`effective.EFFECTIVE`) stands in place of n; the coefficient that it may
have is profiled over (`coefficient`).
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from jax_sparse_pretrain.analysis.effective import EFFECTIVE, Coefficient
from jax_sparse_pretrain.analysis.fitting.law import ScalingLaw
from jax_sparse_pretrain.analysis.runs_table import Runs

# Across a factor of ten in size, an exponent of 3 leaves a thousandth of the
# term. A steeper one says only that the smallest size stands apart.
MAX_EXPONENT = 3.0
# Slower than this, a power cannot be told from a constant; and e, which has an
# exponent of 1 / f, stays finite.
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
    kind: the effective count that it reads, of `EFFECTIVE`.
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
  def coefficient(self) -> Coefficient | None:
    """That of the effective count."""
    return EFFECTIVE[self.kind].coefficient

  @property
  def n_coefficients(self) -> int:
    """Of the law and of its count."""
    return len(self.names) + (self.coefficient is not None)

  @property
  def names(self) -> tuple[str, ...]:
    """The sizes and the exponents, as the solver has them."""
    return (*self.terms(1.0, 0.0, 1.0), *self.bounds)

  def columns(self, runs: Runs, q: float | None) -> tuple[np.ndarray, ...]:
    """Parameters, sparsity and tokens as the form reads them, each (n,)."""
    reads_sparsity = self.n_sparsities > 1
    sparsity = runs.sparsity if reads_sparsity else np.zeros(len(runs))
    return runs.parameters(self.kind, q), sparsity, runs.tokens

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
  """Chinchilla's law of the effective count of a kind."""
  return Form(
    kind,
    f'E + A / N^alpha + B / D^beta, N: {EFFECTIVE[kind].formula}',
    kind,
    1,
    lambda n, s, d: {'E': {}, 'A': {'alpha': n}, 'B': {'beta': d}},
    {'alpha': FREE, 'beta': FREE},
    ScalingLaw,
  )


CHINCHILLA = chinchilla('average')
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

FORMS = (*map(chinchilla, EFFECTIVE), FRANTAR)
