"""Plans from a law, against brute force, step-by-step sums and `train`."""

import dataclasses
import itertools
import json
import math
import pathlib
import re

import numpy as np
import pytest
from scipy import optimize, stats

from jax_sparse_pretrain import command_line, train
from jax_sparse_pretrain.analysis import (
  EFFECTIVE,
  ScalingLaw,
  fit_scaling_law,
  plan_run,
  simulate_runs,
)
from jax_sparse_pretrain.analysis.__main__ import main
from jax_sparse_pretrain.analysis.fitting.fit import FittedCount
from jax_sparse_pretrain.analysis.train_command import (
  BASES,
  choose_architecture,
  depths,
  widths,
)
from jax_sparse_pretrain.config import Model
from jax_sparse_pretrain.model import counts
from jax_sparse_pretrain.training import recipe

ROOT = pathlib.Path(__file__).parents[1]
LAW = ScalingLaw(E=1.8, A=480.0, B=2100.0, alpha=0.35, beta=0.37)
NUMBERS = ','.join(f'{name}={value}' for name, value in LAW.as_dict().items())
TERMS = {'tokens_per_step': 524_288, 'every': 50}
AIMS = {
  'compute': {'compute': 1e20},
  'loss': {'loss': 2.6},
  'size': {'final_parameters': 2e8},
  'size and compute': {'final_parameters': 2e8, 'compute': 1e20},
  'size and loss': {'final_parameters': 2e8, 'loss': 2.6},
}
# The paper's four: layers, d_model, linear parameters.
PAPER = [
  (6, 512, 41_549_824),
  (12, 768, 137_822_208),
  (24, 1024, 435_421_184),
  (16, 2048, 1_139_277_824),
]
# Released 1B runs (model cards): dense steps, sparsity -> steps, start, end,
# and average density where the card has it.
RELEASED = [
  (10_000, 0.2, 11_200, 2_500, 8_100, 0.8919),
  (10_000, 0.4, 13_050, 2_500, 8_875, 0.7651),
  (10_000, 0.6, 16_375, 2_500, 10_100, None),
  (10_000, 0.8, 25_050, 2_500, 12_600, 0.3984),
  (50_000, 0.5, 72_200, 12_500, 47_200, None),
  (16_364, 0.6, 26_800, 4_100, 16_600, None),
]


@pytest.fixture(scope='module', params=AIMS)
def plans(request):
  return plan_run(LAW, **AIMS[request.param], **TERMS)


@pytest.fixture(scope='module')
def fit():
  sizes = np.array(list(itertools.product([1e8, 2e8, 4e8, 8e8], [2e9, 8e9])))
  n, d = np.append(sizes, [[3e8, 3e10], [6e8, 5e10]], axis=0).T
  loss = simulate_runs(LAW, n, d, noise=0.002, seed=0)
  return fit_scaling_law(n, d, loss)


def sparse_runs(plans):
  return [each.run for each in plans.sparse]


# Shapes.


@pytest.mark.parametrize('n_layers, d_model, linear', PAPER)
def test_the_papers_sizes_give_the_papers_shapes(n_layers, d_model, linear):
  model = choose_architecture(linear, 32_000, 2_048)
  assert (model.n_layers, model.d_model) == (n_layers, d_model)
  assert model.d_ff == 4 * d_model and model.head_size == 64
  assert counts.linear_parameters(model) == linear


@pytest.mark.parametrize('vocab_size', [256, 32_000])
@pytest.mark.parametrize('wanted', [1.3e6, 5e6, 43e6, 3.3e8, 2.5e9])
def test_no_other_shape_is_nearer(wanted, vocab_size):
  model = choose_architecture(wanted, vocab_size, 2_048)
  assert model.n_layers in depths(model.d_model)
  offs = [
    abs(d * vocab_size + n_layers * 16 * d * d - wanted) / wanted
    for d in itertools.takewhile(lambda d: d <= 4096, widths())
    for n_layers in depths(d)
  ]
  off = abs(counts.linear_parameters(model) / wanted - 1)
  # Within 0.25 % the aspect ratio decides.
  assert off <= max(min(offs), 0.0025) * (1 + 1e-9)


