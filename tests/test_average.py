import csv
import json
import pathlib

import numpy as np
import pytest
from written import COUNTS, DENSE, STEPS, TOKENS_PER_STEP, per_step, write_run

from jax_sparse_pretrain import history
from jax_sparse_pretrain.analysis.averages import (
  average_parameters,
  planned_average,
  read_averages,
)
from jax_sparse_pretrain.planning import plan

CARDS = pathlib.Path(__file__).parents[1] / 'published_runs'


@pytest.fixture
def workdir(tmp_path):
  return write_run(tmp_path / 'sparse')


def test_the_average_is_the_mean_over_steps(workdir):
  found = average_parameters(workdir)
  nonzero = per_step()
  assert found.parameter_steps == nonzero.sum()
  assert found.average_parameters == nonzero.mean()
  assert found.density == nonzero.sum() / (STEPS * DENSE)
  assert found.final_parameters == nonzero[-1]
  assert found.sparsity == 1 - nonzero[-1] / DENSE
  assert found.tokens == STEPS * TOKENS_PER_STEP


def test_compute_is_that_of_the_nonzero_parameters(workdir):
  found = average_parameters(workdir)
  flops = 6 * TOKENS_PER_STEP * int(per_step().sum())
  assert found.compute_flops == flops
  # What the dense model would see for it.
  assert found.dense_equivalent_tokens == flops / (6 * DENSE)


@pytest.mark.parametrize('steps', [1, 5, 6, 9, 20])
def test_part_of_a_run_has_its_own_average(workdir, steps):
  past = history.read(workdir / 'mask_history.jsonl')
  for source in (past, workdir / 'mask_history.jsonl', workdir):
    found = average_parameters(source, steps=steps)
    assert found.average_parameters == per_step(steps=steps).mean()
    assert found.final_parameters == per_step()[steps - 1]


def test_sums_are_exact_beyond_double_precision():
  n = 2**53 + 1
  rows = [history.Row(0, n, {'a': n}), history.Row(1, 1, {'a': 1})]
  past = history.History(history.Header(n, n, 3, {'a': n}), rows)
  found = average_parameters(past, steps=2)
  assert found.parameter_steps == n + 1
  assert found.compute_flops == 18 * (n + 1)


def test_phases_share_out_steps_and_compute(workdir):
  found = average_parameters(workdir)
  bounds = [(each.name, each.start, each.end) for each in found.phases]
  assert bounds == [('dense', 0, 5), ('pruning', 5, 11), ('recovery', 11, 20)]
  nonzero = per_step()
  for each in found.phases:
    inside = nonzero[each.start : each.end]
    assert each.density == inside.sum() / (DENSE * len(inside))
    assert each.compute_fraction == inside.sum() / nonzero.sum()


def test_an_unfinished_run_is_pruning_until_it_has_paused(tmp_path):
  counts = ((0, DENSE), (5, 90_000), (8, 80_000))
  for steps, last in ((10, 'pruning'), (12, 'recovery')):
    workdir = write_run(
      tmp_path / str(steps), counts, steps=steps, completed=False
    )
    found = average_parameters(workdir)
    assert not found.completed and found.phases[-1].name == last
    assert found.phases[-1].end == steps
    assert found.average_parameters == per_step(counts, steps).mean()


def test_a_dense_run_is_its_own_average(tmp_path):
  found = average_parameters(write_run(tmp_path / 'dense', [(0, DENSE)]))
  assert found.average_parameters == found.final_parameters == DENSE
  assert found.density == 1 and found.sparsity == 0 and not found.phases


@pytest.mark.parametrize(
  'name',
  ['average_parameters', 'final_parameters', 'linear_parameters', 'tokens'],
)
def test_a_summary_that_disagrees_is_refused(tmp_path, name):
  write_run(tmp_path / 'run', **{name: 12345})
  with pytest.raises(ValueError) as error:
    average_parameters(tmp_path / 'run')
  for part in ('summary.json', f'{name} = 12345', 'mask_history.jsonl'):
    assert part in str(error.value)


