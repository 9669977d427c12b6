"""The sweeps in configs/: what their docstrings say of them."""

import pathlib

import numpy as np
import pytest

from jax_sparse_pretrain.model import counts
from jax_sparse_pretrain.sweep.sweep_file import read_sweep

CONFIGS = pathlib.Path(__file__).parents[1] / 'configs'


def read(name):
  return {run.name: run for run in read_sweep(f'{CONFIGS}/{name}.py', [])}


def average(run):
  """N_avg, as planned."""
  return run.plan.mean_density * counts.linear_parameters(run.config.model)


@pytest.mark.parametrize(
  'name', [path.stem for path in sorted(CONFIGS.glob('sweep_*.py'))]
)
def test_every_shipped_sweep_can_be_planned(name):
  assert all(run.plan.steps > 0 for run in read(name).values())


def test_schedules_have_equal_compute_and_cover_the_run():
  runs = read('sweep_schedules')
  sparse = [run for run in runs.values() if run.config.pruning.sparsity]
  asked = {
    (p.sparsity, p.start, p.end) for p in (run.config.pruning for run in sparse)
  }
  assert len(asked) == 84 and len({s for s, *_ in asked}) == 4
  assert all((s, 0.25, 0.75) in asked for s in (0.2, 0.4, 0.6, 0.8))
  dense = runs['dense_seed0'].plan.steps
  for run in sparse:
    # Half a step of the sparse model.
    assert abs(run.plan.dense_steps - dense) <= 0.5
    p, (start, end) = run.config.pruning, run.plan.compute_fractions
    # A ramp is whole periods of five steps.
    assert abs(start - p.start) < 0.012 and abs(end - p.end) < 0.012


def test_the_law_has_sparse_runs_beside_dense_ones_of_their_length():
  runs = read('sweep_law').values()
  dense = {
    (run.config.model.d_model, run.plan.steps)
    for run in runs
    if not run.config.pruning.sparsity
  }
  sparse = [run for run in runs if run.config.pruning.sparsity]
  assert len(dense) == 19 and len(sparse) == 15
  for run in sparse:
    assert (run.config.model.d_model, run.plan.steps) in dense


def test_twins_have_the_average_and_the_tokens_of_their_sparse_runs():
  runs = read('sweep_pairs')
  pairs = [name for name in runs if '_sparse_' in name]
  assert len(pairs) == 16
  for name in pairs:
    sparse, dense = runs[name], runs[name.replace('sparse', 'dense')]
    assert abs(average(dense) / average(sparse) - 1) < 0.0025
    assert dense.plan.steps == sparse.plan.steps
    assert dense.config.seed == sparse.config.seed
    model = dense.config.model
    assert 0.85 < model.d_ff / (4 * model.d_model) < 1.2


def test_shapes_have_equal_averages_and_tokens():
  runs = read('sweep_shapes').values()
  averages = np.array([average(run) for run in runs])
  assert len(averages) == 36
  np.testing.assert_allclose(averages, averages[0], rtol=0.002)
  assert len({run.plan.steps for run in runs}) == 1


def test_the_arms_that_decide_differ_in_their_schedule_alone():
  """Equal tokens, model and final count; averages apart, paired by seed."""
  runs = read('sweep_destination')
  head = 256 * 48
  body = 86_016 - head
  for sparsity in (0.5, 0.8, 0.9375):
    arms = ('paper', 'middle', 'early', 'later', 'late', 'random', 'static')
    cell = [runs[f's{sparsity:g}_{arm}_{seed}'] for arm in arms
            for seed in range(4)]  # fmt: skip
    assert len({run.plan.steps for run in cell}) == 1
    assert len({run.config.model for run in cell}) == 1
    assert len({run.config.optimizer for run in cell}) == 1
    for run in cell:
      final = run.plan.schedule.final_density * 86_016
      assert final == pytest.approx(head + (1 - sparsity) * body)
    averages = [average(runs[f's{sparsity:g}_{arm}_0']) for arm in arms]
    paper, middle, early, later, late, random, static = averages
    assert early < paper < later < late and random == middle
    assert static == pytest.approx(head + (1 - sparsity) * body)


def test_the_inner_ladder_has_the_outside_of_the_sparse_models():
  """Only head_dim and d_ff differ, in one ratio but for the smallest.

  N spans all laws.
  """
  runs = read('sweep_destination')
  widest = runs['d48_0'].config.model
  inner = [run for name, run in runs.items() if name.startswith('inner')]
  assert len(inner) == 5 * 4
  sizes = [counts.linear_parameters(run.config.model) for run in inner]
  assert min(sizes) < 16_900 and max(sizes) > 61_000
  for run in inner:
    model = run.config.model
    assert model.d_ff == 4 * model.head_size or 'inner1_27' in run.name
    assert (model.d_model, model.vocab_size, model.n_layers) == (
      widest.d_model, widest.vocab_size, widest.n_layers)  # fmt: skip
    assert run.config.optimizer == runs['d48_0'].config.optimizer