def test_shapes_are_those_of_the_family():
  for d in itertools.takewhile(lambda d: d <= 4096, widths()):
    linear = counts.linear_parameters(
      Model(d_model=d, n_layers=depths(d)[0], d_ff=4 * d)
    )
    model = choose_architecture(linear, 32_000, 2_048)
    aspect = model.d_model / model.n_layers
    assert 128 / 3 <= aspect <= 128 or model.n_layers == 1
    assert model.n_heads * model.head_size == model.d_model
    assert model.head_size % 2 == 0
    assert 48 <= model.head_size <= 96 or model.d_model < 48


def test_a_size_that_no_model_has_is_refused():
  with pytest.raises(ValueError, match='at least 516,096, the smallest'):
    choose_architecture(5e5, 32_000, 2_048)
  with pytest.raises(ValueError, match='at most 1e[+]14'):
    choose_architecture(1e15, 32_000, 2_048)


def test_the_bases_have_the_sizes_that_are_said():
  for path, linear in BASES.items():
    config = command_line.load_config(str(ROOT / path), [])
    assert counts.linear_parameters(config.model) == linear


# What is planned.


def test_the_dense_run_is_the_best_of_a_grid_of_sizes():
  n = np.geomspace(1e7, 1e11, 20_001)
  best = n[LAW.loss(n, 1e20 / (6 * n)).argmin()]
  dense = plan_run(LAW, compute=1e20, **TERMS).dense
  assert dense.wanted_parameters == pytest.approx(best, rel=1e-3)
  assert dense.linear_parameters == pytest.approx(best, rel=5e-3)
  # Flat around the optimum: rounding costs no loss that could be measured.
  assert dense.loss == pytest.approx(
    LAW.loss(best, 1e20 / (6 * best)), abs=1e-5
  )


def test_sparse_runs_meet_the_budget_at_the_optimal_average():
  n_best, _ = LAW.optimal(1e20)
  for run in sparse_runs(plan_run(LAW, compute=1e20, **TERMS)):
    assert run.compute_flops == pytest.approx(1e20, rel=1e-4)
    assert run.average_parameters == pytest.approx(n_best, rel=1e-2)


def test_whole_updates_are_allowed_for_in_the_size():
  n_best, _ = LAW.optimal(3e17)
  for run in sparse_runs(plan_run(LAW, compute=3e17, **TERMS)):
    wanted = run.wanted_parameters * run.plan.mean_density
    # At 90 % one size asks for an update more, which asks for the other size.
    rel = 1e-2 if run.sparsity == 0.9 else 1e-9
    assert wanted == pytest.approx(n_best, rel=rel)


def test_the_counts_are_sums_over_the_steps(plans):
  for run in plans.runs:
    density = run.plan.schedule.density(np.arange(run.plan.steps))
    nonzero = density * run.linear_parameters
    compute = 6 * math.fsum(nonzero) * run.config.tokens_per_step
    assert run.average_parameters == pytest.approx(nonzero.mean(), rel=1e-12)
    assert run.compute_flops == pytest.approx(compute, rel=1e-12)
    assert run.final_parameters == round(nonzero[-1])
    assert run.tokens == run.plan.steps * 524_288
    assert run.loss == LAW.loss(run.average_parameters, run.tokens)


def test_steps_are_whole_updates_at_25_and_75_percent_of_compute(plans):
  for run in sparse_runs(plans):
    schedule, dense_steps = run.plan.schedule, run.plan.dense_steps
    assert (schedule.end - schedule.start) % 50 == 0
    start, end = run.plan.compute_fractions
    assert abs(start - 0.25) * dense_steps <= 1
    assert abs(end - 0.75) * dense_steps <= 50


