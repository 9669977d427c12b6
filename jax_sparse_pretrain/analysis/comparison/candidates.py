"""Laws to compare: the same data under different ideas of N.

A candidate fits some runs and predicts others. What it does not have, because
a table does not tell, it is not asked for.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np

from jax_sparse_pretrain.analysis.comparison.forms import (
  CHINCHILLA,
  DENSITY_POWER,
  FALLS,
  FRANTAR,
  OF_DENSITY,
  Form,
)
from jax_sparse_pretrain.analysis.comparison.frantar import (
  fit_density_power_law,
  fit_frantar_law,
)
from jax_sparse_pretrain.analysis.fitting import plateau, power_terms
from jax_sparse_pretrain.analysis.fitting.fit import fit_scaling_law
from jax_sparse_pretrain.analysis.runs_table import Runs


class Law(Protocol):
  def as_dict(self) -> dict[str, float]: ...


class Fitted(NamedTuple):
  """A law from some runs, and what it says about any.

  Attributes:
    law: its coefficients.
    objective: sum of Huber losses over the runs it was fitted to.
    log_loss: runs -> predicted log loss, float64[n].
    spread: runs -> how far another law that fits as well differs in it, at
      most; 0 if there is none. Of such laws, `law` has the least squared error.
    warnings: () -> sentences on coefficients that mean little. Not computed
      unless asked for.
  """

  law: Law
  objective: float
  log_loss: Callable[[Runs], np.ndarray]
  spread: Callable[[Runs], float]
  warnings: Callable[[], tuple[str, ...]]


@dataclasses.dataclass(frozen=True)
class Candidate:
  """A law and how to fit it.

  Attributes:
    name: for tables.
    formula: of the loss.
    kind: the parameters it reads, of `runs_table.KINDS`.
    n_coefficients: k.
    n_sparsities: different ones that it takes to tell its coefficients.
    fit: (runs, delta) -> Fitted.
  """

  name: str
  formula: str
  kind: str
  n_coefficients: int
  n_sparsities: int
  fit: Callable[[Runs, float], Fitted]


def _fit(form: Form, kind: str, fitter: Callable) -> Callable:
  """`Candidate.fit` from a fitter.

  That takes runs, the factors of `form` and delta, and gives a law, another
  that fits as well (or None), the objective and () -> warnings.
  """

  def factors(runs: Runs) -> np.ndarray:
    columns = runs.parameters(kind), 1 - runs.sparsity, runs.tokens
    return form.factors(*map(np.log, columns))

  def fit(runs: Runs, delta: float) -> Fitted:
    law, other, objective, warnings = fitter(runs, factors(runs), delta)

    def log_loss(runs: Runs, law: Law = law) -> np.ndarray:
      return power_terms.log_loss(*form.terms(law), factors(runs))

    def spread(runs: Runs) -> float:
      return float(np.abs(log_loss(runs) - log_loss(runs, other or law)).max())

    return Fitted(law, objective, log_loss, spread, warnings)

  return fit


def _chinchilla(kind: str) -> Candidate:
  def fitter(runs: Runs, factors: np.ndarray, delta: float):
    found = fit_scaling_law(
      runs.parameters(kind), runs.tokens, runs.loss, delta=delta
    )
    return found.law, found.other, found.objective, lambda: found.warnings

  formula = f'E + A / N_{kind}^alpha + B / D^beta'
  fit = _fit(CHINCHILLA, kind, fitter)
  return Candidate(f'{kind} N', formula, kind, 5, 1, fit)


def _with_sparsity(form: Form, kind: str, fit_law, bounds) -> Callable:
  def fitter(runs: Runs, factors: np.ndarray, delta: float):
    columns = runs.parameters(kind), runs.sparsity, runs.tokens, runs.loss
    law, objective = fit_law(*columns, delta=delta)
    settled = plateau.settled(
      factors, runs.loss, delta, form.bounds, *form.terms(law)
    )
    law, other = (form.law(*settled), law) if settled else (law, None)
    return law, other, objective, lambda: _at_bounds(law.as_dict(), bounds)

  return _fit(form, kind, fitter)


def _at_bounds(coefficients: dict[str, float], pure) -> tuple[str, ...]:
  """Sizes have units and reach zero; the solver only nears other bounds."""
  sentences = []
  for name, value in coefficients.items():
    for end in pure.get(name, (0.0,)):
      near = 1e-6 if name in pure else 0.0
      if abs(value - end) <= near:
        sentences.append(f'{name} is at its bound of {end:g}')
  return tuple(sentences)


CANDIDATES = (
  *map(_chinchilla, ('average', 'final', 'initial')),
  Candidate(
    'initial N (1-s)^c',
    'E + A / (N_initial (1-s)^c)^alpha + B / D^beta',
    'initial',
    6,
    2,
    _with_sparsity(
      DENSITY_POWER,
      'initial',
      fit_density_power_law,
      {'alpha': FALLS, 'beta': FALLS, 'c': (0.0,)},
    ),
  ),
  Candidate(
    'Frantar',
    '(a (1-s)^b + c) / N_final^d + (e / D)^f + g',
    'final',
    7,
    3,
    _with_sparsity(
      FRANTAR,
      'final',
      fit_frantar_law,
      {'b': OF_DENSITY, 'd': FALLS, 'f': FALLS},
    ),
  ),
)
