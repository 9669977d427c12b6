"""Two processes that have no devices and no run, only each other."""

import os
import pathlib
import signal
import subprocess
import sys

import agree_worker
import jax
import processes
import pytest

EXIT_LOST = 69
# jax 0.8 ends a process by itself, with 1, in the moment that it is noticed.
RUNTIME_IS_FIRST = tuple(map(int, jax.__version__.split('.')[:2])) < (0, 9)


def run_two(directory, ends=('', '')):
  """How two workers have ended, and what they have said."""
  for name in ('0', '1'):
    (directory / name).mkdir()
  address = f'127.0.0.1:{processes.free_port()}'
  workers = [
    subprocess.Popen(
      [
        *(sys.executable, pathlib.Path(agree_worker.__file__)),
        *(str(process), address, directory, ends[process]),
      ],
      env={**os.environ, 'PYTHONPATH': str(processes.ROOT)},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for process in range(2)
  ]
  return processes.outcome(workers)


def test_processes_agree_on_values_refusals_and_when_to_stop(tmp_path):
  ends = run_two(tmp_path)
  assert [end.status for end in ends] == [0, 0], ends
  first, second = (end.output.splitlines() for end in ends)
  assert first[:3] == [
    'RuntimeError: fails in 0',
    'ConfigError: process 1: fails in 1',
    'ConfigError: process 1: its config must be the same as in process 0',
  ]
  assert second[:3] == [
    'RuntimeError: process 0: RuntimeError: fails in 0',
    'ConfigError: fails in 1',
    'ConfigError: process 1: its config must be the same as in process 0',
  ]
  assert 'must be a directory that all processes share' in first[3]
  assert 'must be a directory that all processes share' in second[3]
  assert first[4].startswith('stopped at ')
  assert first[4:] == second[4:]
  # Nothing is left of what was tried.
  assert not [path for path in tmp_path.rglob('*') if path.is_file()]


@pytest.mark.slow
@pytest.mark.parametrize('victim', [0, 1])
def test_who_is_left_says_who_is_missing(tmp_path, victim):
  how = ['', '']
  how[victim] = 'SIGKILL'
  ends = run_two(tmp_path, how)
  killed, survivor = ends[victim], ends[1 - victim]
  assert killed.status == -signal.SIGKILL
  killed_at = float(killed.output.splitlines()[-1])
  assert survivor.ended - killed_at < agree_worker.HEARTBEAT_TIMEOUT + 20
  if RUNTIME_IS_FIRST and survivor.status == 1:
    return
  assert survivor.status == EXIT_LOST, ends
  start = f'error: process {victim} of 2 missing: '
  [line] = [line for line in survivor.errors if line.startswith(start)]
  assert 'the same command on all processes goes on' in line


@pytest.mark.slow
def test_a_process_that_fails_alone_shows_its_error_and_ends_all(tmp_path):
  other, failing = run_two(tmp_path, ('', 'error'))
  assert failing.status == 1, failing
  assert failing.errors[-1] == 'ArithmeticError: mine alone'
  assert other.status == EXIT_LOST or (RUNTIME_IS_FIRST and other.status == 1)
