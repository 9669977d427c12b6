"""Killed at any moment and started again: the run that was never killed.

Real processes and real signals. A kill waits for a moment that the files show,
and the files say afterwards whether it came in time.
"""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest
from processes import TIMEOUT
from run_files import Run, assert_same_run

ROOT = pathlib.Path(__file__).parents[1]
STEPS, PRUNE_EVERY = 60, 8
# Not multiples: the mean of the losses since the last line has to be carried.
SAVE_EVERY, LOG_EVERY = 5, 2
PRUNE_START, PRUNE_END = 15, 47
CONFIG = f"""
from ml_collections import ConfigDict

from jax_sparse_pretrain.config import defaults


def get_config():
  config = ConfigDict(defaults())
  config.batch_size = 8
  config.model.vocab_size = 256
  config.model.n_layers = 1
  config.model.d_model = 32
  config.model.n_heads = 2
  config.model.d_ff = 64
  config.model.context_length = 32
  config.model.compute_dtype = 'float32'
  config.data.source = 'stdlib'
  config.data.path = ''
  config.data.tokenizer = 'bytes'
  config.duration.value = {STEPS}
  config.duration.unit = 'steps'
  config.optimizer.peak_lr = 3e-3
  config.pruning.sparsity = 0.8
  config.pruning.unit = 'steps'
  config.pruning.start = {PRUNE_START}.0
  config.pruning.end = {PRUNE_END}.0
  config.pruning.every = {PRUNE_EVERY}
  config.evaluation.every = 10
  config.evaluation.rows = 16
  config.checkpoint.every = {SAVE_EVERY}
  config.logging.every = {LOG_EVERY}
  return config
"""


class Command:
  """One command line; `start` gives a process of it.

  Args:
    directory: gets the config file and the compilation cache.
  """

  def __init__(self, directory):
    self._config = directory / 'config.py'
    self._config.write_text(CONFIG)
    self._environment = {
      **os.environ,
      'JAX_PLATFORMS': 'cpu',
      'XLA_FLAGS': '--xla_backend_optimization_level=0',
      'JAX_COMPILATION_CACHE_DIR': str(directory / 'compiled'),
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    }

  def start(self, workdir, **environment):
    return subprocess.Popen(
      [
        *(sys.executable, '-m', 'jax_sparse_pretrain.train'),
        *(f'--config={self._config}', f'--workdir={workdir}'),
      ],
      cwd=ROOT,
      env={**self._environment, **environment},
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )

  def finish(self, workdir, status=0):
    """Runs to its end; returns what it printed."""
    process = self.start(workdir)
    output, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == status, output
    return output

  def signal_when(self, is_time, workdir, number, **environment):
    """Starts, signals as soon as `is_time(run)`; returns (status, output)."""
    process = self.start(workdir, **environment)
    run = Run(workdir)
    while not is_time(run):
      assert process.poll() is None, process.communicate()[0]
      time.sleep(0.001)
    process.send_signal(number)
    output, _ = process.communicate(timeout=TIMEOUT)
    return process.returncode, output

  def kill_when(self, is_time, workdir):
    status, output = self.signal_when(is_time, workdir, signal.SIGKILL)
    assert status == -signal.SIGKILL, output


@pytest.fixture(scope='module')
def command(tmp_path_factory):
  return Command(tmp_path_factory.mktemp('command'))


@pytest.fixture(scope='module')
def reference(command, tmp_path_factory):
  """The files of a run that nobody disturbed."""
  workdir = tmp_path_factory.mktemp('reference') / 'run'
  command.finish(workdir)
  return workdir


