"""Whole runs of every kind of pruner, killed and resumed."""

import dataclasses
import json
import math

import numpy as np
import pytest
from run_files import Run, assert_same_run
from test_bridge import ALGORITHMS, GLOBAL, SPARSE_FROM_THE_START
from tiny import tiny_config

from jax_sparse_pretrain import history
from jax_sparse_pretrain.command_line import StopRequest
from jax_sparse_pretrain.config import ConfigError
from jax_sparse_pretrain.runs import snapshots, workdir
from jax_sparse_pretrain.training import loop, setup

# The update of step 4 is the last thing that the checkpoint at 5 has done.
STEPS, UPDATES, SAVE_EVERY = 40, (4, 8, 12, 16), 5
SPARSITY = 0.75
HISTORY = 'mask_history.jsonl'
BUILTIN = {
  'order after, regrow, packed': {
    'order': 'after',
    'regrow': True,
    'pack_masks': True,
  },
  'order after, masked gradients': {'order': 'after', 'mask_gradients': True},
  'random, uniform, packed': {
    'algorithm': 'random',
    'distribution': 'uniform',
    'pack_masks': True,
  },
  'one of four': {
    'structure': 'n_by_m',
    'n': 1,
    'm': 4,
    'schedule': 'constant',
  },
}


def jaxpruner_options(algorithm):
  is_global = algorithm in GLOBAL
  begins_sparse = algorithm in SPARSE_FROM_THE_START
  return {
    'library': 'jaxpruner',
    'algorithm': algorithm,
    'distribution': 'global' if is_global else 'uniform',
    'schedule': 'constant' if begins_sparse else 'geometric',
  }


def jaxpruner_n_by_m(algorithm):
  return {
    'library': 'jaxpruner',
    'algorithm': algorithm,
    'distribution': 'uniform',
    'schedule': 'constant',
    'options': (('sparsity_type', 'nm_1,4'),),
  }


VARIANTS = [
  *(pytest.param(options, id=name) for name, options in BUILTIN.items()),
  *(
    pytest.param(jaxpruner_options(name), id=f'jaxpruner {name}')
    for name in ALGORITHMS
  ),
  *(
    pytest.param(jaxpruner_n_by_m(name), id=f'jaxpruner {name} 1:4')
    for name in ('magnitude', 'magnitude_ste')
  ),
]


def config_of(options, **changes):
  return tiny_config(
    duration={'value': STEPS},
    pruning={
      'sparsity': SPARSITY,
      'unit': 'steps',
      'start': UPDATES[0],
      'end': UPDATES[-1],
      'every': UPDATES[1] - UPDATES[0],
      'snapshots': (SAVE_EVERY, STEPS),
      **options,
    },
    evaluation={'every': SAVE_EVERY},
    checkpoint={'every': SAVE_EVERY, 'keep': 10, **changes},
    logging={'every': 3, 'tensorboard': False},
  )


def train(experiment, directory, die_at=None, fork=False):
  """As the command does, with the programs that are compiled already."""

  def controls(step):
    if step == die_at:
      raise InterruptedError
    return experiment.controls(step)

  devices = list(experiment.mesh.devices.flat)
  fresh = setup.set_up(experiment.config, devices)
  now = dataclasses.replace(
    experiment, batches=fresh.batches, controls=controls
  )
  files = workdir.open_workdir(directory)
  previous = workdir.check_same_run(files, now.resolved, fork=fork)
  with StopRequest() as stop:
    return loop.train(now, files, stop, previous)


@pytest.mark.slow
@pytest.mark.parametrize('options', VARIANTS)
def test_a_run_of_any_pruner_resumes_to_the_bit_and_follows_its_plan(
  options, tmp_path
):
  if options.get('library') == 'jaxpruner':
    pytest.importorskip('jaxpruner')
  experiment = setup.set_up(config_of(options))
  summary = train(experiment, tmp_path / 'whole')
  with pytest.raises(InterruptedError):
    train(experiment, tmp_path / 'killed', die_at=7)
  assert_the_summary_knows_the_newest_masks(tmp_path / 'killed')
  train(experiment, tmp_path / 'killed')
  assert_same_run(tmp_path / 'killed', tmp_path / 'whole')
  assert_same_snapshots(tmp_path / 'killed', tmp_path / 'whole')
  assert_follows_the_plan(experiment, tmp_path / 'whole', summary)
  losses = [row['train_loss'] for row in Run(tmp_path / 'whole').metrics
            if 'train_loss' in row]  # fmt: skip
  assert np.isfinite(losses).all() and losses[-1] < losses[0] - 0.2


