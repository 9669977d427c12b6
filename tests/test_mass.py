"""The sums of |w| that each mask update finds and keeps, against NumPy."""

import csv
import functools
import json
import re

import jax
import numpy as np
import pytest
import tiny
from run_files import assert_same_history, assert_same_run
from scipy import stats
from test_variants import train
from written import write_run

from jax_sparse_pretrain import history, pruning
from jax_sparse_pretrain.analysis.__main__ import main as analyse
from jax_sparse_pretrain.analysis.averages import average_parameters
from jax_sparse_pretrain.model.counts import linear_parameters
from jax_sparse_pretrain.sweep import collect
from jax_sparse_pretrain.training import recipe, setup

STEPS, UPDATES = 12, [2, 5, 8]
RAMP = {'sparsity': 0.8, 'unit': 'steps', 'start': 2, 'end': 8, 'every': 3}
MESHES = {'one': {'data': 1}, 'eight': {'data': 2, 'fsdp': 2, 'tensor': 2}}
ONE_OF_FOUR = {'structure': 'n_by_m', 'n': 1, 'm': 4, 'sparsity': 0.75}
VARIANTS = {
  'before': {},
  'after': {'order': 'after'},
  'after, regrow, packed': {
    'order': 'after',
    'regrow': True,
    'pack_masks': True,
  },
  'packed': {'pack_masks': True},
  'uniform, exempt': {'distribution': 'uniform', 'exempt': ('*/mlp/up/*',)},
  'random': {'algorithm': 'random'},
  'one of four': {**ONE_OF_FOUR, 'schedule': 'one_shot', 'end': 2},
}
JAXPRUNER = {'library': 'jaxpruner', 'distribution': 'uniform'}
PROGRAMS = {}  # Compiled once for all the tests here that can share them.


def set_up(variant='before', mesh='one', scan=True, **changes):
  config = tiny.tiny_config(
    **{
      'duration': {'value': STEPS},
      'pruning': {**RAMP, **VARIANTS.get(variant, {})},
      'model': {'scan_layers': scan},
      'mesh': MESHES[mesh],
      'logging': {'tensorboard': False},
      **changes,
    }
  )
  n_devices = int(np.prod(list(MESHES[mesh].values())))
  return setup.set_up(config, jax.devices()[:n_devices], PROGRAMS)


@functools.cache
def steps_of(variant='before', pruner='', **changes):
  """Of every step: the weights before it, the masks after it, its sums."""
  if pruner:
    changes['pruning'] = {**RAMP, **JAXPRUNER, 'algorithm': pruner}
  experiment = set_up(variant, **changes)
  programs, state, found = experiment.programs, experiment.init(), []
  for step in range(STEPS):
    weights = jax.device_get(pruning.by_path(state.params))
    state, metrics = programs.train_step(
      state,
      experiment.to_devices(next(experiment.batches)),
      experiment.controls(step),
    )
    kept = jax.device_get(programs.kept(state))
    found.append((weights, kept, jax.device_get(metrics['masses'])))
  experiment.batches.close()
  return found


def in_numpy(weights, kept):
  """{kernel: float64[2, n_layers]}."""
  sums = {}
  for name, mask in kept.items():
    n_layers = len(mask) if name.startswith('layers/') else 1
    sizes = np.abs(weights[name].astype(np.float64)).reshape(n_layers, -1)
    mask = mask.reshape(n_layers, -1)
    sums[name] = np.stack([sizes.sum(1), (sizes * mask).sum(1)])
  return sums


def assert_close(ours, theirs, rtol):
  assert ours.keys() == theirs.keys()
  for name, sums in ours.items():
    np.testing.assert_allclose(sums, theirs[name], rtol, err_msg=name)


@pytest.mark.fast(3)
@pytest.mark.parametrize('scan', [True, False])
@pytest.mark.parametrize('variant', VARIANTS)
def test_an_update_sums_the_weights_that_the_step_began_with(variant, scan):
  """Those that were scored, except where weights may return."""
  updates = UPDATES[:1] if variant == 'one of four' else UPDATES
  for step, (weights, kept, sums) in enumerate(steps_of(variant, scan=scan)):
    if step in updates:
      assert_close(sums, in_numpy(weights, kept), rtol=1e-5)
      assert all((kept < before).all() for before, kept in sums.values())
    else:
      assert not any(each.any() for each in sums.values())


