import dataclasses
import json
import pathlib

import numpy as np
import pytest

from jax_sparse_pretrain import schedule
from jax_sparse_pretrain.planning import plan
from jax_sparse_pretrain.schedule import PruningSchedule

SHAPES = [name for name in schedule.SHAPES if name != 'one_shot']

# Released 1B runs: dense-equivalent steps, sparsity -> total, start, end, and
# the average density on the model card where it is given (arXiv 2501.12486).
RELEASED = [
  (10_000, 0.2, 11_200, 2_500, 8_100, 0.8919),
  (10_000, 0.4, 13_050, 2_500, 8_875, 0.7651),
  (10_000, 0.6, 16_375, 2_500, 10_100, None),
  (10_000, 0.8, 25_050, 2_500, 12_600, 0.3984),
  (50_000, 0.5, 72_200, 12_500, 47_200, None),
  (16_364, 0.6, 26_800, 4_100, 16_600, None),
]


def quarter_half_quarter(shape='geometric', every=50, unit=None, **kwargs):
  return plan(
    shape=shape,
    start=0.25,
    end=0.75,
    unit=unit or 'compute_fraction',
    every=every,
    **kwargs,
  )


@pytest.mark.parametrize('dense, s, total, start, end, density', RELEASED)
def test_released_runs_are_reproduced_within_one_period(
  dense, s, total, start, end, density
):
  period = 50
  ours = quarter_half_quarter(sparsity=s, dense_steps=dense, every=period)
  assert abs(ours.steps - total) <= period
  assert abs(ours.schedule.start - start) <= period
  assert abs(ours.schedule.end - end) <= period
  if density:
    assert ours.mean_density == pytest.approx(density, abs=0.0015)


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('start, end, every', [(5, 65, 10), (5, 66, 10)])
def test_density_is_the_step_by_step_staircase(shape, start, end, every):
  ours = PruningSchedule(shape, 0.8, start, end, every)
  density, oracle = 1.0, []
  kept = iter(ours.kept_fractions)
  for step in range(100):
    regular = start <= step < end and (step - start) % every == 0
    if regular or step == end:
      density = next(kept)
    oracle.append(density)
  assert next(kept, None) is None
  np.testing.assert_array_equal(ours.density(np.arange(100)), oracle)
  for steps in (1, 5, 6, 40, 65, 66, 67, 100):
    assert ours.compute(steps) == pytest.approx(sum(oracle[:steps]), rel=1e-12)


def test_geometric_drops_a_constant_fraction_each_time():
  ours = PruningSchedule('geometric', 0.8, 100, 400, 100)
  np.testing.assert_allclose(
    ours.kept_fractions, 0.2 ** np.array([0.25, 0.5, 0.75, 1]), rtol=1e-12
  )


def test_cubic_is_that_of_zhu_and_gupta():
  ours = PruningSchedule('cubic', 0.5, 10, 20, 5)
  progress = np.array([0.1, 0.6, 1.0])
  np.testing.assert_allclose(
    ours.kept_fractions, 1 - 0.5 * (1 - (1 - progress) ** 3), rtol=1e-12
  )


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('every', [1, 7, 10, 1000])
@pytest.mark.parametrize('start, end', [(0, 0), (0, 100), (30, 100)])
def test_the_last_update_reaches_the_target_whatever_the_period(
  shape, every, start, end
):
  ours = PruningSchedule(shape, 0.7, start, end, every)
  assert ours.update_steps[-1] == end
  assert ours.density(end) == 1 - 0.7
  assert (np.diff(ours.kept_fractions) <= 0).all()
  assert (np.diff(ours.update_steps) > 0).all()


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('s', [0.1, 0.5, 0.9])
def test_fine_steps_approach_the_closed_form_mean_density(shape, s):
  n = 100_000
  ours = PruningSchedule(shape, s, 0, n, 1)
  closed = schedule.SHAPES[shape].mean_density(s, 3.0)
  assert ours.compute(n) / n == pytest.approx(closed, abs=2 / n)


@pytest.mark.parametrize('shape', SHAPES)
@pytest.mark.parametrize('s', [0.2, 0.8])
@pytest.mark.parametrize('unit', ['compute_fraction', 'step_fraction'])
@pytest.mark.parametrize('every', [1, 10, 50])
def test_a_plan_spends_the_compute_of_its_dense_run(shape, s, unit, every):
  ours = quarter_half_quarter(
    shape, every=every, unit=unit, sparsity=s, dense_steps=5_000
  )
  # Half a step of the final model is what whole steps can do.
  assert ours.dense_steps == pytest.approx(5_000, abs=(1 - s) / 2 + 1e-6)


@pytest.mark.parametrize('s', [0.2, 0.8])
@pytest.mark.parametrize('length', [{'dense_steps': 5_000}, {'steps': 9_000}])
def test_fractions_of_compute_are_met_within_half_a_period(s, length):
  ours = quarter_half_quarter(sparsity=s, every=20, **length)
  start, end = ours.compute_fractions
  period = 20 / ours.dense_steps
  assert start == pytest.approx(0.25, abs=period)
  assert end == pytest.approx(0.75, abs=period)


def test_fractions_of_steps_are_met_within_half_a_period():
  ours = quarter_half_quarter(
    'cubic', every=100, unit='step_fraction', sparsity=0.5, steps=10_000
  )
  assert (ours.schedule.start, ours.schedule.end) == (2_500, 7_500)


