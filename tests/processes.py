"""Several processes of one run, on fake CPU devices of this machine."""

import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import time

from run_files import Run

ROOT = pathlib.Path(__file__).parents[1]
STEPS, SAVE_EVERY, LOG_EVERY = 30, 10, 1
PRUNE_START, PRUNE_END, PRUNE_EVERY, SNAPSHOT = 6, 21, 5, 7
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
  config.data.source = 'text'
  config.data.path = 'DOCUMENTS/*.py'
  config.data.tokenizer = 'bytes'
  config.data.validation_fraction = 0.2
  config.duration.value = {STEPS}
  config.duration.unit = 'steps'
  config.optimizer.peak_lr = 3e-3
  config.pruning.sparsity = 0.8
  config.pruning.unit = 'steps'
  config.pruning.start = {PRUNE_START}.0
  config.pruning.end = {PRUNE_END}.0
  config.pruning.every = {PRUNE_EVERY}
  config.pruning.snapshots = ({SNAPSHOT},)
  config.evaluation.every = {SAVE_EVERY}
  config.evaluation.rows = 64
  config.checkpoint.every = {SAVE_EVERY}
  config.checkpoint.keep = 3
  config.logging.every = {LOG_EVERY}
  config.mesh.data = 1
  config.mesh.fsdp = -1
  return config
"""
# Short steps and many, of one device a process: it takes the runtime a second
# to see a signal.
LONG_STEPS, LONG_START = 400, 100
LONG = (
  f'--config.duration.value={LONG_STEPS}',
  f'--config.pruning.start={LONG_START}',
  '--config.pruning.end=300',
  '--config.pruning.every=50',
  '--config.pruning.snapshots=()',
  '--config.evaluation.every=100',
  '--config.checkpoint.every=100',
  '--config.logging.every=5',
)
# Seconds. A hang fails.
HEARTBEAT_TIMEOUT = 8
TIMEOUT = float(os.environ.get('PROCESSES_TIMEOUT', '240'))


class Launcher:
  """Starts the processes of a run, all with one command line.

  Args:
    directory: gets the config file, documents and the compilation cache.
  """

  def __init__(self, directory):
    self.documents = documents = directory / 'documents'
    documents.mkdir()
    library = pathlib.Path(sysconfig.get_path('stdlib'))
    for path in sorted(library.glob('[a-c]*.py')):
      shutil.copy(path, documents)
    self.config = directory / 'config.py'
    self.config.write_text(CONFIG.replace('DOCUMENTS', str(documents)))
    self._cache = directory / 'compiled'

  def environment(self, n_devices):
    flags = f'--xla_force_host_platform_device_count={n_devices}'
    return {
      **os.environ,
      'JAX_PLATFORMS': 'cpu',
      'XLA_FLAGS': f'{flags} --xla_backend_optimization_level=0',
      'JAX_COMPILATION_CACHE_DIR': str(self._cache),
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    }

  def start(self, command, n_devices, *, extra=(), **environment):
    return subprocess.Popen(
      [sys.executable, *command, *extra],
      cwd=ROOT,
      env={**self.environment(n_devices), **environment},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )

  def train(self, workdir, *arguments):
    return [
      *('-m', 'jax_sparse_pretrain.train'),
      *(f'--config={self.config}', f'--workdir={workdir}', *arguments),
    ]

  def start_two(self, command, n_devices=4, *, extra=((), ()), **environment):
    """Two processes of so many devices each; `extra` arguments for either."""
    address = f'127.0.0.1:{free_port()}'
    return [
      self.start(
        [*command, f'--coordinator={address}', '--processes=2'],
        n_devices,
        extra=(f'--process={process}', *extra[process]),
        **environment,
      )
      for process in range(2)
    ]

  def signal_when(self, is_time, workdir, process, number, **environment):
    """Signals one of two processes of a long run as soon as `is_time(run)`."""
    command = self.train(
      workdir, *LONG, f'--heartbeat_timeout={HEARTBEAT_TIMEOUT}'
    )
    both = self.start_two(command, 1, **environment)
    run, deadline = Run(workdir), time.monotonic() + TIMEOUT
    while not is_time(run):
      gone = [each for each in both if each.poll() is not None]
      if gone or time.monotonic() > deadline:
        raise AssertionError(outcome(both, timeout=1))
      time.sleep(0.001)
    both[process].send_signal(number)
    return outcome(both)

  def finish_two(self, workdir, *arguments, n_devices=4):
    command = self.train(workdir, *arguments)
    ends = outcome(self.start_two(command, n_devices))
    assert [end.status for end in ends] == [0, 0], ends
    return ends

  def finish_long(self, workdir):
    return self.finish_two(workdir, *LONG, n_devices=1)

  def finish_one(self, workdir, n_devices, *arguments):
    command = self.train(workdir, *arguments)
    [end] = outcome([self.start(command, n_devices)])
    assert end.status == 0, end
    return end


class End:
  """How a process has ended."""

  def __init__(self, status, output, errors, seconds):
    self.status, self.seconds, self.ended = status, seconds, time.time()
    self.output, self.errors = '\n'.join(ours(output)), ours(errors)

  def __repr__(self):
    return '\n'.join([f'status {self.status}:', self.output, *self.errors])


def ours(text):
  """Without what gloo notes on its connections, on standard output.

  Its threads write at once, so that a line of it may begin in another one.
  """
  notes = re.compile(r'\[Gloo\]|peer ranks|^\s*$')
  return [line for line in text.splitlines() if not notes.search(line)]


def outcome(processes, timeout=TIMEOUT):
  """Waits for all; those that do not end are killed."""
  began, ends = time.monotonic(), []
  for process in processes:
    try:
      left = max(began + timeout - time.monotonic(), 1)
      output, errors = process.communicate(timeout=left)
    except subprocess.TimeoutExpired:
      process.kill()
      output, errors = process.communicate()
      errors += '\nhas not ended'
    seconds = time.monotonic() - began
    ends.append(End(process.returncode, output, errors, seconds))
  return ends


def free_port():
  with socket.socket() as probe:
    probe.bind(('127.0.0.1', 0))
    return probe.getsockname()[1]
