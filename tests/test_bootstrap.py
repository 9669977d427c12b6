"""Intervals: published ones, those of SciPy, and how often they are right."""

import numpy as np
import pytest
from test_fit import LAW, chinchilla, coefficients, runs_on_grid

from jax_sparse_pretrain.analysis.fitting import design, grid
from jax_sparse_pretrain.analysis.fitting.fit import fit_scaling_law
from jax_sparse_pretrain.analysis.fitting.law import simulate_runs

NAMES = ('E', 'A', 'B', 'alpha', 'beta')
# Besiroglu et al. 2024: 95 %, 4,000 resamples.
PUBLISHED = {
  'A': (285, 744),
  'B': (1042, 5810),
  'E': (1.769, 1.871),
  'alpha': (0.317, 0.373),
  'beta': (0.331, 0.415),
}
# Standard deviation of the ends over 16 seeds of 4,000 resamples.
MONTE_CARLO = {
  'A': (2.5, 5.1),
  'B': (18, 123),
  'E': (0.0007, 0.0013),
  'alpha': (0.0005, 0.0004),
  'beta': (0.0008, 0.0010),
}


@pytest.fixture(scope='module')
def published():
  return fit_scaling_law(*chinchilla())


@pytest.fixture(scope='module')
def resamples(published):
  return published.bootstrap(n_resamples=4000, seed=42)


@pytest.mark.parametrize('name', NAMES)
def test_chinchillas_intervals_are_the_published_ones(resamples, name):
  # Two bootstraps of other draws differ by sqrt(2) of the Monte Carlo error:
  # four of these, and the rounding of what is published.
  ends = zip(
    resamples.intervals()[name],
    PUBLISHED[name],
    MONTE_CARLO[name],
    strict=True,
  )
  rounding = 0.5 if name in 'AB' else 0.0005
  for ours, theirs, error in ends:
    assert abs(ours - theirs) < 4 * np.sqrt(2) * error + rounding


def test_every_resample_is_identified_and_fitted(resamples):
  assert resamples.laws.shape == (4000, 5)
  assert resamples.warnings == ()
  assert (resamples.counts.sum(axis=1) == 240).all()


@pytest.mark.parametrize(
  'n_resamples', [3, pytest.param(6, marks=pytest.mark.slow)]
)
def test_resamples_reach_the_optimum_that_scipy_finds(
  published, resamples, n_resamples
):
  N, D, loss = chinchilla()
  order = design.make(N, D, loss).order
  rng = np.random.default_rng(0)
  for i in rng.integers(0, 4000, n_resamples):
    drawn = np.repeat(order, resamples.counts[i])
    spread = rng.uniform([0, 0, -1, 0.1, 0.1], [20, 20, 1, 1, 1], (12, 5))
    law, f = grid.search(N[drawn], D[drawn], loss[drawn], 1e-3, spread)
    # SciPy stops short of the optimum by some 1e-9 of it.
    assert resamples.objectives[i] == pytest.approx(f, rel=1e-7)
    assert resamples.objectives[i] <= f * (1 + 1e-10)
    assert np.allclose(resamples.laws[i], coefficients(law), rtol=5e-3)


def test_a_resample_is_the_fit_of_its_rows():
  N, D = runs_on_grid()
  loss = simulate_runs(LAW, N, D, noise=0.02, seed=0)
  order = design.make(N, D, loss).order
  drawn = fit_scaling_law(N, D, loss).bootstrap(100, seed=1)
  for i in range(0, 100, 10):
    rows = np.repeat(order, drawn.counts[i])
    again = fit_scaling_law(N[rows], D[rows], loss[rows])
    # Noise of twenty deltas: there are several optima, some of them near.
    assert drawn.objectives[i] == pytest.approx(again.objective, rel=1e-6)


def test_the_order_of_rows_changes_no_bit():
  N, D = runs_on_grid()
  loss = simulate_runs(LAW, N, D, noise=0.005, seed=0)
  # Two runs alike in all but their group, which order alone cannot tell.
  N, D, loss = (np.append(values, values[3]) for values in (N, D, loss))
  groups = np.arange(50) % 9
  shuffled = np.random.default_rng(1).permutation(50)
  first = fit_scaling_law(N, D, loss)
  second = fit_scaling_law(N[shuffled], D[shuffled], loss[shuffled])
  for labels in (None, groups):
    one = first.bootstrap(50, groups=labels)
    two = second.bootstrap(
      50, groups=None if labels is None else labels[shuffled]
    )
    assert np.array_equal(one.laws, two.laws)
  assert not np.array_equal(one.laws, first.bootstrap(50, seed=1).laws)


def test_runs_of_a_group_are_drawn_together():
  N, D = runs_on_grid()
  fit = fit_scaling_law(N, D, simulate_runs(LAW, N, D, noise=0.005, seed=0))
  labels = np.array([f'{size:.0f}' for size in N])
  drawn = fit.bootstrap(20, groups=labels)
  order = design.make(N, D, fit.loss, np.unique(labels, return_inverse=True)[1])
  for counts in drawn.counts:
    by_label = {}
    for label, count in zip(labels[order.order], counts, strict=True):
      by_label.setdefault(label, set()).add(int(count))
    assert all(len(each) == 1 for each in by_label.values())


