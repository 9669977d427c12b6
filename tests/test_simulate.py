"""The law as a function, and runs drawn from it."""

import numpy as np
import pytest
from scipy import optimize

from jax_sparse_pretrain.analysis.fitting.law import ScalingLaw, simulate_runs

LAW = ScalingLaw(E=1.8, A=480.0, B=2100.0, alpha=0.35, beta=0.37)


def test_the_law_is_chinchillas_equation():
  assert LAW.loss(1e9, 2e10) == pytest.approx(
    1.8 + 480 / 1e9**0.35 + 2100 / 2e10**0.37, rel=1e-14
  )
  assert isinstance(LAW.loss(1e9, 2e10), float)
  assert LAW.loss([[1e8], [1e9]], [1e9, 1e10, 1e11]).shape == (2, 3)


@pytest.mark.parametrize('compute', (1e18, 1e21, 1e25))
def test_the_optimum_is_the_least_loss_at_its_compute(compute):
  parameters, tokens = LAW.optimal(compute)
  assert 6 * parameters * tokens == pytest.approx(compute, rel=1e-12)
  found = optimize.minimize_scalar(
    lambda log_n: LAW.loss(np.exp(log_n), compute / 6 / np.exp(log_n)),
    bounds=np.log([1e5, 1e13]),
    method='bounded',
    options={'xatol': 1e-9},
  )
  # A minimum is flat: its place is known to the root of the rounding.
  assert np.log(parameters) == pytest.approx(found.x, abs=1e-5)


def test_compute_for_inverts_the_loss_at_the_optimum():
  for compute in (1e18, 1e21, 1e25):
    loss = LAW.loss(*LAW.optimal(compute))
    assert LAW.compute_for(loss) == pytest.approx(compute, rel=1e-9)


def test_no_compute_reaches_the_floor():
  with pytest.raises(ValueError, match='above E = 1.8'):
    LAW.compute_for(1.8)


def test_compute_is_found_for_many_losses_and_any_sizes():
  compute = np.array([1e18, 1e21])
  losses = [LAW.loss(*LAW.optimal(each)) for each in compute]
  assert LAW.compute_for(losses) == pytest.approx(compute, rel=1e-9)
  extreme = ScalingLaw(1.8, 1e200, 1e-200, 0.35, 0.37)
  # G = (alpha A / (beta B))^(1 / .72) would overflow on the way.
  C = extreme.compute_for(1e30)
  gamma = 0.35 * 0.37 / 0.72
  assert extreme.compute_for(1e29) == pytest.approx(C * 10 ** (1 / gamma))


@pytest.mark.parametrize('alpha', (1e-3, 1e-320))
def test_a_law_too_flat_for_any_compute_is_refused(alpha):
  law = ScalingLaw(1.8, 480.0, 2100.0, alpha, 0.37)
  with pytest.raises(ValueError, match=f'alpha = {alpha:g} is too flat'):
    law.compute_for(2.0)


@pytest.mark.parametrize('loss', (np.inf, np.nan, 1.0, [2.0, 1.8]))
def test_a_loss_that_no_compute_reaches_is_refused(loss):
  with pytest.raises(ValueError, match='above E = 1.8 and finite'):
    LAW.compute_for(loss)


def test_a_law_without_a_term_has_no_optimum():
  with pytest.raises(ValueError, match='B = 0'):
    ScalingLaw(1.8, 480.0, 0.0, 0.35, 0.37).optimal(1e20)


@pytest.mark.parametrize('bad', (-1.0, np.nan, np.inf))
def test_a_coefficient_must_be_finite_and_not_negative(bad):
  with pytest.raises(ValueError, match='alpha'):
    ScalingLaw(1.8, 480.0, 2100.0, bad, 0.37)


def test_sizes_must_be_positive():
  with pytest.raises(ValueError, match='tokens'):
    LAW.loss(1e9, 0.0)


def test_a_law_survives_its_dict():
  assert ScalingLaw.from_dict(LAW.as_dict()) == LAW
  with pytest.raises(ValueError, match='alpha'):
    ScalingLaw.from_dict({'E': 1.0})


def test_noise_is_log_normal_of_the_given_size():
  tokens = np.geomspace(1e9, 1e12, 20_000)
  loss = simulate_runs(LAW, 1e9, tokens, noise=0.01, seed=3)
  errors = np.log(loss / LAW.loss(1e9, tokens))
  # Standard errors are 0.01 / sqrt(20000) and that over sqrt(2).
  assert abs(errors.mean()) < 3e-4
  assert errors.std() == pytest.approx(0.01, abs=2e-4)


def test_a_seed_gives_the_same_runs_and_another_seed_others():
  draws = [
    simulate_runs(LAW, 1e9, [1e10, 1e11], noise=0.01, seed=seed)
    for seed in (0, 0, 1)
  ]
  assert np.array_equal(draws[0], draws[1])
  assert not np.array_equal(draws[0], draws[2])


def test_without_noise_runs_lie_on_the_law():
  loss = simulate_runs(LAW, 1e9, [1e10, 1e11], noise=0.0, seed=0)
  assert np.array_equal(loss, LAW.loss(1e9, [1e10, 1e11]))
  with pytest.raises(ValueError, match='noise -1'):
    simulate_runs(LAW, 1e9, 1e10, noise=-1, seed=0)