def test_a_run_that_leaves_its_plan_is_noticed(tmp_path):
  mean = per_step().mean() / DENSE
  near = write_run(tmp_path / 'near', planned=mean + 0.0009)
  far = write_run(tmp_path / 'far', planned=mean + 0.0011)
  assert not average_parameters(near).departs_from_plan
  assert average_parameters(far).departs_from_plan
  # A part of a run is not what was planned.
  assert not average_parameters(far, steps=7).departs_from_plan


def test_a_directory_without_a_history_is_refused(tmp_path):
  with pytest.raises(ValueError, match='no mask_history.jsonl'):
    average_parameters(tmp_path)


@pytest.mark.parametrize('steps', [None, 0])
def test_a_history_does_not_say_how_long_the_run_was(workdir, steps):
  past = history.read(workdir / 'mask_history.jsonl')
  with pytest.raises(ValueError, match='steps'):
    average_parameters(past, steps=steps)


@pytest.mark.parametrize('steps', [STEPS + 1, 20.5, 7.0, -1])
def test_only_steps_that_a_run_has_are_averaged(workdir, steps):
  with pytest.raises(ValueError, match=f'steps = {steps}: '):
    average_parameters(workdir, steps=steps)


def test_steps_may_be_numpys(workdir):
  found = average_parameters(workdir, steps=np.int64(7))
  assert found == average_parameters(workdir, steps=7)


def just_started(workdir, logged=()):
  """No evaluation yet, so no summary."""
  write_run(workdir)
  (workdir / 'summary.json').unlink()
  lines = [json.dumps({'step': n, 'tokens': 8_192 * n}) for n in logged]
  (workdir / 'metrics.jsonl').write_text('\n'.join([*lines, '']))
  return workdir


def test_without_a_summary_the_metrics_tell_how_far_a_run_is(tmp_path):
  found = average_parameters(just_started(tmp_path / 'a', logged=[2, 7]))
  assert found.steps == 7 and not found.completed
  assert found.average_parameters == per_step(steps=7).mean()


def test_a_run_that_has_just_begun_does_not_block_the_others(tmp_path):
  write_run(tmp_path / 'whole')
  just_started(tmp_path / 'new')
  with pytest.warns(UserWarning, match='new: left out: no step'):
    [found] = read_averages([tmp_path])
  assert found.run == 'whole'
  with pytest.raises(ValueError, match='new: no step has been logged yet'):
    average_parameters(tmp_path / 'new')


def test_runs_below_a_directory_are_named_by_the_way_to_them(tmp_path):
  for name in ('a/seed0', 'b/seed0'):
    write_run(tmp_path / name)
  found = read_averages([tmp_path, tmp_path / 'a' / 'seed0'])
  assert [each.run for each in found] == ['a/seed0', 'b/seed0', 'seed0']


def test_links_are_followed_but_not_in_circles(tmp_path):
  write_run(tmp_path / 'elsewhere' / 'run')
  sweep = tmp_path / 'sweep'
  sweep.mkdir()
  (sweep / 'linked').symlink_to(tmp_path / 'elsewhere' / 'run')
  (sweep / 'again').symlink_to(sweep)
  assert [each.run for each in read_averages([sweep])] == ['linked']


@pytest.mark.parametrize('steps', ['20', 20.0, None, True])
def test_steps_of_a_summary_are_a_number(tmp_path, steps):
  workdir = write_run(tmp_path / 'run')
  summary = json.loads((workdir / 'summary.json').read_text())
  summary['steps'] = steps
  (workdir / 'summary.json').write_text(json.dumps(summary))
  with pytest.raises(ValueError, match='summary.json: steps = .*whole number'):
    average_parameters(workdir)


def test_a_summary_must_be_a_file(workdir):
  (workdir / 'summary.json').unlink()
  (workdir / 'summary.json').mkdir()
  with pytest.raises(ValueError, match='summary.json: must be a file'):
    average_parameters(workdir)


