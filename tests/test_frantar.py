"""Laws with coefficients for sparsity, and their fit."""

import dataclasses

import numpy as np
import pytest
from scipy import optimize
from t5 import t5_runs

from jax_sparse_pretrain.analysis import fit_scaling_law
from jax_sparse_pretrain.analysis.comparison.forms import (
  CHINCHILLA,
  DensityPowerLaw,
  FrantarLaw,
)
from jax_sparse_pretrain.analysis.comparison.frantar import (
  fit_density_power_law,
  fit_frantar_law,
)
from jax_sparse_pretrain.analysis.fitting import plateau, power_terms

DELTA = 1e-3
# Of T5 in the paper's table and its notebook (jaxpruner, projects/bigsparse).
PUBLISHED = FrantarLaw(
  a=1.68e1, b=0.722, c=4.50e1, d=0.245, e=6.90e8, f=0.203, g=6.51e-1
)
TRUE_FRANTAR = FrantarLaw(a=12.0, b=0.8, c=40.0, d=0.24, e=1e9, f=0.3, g=0.7)
TRUE_POWER = DensityPowerLaw(
  E=1.2, A=120.0, B=900.0, alpha=0.3, beta=0.33, c=0.45
)


@pytest.fixture(scope='module')
def runs():
  return t5_runs()


def mean_huber(predicted, runs):
  r = np.abs(np.log(runs.loss) - np.log(predicted))
  each = np.where(r <= DELTA, r**2 / 2, DELTA * (r - DELTA / 2))
  return each.mean()


def columns_of(runs):
  return runs.final_parameters, runs.sparsity, runs.tokens


def test_a_proper_fit_of_frantars_law_beats_the_published_one(runs):
  columns = columns_of(runs)
  law, objective = fit_frantar_law(*columns, runs.loss)
  ours = mean_huber(law.loss(*columns), runs)
  # Which also shows that parameters at the end, log loss and delta are theirs.
  assert mean_huber(PUBLISHED.loss(*columns), runs) == pytest.approx(
    7.6e-6, abs=0.05e-6
  )
  assert ours <= 4.9e-6
  assert objective == pytest.approx(48 * ours, rel=1e-9)


def test_random_starts_of_another_optimizer_find_nothing_better(runs):
  log_n, log_d = np.log(runs.final_parameters), np.log(runs.tokens)
  log_kept, log_loss = np.log1p(-runs.sparsity), np.log(runs.loss)

  def residuals(point):
    """Of logarithms of all coefficients, at 1e8 parameters and 1e11 tokens."""
    a, b, c, d, h, f, g = np.exp(point)
    size = (a * np.exp(b * log_kept) + c) * np.exp(-d * (log_n - np.log(1e8)))
    return np.log(size + h * np.exp(-f * (log_d - np.log(1e11))) + g) - log_loss

  rng = np.random.default_rng(0)
  found = []
  for _ in range(6):
    point = np.log(rng.uniform(0.1, 1.0, 7))
    for width in (1e-1, 1e-2, DELTA):
      point = optimize.least_squares(
        residuals, point, loss='huber', f_scale=width, max_nfev=300
      ).x
    found.append(mean_huber(np.exp(residuals(point) + log_loss), runs))
  _, objective = fit_frantar_law(*columns_of(runs), runs.loss)
  # Finite differences stop a little early.
  assert min(found) == pytest.approx(objective / 48, rel=1e-4)
  assert min(found) >= objective / 48 * (1 - 1e-9)


@pytest.mark.parametrize(
  ('truth', 'fit', 'kind'),
  [
    (TRUE_FRANTAR, fit_frantar_law, 'final'),
    (TRUE_POWER, fit_density_power_law, 'initial'),
  ],
)
def test_a_fit_to_exact_losses_returns_the_law(runs, truth, fit, kind):
  columns = runs.parameters(kind), runs.sparsity, runs.tokens
  law, objective = fit(*columns, truth.loss(*columns))
  assert objective < 1e-14
  for name, value in dataclasses.asdict(truth).items():
    assert getattr(law, name) == pytest.approx(value, rel=1e-3), name


@pytest.mark.parametrize('fit', [fit_frantar_law, fit_density_power_law])
def test_the_order_of_rows_changes_no_bit(runs, fit):
  columns = [*columns_of(runs), runs.loss]
  order = np.random.default_rng(1).permutation(len(runs))
  assert fit(*columns) == fit(*(values[order] for values in columns))