@pytest.mark.slow
def test_sums_of_jaxpruner_are_those_of_its_masks():
  pytest.importorskip('jaxpruner')
  found = steps_of(pruner='magnitude')
  for step in UPDATES:
    weights, kept, sums = found[step]
    assert_close(sums, in_numpy(weights, kept), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('algorithm', ['rigl', 'magnitude_ste'])
def test_what_is_never_cut_for_good_loses_no_mass(algorithm, tmp_path):
  """RigL replaces weights; a straight-through pass is not measured."""
  pytest.importorskip('jaxpruner')
  options = {**RAMP, **JAXPRUNER, 'algorithm': algorithm}
  if algorithm == 'rigl':
    options['schedule'] = 'constant'
  summary = train(set_up(pruning=options), tmp_path)
  rows = rows_of(tmp_path)[1:]
  if algorithm == 'rigl':
    assert rows and all(row.mass for row in rows)
    kept = summary['final_parameters']
    assert summary['l1_measured_parameters'] == pytest.approx(kept)
  else:
    assert rows and not any(row.mass for row in rows)
    assert summary['l1_measured_parameters'] is None


def rows_of(directory):
  return history.read(directory / 'mask_history.jsonl').rows


@pytest.mark.fast(2)
@pytest.mark.parametrize('variant', ['before', 'after', 'uniform, exempt'])
def test_the_rows_of_a_run_hold_the_sums_of_its_updates(variant, tmp_path):
  experiment = set_up(variant)
  summary = train(experiment, tmp_path)
  first, *rows = rows_of(tmp_path)
  assert first.step == 0 and first.mass is None
  assert [row.step for row in rows] == [s + experiment.delay for s in UPDATES]
  found = steps_of(variant)
  for step, row in zip(UPDATES, rows, strict=True):
    # The digits of a row give back each float32.
    mass = {k: np.array(v, np.float32) for k, v in row.mass.items()}
    jax.tree.map(np.testing.assert_array_equal, mass, found[step][2])
  assert_is_the_product_of_the_cuts(summary, experiment, found)


def assert_is_the_product_of_the_cuts(summary, experiment, found):
  total = 0.0
  for name, kernel in experiment.kernels.items():
    share = np.ones(kernel.n_layers)
    for step in UPDATES:
      before, kept = in_numpy(*found[step][:2]).get(name, np.ones((2, 1)))
      share = share * kept / before
    total += share.sum() * kernel.layer_size
  assert summary['l1_measured_parameters'] == pytest.approx(total, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('variant', ['before', 'after'])
def test_the_sums_of_eight_devices_are_those_of_one(variant, tmp_path):
  """By rounding: the weights differ by it, and floats are added."""
  for mesh in MESHES:
    train(set_up(variant, mesh), tmp_path / mesh)
  assert_same_history(tmp_path / 'one', tmp_path / 'eight')
  assert [row.mass is None for row in rows_of(tmp_path / 'one')] == [
    True,
    *[False] * len(UPDATES),
  ]


def test_stacked_kernels_have_the_sums_of_separate_ones():
  weights = np.random.default_rng(0).normal(size=(3, 40, 50))
  weights = weights.astype(np.float32)
  kernel = pruning.Kernel((40, 50), stacked=False)
  stacked = pruning.Kernel((3, 40, 50), stacked=True)
  separate = pruning.sums_of_magnitudes(
    dict(enumerate(weights)), dict.fromkeys(range(3), kernel)
  )
  together = pruning.sums_of_magnitudes(
    {'w': weights}, {'w': stacked, 'dense': kernel}
  )
  assert together.keys() == {'w'}
  joined = np.concatenate([separate[i] for i in range(3)])
  np.testing.assert_allclose(together['w'], joined, rtol=1e-6)


def test_a_sum_of_many_weights_keeps_its_digits():
  """One float32 that adds one weight after another would be 2 % short."""
  weights = np.random.default_rng(0).normal(size=(1 << 14, 1 << 10))
  weights = {'w': weights.astype(np.float32)}
  kernels = {'w': pruning.Kernel(weights['w'].shape, stacked=False)}
  sums = jax.jit(lambda w: pruning.sums_of_magnitudes(w, kernels))(weights)
  exact = np.abs(weights['w']).sum(dtype=np.float64)
  np.testing.assert_allclose(sums['w'], exact, rtol=1e-5)


@pytest.mark.fast(1)
@pytest.mark.parametrize('variant', ['before', 'after', 'packed'])
def test_sums_cost_no_copy_of_the_weights(variant):
  """In any step: weights are summed, and only then cut in place."""

  def copied(measure):
    options = {**RAMP, **VARIANTS[variant], 'measure_mass': measure}
    parts = set_up(pruning=options)
    parts.batches.close()
    rows = jax.ShapeDtypeStruct((8, 33), np.int32)
    state = parts.programs.abstract_state
    lowered = parts.programs.train_step.lower(state, rows, parts.controls(0))
    text = lowered.compile().as_text()
    # Of the sums themselves, the zeros are copied.
    shapes = re.findall(r'= f32\[([\d,]*)\]\S* copy\(', text)
    sizes = [np.prod([int(n) for n in s.split(',') if n]) for s in shapes]
    return sorted(size for size in sizes if size > 4)

  assert copied(True) == copied(False)


@pytest.mark.fast(1)
@pytest.mark.parametrize('variant', ['before', 'after', 'packed'])
@pytest.mark.parametrize('die_at', [6, 9])
def test_a_killed_run_goes_on_with_the_sums_of_an_undisturbed_one(
  variant, die_at, tmp_path
):
  # In the order after, the row of step 6 belongs to the update of step 5.
  experiment = set_up(variant, checkpoint={'every': 3, 'keep': 9})
  train(experiment, tmp_path / 'whole')
  with pytest.raises(InterruptedError):
    train(experiment, tmp_path / 'killed', die_at=die_at)
  train(experiment, tmp_path / 'killed')
  assert_same_run(tmp_path / 'killed', tmp_path / 'whole')


def as_version_1(path):
  header, *rows = map(json.loads, path.read_text().splitlines())
  for row in rows:
    row.pop('mass', None)
  lines = [{**header, 'version': 1}, *rows]
  path.write_text(''.join(json.dumps(line) + '\n' for line in lines))


def test_a_run_of_an_older_version_goes_on_and_is_not_measured(tmp_path):
  experiment = set_up(checkpoint={'every': 3, 'keep': 9})
  with pytest.raises(InterruptedError):
    train(experiment, tmp_path, die_at=6)
  as_version_1(tmp_path / 'mask_history.jsonl')
  summary = train(experiment, tmp_path)
  past = history.read(tmp_path / 'mask_history.jsonl')
  assert past.header.version == 2
  assert [row.mass is None for row in past.rows] == [True, True, True, False]
  assert past.measured_mass() is None
  assert summary['l1_measured_parameters'] is None
  assert summary['l1_parameters'] < summary['linear_parameters']


def test_sums_can_be_turned_off(tmp_path):
  summary = train(
    set_up(pruning={**RAMP, 'measure_mass': False}), tmp_path / 'off'
  )
  assert not any(row.mass for row in rows_of(tmp_path / 'off'))
  assert summary['l1_measured_parameters'] is None
  on = train(set_up(), tmp_path / 'on')
  assert on['eval_loss'] == summary['eval_loss']


SPARED = [
  ({}, 0),
  ({'exempt': ('lm_head/*',)}, 32 * 256),
  ({'exempt': ('lm_head/*',), 'sparsity': 0.0}, 0),
  ({'exempt': ('*/mlp/*', 'lm_head/*')}, 32 * 256 + 2 * 3 * 32 * 64),
]


@pytest.mark.parametrize(('options', 'exempt'), SPARED)
def test_exempt_parameters_are_those_of_kernels_without_a_mask(options, exempt):
  config = tiny.tiny_config(pruning=options)
  assert recipe.exempt_parameters(config) == exempt


def test_a_dense_run_keeps_all_its_mass(tmp_path):
  summary = train(set_up(pruning={'sparsity': 0.0}), tmp_path)
  linear = summary['linear_parameters']
  assert summary['exempt_parameters'] == 0
  assert summary['l1_parameters'] == linear
  assert summary['l1_measured_parameters'] == linear


def test_the_summary_and_the_history_say_the_same(tmp_path):
  """The exempt parameters from the config alone, as older runs need it."""
  experiment = set_up('uniform, exempt')
  summary = train(experiment, tmp_path)
  linear = linear_parameters(experiment.config.model)
  exempt = 2 * 32 * 64
  assert summary['exempt_parameters'] == exempt
  density = (summary['final_parameters'] - exempt) / (linear - exempt)
  z = stats.norm.isf(density / 2)
  expected = exempt + (linear - exempt) * np.exp(-(z**2) / 2)
  assert summary['l1_parameters'] == pytest.approx(expected, rel=1e-9)
  assert (
    summary['final_parameters'] < summary['l1_measured_parameters'] < linear
  )
  found = average_parameters(tmp_path).as_dict()
  for name in ('exempt_parameters', 'l1_parameters', 'l1_measured_parameters'):
    assert found[name] == summary[name]


@pytest.mark.parametrize('density', [1e-9, 0.01, 0.2, 0.5, 0.9, 1 - 1e-9])
def test_the_gaussian_mass_is_that_of_scipy(density):
  threshold = stats.halfnorm.isf(density)
  mass = stats.halfnorm.expect(lb=threshold) / stats.halfnorm.mean()
  assert history.gaussian_mass(density) == pytest.approx(mass, rel=1e-6)


@pytest.mark.parametrize(
  ('sparsity', 'mass'),
  [
    (0.2, 0.968),
    (0.4, 0.872),
    (0.5, 0.797),
    (0.6, 0.702),
    (0.75, 0.516),
    (0.8, 0.440),
    (0.875, 0.308),
    (0.9, 0.259),
    (0.9375, 0.176),
  ],
)
def test_magnitude_pruning_of_normal_weights_keeps_the_gaussian_mass(
  sparsity, mass
):
  assert round(history.gaussian_mass(1 - sparsity), 3) == mass
  sizes = np.sort(np.abs(np.random.default_rng(0).normal(size=1_000_000)))
  kept = sizes[round(len(sizes) * sparsity) :].sum() / sizes.sum()
  assert kept == pytest.approx(mass, abs=2e-3)


def test_the_ends_of_the_gaussian_mass():
  assert history.gaussian_mass(0) == 0 and history.gaussian_mass(1) == 1
  assert history.gaussian_parameters(100, 30, 100) == 100
  assert history.gaussian_parameters(100, 30, 30) == 30
  assert history.gaussian_parameters(100, 100, 100) == 100


HEADER = history.Header(100, 130, 8, {'a/kernel': 60, 'b/kernel': 40})
DENSE = history.Row(0, 100, {'a/kernel': 60, 'b/kernel': 40})


def row(step, a, b=40, mass=None):
  return history.Row(step, a + b, {'a/kernel': a, 'b/kernel': b}, mass)


def measured(*rows):
  return history.History(HEADER, rows).measured_mass()


def test_a_kernel_keeps_the_product_of_its_cuts_and_others_all():
  cut = {'a/kernel': [[10.0, 4.0], [5.0, 3.0]]}
  # Weights have grown since, which is no mass won.
  again = {'a/kernel': [[80.0, 9.0], [20.0, 3.0]]}
  shares = [0.5 * 0.25, 0.75 / 3]
  rows = [DENSE, row(2, 30, mass=cut), row(4, 20, mass=again)]
  past = history.History(HEADER, rows)
  assert past.kept_mass() == {'a/kernel': pytest.approx(shares)}
  assert past.measured_mass() == pytest.approx(
    (60 * np.mean(shares) + 40) / 100
  )


def test_an_update_that_leaves_as_many_weights_is_no_cut():
  mass = {'a/kernel': [[10.0], [5.0]]}
  rows = [DENSE, row(2, 30, mass=mass)]
  assert measured(*rows) == pytest.approx(0.7)
  # As RigL drops a part of its weights and lets as many return.
  assert measured(*rows, row(4, 30, mass=mass)) == pytest.approx(0.7)


def test_masks_of_the_first_step_count_by_number():
  assert measured(row(0, 15)) == pytest.approx(0.55)
  mass = {'a/kernel': [[8.0, 8.0], [4.0, 2.0]]}
  assert measured(row(0, 15), row(2, 10, mass=mass)) == pytest.approx(
    (60 * 0.25 * 0.375 + 40) / 100
  )


@pytest.mark.parametrize('mass', [None, {}, {'b/kernel': [[1.0], [0.5]]}])
def test_a_cut_that_does_not_say_its_mass_is_not_measured(mass):
  past = history.History(HEADER, [DENSE, row(2, 30, mass=mass)])
  assert not past.is_measured
  assert past.measured_mass() is past.measured_parameters() is None
  with pytest.raises(ValueError, match='step 2: a/kernel was cut'):
    past.kept_mass()


def test_a_layer_that_had_nothing_left_keeps_nothing():
  mass = {'a/kernel': [[0.0, 2.0], [0.0, 1.0]]}
  assert measured(DENSE, row(2, 30, mass=mass)) == pytest.approx(0.55)


def test_a_file_of_version_1_is_read(tmp_path):
  path = tmp_path / 'mask_history.jsonl'
  path.write_text(
    '{"linear_parameters": 100, "total_parameters": 130, "tokens_per_step": 8,'
    ' "layers": {"a/kernel": 60, "b/kernel": 40}, "version": 1}\n'
    '{"step": 0, "nonzero": 100, "by_leaf": {"a/kernel": 60, "b/kernel": 40}}\n'
    '{"step": 3, "nonzero": 70, "by_leaf": {"a/kernel": 30, "b/kernel": 40}}\n'
  )
  past = history.read(path)
  assert [row.nonzero for row in past.rows] == [100, 70]
  assert past.average_parameters(6) == 85
  assert past.measured_mass() is None


def test_mass_is_written_and_read(tmp_path):
  path = tmp_path / 'mask_history.jsonl'
  rows = [DENSE, row(2, 30, mass={'a/kernel': [[1.5, 2.25], [0.5, 1e-8]]})]
  history.write(path, HEADER, rows)
  assert history.read(path) == history.History(HEADER, rows)
  assert 'mass' not in path.read_text().splitlines()[1]


@pytest.mark.parametrize(
  'mass',
  [
    [[[2.0], [1.0]]],
    {'c/kernel': [[2.0], [1.0]]},
    {'a/kernel': 2.0},
    {'a/kernel': [2.0, 1.0]},
    {'a/kernel': [[2.0]]},
    {'a/kernel': [[2.0], [1.0], [1.0]]},
    {'a/kernel': [[2.0, 2.0], [1.0]]},
    {'a/kernel': [[], []]},
    {'a/kernel': [['2'], [1.0]]},
    {'a/kernel': [[True], [True]]},
    {'a/kernel': [[float('nan')], [1.0]]},
    {'a/kernel': [[float('inf')], [1.0]]},
    {'a/kernel': [[2.0], [-1.0]]},
    {'a/kernel': [[1.0], [2.0]]},
  ],
)
def test_malformed_mass_is_refused_by_its_line(mass, tmp_path):
  path = tmp_path / 'mask_history.jsonl'
  history.write(path, HEADER, [DENSE, row(4, 30, mass=mass)])
  with pytest.raises(ValueError, match='line 3: mass'):
    history.read(path)


def test_a_kernel_has_as_many_layers_in_every_row(tmp_path):
  path = tmp_path / 'mask_history.jsonl'
  one = row(2, 40, mass={'a/kernel': [[3.0], [1.0]]})
  two = row(4, 30, mass={'a/kernel': [[2.0, 2.0], [1.0, 1.0]]})
  history.write(path, HEADER, [DENSE, one, two])
  with pytest.raises(ValueError, match='line 4: mass of a/kernel: 2 layers, 1'):
    history.read(path)


def write_measured(directory, exempt=('b/*',), share=0.5, **summary):
  """A run of written.py whose cuts each keep a share of the mass."""
  write_run(directory, **summary)
  path = directory / 'mask_history.jsonl'
  past = history.read(path)
  mass = {'a/kernel': [[1.0], [share]]}
  first, *rows = past.rows
  rows = [history.Row(r.step, r.nonzero, r.by_leaf, mass) for r in rows]
  history.write(path, past.header, [first, *rows])
  resolved = json.loads((directory / 'config.json').read_text())
  resolved['config'] = {'pruning': {'exempt': exempt, 'sparsity': 0.8}}
  (directory / 'config.json').write_text(json.dumps(resolved))


def test_average_prints_the_mass_beside_the_average(tmp_path, capsys):
  write_measured(tmp_path / 'run')
  out = tmp_path / 'out.json'
  assert analyse(['average', str(tmp_path / 'run'), f'--out={out}']) == 0
  printed = [' '.join(x.split()) for x in capsys.readouterr().out.splitlines()]
  assert 'L1 mass, Gaussian 43,984 N_eff, 43.98% of dense' in printed
  assert 'L1 mass, measured 12,509 N_eff, 12.51% of dense' in printed
  [found] = json.loads(out.read_text())['runs']
  assert found['exempt_parameters'] == 10
  assert found['l1_measured_parameters'] == pytest.approx(12_508.75)
  density = 19_990 / 99_990
  assert found['l1_parameters'] == pytest.approx(
    10 + 99_990 * history.gaussian_mass(density)
  )


def test_average_of_part_of_a_run_has_the_mass_of_its_last_step(tmp_path):
  write_measured(tmp_path / 'run')
  found = average_parameters(tmp_path / 'run', steps=6)
  assert found.l1_measured_parameters == pytest.approx(10 + 99_990 / 2)
  found = average_parameters(tmp_path / 'run', steps=5)
  assert found.l1_measured_parameters == found.l1_parameters == 100_000


def test_average_prints_the_masses_of_many_in_80_columns(
  tmp_path, capsys, monkeypatch
):
  monkeypatch.setenv('COLUMNS', '80')
  write_measured(tmp_path / 'a_run_of_a_rather_long_name')
  as_version_1(tmp_path / 'a_run_of_a_rather_long_name/mask_history.jsonl')
  write_measured(tmp_path / 'new', completed=False)
  write_run(tmp_path / 'dense', [(0, 100_000)])
  assert analyse(['average', str(tmp_path)]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert max(map(len, lines)) <= 80
  table = lines[lines.index('L1 mass at the end, N_eff') :]
  rows = {cells[0]: cells[1:] for line in table if (cells := line.split())}
  assert rows['a_run_of_a..long_name'][-2:] == ['–', '–']
  assert rows['new'][-4:] == ['43.98K', '43.98%', '12.51K', '12.51%']
  assert rows['dense'][-4:] == ['100K', '100.00%', '100K', '100.00%']


def test_averages_of_runs_that_tell_nothing_have_no_mass(tmp_path, capsys):
  for name in ('a', 'b'):
    write_run(tmp_path / name)
  assert analyse(['average', str(tmp_path)]) == 0
  assert analyse(['average', str(tmp_path / 'a')]) == 0
  assert 'L1' not in capsys.readouterr().out


def test_a_sweep_tells_the_mass_of_runs_that_have_it(tmp_path):
  for name in ('new', 'old'):
    train(set_up('uniform, exempt'), tmp_path / 'runs' / name)
  old = tmp_path / 'runs' / 'old' / 'summary.json'
  summary = json.loads(old.read_text())
  told = {k: v for k, v in summary.items() if 'l1_' not in k}
  del told['exempt_parameters']
  old.write_text(json.dumps(told))
  assert collect.write_table(tmp_path) == 2
  with open(tmp_path / 'runs.csv') as file:
    new, old = csv.DictReader(file)
  for name in ('exempt_parameters', 'l1_measured_parameters'):
    assert (new[name], old[name]) == (repr(summary[name]), '')
