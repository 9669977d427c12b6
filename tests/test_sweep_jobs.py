"""Sweeps that train their shares at once, `--jobs N`."""

import contextlib
import csv
import fcntl
import os
import pathlib
import re
import signal
import struct
import subprocess
import sys
import termios
import time

import pytest
from processes import TIMEOUT
from run_files import assert_same_run
from test_sweep import (
  DENSE,
  SPARSE,
  SWEEP,
  Command,
  arguments,
  assert_refused,
  write_sweep,
)

from jax_sparse_pretrain.command_line import StopRequest
from jax_sparse_pretrain.config import ConfigError
from jax_sparse_pretrain.runs import lock, workdir
from jax_sparse_pretrain.sweep import cpus
from jax_sparse_pretrain.sweep.__main__ import main
from jax_sparse_pretrain.sweep.job_report import JobReport

NAMES = {'d20', 'd30', 's5-8', 's8-14'}
TWO_CPUS = pytest.mark.skipif(
  len(cpus.available()) < 2, reason='two jobs need two CPUs'
)


@pytest.fixture(scope='module')
def path(tmp_path_factory):
  path = write_sweep(tmp_path_factory.mktemp('config'), DENSE + SPARSE)
  path.write_text(path.read_text().replace('n_layers = 2', 'n_layers = 1'))
  return path


@pytest.fixture(scope='module')
def command(tmp_path_factory):
  return Command(tmp_path_factory.mktemp('command'))


@pytest.fixture(scope='module')
def alone(command, path, tmp_path_factory):
  """The directory of the sweep in one process that nobody disturbed."""
  directory = tmp_path_factory.mktemp('alone') / 'sweep'
  command.sweep(path, directory)
  return directory


def assert_same_sweep(directory, reference):
  """Every run to the bit, and the table but for what jobs may change."""
  for name in NAMES:
    assert_same_run(directory / 'runs' / name, reference / 'runs' / name)
  assert table(directory) == table(reference)
  assert not (directory / 'trunks').exists()


def table(directory):
  rows = list(csv.DictReader((directory / 'runs.csv').read_text().splitlines()))
  left_out = {'wall_seconds', 'trunk', 'trunk_steps'}
  assert left_out < rows[0].keys()
  return [{k: row[k] for k in row.keys() - left_out} for row in rows]


def jobs_in(directory):
  """{index: process id} of the jobs that train there now."""
  found = {}
  for file in pathlib.Path('/proc').glob('[0-9]*/cmdline'):
    try:
      words = file.read_bytes().decode().split('\0')
    except OSError:  # It has just ended.
      continue
    if f'--workdir={directory}' in words and '--count=2' in words:
      [index] = [w for w in words if w.startswith('--index=')]
      found[int(index.removeprefix('--index='))] = int(file.parent.name)
  return found


def wait_until(is_time, process=None):
  deadline = time.monotonic() + TIMEOUT
  while not is_time():
    assert process is None or process.poll() is None, process.communicate()
    assert time.monotonic() < deadline
    time.sleep(0.001)


def start(command, path, directory):
  return command.start(*SWEEP, *arguments(path, directory, '--jobs=2'))


@pytest.mark.slow
@TWO_CPUS
def test_jobs_train_the_same_runs_and_show_one_bar(
  command, path, alone, tmp_path
):
  directory = tmp_path / 'sweep'
  terminal, writer = os.openpty()
  size = struct.pack('HHHH', 24, 80, 0, 0)
  fcntl.ioctl(writer, termios.TIOCSWINSZ, size)
  with (tmp_path / 'output').open('w') as output:
    process = command.start(
      *(*SWEEP, *arguments(path, directory, '--jobs=2')),
      stdout=output,
      stderr=writer,
    )
  os.close(writer)
  shown = b''
  with contextlib.suppress(OSError):  # Linux: the other end is closed.
    while chunk := os.read(terminal, 65536):
      shown += chunk
  os.close(terminal)
  shown = shown.decode()
  assert process.wait(TIMEOUT) == 0, shown
  # One bar over the steps of all: 20 + 14 and 36 + 28.
  bars = re.findall(r'step +(\d+)/(\d+) \|', shown)
  assert {total for _, total in bars} == {'98'}
  steps = [int(step) for step, _ in bars]
  assert steps == sorted(steps) and steps[-1] == 98
  for name in NAMES:
    assert shown.count(f'{name}: loss') == 1
  output = (tmp_path / 'output').read_text()
  assert output.count('Finished: 4 of 4 runs') == output.count('Sweep') == 1
  assert_same_sweep(directory, alone)
  # A finished sweep starts no job.
  before = (directory / 'runs.csv').read_text()
  (directory / 'runs.csv').unlink()
  (directory / '.lock-0-of-2').unlink()
  assert main(arguments(path, directory, '--jobs=2')) == 0
  assert (directory / 'runs.csv').read_text() == before
  assert not (directory / '.lock-0-of-2').exists()