@pytest.mark.slow
def test_the_reference_is_a_sparse_run_with_everything_in_it(reference):
  run = Run(reference)
  arrays = run.checkpoint(STEPS)
  for part in ('params', 'masks', 'opt_state', 'step'):
    assert any(name.startswith(f'/{part}') for name in arrays), part
  updates = [row['step'] for row in run.lines('mask_history.jsonl')[1:]]
  assert updates == [0, *range(PRUNE_START, PRUNE_END + 1, PRUNE_EVERY)]
  assert run.saved == [STEPS - SAVE_EVERY, STEPS]
  assert run.summary['completed']
  assert run.steps == STEPS


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_like_the_reference(
  command, reference, tmp_path
):
  workdir = tmp_path / 'run'
  run = Run(workdir)

  # Before the first checkpoint.
  command.kill_when(lambda run: run.steps >= 2, workdir)
  assert not run.saved
  assert 0 < run.steps <= SAVE_EVERY

  # Between two mask updates, after the first of them.
  command.kill_when(lambda run: run.steps >= PRUNE_START + 3, workdir)
  assert run.last_update == PRUNE_START
  # Steps up to the next line of metrics may have begun.
  assert run.steps + LOG_EVERY < PRUNE_START + PRUNE_EVERY
  assert run.saved

  # While a checkpoint is being written, after further updates.
  command.kill_when(
    lambda run: any(step > PRUNE_START + 15 for step in run.being_saved),
    workdir,
  )
  [half_written] = run.being_saved
  assert PRUNE_START + 15 < half_written < STEPS
  assert run.saved[-1] == half_written - SAVE_EVERY

  # While the last checkpoint is being written.
  command.kill_when(lambda run: STEPS in run.being_saved, workdir)
  assert run.being_saved == [STEPS]
  assert run.saved[-1] == STEPS - SAVE_EVERY
  assert not run.summary['completed']

  command.finish(workdir)
  assert_same_run(workdir, reference)


@pytest.mark.slow
def test_sigterm_saves_within_a_step_and_exits_with_75(
  command, reference, tmp_path
):
  workdir = tmp_path / 'run'
  run = Run(workdir)

  # While the first step is being compiled, anew: without the cache.
  status, output = command.signal_when(
    lambda run: run.lines('mask_history.jsonl'),
    workdir,
    signal.SIGTERM,
    JAX_ENABLE_COMPILATION_CACHE='0',
  )
  assert status == 75, output
  assert run.saved == [1]
  assert 'SIGTERM at step 1 of 60: saved' in output.splitlines()[-1]

  # In the middle, at a step where no save is due.
  seen = []

  def in_the_middle(run):
    seen.append(run.steps)
    return seen[-1] > PRUNE_START and seen[-1] % SAVE_EVERY == 1

  status, output = command.signal_when(in_the_middle, workdir, signal.SIGTERM)
  assert status == 75, output
  stopped_at = run.saved[-1]
  # It went on while the signal was on its way: a step takes milliseconds.
  # test_train.py sends one at a known step.
  assert seen[-1] <= stopped_at <= seen[-1] + 3
  assert stopped_at % SAVE_EVERY
  assert f'SIGTERM at step {stopped_at} of 60: saved' in output

  command.finish(workdir)
  assert_same_run(workdir, reference)


@pytest.mark.slow
def test_an_unreadable_newest_checkpoint_costs_only_the_steps_since(
  command, reference, tmp_path
):
  workdir = tmp_path / 'run'
  shutil.copytree(reference, workdir)
  (workdir / 'summary.json').unlink()  # As if killed before the end.
  newest = workdir / 'checkpoints' / str(STEPS)
  (newest / 'state' / '_METADATA').unlink()
  output = command.finish(workdir)
  assert f'checkpoint {newest} cannot be read' in output
  assert f'step {STEPS - 4}/{STEPS}' in output
  assert f'step {STEPS - 6}/{STEPS}' not in output
  assert_same_run(workdir, reference)


@pytest.mark.slow
def test_after_the_last_checkpoint_no_step_is_made_again(
  command, reference, tmp_path
):
  workdir = tmp_path / 'run'
  shutil.copytree(reference, workdir)
  (workdir / 'summary.json').unlink()
  output = command.finish(workdir)
  assert f'step {STEPS}/{STEPS}' not in output
  assert_same_run(workdir, reference)


@pytest.mark.slow
def test_a_finished_run_only_shows_its_table_again(
  command, reference, tmp_path
):
  workdir = tmp_path / 'run'
  shutil.copytree(reference, workdir)
  before = {p: p.read_bytes() for p in workdir.rglob('*') if p.is_file()}
  (workdir / 'training.png').unlink()  # It is drawn again.
  output = command.finish(workdir)
  assert 'Finished: 60 steps' in output
  assert 'step 60/60' not in output  # No step was made.
  after = {p: p.read_bytes() for p in workdir.rglob('*') if p.is_file()}
  assert after == before
