"""Two processes of four devices against one of eight and one of one."""

import dataclasses
import pathlib
import shutil
import signal

import jax
import numpy as np
import process_worker
import processes
import pytest
from processes import (
  LONG_START,
  LONG_STEPS,
  SAVE_EVERY,
  SNAPSHOT,
  STEPS,
)
from run_files import Run, assert_same_history, assert_same_run

from jax_sparse_pretrain import command_line, distributed
from jax_sparse_pretrain.runs import snapshots
from jax_sparse_pretrain.runs.checkpoint import Checkpoints
from jax_sparse_pretrain.training import setup

# test_agree.py holds the same of processes that train nothing.
pytestmark = pytest.mark.slow

EXIT_BAD_INPUT, EXIT_LOST, EXIT_STOPPED = 2, 69, 75
JAX = tuple(map(int, jax.__version__.split('.')[:2]))


@pytest.fixture(scope='module')
def launcher(tmp_path_factory):
  return processes.Launcher(tmp_path_factory.mktemp('launcher'))


@pytest.fixture(scope='module')
def two(launcher, tmp_path_factory):
  """(The workdir of a run by two processes, how they ended)."""
  workdir = tmp_path_factory.mktemp('two') / 'run'
  return workdir, launcher.finish_two(workdir)


@pytest.fixture(scope='module')
def of_eight(launcher, tmp_path_factory):
  """The workdir of the same run by one process of eight devices."""
  workdir = tmp_path_factory.mktemp('of_eight') / 'run'
  launcher.finish_one(workdir, 8)
  return workdir


@pytest.fixture(scope='module')
def of_one(launcher, tmp_path_factory):
  """The workdir of the same run by one process of one device."""
  workdir = tmp_path_factory.mktemp('of_one') / 'run'
  launcher.finish_one(workdir, 1)
  return workdir


@pytest.fixture(scope='module')
def long(launcher, tmp_path_factory):
  """The workdir of a longer run by two processes, of one device each."""
  workdir = tmp_path_factory.mktemp('long') / 'run'
  launcher.finish_long(workdir)
  return workdir


def losses(workdir):
  return {
    (line['step'], name): line[name]
    for line in Run(workdir).lines('metrics.jsonl')
    for name in ('train_loss', 'eval_loss')
    if name in line
  }


@pytest.mark.parametrize('other', ['of_eight', 'of_one'])
def test_two_processes_train_like_one(two, other, request):
  one = request.getfixturevalue(other)
  ours, theirs = losses(two[0]), losses(one)
  assert ours.keys() == theirs.keys()
  assert len(ours) == STEPS + STEPS // SAVE_EVERY
  # The sums of a step run in another order: float32 rounding, about 1e-7 of a
  # loss near 5, grows over the steps. Seen: 4e-6 after 60.
  worst = max(abs(ours[k] - theirs[k]) for k in ours)
  assert worst < 5e-5
  assert_same_history(two[0], one)
  # The same rows in the same order.
  for step in range(SAVE_EVERY, STEPS + 1, SAVE_EVERY):
    assert Run(two[0]).position_in_data(step) == {'step': step}
    assert Run(one).position_in_data(step) == {'step': step}
  name = f'mask_snapshots/{SNAPSHOT}.npz'
  ours, theirs = snapshots.read(two[0] / name), snapshots.read(one / name)
  # Weights within rounding of the threshold may swap; no others may.
  assert snapshots.overlap(ours, theirs) > 0.999


def test_only_the_first_process_writes(two):
  workdir, (first, second) = two
  assert f'Finished: {STEPS} steps' in first.output
  assert second.output == ''
  assert [line for line in second.errors if 'step' in line] == []
  steps = [
    line['step']
    for line in Run(workdir).lines('metrics.jsonl')
    if 'train_loss' in line
  ]
  assert steps == list(range(1, STEPS + 1))
  assert len(list(workdir.glob('events.out.tfevents*'))) == 1
  # But both have part in the arrays of a checkpoint.
  state = workdir / 'checkpoints' / str(STEPS) / 'state'
  assert len(list(state.glob('ocdbt.process_*'))) == 2


def rewound(workdir, target, step):
  """A copy of a finished run that has got as far as `step`."""
  shutil.copytree(workdir, target)
  (target / 'summary.json').unlink()
  for path in (target / 'checkpoints').iterdir():
    if int(path.name) > step:
      shutil.rmtree(path)
  return target


def assert_same_arrays(a, b):
  assert a.keys() == b.keys()
  for name in a:
    assert a[name].dtype == b[name].dtype, name
    assert a[name].tobytes() == b[name].tobytes(), name