@pytest.mark.slow
@TWO_CPUS
def test_a_job_that_is_killed_leaves_its_runs_to_the_next_start(
  command, path, alone, tmp_path
):
  directory = tmp_path / 'sweep'
  process = start(command, path, directory)
  wait_until((directory / 'trunks/d20/16').exists, process)
  pinned = {i: os.sched_getaffinity(p) for i, p in jobs_in(directory).items()}
  os.kill(jobs_in(directory)[0], signal.SIGKILL)
  output, _ = process.communicate(timeout=TIMEOUT)
  assert process.returncode == 1, output
  assert pinned[0] and pinned[1] and not pinned[0] & pinned[1]
  assert 'Finished: 2 of 4 runs' in output
  errors = [line for line in output.splitlines() if line.startswith('error')]
  assert errors == [
    'error: job 0 of 2 was ended by SIGKILL; the same command takes up its runs'
  ]
  assert not {'d20', 'd30'} & {row['run'] for row in table(directory)}
  output = command.sweep(path, directory, '--jobs=2')
  assert 's5-8: loss' not in output  # It was finished.
  assert_same_sweep(directory, alone)


@pytest.mark.slow
@TWO_CPUS
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_jobs_stop_on_request_and_any_other_split_goes_on(
  command, path, alone, tmp_path, number
):
  directory = tmp_path / 'sweep'
  process = start(command, path, directory)
  wait_until((directory / 'trunks/s5-8/8').exists, process)
  process.send_signal(number)
  output, _ = process.communicate(timeout=TIMEOUT)
  assert process.returncode == 75, output
  assert not jobs_in(directory)
  assert 'run s5-8: SIGTERM at step' in output
  assert output.splitlines()[-1].endswith(
    'runs are finished; the same command goes on from here'
  )
  more = ['--jobs=2'] if number == signal.SIGINT else []
  command.sweep(path, directory, *more)
  assert_same_sweep(directory, alone)


@pytest.mark.slow
@TWO_CPUS
def test_jobs_stop_by_themselves_if_their_parent_is_killed(
  command, path, alone, tmp_path
):
  directory = tmp_path / 'sweep'
  process = start(command, path, directory)
  wait_until((directory / 'trunks/s5-8/8').exists, process)
  process.kill()
  wait_until(lambda: not jobs_in(directory))
  process.communicate()
  assert not (directory / 'runs/s8-14').exists()
  command.sweep(path, directory, '--jobs=2')
  assert_same_sweep(directory, alone)


@pytest.mark.slow
@TWO_CPUS
def test_a_run_that_fails_in_a_job_is_told_once(command, path, tmp_path):
  bad = tmp_path / 'sweep.py'
  bad.write_text(
    path.read_text().replace("'d30', {", "'d30', {'optimizer.peak_lr': 1e30, ")
  )
  output = command.sweep(bad, tmp_path / 'sweep', '--jobs=2', status=1)
  assert 'Finished: 3 of 4 runs' in output
  [line] = [x for x in output.splitlines() if x.startswith('error')]
  assert line.startswith('error: run d30: step ')


MOST = len(cpus.available())


