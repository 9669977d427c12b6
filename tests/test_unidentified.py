"""What data leave open is open, and said: flat designs, plateaus, few draws."""

import dataclasses

import numpy as np
import pytest
from t5 import t5_runs
from test_fit import LAW, runs_on_grid

from jax_sparse_pretrain.analysis import compare_laws, fit_scaling_law
from jax_sparse_pretrain.analysis.fitting import (
  design,
  identification,
  intervals,
  search,
  solver,
)
from jax_sparse_pretrain.analysis.fitting.fit import ScalingLawFit
from jax_sparse_pretrain.analysis.fitting.law import ScalingLaw, simulate_runs


def simulated(N, D, noise=0.005, seed=0):
  return fit_scaling_law(N, D, simulate_runs(LAW, N, D, noise=noise, seed=seed))


def two_token_counts(jitter):
  N = np.repeat(np.geomspace(3e7, 1e10, 9), 2)
  D = np.tile([1e9, 1e12], 9)
  return N, D * np.exp(np.random.default_rng(1).normal(0, jitter, 18))


# Profile ends on flat directions.


@pytest.mark.slow
def test_a_flat_direction_is_walked_to_its_end():
  # All data within a factor of 1.35: next to nothing is known of E, whose
  # profile ends at 2.41 if each trial goes on from a law that holds.
  rng = np.random.default_rng(0)
  N, D = (centre * np.exp(rng.uniform(-0.3, 0.3, 20)) for centre in (1e9, 2e10))
  fit = simulated(N, D)
  low, high = fit.intervals()['E']
  assert low == 0 and high > LAW.E
  problem, delta = fit._design.problem, fit.delta
  scale = np.exp(fit._design.loss_pivot)
  # From many starts, nothing at an E beyond the end is as good as the end.
  inside, outside = (
    best_with(problem, delta, 0, each * high / scale) for each in (0.99, 1.01)
  )
  limit = fit.objective + intervals._threshold(fit.residuals, 5, delta, 0.95)
  assert inside < limit < outside


def best_with(problem, delta, column, value):
  rng = np.random.default_rng(0)
  theta = rng.uniform([0, 1e-3, 1e-3, 0.02, 0.02], [1, 1, 1, 2.9, 2.9], (30, 5))
  theta[:, column] = value
  fixed = np.tile(np.arange(5) == column, (30, 1))
  return solver.minimise(theta, problem, delta, fixed=fixed)[1].min()


@pytest.mark.slow
def test_counts_that_differ_by_roundings_are_one():
  logs = np.array([1.0, 1.0009, 1.002, 5.0, 1.0, 4.9995])
  assert design.levels(logs).tolist() == [0, 0, 1, 2, 0, 2]
  fit = simulated(*two_token_counts(1e-6), seed=1)
  assert '2 different token counts do not identify' in fit.warnings[0]
  drawn = fit.bootstrap(100)
  for ends in (fit.intervals(), drawn.intervals()):
    for name in ('E', 'B', 'beta'):
      assert ends[name] == (0, np.inf)
    assert 0.3 < ends['alpha'][0] < ends['alpha'][1] < 0.4


@pytest.mark.parametrize('seed', range(2))
def test_four_places_leave_all_open(seed):
  N = np.repeat([1e8, 1e8, 1e9, 1e10], 5)
  D = np.repeat([1e10, 1e12, 1e11, 1e10], 5)
  fit = simulated(N, D, seed=seed)
  assert set(fit.intervals().values()) == {(0, np.inf)}
  assert fit.warnings[0] == (
    'runs at 4 places (N, D) do not identify 5 coefficients'
  )
  assert fit.bootstrap(50).unidentified.all()


def test_what_an_open_exponent_needs_is_open_too():
  found = np.array([[1, 2], [3, 4], [5, 6], [0, 0.5], [0.3, np.inf]], float)
  some = design.make(*runs_on_grid(3, 3), np.linspace(2, 3, 9))
  intervals._open_together(some, found)
  expected = [[0, 2], [0, 4], [5, np.inf], [0, 0.5], [0.3, np.inf]]
  assert np.array_equal(found, expected)