def test_compute_is_met_to_half_a_step_of_each_kind(plans):
  # Of the dense model, and of the sparse one.
  slack = 0.0
  if 'final_parameters' in plans.given and 'compute' not in plans.given:
    # The goal follows N_avg, nearly squared. A ramp that is one update longer
    # or shorter moves N_avg by up to 0.7 % at 90 % sparsity and 5,000 steps.
    slack = 0.015
  for run in (plans.dense, *sparse_runs(plans)):
    assert abs(run.off_compute) <= 1 / run.plan.dense_steps + slack


def test_a_loss_is_reached_with_no_compute_to_spare():
  plans = plan_run(LAW, loss=2.6, **TERMS)
  for run in (plans.dense, *sparse_runs(plans)):
    assert run.loss == pytest.approx(2.6, abs=1e-4)
  less = 0.99 * plans.dense.compute_flops
  n = np.geomspace(1e7, 1e11, 2_001)
  assert LAW.loss(n, less / (6 * n)).min() > 2.6


def test_a_size_alone_gets_the_compute_at_which_it_is_optimal():
  plans = plan_run(LAW, final_parameters=2e8, **TERMS)
  for run in (plans.dense, *sparse_runs(plans)):
    assert run.final_parameters == pytest.approx(2e8, rel=1e-2)
    n_best, d_best = LAW.optimal(run.compute_flops)
    assert run.average_parameters == pytest.approx(n_best, rel=1e-2)
    assert run.tokens == pytest.approx(d_best, rel=1e-2)


def test_a_size_with_a_budget_or_a_loss_has_both():
  for run in sparse_runs(plan_run(LAW, **AIMS['size and compute'], **TERMS)):
    assert run.final_parameters == pytest.approx(2e8, rel=1e-2)
    assert run.compute_flops == pytest.approx(1e20, rel=1e-4)
  for run in sparse_runs(plan_run(LAW, **AIMS['size and loss'], **TERMS)):
    assert run.final_parameters == pytest.approx(2e8, rel=1e-2)
    assert run.loss == pytest.approx(2.6, abs=1e-3)


@pytest.mark.parametrize(
  'dense, sparsity, steps, start, end, density', RELEASED
)
def test_released_runs_are_planned_again(
  dense, sparsity, steps, start, end, density
):
  linear, tokens_per_step = 1_139_277_824, 4_194_304
  plans = plan_run(
    LAW,
    final_parameters=(1 - sparsity) * linear,
    compute=6 * linear * dense * tokens_per_step,
    sparsities=[sparsity],
    tokens_per_step=tokens_per_step,
    every=50,
  )
  [run] = sparse_runs(plans)
  assert run.linear_parameters == linear
  found = (run.plan.steps, run.plan.schedule.start, run.plan.schedule.end)
  # Within one update period; theirs is not known.
  assert np.abs(np.subtract(found, (steps, start, end))).max() <= 50
  if density:
    assert run.plan.mean_density == pytest.approx(density, abs=1.5e-3)


def test_a_twin_has_the_average_and_the_tokens(plans):
  for each in plans.sparse:
    run, twin = each.run, each.twin
    assert twin.sparsity == 0 and twin.tokens == run.tokens
    # Around 300M there are gaps of 2 % between the models of the family.
    assert twin.linear_parameters == pytest.approx(
      run.average_parameters, rel=1.2e-2
    )
    assert twin.off_compute == pytest.approx(twin.off_parameters, rel=1e-9)
    assert twin.loss == pytest.approx(run.loss, abs=2.5e-3)


def test_inference_saves_what_was_pruned(plans):
  for each in plans.sparse:
    run, twin = each.run, each.twin
    ratio = run.inference_flops / twin.inference_flops
    assert each.fewer_than_twin == pytest.approx(1 - ratio, rel=1e-12)
    assert run.inference_flops == 2 * run.final_parameters
    embedding_and_norms = (
      counts.total_parameters(run.config.model) - run.linear_parameters
    )
    assert run.final_total_parameters == (
      run.final_parameters + embedding_and_norms
    )