def test_a_history_that_goes_backwards_is_refused(workdir):
  past = workdir / 'mask_history.jsonl'
  lines = past.read_text().splitlines()
  lines[2], lines[3] = lines[3], lines[2]
  past.write_text('\n'.join(lines) + '\n')
  with pytest.raises(ValueError, match='line 4: step 5'):
    average_parameters(workdir)


def test_a_torn_last_line_is_a_warning(workdir):
  with open(workdir / 'mask_history.jsonl', 'a') as file:
    file.write('{"step": 30, ')
  with pytest.warns(UserWarning, match='torn last line'):
    found = average_parameters(workdir)
  assert found.average_parameters == per_step().mean()


def released():
  with open(CARDS / 'sparsellm_1b_cards.csv') as file:
    rows = list(csv.DictReader(file))
  return [row for row in rows if float(row['sparsity'])]


@pytest.mark.parametrize('row', released(), ids=lambda row: row['model'])
@pytest.mark.parametrize('every', [25, 50])
def test_the_released_runs_are_planned(row, every):
  planned = plan(
    shape='geometric',
    sparsity=float(row['sparsity']),
    start=0.25,
    end=0.75,
    unit='compute_fraction',
    every=every,
    dense_steps=10_000,
  )
  found = planned_average(1_139_277_824, planned, 8_000_000)
  # Their updates are 25 or 50 steps apart, which the cards do not say.
  assert abs(found.steps - int(row['total_steps'])) <= 50
  assert abs(found.phases[0].end - int(row['start'])) <= 50
  assert abs(found.phases[1].end - int(row['end'])) <= 50
  assert abs(found.tokens - float(row['tokens'])) <= 50 * 8_000_000
  if row['average_density']:
    assert abs(found.density - float(row['average_density'])) <= 0.0015
  # The compute of 10 000 dense steps, to within one step of the sparse model.
  dense = 6 * 1_139_277_824 * 8_000_000
  assert abs(found.compute_flops / dense - 10_000) <= 1


@pytest.mark.parametrize(('start', 'delay'), [(0, 0), (5, 0), (5, 1)])
def test_a_planned_average_is_the_mean_over_its_steps(start, delay):
  planned = plan(
    shape='cubic',
    sparsity=0.9,
    start=start,
    end=start + 40,
    unit='steps',
    every=4,
    steps=100,
    delay=delay,
  )
  found = planned_average(10**9, planned)
  density = planned.schedule.density(np.arange(100))
  np.testing.assert_allclose(found.density, density.mean(), rtol=1e-8)
  np.testing.assert_allclose(found.density, planned.mean_density, rtol=1e-8)
  assert found.tokens is None and found.compute_flops is None


def test_a_run_as_planned_has_the_planned_average(tmp_path):
  """Planned and measured go through different code up to the counts."""
  planned = plan(
    shape='geometric',
    sparsity=0.8,
    start=0.25,
    end=0.75,
    unit='compute_fraction',
    every=2,
    steps=60,
  )
  nonzero = np.rint(planned.schedule.density(np.arange(60)) * DENSE)
  changes = np.flatnonzero(np.diff(nonzero, prepend=0))
  counts = [(int(step), int(nonzero[step])) for step in changes]
  workdir = write_run(
    tmp_path / 'run', counts, steps=60, planned=planned.mean_density
  )
  measured, ahead = average_parameters(workdir), planned_average(DENSE, planned)
  assert measured.parameter_steps == ahead.parameter_steps == nonzero.sum()
  assert not measured.departs_from_plan


def test_an_average_is_a_plain_dictionary(workdir):
  values = average_parameters(workdir).as_dict()
  assert values['average_parameters'] == per_step().mean()
  assert values['counts'] == COUNTS
  assert [phase['name'] for phase in values['phases']] == [
    'dense',
    'pruning',
    'recovery',
  ]
  assert values['run'] == 'sparse'