@pytest.mark.slow
@pytest.mark.parametrize(
  'options',
  [
    pytest.param(BUILTIN['order after, regrow, packed'], id='after'),
    pytest.param(BUILTIN['random, uniform, packed'], id='random'),
  ],
)
def test_a_branch_from_a_dense_run_is_the_sparse_run_alone(options, tmp_path):
  start = UPDATES[0]
  saves = {'every': start, 'keep': 2}  # The dense one has no masks.
  dense = config_of({**options, 'sparsity': 0.0, 'snapshots': ()}, **saves)
  sparse = setup.set_up(config_of(options, **saves))
  with pytest.raises(InterruptedError):
    train(setup.set_up(dense), tmp_path / 'branch', die_at=start)
  train(sparse, tmp_path / 'branch', fork=True)
  train(sparse, tmp_path / 'alone')
  assert_same_run(tmp_path / 'branch', tmp_path / 'alone')


def test_what_begins_sparse_is_no_branch(tmp_path):
  pytest.importorskip('jaxpruner')
  options = jaxpruner_options('rigl')
  dense = config_of({**options, 'sparsity': 0.0, 'snapshots': ()})
  with pytest.raises(InterruptedError):
    train(setup.set_up(dense), tmp_path, die_at=SAVE_EVERY)
  later = {'start': SAVE_EVERY, 'end': SAVE_EVERY + 12}
  sparse = setup.set_up(config_of({**options, **later}))
  with pytest.raises(ConfigError, match="'rigl' has its sparsity from step 0"):
    train(sparse, tmp_path, fork=True)


@pytest.mark.slow
@pytest.mark.parametrize(
  'options, change, words',
  [
    ({}, {'distribution': 'uniform'}, 'distribution = uniform: must be global'),
    (
      {'order': 'after', 'regrow': True},
      {'schedule': 'linear'},
      "would keep .* are left; 'constant' goes on",
    ),
  ],
  ids=['distribution', 'regrow'],
)
def test_what_is_pruned_stays_pruned_in_a_fork(
  options, change, words, tmp_path
):
  with pytest.raises(InterruptedError):
    train(setup.set_up(config_of(options)), tmp_path, die_at=10)
  later = {'start': 12, 'end': 24, 'snapshots': ()}
  fork = setup.set_up(config_of({**options, **later, **change}))
  with pytest.raises(ConfigError, match=words):
    train(fork, tmp_path, fork=True)


@pytest.mark.slow
def test_updates_of_a_fork_that_would_do_nothing_are_told(tmp_path):
  with pytest.raises(InterruptedError):
    train(setup.set_up(config_of({})), tmp_path, die_at=10)
  later = {'start': 12, 'end': 24, 'schedule': 'linear', 'snapshots': (5, 7)}
  fork = setup.set_up(config_of(later))
  with (
    pytest.warns(UserWarning, match='snapshots: 7: is past'),
    pytest.warns(UserWarning, match='updates do nothing until they keep less'),
  ):
    train(fork, tmp_path, fork=True)
  counts = [row.nonzero for row in history.read(tmp_path / HISTORY).rows]
  assert counts == sorted(counts, reverse=True)
  assert counts[-1] == round((1 - SPARSITY) * counts[0])


def assert_the_summary_knows_the_newest_masks(directory):
  """Those of the update in the step before the checkpoint."""
  summary = json.loads((directory / 'summary.json').read_text())
  assert summary['steps'] == SAVE_EVERY
  path = directory / 'mask_snapshots' / f'{SAVE_EVERY}.npz'
  if path.exists():
    kept = snapshots.read(path)
    dense = summary['linear_parameters'] - sum(m.size for m in kept.values())
    kept = dense + sum(int(mask.sum()) for mask in kept.values())
    assert summary['final_parameters'] == kept


def assert_same_snapshots(directory, reference):
  names = [{p.name for p in (d / 'mask_snapshots').glob('*')}
           for d in (directory, reference)]  # fmt: skip
  assert names[0] == names[1]
  for name in names[0]:
    ours, theirs = (
      snapshots.read(d / 'mask_snapshots' / name)
      for d in (directory, reference)
    )
    assert ours.keys() == theirs.keys()
    for leaf, mask in ours.items():
      np.testing.assert_array_equal(mask, theirs[leaf], leaf)


def assert_follows_the_plan(experiment, directory, summary):
  """To the rounding of each update to whole weights in every kernel."""
  header = experiment.header
  past = history.read(directory / HISTORY)
  planned = experiment.plan.schedule.density(np.arange(STEPS))
  counted = np.zeros(STEPS)
  for row in past.rows:
    counted[row.step :] = row.nonzero / header.linear_parameters
  rounding = 0.5 * len(header.layers) * 2 / header.linear_parameters
  np.testing.assert_allclose(counted, planned, rtol=0, atol=rounding)
  assert math.isclose(
    summary['average_parameters'] / header.linear_parameters,
    experiment.plan.mean_density,
    abs_tol=rounding,
  )