def test_the_cubic_of_t5_has_the_published_average():
  # Frantar et al. (arXiv 2309.08520): 25-75 % of steps, N_avg = N (1 - .625 s).
  ours = quarter_half_quarter(
    'cubic', every=100, unit='step_fraction', sparsity=0.75, steps=250_000
  )
  assert ours.mean_density == pytest.approx(1 - 0.625 * 0.75, abs=1e-3)


def test_steps_are_taken_as_given():
  ours = plan(
    shape='geometric', sparsity=0.5, start=30, end=70, unit='steps', every=7,
    steps=100,
  )  # fmt: skip
  assert (ours.schedule.start, ours.schedule.end, ours.steps) == (30, 70, 100)


def test_one_shot_at_half_of_compute():
  ours = plan(
    shape='geometric', sparsity=0.75, start=0.5, end=0.5,
    unit='compute_fraction', every=10, dense_steps=1_000,
  )  # fmt: skip
  assert list(ours.schedule.update_steps) == [500]
  assert ours.steps == 500 + 2_000


def test_a_dense_plan_is_as_long_as_its_dense_run():
  ours = quarter_half_quarter(sparsity=0.0, dense_steps=123)
  assert (ours.steps, ours.dense_steps, ours.mean_density) == (123, 123, 1)


@pytest.mark.parametrize('share', [0.25, 0.9])
@pytest.mark.parametrize('shape', SHAPES)
def test_exempt_weights_cost_their_compute_throughout(shape, share):
  ours = quarter_half_quarter(
    shape, every=5, sparsity=0.8, dense_steps=5_000, share=share
  )
  acted_on = ours.schedule.density(np.arange(ours.steps))
  bare = dataclasses.replace(ours.schedule, share=1.0)
  kept = bare.density(np.arange(ours.steps))
  np.testing.assert_allclose(acted_on, 1 - share * (1 - kept), rtol=1e-12)
  assert acted_on.sum() == pytest.approx(5_000, abs=0.5)
  start, end = ours.compute_fractions
  assert start == pytest.approx(0.25, abs=5 / 5_000)
  assert end == pytest.approx(0.75, abs=5 / 5_000)


def test_a_polynomial_has_its_power_and_linear_and_cubic_are_two_of_them():
  def kept(shape, power=3.0):
    return PruningSchedule(shape, 0.8, 0, 100, 10, power).kept_fractions

  progress = np.minimum((np.arange(0, 101, 10) + 1) / 100, 1)
  np.testing.assert_allclose(
    kept('polynomial', 1.7), 1 - 0.8 * (1 - (1 - progress) ** 1.7), rtol=1e-12
  )
  np.testing.assert_array_equal(kept('cubic'), kept('polynomial', 3.0))
  np.testing.assert_array_equal(kept('linear'), kept('polynomial', 1.0))


def test_a_constant_schedule_is_at_its_target_from_the_first_update():
  ours = PruningSchedule('constant', 0.8, 10, 30, 10)
  np.testing.assert_allclose(ours.kept_fractions, 0.2)
  assert list(ours.update_steps) == [10, 20, 30]


def test_one_shot_is_one_update():
  with pytest.raises(ValueError, match='must be equal for one_shot'):
    PruningSchedule('one_shot', 0.8, 10, 30, 10)
  ours = PruningSchedule('one_shot', 0.8, 10, 10, 10)
  assert list(ours.update_steps) == [10]


GOLDEN = json.loads(
  (pathlib.Path(__file__).parent / 'golden' / 'jaxpruner.json').read_text()
)['schedules']


@pytest.mark.parametrize(
  'case', GOLDEN, ids=lambda c: f'every {c["update_freq"]}'
)
def test_polynomial_schedules_are_those_of_jaxpruner(case):
  ours = PruningSchedule(
    'polynomial',
    case['sparsity'],
    case['start'],
    case['end'],
    case['update_freq'],
    case['power'],
  )
  kept = dict(zip(ours.update_steps.tolist(), ours.kept_fractions, strict=True))
  for row in case['rows']:
    assert row['update'] == (row['step'] in kept)
    if row['update']:
      # Theirs is float32.
      assert 1 - kept[row['step']] == pytest.approx(row['sparsity'], abs=1e-6)


def test_a_schedule_that_outlasts_the_run_is_refused():
  with pytest.raises(ValueError, match='step 100, must come before .* step 50'):
    plan(
      shape='geometric', sparsity=0.5, start=10, end=100, unit='steps',
      every=10, steps=50,
    )  # fmt: skip


@pytest.mark.parametrize(
  'arguments, message',
  [
    (('square', 0.5, 0, 1, 1), 'must be one of'),
    (('cubic', 1.0, 0, 1, 1), 'sparsity'),
    (('cubic', -0.1, 0, 1, 1), 'sparsity'),
    (('cubic', 0.5, 2, 1, 1), 'start'),
    (('cubic', 0.5, -1, 1, 1), 'start'),
    (('cubic', 0.5, 0, 1, 0), 'every'),
  ],
)
def test_impossible_schedules_are_refused(arguments, message):
  with pytest.raises(ValueError, match=message):
    PruningSchedule(*arguments)