@pytest.mark.parametrize('n_devices', [8, 4, 1])
def test_one_process_loads_what_two_have_saved(launcher, two, n_devices):
  config = command_line.load_config(str(launcher.config), [])
  experiment = setup.set_up(config, jax.devices()[:n_devices])
  checkpoints = Checkpoints(two[0] / 'checkpoints', keep=3)
  restored = checkpoints.restore_newest(experiment.programs.abstract_state)
  checkpoints.close()
  experiment.batches.set_state(restored.data)
  experiment.batches.close()
  state = {
    field.name: getattr(restored.state, field.name)
    for field in dataclasses.fields(restored.state)
  }
  loaded = [np.asarray(leaf) for leaf in jax.tree.leaves(state)]
  saved = Run(two[0]).checkpoint(STEPS)
  assert sorted(x.tobytes() for x in loaded) == sorted(
    x.tobytes() for x in saved.values()
  )


def test_one_process_goes_on_where_two_have_stopped(launcher, two, tmp_path):
  workdir = rewound(two[0], tmp_path / 'run', SAVE_EVERY)
  launcher.finish_one(workdir, 4)
  ours, theirs = losses(workdir), losses(two[0])
  assert max(abs(ours[k] - theirs[k]) for k in theirs) < 5e-5
  assert_same_history(workdir, two[0])


def test_two_processes_go_on_where_one_has_stopped(launcher, of_one, tmp_path):
  """State and masks to the bit; rows disjoint, complete and in order."""
  start = rewound(of_one, tmp_path / 'run', SAVE_EVERY)
  out = tmp_path / 'out'
  out.mkdir()
  command = [
    *(pathlib.Path(process_worker.__file__), f'--config={launcher.config}'),
    *(f'--checkpoints={start / "checkpoints"}', f'--out={out}'),
  ]
  environment = {'PYTHONPATH': str(processes.ROOT)}
  ends = processes.outcome(launcher.start_two(command, **environment))
  assert [end.status for end in ends] == [0, 0], ends

  copy, original = (Run(where).checkpoint(SAVE_EVERY) for where in (out, start))
  assert_same_arrays(copy, original)

  config = command_line.load_config(str(launcher.config), [])
  experiment = setup.set_up(config)
  checkpoints = Checkpoints(start / 'checkpoints', keep=3)
  _, batches, masks = process_worker.go_on(experiment, checkpoints)
  experiment.batches.close(), checkpoints.close()

  shares = [np.load(out / f'{process}.npz') for process in range(2)]
  rows = np.concatenate([share['rows'] for share in shares])
  assert sorted(rows.tolist()) == list(range(8))
  for number, batch in enumerate(batches):
    parts = [share[f'arr_{number}'] for share in shares]
    assert [len(part) for part in parts] == [4, 4]
    np.testing.assert_array_equal(
      np.concatenate(parts)[np.argsort(rows)], batch
    )

  theirs = np.load(out / 'masks.npz')
  assert set(theirs) == set(masks)
  for name, mask in masks.items():
    np.testing.assert_array_equal(mask, theirs[name], err_msg=name)
    assert not mask.all()


def test_sigterm_on_either_process_stops_both_after_the_same_step(
  launcher, long, tmp_path
):
  workdir = tmp_path / 'run'
  run = Run(workdir)

  def stop(is_time, process, **environment):
    before = run.saved
    ends = launcher.signal_when(
      is_time, workdir, process, signal.SIGTERM, **environment
    )
    assert [end.status for end in ends] == [EXIT_STOPPED] * 2, ends
    step = run.saved[-1]
    assert before[-1:] < [step] < [LONG_STEPS]
    said = f'SIGTERM at step {step} of {LONG_STEPS}: saved'
    assert said in ends[0].errors[-1]

  # While the first step is being compiled, without the cache. The runtime
  # looks for signals once a second, which may be after the first steps.
  stop(lambda run: run.lines('mask_history.jsonl'), 1,
       JAX_ENABLE_COMPILATION_CACHE='0')  # fmt: skip
  # While a checkpoint is being written.
  stop(lambda run: run.being_saved, 1)
  # While it evaluates, or close to it.
  stop(lambda run: run.steps >= 200, 0)
  launcher.finish_long(workdir)
  assert_same_run_but_for_stops(workdir, long)