def test_no_sparsity_is_the_dense_run():
  plans = plan_run(LAW, compute=1e20, sparsities=[0.0], **TERMS)
  assert sparse_runs(plans) == [plans.dense]


# The command.


def test_train_makes_the_same_run_of_the_command(plans, monkeypatch):
  monkeypatch.chdir(ROOT)
  for run in plans.runs:
    first, *overrides = run.command
    config = command_line.load_config(
      first.removeprefix('--config='), overrides
    )
    made = recipe.make_plan(config)
    assert made.steps == run.plan.steps
    # The base says what fits into memory.
    remat = config.model.remat
    assert config.model == dataclasses.replace(run.config.model, remat=remat)
    assert counts.linear_parameters(config.model) == run.linear_parameters
    assert config.tokens_per_step == 524_288
    assert config.batch_size / config.accumulation_steps <= 32
    assert made.mean_density == pytest.approx(run.plan.mean_density, rel=1e-12)
    assert made.schedule.sparsity == run.sparsity
    if run.sparsity:
      np.testing.assert_array_equal(
        made.schedule.update_steps, run.plan.schedule.update_steps
      )


@pytest.mark.parametrize('schedule', ['cubic', 'polynomial', 'linear'])
def test_other_ramps_reach_train_too(schedule, monkeypatch):
  monkeypatch.chdir(ROOT)
  plans = plan_run(
    LAW,
    compute=1e19,
    schedule=schedule,
    power=2.0,
    start=0.1,
    end=0.5,
    tokens_per_step=262_144,
    every=40,
  )
  for run in sparse_runs(plans):
    first, *overrides = run.command
    config = command_line.load_config(
      first.removeprefix('--config='), overrides
    )
    made = recipe.make_plan(config).schedule
    np.testing.assert_array_equal(
      made.kept_fractions, run.plan.schedule.kept_fractions
    )
    np.testing.assert_array_equal(
      made.update_steps, run.plan.schedule.update_steps
    )
    assert config.tokens_per_step == 262_144


def test_the_printed_command_plans_the_printed_run(capsys, monkeypatch):
  monkeypatch.chdir(ROOT)
  [each] = plan_run(LAW, compute=1e20, sparsities=[0.8], **TERMS).sparse
  assert train.main([*each.run.command, '--plan']) == 0
  text = capsys.readouterr().out
  for count in (
    each.run.linear_parameters,
    round(each.run.average_parameters),
    each.run.final_parameters,
    each.run.plan.steps,
    each.run.plan.schedule.start,
    each.run.plan.schedule.end,
    each.run.tokens,
  ):
    assert f' {count:,} ' in f'{text} '.replace('\n', ' ')


def test_the_command_takes_a_config_of_the_users(tmp_path, monkeypatch):
  monkeypatch.chdir(ROOT)
  plans = plan_run(
    LAW,
    compute=1e17,
    sparsities=[0.5],
    tokens_per_step=8_192,
    every=5,
    vocab_size=256,
    context_length=128,
    base='configs/smoke.py',
  )
  [run] = sparse_runs(plans)
  assert run.command[0] == '--config=configs/smoke.py'
  config = command_line.load_config('configs/smoke.py', run.command[1:])
  assert recipe.make_plan(config).steps == run.plan.steps
  assert counts.linear_parameters(config.model) == run.linear_parameters


# Intervals and warnings.


def test_intervals_are_those_of_the_bootstrap(fit):
  plans = plan_run(
    fit, compute=1e19, n_resamples=40, seed=3, level=0.9, **TERMS
  )
  resamples = fit.bootstrap(40, 3)
  for run in plans.runs:
    [low], [high] = resamples.loss_intervals(
      run.average_parameters, run.tokens, 0.9
    )
    assert run.interval == (low, high) and low < run.loss < high
  assert plans.level == 0.9


def test_a_law_alone_has_no_intervals(fit):
  plans = plan_run(LAW, compute=1e19, **TERMS)
  assert plans.level is None
  assert all(run.interval is None for run in plans.runs)
  with pytest.raises(ValueError, match='n_resamples 9: intervals need a fit'):
    plan_run(LAW, compute=1e19, n_resamples=9, **TERMS)
  assert plan_run(fit, compute=1e19, **TERMS).level is None