@pytest.mark.parametrize('more, words', [
  (['--jobs=0'], f'--jobs = 0: must be from 1 to {MOST}'),
  ([f'--jobs={MOST + 1}'], f'must be from 1 to {MOST}, the number of CPUs'),
  (['--jobs=two'], 'argument --jobs: invalid int value'),
  (['--jobs=1', '--index=0', '--count=2'], '--jobs: makes shares itself; not '
   'with --index, --count'),
  (['--jobs=1', '--collect'], '--jobs: is of no use to --collect'),
])  # fmt: skip
def test_bad_arguments_are_one_line_that_names_them(
  more, words, path, tmp_path, capsys
):
  directory = tmp_path / 'sweep'
  assert_refused(arguments(path, directory, *more), words, capsys)
  assert not directory.exists()


@TWO_CPUS
def test_the_plan_of_jobs_is_that_of_their_shares(tmp_path, capsys):
  tree = (
    "  for n in (20, 30, 40, 50):\n    yield f'd{n}', {'duration.value': n}"
  )
  path = write_sweep(tmp_path, tree)

  def plan(*more):
    assert main([f'--config={path}', '--plan', *more]) == 0
    words = map(str.split, capsys.readouterr().out.splitlines())
    return {w[0]: w[1:] for w in words if w}

  both = plan('--jobs=2')
  shares = [plan(f'--index={i}', '--count=2') for i in range(2)]
  for line in ('Runs', 'Steps', 'Tokens', 'Programs', 'Trunks'):
    numbers = [int(s[line][0].replace(',', '')) for s in (both, *shares)]
    assert numbers[0] == sum(numbers[1:]), line
  assert both['Jobs'][0] == '2'
  # Both jobs make the steps that the whole tree has in common.
  assert int(both['Steps'][0]) > int(plan()['Steps'][0])


@pytest.mark.parametrize('count', [1, 2, 3, 5])
def test_parts_are_all_cpus_once(count):
  parts = cpus.parts(count)
  assert sorted(cpu for part in parts for cpu in part) == sorted(
    cpus.available()
  )
  sizes = [len(part) for part in parts]
  assert len(parts) == count and max(sizes) - min(sizes) <= 1


@TWO_CPUS
def test_a_process_is_born_on_its_cpus_and_the_parent_keeps_its_own():
  before = os.sched_getaffinity(0)
  code = 'import os; print(*os.sched_getaffinity(0))'
  for part in cpus.parts(2):
    with cpus.pinned(part):
      output = subprocess.check_output([sys.executable, '-c', code])
    assert sorted(map(int, output.split())) == sorted(part)
  assert os.sched_getaffinity(0) == before


def test_shares_of_one_count_train_together_and_no_others(tmp_path):
  files = workdir.open_workdir(tmp_path / 'sweep')
  with (
    lock.share_locked(files, 'all', 2),
    lock.share_locked(files, 0, 2),
    lock.share_locked(files, 1, 2),
  ):
    for share in ((0, 2), ('all', 2), (0, 1), (0, 3), ('all', 3)):
      with (
        pytest.raises(ConfigError, match='another process is training in it'),
        lock.share_locked(files, *share),
      ):
        pass
  with lock.share_locked(files, 0, 1):
    pass


@TWO_CPUS
def test_a_sweep_that_is_split_otherwise_is_refused(path, tmp_path, capsys):
  directory = tmp_path / 'sweep'
  directory.mkdir()
  with lock.share_locked(workdir.Workdir(directory), 0, 1):
    assert main(arguments(path, directory, '--jobs=2')) == 2
  [line] = capsys.readouterr().err.splitlines()
  assert line.endswith('another process is training in it, share 0 of 1')
  assert not (directory / 'runs').exists()


def test_a_job_stops_when_nobody_reads_what_it_tells():
  reader, writer = os.pipe()
  with StopRequest() as stop:
    report = JobReport(writer)
    report.note('ä')
    assert os.read(reader, 99) == b'{"note": "\\u00e4"}\n'
    assert not stop.is_due()
    os.close(reader)
    report.advance(1)
    report.end({})
    assert stop.is_due()
  os.close(writer)