def test_an_end_that_an_exponent_at_its_bound_made_is_open():
  problem = design.make(*runs_on_grid(3, 3), np.linspace(2, 3, 9)).problem
  start = np.array([0.5, 0.3, 0.3, 0.4, 0.4])
  for column, sign, point, is_open in (
    (1, 1, [0.5, 0.3, 0.3, 3.0, 0.4], True),
    (1, 1, [0.5, 0.3, 0.3, 2.9, 3.0], False),
    (2, -1, [0.5, 0.3, 0.3, 0.4, 0.0], True),
    (0, -1, [0.5, 0.3, 0.3, 0.0, 0.4], True),
    (0, 1, [0.5, 0.3, 0.3, 0.0, 0.4], False),
  ):
    side = intervals.Side(start, column, sign, problem)
    side.take(np.array(point), 1.0)
    assert side.finished
    assert (side.end() in (0, np.inf)) is is_open


# Plateaus.


@pytest.fixture(scope='module')
def runs():
  return t5_runs()


@pytest.mark.slow
def test_a_plateau_has_one_answer_in_all_units(runs):
  # Final N of T5: one objective, and E from 0 to .76, wherever a solver stops.
  N, D = runs.final_parameters, runs.tokens
  fits = [
    fit_scaling_law(N * n, D * d, runs.loss)
    for n, d in ((1, 1), (1.000001, 1), (1e-6, 1e-9))
  ]
  for fit in fits:
    assert fit.objective == pytest.approx(0.00161080029, rel=2e-6)
    # A flat valley's floor: known to the root of the solver's tolerance.
    assert fit.law.E == pytest.approx(0.2198, abs=1e-4)
    assert fit.law.beta == pytest.approx(0.1449, abs=1e-4)
    assert 'many laws fit equally well' in ' '.join(fit.warnings)
    assert 'E is at its bound' not in ' '.join(fit.warnings)
  again = ScalingLawFit.from_json(fits[0].to_json())
  assert again.warnings == fits[0].warnings


def test_an_optimum_that_is_alone_stays_as_it_is(runs):
  for kind in ('average', 'initial'):
    fit = fit_scaling_law(runs.parameters(kind), runs.tokens, runs.loss)
    assert fit.other is None
    theta, objective = search.lowest(fit._design.problem, 1e-3)
    assert fit.objective == objective
    assert fit.law == ScalingLaw(*map(float, fit._design.coefficients(theta)))


def test_compare_and_fit_give_one_law(runs):
  unknown = np.full(len(runs), np.nan)
  some = dataclasses.replace(
    runs,
    initial_parameters=unknown,
    average_parameters=unknown,
    sparsity=unknown,
  )
  fit = fit_scaling_law(some.final_parameters, some.tokens, some.loss)
  [law] = compare_laws(some).laws
  assert law.coefficients == fit.law.as_dict()
  assert law.warnings == fit.warnings


# Resamples.


def test_a_singular_step_is_taken_with_a_larger_ridge():
  # The second is indefinite, and its first ridge makes it singular.
  ridge = 1e-3
  matrices = np.stack([np.eye(5), np.diag([1.0, -ridge, 1.0, 1.0, 1.0])])
  steps = solver._solved(matrices, np.ones((2, 5)), ridge)
  assert np.isfinite(steps).all()


@pytest.mark.slow
def test_data_that_once_made_a_matrix_singular_are_resampled():
  N, D = runs_on_grid(9, 1)
  D = 20 * N * np.exp(np.random.default_rng(4).normal(0, 1e-3, len(N)))
  drawn = simulated(N, D, seed=4).bootstrap(200)
  assert np.isfinite(drawn.objectives).all()


def test_predictions_are_open_where_their_term_is():
  N, D = two_token_counts(0)
  drawn = simulated(N, D).bootstrap(100)
  sizes = np.array([1e9, 1e9, 1e12]), np.array([1e9, 1e14, 1e12])
  low, high = drawn.loss_intervals(*sizes)
  assert high[1] == np.inf and low[1] == 0
  # At the two counts themselves, N is all there is to know.
  assert high[0] - low[0] < 0.05 and high[2] - low[2] < 0.2