def test_extrapolation_is_said(fit):
  assert plan_run(fit, compute=3e18, **TERMS).warnings == fit.warnings
  far = plan_run(fit, compute=1e23, **TERMS).warnings
  [n] = [text for text in far if text.startswith('N_avg up to')]
  [d] = [text for text in far if text.startswith('D up to')]
  assert 'far beyond the fitted runs, 100M to 800M, by a factor of' in n
  assert '2B to 50B' in d
  small = plan_run(fit, compute=3e17, **TERMS).warnings
  assert any(text.startswith('N_avg down to') for text in small)


def test_what_the_fit_leaves_open_is_said():
  n = np.array([1e8, 2e8] * 4)
  d = np.repeat([2e9, 4e9, 8e9, 2e10], 2)
  fit = fit_scaling_law(n, d, simulate_runs(LAW, n, d, noise=0.001, seed=0))
  # Whatever the data leave open, a law with an optimum.
  fit = dataclasses.replace(fit, law=LAW)
  text = '; '.join(plan_run(fit, compute=5e18, **TERMS).warnings)
  assert '2 different parameter counts do not identify E, A and alpha' in text


def test_a_sparsity_that_cannot_reach_the_loss_is_left_out():
  aim = {'final_parameters': 2e8, 'loss': 2.33}
  plans = plan_run(LAW, **aim, sparsities=[0.2, 0.8], **TERMS)
  [run] = sparse_runs(plans)
  assert run.sparsity == 0.8 and run.loss == pytest.approx(2.33, abs=1e-4)
  [text] = plans.warnings
  assert text.startswith('left out: sparsity 0.2: loss 2.33: must be above')
  # Its floor: infinite tokens.
  [average] = re.findall('N_avg = ([0-9,]+)', text)
  assert LAW.loss(float(average.replace(',', '')), 1e30) > 2.33
  with pytest.raises(
    ValueError, match='sparsity 0.2: loss 2.33: must be above'
  ):
    plan_run(LAW, **aim, sparsities=[0.2], **TERMS)


BAD = {
  'nothing': ({}, 'compute, loss, final_parameters: give one'),
  'both': ({'compute': 1e20, 'loss': 2.5}, 'give one of them'),
  'compute': ({'compute': -1.0}, 'compute -1.0: must be positive'),
  'nan': ({'compute': math.nan}, 'compute nan: must be positive'),
  'loss': ({'loss': 1.7}, 'loss 1.7: must be above E = 1.8'),
  'small': ({'compute': 1e9}, '2,001 linear parameters: must be at least 516'),
  'no step': (
    {'compute': 1e16, 'tokens_per_step': 2048 * 10**6},
    'more than the run; make tokens_per_step smaller',
  ),
  'no time': (
    {'compute': 1e23, 'tokens_per_step': 2048},
    'at most 100,000,000',
  ),
  'size': ({'final_parameters': 1000}, '1,000 linear parameters: must be at'),
  'large': ({'compute': 1e60}, 'and at most 1e+14'),
  'sparsity': ({'compute': 1e20, 'sparsities': [1.0]}, 'sparsity 1.0: must be'),
  'negative': ({'compute': 1e20, 'sparsities': [-0.1]}, 'sparsity -0.1'),
  'none': ({'compute': 1e20, 'sparsities': []}, 'sparsities: none is given'),
  'every': ({'compute': 1e20, 'every': 0}, 'every = 0: must be at least 1'),
  'ramp': ({'compute': 1e20, 'every': 10**6}, 'sparsity 0.2: every 1000000'),
  'start': ({'compute': 1e20, 'start': 0.9}, 'start = 0.9: must be at most'),
  'end': ({'compute': 1e20, 'end': 1.0}, 'end = 1.0: must be below 1'),
  'rows': (
    {'compute': 1e20, 'tokens_per_step': 5_000},
    'tokens_per_step 5000: must be a multiple of context_length, 2048',
  ),
  'shape': ({'compute': 1e20, 'schedule': 'x'}, "schedule = 'x': must be one"),
  'steps': (
    {'final_parameters': 1e8, 'compute': 1e60},
    'must be at least 516,096',
  ),
  'level': ({'compute': 1e20, 'level': 2.0}, 'level 2.0'),
}


