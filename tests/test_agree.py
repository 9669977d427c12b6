"""Several processes that have no devices and no run, only each other."""

import os
import pathlib
import signal
import subprocess
import sys

import agree_worker
import jax
import processes
import pytest

from jax_sparse_pretrain import command_line

# jax 0.8 ends a process by itself, with 1, in the moment that it is noticed.
RUNTIME_IS_FIRST = tuple(map(int, jax.__version__.split('.')[:2])) < (0, 9)


def run(directory, *ends):
  """How so many workers have ended, and what they have said."""
  for process in range(len(ends)):
    (directory / str(process)).mkdir()
  address = f'127.0.0.1:{processes.free_port()}'
  workers = [
    subprocess.Popen(
      [
        *(sys.executable, pathlib.Path(agree_worker.__file__)),
        *(str(process), str(len(ends)), address, directory, end),
      ],
      env={**os.environ, 'PYTHONPATH': str(processes.ROOT)},
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for process, end in enumerate(ends)
  ]
  hung = [w for w, end in zip(workers, ends, strict=True) if end == 'SIGSTOP']
  found = processes.outcome([w for w in workers if w not in hung])
  for worker in hung:
    worker.kill()
    processes.outcome([worker])
  return found


def test_processes_agree_on_values_refusals_and_when_to_stop(tmp_path):
  ends = run(tmp_path, '', '')
  assert [end.status for end in ends] == [75, 75], ends
  first, second = (end.output.splitlines() for end in ends)
  assert first[:3] == [
    'RuntimeError: fails in 0',
    'ConfigError: process 1: fails in 1',
    'ConfigError: process 1: config.a: must be the same as in process 0',
  ]
  assert second[:3] == [
    'RuntimeError: process 0: RuntimeError: fails in 0',
    'ConfigError: fails in 1',
    'ConfigError: process 1: config.a: must be the same as in process 0',
  ]
  assert 'must be a directory that all processes share' in first[3]
  assert 'must be a directory that all processes share' in second[3]
  assert first[4].startswith('stopped at ')
  assert first[4:] == second[4:]
  # Nothing is left of what was tried.
  assert not [path for path in tmp_path.rglob('*') if path.is_file()]


def assert_lost(end, line):
  """Left with a line, beside what the runtime says at the same time."""
  if RUNTIME_IS_FIRST and end.status == 1:
    return
  assert end.status == command_line.LOST, end
  [said] = [each for each in end.errors if each.startswith('error: ')]
  assert said.startswith(f'error: {line}'), end
  assert 'the same command on all processes goes on' in said


# The end of the coordinator is noticed at once, that of others by heartbeats.
@pytest.mark.parametrize('victim', [0, pytest.param(1, marks=pytest.mark.slow)])
def test_who_is_left_says_who_is_missing(tmp_path, victim):
  how = ['', '']
  how[victim] = 'SIGKILL'
  ends = run(tmp_path, *how)
  killed, survivor = ends[victim], ends[1 - victim]
  assert killed.status == -signal.SIGKILL
  assert_lost(survivor, f'process {victim} of 2 missing: ')


@pytest.mark.slow
def test_a_process_that_hangs_is_missing_too(tmp_path):
  for end in run(tmp_path, '', 'SIGSTOP', ''):
    # The runtime may hear of it first; it names the process in its own way.
    is_by_runtime = 'others of 3 missing' in str(end)
    who = 'others' if is_by_runtime else 'process 1'
    assert_lost(end, f'{who} of 3 missing: ')
    assert not is_by_runtime or 'task:1' in str(end)


@pytest.mark.slow
@pytest.mark.parametrize('victim', [0, 1])
def test_who_is_lost_at_the_very_end_changes_nothing(tmp_path, victim):
  how = ['', '']
  how[victim] = 'early'
  survivor = run(tmp_path, *how)[1 - victim]
  assert survivor.status == 75 or (RUNTIME_IS_FIRST and survivor.status == 1)


ALONE = {
  'error': (command_line.FAILED_ALONE, 'ArithmeticError: mine alone'),
  'ConfigError': (command_line.BAD_INPUT, 'error: mine alone'),
}


@pytest.mark.slow
@pytest.mark.parametrize('how', ALONE)
def test_a_process_that_fails_alone_shows_its_error_and_ends_all(how, tmp_path):
  other, failing = run(tmp_path, '', how)
  status, line = ALONE[how]
  assert failing.status == status, failing
  assert failing.errors[-1] == line
  assert_lost(other, 'process 1 of 2 missing: ')