def test_runs_that_share_an_error_need_groups():
  # Five seeds of each configuration with nearly one loss: as single runs they
  # look like five times the evidence, and the interval is too narrow.
  N, D = (np.repeat(values, 5) for values in runs_on_grid(6, 6))
  config = np.repeat(np.arange(36), 5)
  shared = np.random.default_rng(0).normal(0, 0.005, 36)[config]
  fit = fit_scaling_law(N, D, LAW.loss(N, D) * np.exp(shared), delta=0.1)
  single, grouped = fit.bootstrap(300), fit.bootstrap(300, groups=config)
  for name in NAMES:
    widths = [np.ptp(each.intervals()[name]) for each in (single, grouped)]
    assert widths[1] > 1.5 * widths[0]


def test_resamples_that_leave_a_coefficient_open_are_counted_and_open_it():
  # Three token counts, one of them in two runs: many resamples miss it.
  N, D = runs_on_grid(7, 2)
  N, D = np.append(N, [1e8, 1e9]), np.append(D, [3e10, 3e10])
  fit = fit_scaling_law(N, D, simulate_runs(LAW, N, D, noise=0.003, seed=0))
  drawn = fit.bootstrap(400)
  missed = (drawn.counts @ (D[design.make(N, D, fit.loss).order] == 3e10)) == 0
  # (14 / 16)^16 of them.
  assert 0.07 < missed.mean() < 0.17
  assert drawn.unidentified[missed][:, [0, 2, 4]].all()
  [sentence] = drawn.warnings
  assert sentence.endswith('resamples do not identify E, B and beta')
  assert drawn.intervals()['beta'] == (0, np.inf)
  low, high = drawn.intervals()['alpha']
  assert 0.3 < low < high < 0.5


def test_loss_intervals_hold_the_law_and_widen_beyond_the_data(published):
  drawn = published.bootstrap(200)
  N, D = np.array([1e9, 1e12]), np.array([1e11, 1e14])
  low, high = drawn.loss_intervals(N, D)
  law = published.law.loss(N, D)
  assert (low < law).all() and (law < high).all()
  assert high[1] - low[1] > 2 * (high[0] - low[0])
  assert high[0] - low[0] < 0.05


def test_correlations_are_of_the_coefficients(published):
  drawn = published.bootstrap(200)
  correlations = drawn.correlations()
  assert correlations.shape == (5, 5)
  expected = np.corrcoef(np.log(drawn.laws[:, 1]), drawn.laws[:, 3])[0, 1]
  assert correlations[1, 3] == pytest.approx(expected, rel=1e-9)
  # A and alpha are one number to the data, which lie far from N = 1.
  assert expected > 0.99


@pytest.mark.slow
def test_intervals_hold_the_truth_as_often_as_they_say():
  # Counts of 200 at a true 95 % scatter by 1.5 %: 90 to 98 is what is asked.
  # On this design it is 92.5 to 95 (profile) and 93.5 to 96.5 (bootstrap). It
  # was chosen for that: with fewer runs for their noise, 8 x 8 or 7 x 7 at
  # 0.005, the bootstrap of so small a delta is too wide, 97 to 98.5, where the
  # profile stays at 95 to 97 (docs/analysis.md).
  N, D = runs_on_grid(12, 12)
  truth = coefficients(LAW)
  hits = {'profile': np.zeros(5), 'bootstrap': np.zeros(5)}
  for seed in range(200):
    fit = fit_scaling_law(
      N, D, simulate_runs(LAW, N, D, noise=0.003, seed=seed)
    )
    for kind, intervals in (
      ('profile', fit.intervals()),
      ('bootstrap', fit.bootstrap(200, seed=seed).intervals()),
    ):
      low, high = np.array([intervals[name] for name in NAMES]).T
      hits[kind] += (low <= truth) & (truth <= high)
  for kind, count in hits.items():
    assert (count >= 180).all() and (count <= 196).all(), (kind, count)


def test_too_few_groups_labels_and_resamples_are_refused():
  N, D = runs_on_grid()
  fit = fit_scaling_law(N, D, LAW.loss(N, D))
  with pytest.raises(ValueError, match='one group'):
    fit.bootstrap(10, groups=['a'] * 49)
  with pytest.raises(ValueError, match=r'\(49,\)'):
    fit.bootstrap(10, groups=['a', 'b'])
  with pytest.raises(ValueError, match='n_resamples 0'):
    fit.bootstrap(0)
  with pytest.raises(ValueError, match='n_resamples 1.5: must be a whole'):
    fit.bootstrap(1.5)
  with pytest.raises(ValueError, match='at most 1000000'):
    fit.bootstrap(1_000_001)
  for label in (None, np.nan):
    with pytest.raises(ValueError, match='row 3: group'):
      fit.bootstrap(10, groups=[1, 2, label] + [3] * 46)
  with pytest.raises(ValueError, match='level 2'):
    fit.bootstrap(10).intervals(2)