def test_a_law_that_asks_for_the_impossible_is_refused():
  flat = dataclasses.replace(LAW, beta=0.003)
  for aim in (
    {'loss': 2.3},
    {'final_parameters': 1e8},
    {'final_parameters': 1e8, 'loss': 2.5},
  ):
    with pytest.raises(ValueError, match='too flat|more compute than a number'):
      plan_run(flat, **aim, **TERMS)
  flat = dataclasses.replace(LAW, A=0.0)
  with pytest.raises(ValueError, match='A = 0: an optimum needs both'):
    plan_run(flat, compute=1e20, **TERMS)


@pytest.mark.parametrize('case', BAD)
def test_what_cannot_be_planned_is_refused_by_name(case):
  arguments, words = BAD[case]
  with pytest.raises(ValueError) as refused:
    plan_run(LAW, **{**TERMS, **arguments})
  assert words in str(refused.value) and '\n' not in str(refused.value)


# Under another count than N_avg.


def shares(run):
  """N_avg and the L1 mass over N, by sums over the steps and by SciPy."""
  density = run.plan.schedule.density(np.arange(run.plan.steps))
  # The mass beyond z of a Gaussian, whose density at 0 it is relative to.
  z = stats.norm.isf((1 - run.sparsity) / 2)
  return density.mean(), stats.norm.pdf(z) / stats.norm.pdf(0)


def at_compute(run, compute):
  """log N -> the loss, in plain terms, at 6 N_avg D of this compute."""
  average, mass = shares(run)

  def loss(log_n):
    n = np.exp(log_n)
    d = compute / (6 * average * n)
    return 1.8 + 480 / (mass * n) ** 0.35 + 2100 / d**0.37

  return loss


def best_size(run, compute):
  loss = at_compute(run, compute)
  found = optimize.minimize_scalar(loss, bounds=np.log([1e7, 1e12]))
  return np.exp(found.x), found.fun


@pytest.fixture(scope='module', params=AIMS)
def l1_plans(request):
  return plan_run(LAW, kind='l1', **AIMS[request.param], **TERMS)


def test_the_l1_mass_of_a_run_predicts_its_loss(l1_plans):
  for run in l1_plans.runs:
    average, mass = shares(run)
    n = run.linear_parameters
    assert run.average_parameters == pytest.approx(average * n, rel=1e-9)
    assert run.effective_parameters == pytest.approx(mass * n, rel=1e-9)
    expected = LAW.loss(mass * n, run.tokens)
    assert run.loss == pytest.approx(expected, rel=1e-9)
    assert run.compute_flops == pytest.approx(
      6 * average * n * run.tokens, rel=1e-9
    )


def test_at_a_compute_the_size_of_least_loss_is_planned():
  """By the L1 mass it is another N_avg for each sparsity."""
  plans = plan_run(LAW, kind='l1', compute=1e20, **TERMS)
  for run in (plans.dense, *sparse_runs(plans)):
    size, loss = best_size(run, 1e20)
    assert run.wanted_parameters == pytest.approx(size, rel=5e-3)
    assert run.compute_flops == pytest.approx(1e20, rel=1e-4)
    assert run.loss == pytest.approx(loss, abs=2e-5)


def test_at_a_size_to_deploy_the_losses_are_those_of_its_compute():
  plans = plan_run(LAW, kind='l1', **AIMS['size and compute'], **TERMS)
  for run in sparse_runs(plans):
    size = 2e8 / (1 - run.sparsity)
    assert run.wanted_parameters == pytest.approx(size, rel=1e-12)
    assert run.linear_parameters == pytest.approx(size, rel=1e-2)
    assert run.loss == pytest.approx(
      at_compute(run, 1e20)(np.log(size)), abs=1e-3
    )