def test_too_few_resamples_or_groups_are_said():
  fit = simulated(*runs_on_grid(5, 5), noise=0.001)
  drawn = fit.bootstrap(20)
  assert drawn.intervals(0.9)['alpha'][1] < 1
  assert drawn.warnings_at(0.9) == ()
  assert set(drawn.intervals(0.995).values()) == {(0, np.inf)}
  assert drawn.loss_intervals(1e9, 1e10, 0.995)[1] == np.inf
  assert drawn.warnings_at(0.995) == (
    '20 resamples are too few for 99.5 %: it takes 400',
  )
  few = fit.bootstrap(100, groups=fit.parameters)
  assert '5 runs, or groups of runs, are few' in few.warnings[-1]


def test_ends_of_resamples_are_the_next_values_outward():
  drawn = simulated(*runs_on_grid(5, 5), noise=0.001).bootstrap(50)
  alphas = np.sort(drawn.laws[:, 3])
  # 2.5 % of the way along 49 steps is 1.2: the values around it are 1 and 2.
  assert drawn.intervals()['alpha'] == (alphas[1], alphas[48])


@pytest.mark.slow
def test_resamples_have_second_starts():
  # Nearly one ray: of 200 resamples 28 end higher from the first start alone.
  rng = np.random.default_rng(1)
  N = np.geomspace(1e8, 1e10, 12)
  fit = simulated(N, 20 * N * np.exp(rng.normal(0, 0.05, 12)), seed=1)
  drawn = fit.bootstrap(200)
  problem, weights = fit._design.problem, drawn.counts.astype(float)
  theta = fit._design.theta(fit._coefficients)
  _, best = solver.minimise(theta, problem, 1e-3, weights)
  assert np.mean(drawn.objectives < best * (1 - 1e-6)) > 0.1
  for _ in range(4):
    start = rng.uniform([0.1, 0.05, 0.05, 0.1, 0.1], [1, 1, 1, 1, 1], (200, 5))
    best = np.minimum(best, solver.minimise(start, problem, 1e-3, weights)[1])
  # With E and beta hardly known, random starts still find a few better ones.
  assert np.mean(drawn.objectives > best * (1 + 1e-6) + 1e-12) < 0.15


def test_a_fit_at_a_bound_or_at_few_places_is_unidentified():
  N, D = runs_on_grid(3, 3)
  columns = design.make(N, D, LAW.loss(N, D))
  weights = np.ones((4, 9))
  # Four places, at three N and three D.
  weights[3] = [1, 0, 1, 0, 1, 0, 0, 0, 1]
  theta = np.tile([0.5, 0.3, 0.3, 0.4, 0.4], (4, 1))
  theta[1, 4], theta[2, 1] = 3.0, 0.0
  assert identification.unidentified(columns, weights, theta).tolist() == [
    [False] * 5,
    [True, False, True, False, True],
    [True, True, False, True, False],
    [True] * 5,
  ]


# Words.


def test_warnings_are_at_the_level_asked():
  fit = simulated(*runs_on_grid(7, 4), noise=0.04)
  assert fit.warnings == fit.warnings_at(0.95) == ()
  assert fit.warnings_at(0.999) == (
    'the data do not bound E from below (99.9 % profile)',
  )


def test_open_sides_are_one_sentence():
  found = {
    'E': (0.0, 2.0),
    'A': (1.0, 2.0),
    'B': (1.0, np.inf),
    'beta': (0.1, np.inf),
  }
  assert identification.interval_warnings(found, 0.9) == [
    'the data do not bound E from below, nor B and beta from above (90 % '
    'profile)'
  ]


def test_few_runs_and_a_search_that_did_not_end_are_said():
  N, D = np.geomspace(1e8, 1e10, 8), 1e10 * np.array([1, 30, 9, 1, 70, 3, 9, 2])
  fit = simulated(N, D)
  assert '8 runs are few for 5 coefficients' in fit.warnings[0]
  N, D = runs_on_grid()
  loss = simulate_runs(LAW, N, D, noise=0.005, seed=0)
  stopped = ScalingLawFit(LAW, 1.3e-4, 1e-3, N, D, loss)
  assert 'above an optimum' in stopped.warnings[0]