@pytest.mark.parametrize('kind', ['average', 'initial'])
def test_terms_and_newton_find_the_same_chinchilla_law(runs, kind):
  """Two solvers that share only the definition of the objective."""
  n, d = runs.parameters(kind), runs.tokens
  newton = fit_scaling_law(n, d, runs.loss)
  factors = CHINCHILLA.factors(np.log(n), 0 * n, np.log(d))
  terms = power_terms.fit(factors, runs.loss, DELTA, CHINCHILLA.bounds)
  assert terms.objective == pytest.approx(newton.objective, rel=1e-9)
  exponents = [newton.law.alpha, newton.law.beta]
  assert terms.exponents == pytest.approx(exponents, rel=1e-4)


def test_density_power_laws_run_from_initial_to_final_parameters(runs):
  rest = {**TRUE_POWER.as_dict(), 'c': 0.0}
  s, d = runs.sparsity, runs.tokens
  initial = DensityPowerLaw(**rest).loss(runs.initial_parameters, s, d)
  dense = DensityPowerLaw(**rest).loss(runs.initial_parameters, 0.0, d)
  assert initial == pytest.approx(dense, rel=1e-12)
  final = DensityPowerLaw(**{**rest, 'c': 1.0})
  at_end = DensityPowerLaw(**rest).loss(runs.final_parameters, s, d)
  assert final.loss(runs.initial_parameters, s, d) == pytest.approx(
    at_end, rel=1e-12
  )


def test_a_plateau_is_settled_by_squares_wherever_a_solver_stopped(runs):
  """Final N of these runs: each place has two runs on either side."""
  n, d = runs.final_parameters, runs.tokens
  factors = CHINCHILLA.factors(np.log(n), 0 * n, np.log(d))
  task = factors, runs.loss, DELTA, CHINCHILLA.bounds
  terms = power_terms.fit(*task)
  newton = fit_scaling_law(n, d, runs.loss)
  ends = [
    plateau.settled(*task, *start)
    for start in (
      (terms.log_sizes, terms.exponents),
      CHINCHILLA.terms(newton.other),
    )
  ]
  predicted = [power_terms.log_loss(*end, factors) for end in ends]
  assert predicted[0] == pytest.approx(predicted[1], abs=1e-5)
  assert mean_huber(np.exp(predicted[0]), runs) * 48 == pytest.approx(
    newton.objective, rel=1e-6
  )
  assert newton.law.loss(n, d) == pytest.approx(np.exp(predicted[1]), rel=1e-5)
  before = np.log(newton.other.loss(n, d)) - np.log(runs.loss)
  assert newton.log_rmse**2 < np.mean(before**2)


def test_an_optimum_that_is_alone_is_left_as_it_is(runs):
  n, d = runs.average_parameters, runs.tokens
  factors = CHINCHILLA.factors(np.log(n), 0 * n, np.log(d))
  law = fit_scaling_law(n, d, runs.loss).law
  task = factors, runs.loss, DELTA, CHINCHILLA.bounds
  assert plateau.settled(*task, *CHINCHILLA.terms(law)) is None


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'sparsity': 1.0}, 'row 3: sparsity 1.0'),
    ({'loss': -1.0}, 'row 3: loss -1.0'),
    ({'tokens': np.nan}, 'row 3: tokens nan'),
  ],
)
def test_bad_values_are_refused_with_their_row(runs, change, message):
  names = ('final_parameters', 'sparsity', 'tokens', 'loss')
  columns = {name: getattr(runs, name).copy() for name in names}
  for name, value in change.items():
    columns[name][2] = value
  with pytest.raises(ValueError, match=message):
    fit_frantar_law(*columns.values())


def test_too_few_runs_are_refused(runs):
  few = [values[:6] for values in (*columns_of(runs), runs.loss)]
  with pytest.raises(ValueError, match='at least 7'):
    fit_frantar_law(*few)
  fit_density_power_law(*few)


def test_a_delta_that_is_not_positive_is_refused(runs):
  with pytest.raises(ValueError, match='delta 0'):
    fit_frantar_law(*columns_of(runs), runs.loss, delta=0.0)