def test_a_size_to_deploy_alone_is_the_best_of_its_compute():
  plans = plan_run(LAW, kind='l1', final_parameters=2e8, **TERMS)
  for run in (plans.dense, *sparse_runs(plans)):
    size, loss = best_size(run, run.compute_flops)
    assert run.linear_parameters == pytest.approx(size, rel=1e-2)
    assert run.loss == pytest.approx(loss, abs=1e-5)


def test_a_loss_is_reached_with_the_least_compute_under_the_l1_mass():
  plans = plan_run(LAW, kind='l1', loss=2.6, **TERMS)
  for run in (plans.dense, *sparse_runs(plans)):
    assert run.loss == pytest.approx(2.6, abs=2e-4)
    _, loss = best_size(run, 0.99 * run.compute_flops)
    assert loss > 2.6


def test_a_twin_has_the_mass_and_the_tokens(l1_plans):
  for run, twin in l1_plans.sparse:
    assert twin.sparsity == 0 and twin.tokens == run.tokens
    assert twin.effective_parameters == twin.linear_parameters
    # Around 300M there are gaps of 2 % between the models of the family.
    assert twin.linear_parameters == pytest.approx(
      run.effective_parameters, rel=1.2e-2
    )
    assert twin.loss == pytest.approx(run.loss, abs=2.5e-3)


# The verb.


@pytest.fixture
def run(capsys):
  def run(*arguments, status=0):
    assert main(['plan', *map(str, arguments)]) == status
    return capsys.readouterr()

  return run


@pytest.mark.parametrize('compute', [1e21, 1e26])
def test_plans_of_any_size_fit_80_columns(run, compute, monkeypatch):
  monkeypatch.setenv('COLUMNS', '80')
  text = run(f'--law={NUMBERS}', f'--compute={compute}').out
  assert max(map(len, text.splitlines())) <= 80


def test_twins_have_their_commands_if_asked_for(run):
  flags = (f'--law={NUMBERS}', '--compute=1e20', '--sparsity=0.8')
  [each] = plan_run(LAW, compute=1e20, sparsities=[0.8]).sparse
  command = ' '.join(each.twin.command)
  short, long = (run(*flags, *more).out for more in ((), ('--twins',)))
  assert command not in short.replace(' \\\n ', '')
  assert command in long.replace(' \\\n ', '')


def test_the_api_and_the_command_have_the_same_defaults(run):
  text = run(f'--law={NUMBERS}', '--compute=1e20', '--json').out
  plans = plan_run(LAW, compute=1e20)
  assert json.loads(text) == json.loads(json.dumps(plans.as_dict()))


def test_one_shot_is_planned_where_start_and_end_are_one():
  [each] = plan_run(
    LAW, compute=1e20, sparsities=[0.5], schedule='one_shot', start=0.5, end=0.5
  ).sparse
  assert each.run.plan.schedule.start == each.run.plan.schedule.end
  start, _ = each.run.plan.compute_fractions
  assert start == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize('columns', [80, 120])
@pytest.mark.parametrize('aim', AIMS)
def test_its_tables_fit_the_terminal(run, aim, columns, monkeypatch):
  monkeypatch.setenv('COLUMNS', str(columns))
  flags = [f'--{name}={value:.0f}' if value > 10 else f'--{name}={value}'
           for name, value in AIMS[aim].items()]  # fmt: skip
  text = run(f'--law={NUMBERS}', *flags).out
  assert max(map(len, text.splitlines())) <= columns
  plans = plan_run(LAW, **AIMS[aim], **TERMS)
  for planned in (plans.dense, *sparse_runs(plans)):
    assert f'{planned.plan.steps:,}' in text
    joined = text.replace(' \\\n ', '')
    assert ' '.join(planned.command) in joined
  assert 'No intervals' in text and 'kernels that skip zeros' in text