def assert_same_run_but_for_stops(workdir, reference):
  for step in set(Run(workdir).saved) - set(Run(reference).saved):
    shutil.rmtree(workdir / 'checkpoints' / str(step))
  for step in set(Run(reference).saved) - set(Run(workdir).saved):
    assert step < LONG_STEPS  # Only so many are kept.
  for step in Run(workdir).saved:
    assert_same_arrays(
      Run(workdir).checkpoint(step), Run(reference).checkpoint(step)
    )
  for name in ('metrics', 'summary'):
    assert getattr(Run(workdir), name) == getattr(Run(reference), name)
  history = 'mask_history.jsonl'
  assert (workdir / history).read_bytes() == (reference / history).read_bytes()


def test_a_killed_process_ends_the_other_in_time_with_a_line(
  launcher, long, tmp_path
):
  workdir = tmp_path / 'run'
  survivor, killed = launcher.signal_when(
    lambda run: run.saved and run.steps > LONG_START + 20,
    workdir,
    1,
    signal.SIGKILL,
  )
  assert killed.status == -signal.SIGKILL
  # jax 0.8 ends a process by itself in the same moment, with 1.
  assert survivor.status == EXIT_LOST or (JAX < (0, 9) and survivor.status == 1)
  if survivor.status == EXIT_LOST:
    assert says_missing(1, survivor)
  launcher.finish_long(workdir)
  assert_same_run(workdir, long)


def says_missing(process, survivor):
  """Before or after what the runtime says at the same time."""
  start = f'error: process {process} of 2 missing: '
  return any(line.startswith(start) for line in survivor.errors)


def test_a_killed_coordinator_ends_the_others_too(launcher, tmp_path):
  killed, survivor = launcher.signal_when(
    lambda run: run.steps > 2, tmp_path / 'run', 0, signal.SIGKILL
  )
  assert killed.status == -signal.SIGKILL
  assert survivor.status == EXIT_LOST or (JAX < (0, 9) and survivor.status == 1)
  if survivor.status == EXIT_LOST:
    assert says_missing(0, survivor)


@pytest.mark.parametrize('process', [0, 1])
def test_a_process_that_stays_alone_says_so_in_one_line(
  launcher, tmp_path, process
):
  address = f'127.0.0.1:{processes.free_port()}'
  command = launcher.train(
    tmp_path / 'run',
    *(f'--coordinator={address}', f'--process={process}', '--processes=2'),
    '--connect_timeout=2',
  )
  [end] = processes.outcome([launcher.start(command, 1)])
  assert end.status == EXIT_LOST, end
  [line] = end.errors
  assert line.startswith(f'error: process {process} of 2 has not joined')
  assert f'{address}, in 2 seconds' in line
  assert ('some of the others' if process == 0 else 'nothing answers') in line
  assert not (tmp_path / 'run').exists()


def test_sigterm_while_others_are_awaited_is_heard(launcher, tmp_path):
  port = processes.free_port()
  command = launcher.train(
    tmp_path / 'run',
    *(f'--coordinator=127.0.0.1:{port}', '--process=0', '--processes=2'),
  )
  alone = launcher.start(command, 1)
  while not distributed.answers(f'127.0.0.1:{port}'):
    assert alone.poll() is None, processes.outcome([alone])
  alone.send_signal(signal.SIGTERM)
  [end] = processes.outcome([alone], timeout=30)
  assert end.status == EXIT_STOPPED, end
  assert end.errors == ['error: SIGTERM before all had come']


def test_what_is_wrong_in_one_process_ends_both(launcher, tmp_path):
  missing = f'--config.data.path={tmp_path}/none/*.txt'
  command = launcher.train(tmp_path / 'run')
  ends = processes.outcome(launcher.start_two(command, extra=((), (missing,))))
  assert [end.status for end in ends] == [EXIT_BAD_INPUT] * 2, ends
  first, second = (end.errors[-1] for end in ends)
  assert second.startswith('error: data.path = ')
  assert first.startswith('error: process 1: data.path = ')


def test_processes_of_different_runs_are_refused(launcher, tmp_path):
  command = launcher.train(tmp_path / 'run')
  extra = ((), ('--config.seed=1',))
  ends = processes.outcome(launcher.start_two(command, extra=extra))
  assert [end.status for end in ends] == [EXIT_BAD_INPUT] * 2, ends
  for end in ends:
    assert 'error: process 1: config.seed: must be the same' in end.errors[-1]


def test_a_workdir_that_is_not_shared_is_refused(launcher, tmp_path):
  command = launcher.train(tmp_path / 'run')
  extra = ((), (f'--workdir={tmp_path}/other',))
  ends = processes.outcome(launcher.start_two(command, extra=extra))
  assert [end.status for end in ends] == [EXIT_BAD_INPUT] * 2, ends
  assert 'must be a directory that all processes share' in ends[1].errors[-1]