def test_json_is_the_plan(run, tmp_path):
  out = tmp_path / 'plan.json'
  flags = (f'--law={NUMBERS}', '--compute=1e20', '--sparsity', 0.5, 0.8)
  text = run(*flags, '--json', '--out', out).out
  plans = plan_run(LAW, compute=1e20, sparsities=[0.5, 0.8], **TERMS)
  assert json.loads(text) == json.loads(json.dumps(plans.as_dict()))
  assert out.read_text() == text


def test_a_fit_brings_intervals_and_warnings(run, fit, tmp_path):
  path = tmp_path / 'fit.json'
  resampling = {'n_resamples': 40, 'seed': 1, 'groups': None}
  values = {**json.loads(fit.to_json()), 'resampling': resampling}
  path.write_text(json.dumps(values))
  assert '95 % of law' in run(f'--law={path}', '--compute=1e19').out
  output = run(f'--law={path}', '--compute=1e23', '--json')
  found = json.loads(output.out)
  plans = plan_run(fit, compute=1e23, n_resamples=40, seed=1, **TERMS)
  assert found == json.loads(json.dumps(plans.as_dict()))
  assert found['level'] == 0.95 and found['dense']['interval']
  assert 'warning: N_avg up to' in output.err


@pytest.mark.parametrize('columns', [80, 120])
@pytest.mark.parametrize('kind', EFFECTIVE)
def test_its_tables_fit_the_terminal_under_every_count(
  run, fit, tmp_path, monkeypatch, kind, columns
):
  """Which a plan shows only where it is none of the sizes that it has."""
  monkeypatch.setenv('COLUMNS', str(columns))
  own = EFFECTIVE[kind].coefficient
  count = own and known_count(fit, kind, own)
  values = json.loads(dataclasses.replace(fit, count=count).to_json())
  path = tmp_path / 'fit.json'
  path.write_text(json.dumps({**values, 'kind': kind, 'resampling': None}))
  flags = (f'--law={path}', '--compute=1e24', '--sparsity=0.9')
  if kind == 'l1_measured':
    [line] = run(*flags, status=2).err.splitlines()
    assert 'l1_measured: no plan says it' in line
    return
  text = run(*flags).out
  assert max(map(len, text.splitlines())) <= columns
  assert ('N_eff' in text) == (kind not in ('average', 'final', 'initial'))


def known_count(fit, kind, own):
  """A coefficient in the middle, as if all values fitted alike."""
  middle = (own.low + own.high) / 2
  laws = np.array([list(fit.law.as_dict().values())])
  return FittedCount(
    kind, own.name, middle, np.array([middle]), fit.parameters[None],
    laws, np.array([fit.objective]),
  )  # fmt: skip


@pytest.mark.parametrize(
  'flags, words',
  [
    ((), 'compute, loss, final_parameters: give one'),
    (('--loss=1.7',), 'loss 1.7: must be above E = 1.8'),
    (('--compute=1e9',), '2,001 linear parameters: must be at least 516'),
    (('--compute=1e20', '--sparsity=1'), 'sparsity 1.0: must be in [0, 1)'),
    (('--compute=1e20', '--every=0'), "'0': must be a whole number above 0"),
    (('--compute=1e20', '--config=no.py'), '--config = no.py: must be a file'),
    (('--compute=1e20', f'--config={__file__}x'), 'must be a file, FILE.py'),
    (('--compute=1e20', '--config='), 'must be a file, FILE.py'),
    (('--loss=1.800001',), 'loss 1.800001: 4.26e+25 linear'),
    (('--compute=1e20', '--schedule=one_shot'), 'must be equal for one_shot'),
    (('--compute=1e20', '--out=x.csv'), 'must end in .json'),
  ],
)
def test_bad_input_is_one_line(run, flags, words):
  output = run(f'--law={NUMBERS}', *flags, status=2)
  [line] = output.err.splitlines()
  assert line.startswith('error: ') and words in line and output.out == ''
