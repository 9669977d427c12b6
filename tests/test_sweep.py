"""Sweeps, from the command to the files that they leave."""

import csv
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from processes import TIMEOUT
from run_files import Run, assert_same_run

from jax_sparse_pretrain import analysis
from jax_sparse_pretrain import config as config_lib
from jax_sparse_pretrain.analysis.fitting.law import ScalingLaw
from jax_sparse_pretrain.command_line import StopRequest
from jax_sparse_pretrain.runs import lock, snapshots, workdir
from jax_sparse_pretrain.sweep import sweep_file
from jax_sparse_pretrain.sweep.__main__ import main
from jax_sparse_pretrain.training import loop, setup

ROOT = pathlib.Path(__file__).parents[1]
HEAD = """
from ml_collections import ConfigDict

from jax_sparse_pretrain.config import defaults


def get_config():
  config = ConfigDict(defaults())
  config.batch_size = 8
  config.model.vocab_size = 256
  config.model.n_layers = 2
  config.model.d_model = 32
  config.model.n_heads = 4
  config.model.d_ff = 64
  config.model.context_length = 32
  config.model.compute_dtype = 'float32'
  config.data.source = 'stdlib'
  config.data.path = ''
  config.data.tokenizer = 'bytes'
  config.duration.value = 36
  config.duration.unit = 'steps'
  config.optimizer.peak_lr = 3e-3
  config.optimizer.schedule = 'warmup_stable_decay'
  config.optimizer.warmup_steps = 4
  config.pruning.unit = 'steps'
  config.pruning.start = 8.0
  config.pruning.end = 17.0
  config.pruning.every = 3
  config.evaluation.every = 10
  config.evaluation.rows = 16
  config.checkpoint.every = 10
  config.logging.every = 1
  return config


def sparse(sparsity, start, **more):
  return {
    'pruning.sparsity': sparsity,
    'pruning.start': start,
    'pruning.end': start + 9,
    **more,
  }


def get_runs():
"""
DENSE = """
  yield 'd20', {'duration.value': 20}
  yield 'd30', {'duration.value': 30}
"""
SPARSE = """
  yield 's5-8', sparse(0.5, 8)
  yield 's8-14', sparse(0.8, 14)
"""
EVERYTHING = f"""{DENSE}
  yield 'd30-seed1', {{'duration.value': 30, 'seed': 1}}
  # Its summary averages over three steps, those of its parents over one.
  yield 'd201', {{
    'duration.value': 201, 'checkpoint.every': 25, 'checkpoint.keep': 99,
  }}{SPARSE}
  yield 's8-14-cubic', sparse(
    0.8, 14, **{{'pruning.schedule': 'cubic', 'checkpoint.every': 0}}
  )
  # The forward pass that first sees their masks is the first that differs.
  after = {{
    'pruning.end': 8, 'pruning.order': 'after', 'pruning.snapshots': (9,),
  }}
  yield 'after-11', sparse(0.5, 8, **{{**after, 'duration.value': 11}})
  yield 'after-30', sparse(0.5, 8, **{{**after, 'duration.value': 30}})
  # After the first mask update of what it shares.
"""
# Run -> the one from which it goes on, after how many steps.
FORKS = {
  'd30': ('d20', 16),
  'd201': ('d30', 24),
  's8-14': ('s5-8', 8),
  's8-14-cubic': ('s8-14', 14),
  'after-30': ('after-11', 9),
}
NAMES = {*FORKS, 'd20', 'd30-seed1', 's5-8', 'after-11'}


def write_sweep(directory, runs):
  path = directory / 'sweep.py'
  path.write_text(HEAD + runs)
  return path


def arguments(path, workdir, *more):
  return [f'--config={path}', f'--workdir={workdir}', *more]


def config_json(workdir, name):
  return json.loads((workdir / 'runs' / name / 'config.json').read_text())


def train_alone(path, directory, *names):
  """Trains runs of a sweep file as if each were the only one."""
  runs = {run.name: run for run in sweep_file.read_sweep(str(path), [])}
  programs = {}
  for name in names:
    experiment = setup.set_up(runs[name].config, cache=programs)
    files = workdir.open_workdir(f'{directory}/{name}')
    with StopRequest() as stop:
      loop.train(experiment, files, stop)


ALONE = """
import sys
sys.path.insert(0, 'tests')
import test_sweep
test_sweep.train_alone(*sys.argv[1:])
"""


class Command:
  """Processes on one device; what one has compiled, others need not.

  Args:
    directory: gets the compilation cache.
  """

  def __init__(self, directory):
    self._environment = {
      **os.environ,
      'JAX_PLATFORMS': 'cpu',
      'XLA_FLAGS': '--xla_backend_optimization_level=0',
      'JAX_COMPILATION_CACHE_DIR': str(directory / 'compiled'),
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    }

  def start(self, *arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT):
    return subprocess.Popen(
      [sys.executable, *map(str, arguments)],
      cwd=ROOT,
      env=self._environment,
      stdout=stdout,
      stderr=stderr,
      text=True,
    )

  def sweep(self, path, workdir, *more, status=0):
    """To its end; returns what it printed."""
    process = self.start(*SWEEP, *arguments(path, workdir, *more))
    output, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == status, output
    return output

  def alone(self, path, directory, names):
    process = self.start('-c', ALONE, path, directory, *names)
    output, _ = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, output

  def signal_when(self, is_time, number, path, workdir):
    """Signals as soon as `is_time()`; returns (status, output)."""
    process = self.start(*SWEEP, *arguments(path, workdir))
    while not is_time():
      assert process.poll() is None, process.communicate()[0]
      time.sleep(0.001)
    process.send_signal(number)
    output, _ = process.communicate(timeout=TIMEOUT)
    return process.returncode, output


SWEEP = ('-m', 'jax_sparse_pretrain.sweep')


@pytest.fixture(scope='module')
def command(tmp_path_factory):
  return Command(tmp_path_factory.mktemp('command'))


@pytest.fixture(scope='module')
def path(tmp_path_factory):
  return write_sweep(tmp_path_factory.mktemp('sweep'), EVERYTHING)


@pytest.fixture(scope='module')
def swept(command, path, tmp_path_factory):
  """The directory of a sweep that nobody disturbed."""
  directory = tmp_path_factory.mktemp('swept') / 'sweep'
  output = command.sweep(path, directory)
  (directory.parent / 'output').write_text(output)
  return directory


@pytest.fixture(scope='module')
def alone(command, path, tmp_path_factory):
  """The workdirs of the same runs, each on its own."""
  directory = tmp_path_factory.mktemp('alone')
  command.alone(path, directory, [*FORKS, 'd20', 'd30-seed1', 'after-11'])
  return directory


@pytest.mark.slow
def test_a_run_that_goes_on_from_another_ends_as_it_does_alone(
  command, tmp_path
):
  """The slow tests hold this for many runs, and for sweeps that are killed."""
  path = write_sweep(tmp_path, SPARSE)
  path.write_text(path.read_text().replace('n_layers = 2', 'n_layers = 1'))
  output = command.sweep(path, tmp_path / 'sweep')
  assert 'Finished: 2 of 2 runs' in output
  assert 's8-14: loss' in output and 'from s5-8 at step 8' in output
  command.alone(path, tmp_path / 'alone', ['s8-14'])
  assert_same_run(tmp_path / 'sweep/runs/s8-14', tmp_path / 'alone/s8-14')


@pytest.mark.slow
@pytest.mark.parametrize('name', FORKS)
def test_a_forked_run_is_the_same_run_alone_to_the_bit(name, swept, alone):
  parent, step = FORKS[name]
  assert config_json(swept, name)['trunk'] == {'run': parent, 'step': step}
  ours, theirs = swept / 'runs' / name, alone / name
  assert_same_run(ours, theirs)
  assert snapshots_of(ours) == snapshots_of(theirs)
  # What the last checkpoint carries for the loop, too.
  assert carried(ours) == carried(theirs)


def snapshots_of(directory):
  masks = {path.name: snapshots.read(path)
           for path in (directory / 'mask_snapshots').glob('*')}  # fmt: skip
  return {
    (file, kernel): mask.tobytes()
    for file, kernels in masks.items()
    for kernel, mask in kernels.items()
  }


def carried(directory, step=None):
  step = step or Run(directory).saved[-1]
  path = directory / 'checkpoints' / str(step) / 'progress' / 'metadata'
  found = json.loads(path.read_text())
  # A parent carries more losses, for its children.
  return found['recent_losses'][-1:], found['eval_loss']


@pytest.mark.slow
def test_a_parent_carries_the_losses_that_longer_runs_average(swept, alone):
  # Of its last three steps, two are before its fork.
  ours, theirs = (
    json.loads((where / 'checkpoints/25/progress/metadata').read_text())
    for where in (swept / 'runs' / 'd201', alone / 'd201')
  )
  assert ours['recent_losses'] == theirs['recent_losses']
  assert len(ours['recent_losses']) == 3


@pytest.mark.slow
def test_runs_that_share_no_step_are_as_alone_too(swept, alone):
  for name in NAMES - FORKS.keys():
    assert 'trunk' not in config_json(swept, name)
  for name in ('d20', 'd30-seed1', 'after-11'):
    assert_same_run(swept / 'runs' / name, alone / name)


@pytest.mark.slow
def test_every_run_leaves_an_ordinary_workdir_and_no_trunk_is_left(swept):
  assert {p.name for p in swept.iterdir() if p.name[0] != '.'} == {
    'runs',
    'runs.csv',
  }
  assert {p.name for p in (swept / 'runs').iterdir()} == NAMES
  for name in NAMES:
    files = {p.name for p in (swept / 'runs' / name).iterdir()}
    assert files >= {
      *('config.json', 'metrics.jsonl', 'mask_history.jsonl', 'checkpoints'),
      *('summary.json', 'training.png'),
    }
    assert 'branch.json' not in files
  assert len(analysis.load_runs(swept / 'runs')) == len(NAMES)


@pytest.mark.slow
def test_tensorboard_shows_a_forked_run_from_its_first_step(swept):
  from tensorboard.backend.event_processing import event_accumulator

  events = event_accumulator.EventAccumulator(str(swept / 'runs' / 's8-14'))
  events.Reload()
  shown = [(e.step, e.value) for e in events.Scalars('train_loss')]
  logged = Run(swept / 'runs' / 's8-14').metrics
  assert shown == [
    (line['step'], pytest.approx(line['train_loss']))
    for line in logged
    if 'train_loss' in line
  ]


@pytest.mark.slow
def test_a_run_of_a_sweep_can_be_continued_by_train(
  command, path, swept, tmp_path
):
  run = tmp_path / 'run'
  shutil.copytree(swept / 'runs' / 'd30', run)
  flags = ['--config.duration.value=32', '--fork']
  process = command.start(
    *('-m', 'jax_sparse_pretrain.train'), *arguments(path, run, *flags)
  )
  output, _ = process.communicate(timeout=TIMEOUT)
  assert process.returncode == 0, output
  assert 'Finished: 32 steps' in output
  found = json.loads((run / 'config.json').read_text())
  assert found['trunk'] == {'run': 'd20', 'step': 16}
  assert found['forks'][0]['step'] == 30


MANY = 1000


def load(directory):
  """The analysis refuses tables of so few tokens, for a slip of units."""
  columns = {'tokens': f'tokens * {MANY}'}
  return analysis.load_runs(directory / 'runs.csv', columns=columns)


@pytest.mark.slow
def test_the_table_is_that_of_the_summaries(swept):
  runs = load(swept)
  assert set(runs.run) == NAMES
  assert list(runs.run).index('s5-8') < list(runs.run).index('s8-14')
  direct = analysis.load_runs(swept / 'runs')
  order = [direct.run.index(name) for name in runs.run]
  for name in ('average_parameters', 'initial_parameters', 'final_parameters',
               'sparsity', 'tokens', 'loss'):  # fmt: skip
    scale = MANY if name == 'tokens' else 1
    np.testing.assert_array_equal(
      getattr(runs, name), scale * getattr(direct, name)[order]
    )
  row = runs.run.index('s8-14')
  cells = {name: column[row] for name, column in runs.others.items()}
  assert cells['start'] == '14' and cells['end'] == '23'
  assert cells['schedule'] == 'geometric' and cells['steps'] == '36'
  assert (cells['trunk'], cells['trunk_steps']) == ('s5-8', '8')
  assert cells['pruning.sparsity'] == '0.8' and cells['seed'] == '0'
  assert 'checkpoint.every' not in cells and 'model.d_ff' not in cells
  dense = runs.run.index('d20')
  assert runs.others['schedule'][dense] == ''


@pytest.mark.slow
def test_a_finished_sweep_makes_no_step_and_tells_what_it_was(
  path, swept, capsys
):
  before = files_of(swept)
  (swept / 'runs.csv').unlink()
  assert main(arguments(path, swept)) == 0
  output = capsys.readouterr()
  assert files_of(swept) == before
  assert '9 finished, 0 begun' in output.out
  assert 'Finished: 9 of 9 runs' in output.out
  shared = sum(step for _, step in FORKS.values())
  steps = 20 + 2 * 30 + 201 + 3 * 36 + 11 + 30
  lines = [line.split() for line in output.out.splitlines()]
  assert ['Steps', str(steps - shared), 'of', str(steps)] in [
    line[:4] for line in lines
  ]
  assert ['shared', str(shared)] in [line[:2] for line in lines]
  [left] = [line for line in lines if line[:2] == ['Time', 'left']]
  assert left[2] == '0s'
  (swept / 'runs.csv').unlink()
  assert main([f'--workdir={swept}', '--collect']) == 0
  assert files_of(swept) == before


def files_of(directory):
  return {p: p.read_bytes() for p in directory.rglob('*') if p.is_file()}


def test_the_plan_needs_no_workdir_and_names_where_runs_begin(
  path, tmp_path, capsys
):
  assert main([f'--config={path}', '--plan']) == 0
  output = capsys.readouterr().out
  nowhere = tmp_path / 'nowhere'
  assert main(arguments(path, nowhere, '--plan')) == 0
  assert capsys.readouterr().out == output
  assert not nowhere.exists()
  rows = [line.split() for line in output.splitlines()]
  for name, (parent, step) in FORKS.items():
    [row] = [row for row in rows if row and row[0] == name]
    assert row[-2:] == [parent, str(step)]
  assert 'unknown' in output
  assert max(map(len, output.splitlines())) <= 80


@pytest.mark.slow
def test_shares_in_one_directory_are_the_whole(
  command, swept, path, tmp_path, capsys
):
  directory = tmp_path / 'sweep'
  names = []
  for index in range(2):
    share = [f'--index={index}', '--count=2']
    assert main(arguments(path, directory, *share, '--plan')) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    names.append([row[0] for row in rows if row and row[0] in NAMES])
  assert sorted(names[0] + names[1]) == sorted(NAMES)
  command.sweep(path, directory, *share)
  assert {path.name for path in (directory / 'runs').iterdir()} == set(names[1])
  for name in names[1]:
    assert_same_run(directory / 'runs' / name, swept / 'runs' / name)


FAILING = f"""{DENSE}
  yield 'd40', {{'duration.value': 40}}
  yield 'bad', {{'optimizer.peak_lr': 1e30}}
"""


@pytest.mark.slow
def test_a_failed_run_does_not_stop_the_others(
  command, swept, tmp_path, capsys
):
  path = write_sweep(tmp_path, FAILING)
  directory = tmp_path / 'sweep'
  busy = workdir.open_workdir(directory / 'runs' / 'd20')
  with lock.locked(busy):
    output = command.sweep(path, directory, status=1)
  assert 'Finished: 2 of 4 runs' in output
  errors = [line for line in output.splitlines() if line.startswith('error')]
  assert errors[0].startswith('error: run d20: ')
  assert 'another process is training in it' in errors[0]
  assert errors[1].startswith('error: run bad: step 1: ')
  assert len(errors) == 2
  # One child of what failed has begun alone and the other goes on from it.
  assert 'trunk' not in config_json(directory, 'd30')
  assert config_json(directory, 'd40')['trunk'] == {'run': 'd30', 'step': 24}
  assert_same_run(directory / 'runs' / 'd30', swept / 'runs' / 'd30')
  assert set(load(directory).run) == {'d30', 'd40'}

  write_sweep(tmp_path, FAILING.replace('1e30', '1e-3'))
  assert main(arguments(path, directory)) == 2
  [line] = capsys.readouterr().err.splitlines()
  assert 'run bad' in line and 'optimizer.peak_lr: 1e+30 -> 0.001' in line
  shutil.rmtree(directory / 'runs' / 'bad')
  output = command.sweep(path, directory)
  assert 'Finished: 4 of 4 runs' in output
  assert_same_run(directory / 'runs' / 'd20', swept / 'runs' / 'd20')


@pytest.fixture(scope='module')
def killed(command, tmp_path_factory):
  """A sweep killed when its first run had left its files for the second."""
  directory = tmp_path_factory.mktemp('killed')
  path = write_sweep(directory, DENSE + SPARSE)
  trunk = directory / 'sweep' / 'trunks' / 'd20' / '16'
  status, output = command.signal_when(
    trunk.exists, signal.SIGKILL, path, directory / 'sweep'
  )
  assert status == -signal.SIGKILL, output
  assert trunk.exists() and not (directory / 'sweep/runs/d30').exists()
  return directory


@pytest.mark.slow
def test_a_sweep_killed_again_and_again_ends_like_the_other(
  command, killed, swept, tmp_path
):
  shutil.copytree(killed, tmp_path, dirs_exist_ok=True)
  path, directory = tmp_path / 'sweep.py', tmp_path / 'sweep'
  runs = directory / 'runs'

  # Just after a run has begun from a trunk, or while it does.
  half_made = runs / '.d30.partial'
  status, output = command.signal_when(
    lambda: half_made.exists() or (runs / 'd30').exists(),
    signal.SIGKILL,
    path,
    directory,
  )
  assert status == -signal.SIGKILL, output
  assert not (runs / 'd30' / 'summary.json').exists()

  # On request, in a sparse run that is left by another.
  trunk = directory / 'trunks' / 's5-8' / '8'
  status, output = command.signal_when(
    trunk.exists, signal.SIGTERM, path, directory
  )
  assert status == 75, output
  assert 'run s5-8: SIGTERM at step' in output.splitlines()[-1]

  output = command.sweep(path, directory)
  assert '2 finished, 1 begun' in output
  assert 's8-14: loss' in output and 'from s5-8 at step 8' in output
  assert 'd20: loss' not in output  # It was finished.
  assert {p.name for p in runs.iterdir()} == {'d20', 'd30', 's5-8', 's8-14'}
  for run in runs.iterdir():
    assert_same_run(run, swept / 'runs' / run.name)
  assert config_json(directory, 'd30')['trunk'] == {'run': 'd20', 'step': 16}
  assert not (directory / 'trunks').exists()


@pytest.mark.slow
@pytest.mark.parametrize('file, words', [
  ('branch.json', 'it has fewer losses than the 1 to average over'),
  ('config.json', 'optimizer.b1: 0.5 -> 0.9; data: the corpus has changed'),
])  # fmt: skip
def test_a_trunk_that_does_not_serve_is_not_used(
  command, killed, swept, tmp_path, file, words
):
  shutil.copytree(killed / 'sweep', tmp_path / 'sweep')
  directory = tmp_path / 'sweep'
  damaged = directory / 'trunks' / 'd20' / '16' / file
  about = json.loads(damaged.read_text())
  if file == 'branch.json':
    about['n_losses'] = 0
  else:
    about['config']['optimizer']['b1'] = 0.5
    about['corpus'] = None
  damaged.write_text(json.dumps(about))
  output = command.sweep(write_sweep(tmp_path, DENSE), directory)
  assert f'd30: trained anew: {damaged.parent}: {words}' in output
  assert 'trunk' not in config_json(directory, 'd30')
  assert_same_run(directory / 'runs' / 'd30', swept / 'runs' / 'd30')


BAD_RUNS = {
  'a run that is there twice': (
    "  yield 'a', {}\n  yield 'a', {}", "run 'a': is there twice"),
  'a name that is no name of a directory': (
    "  yield '../a', {}", "run '../a': must begin with a letter or digit"),
  'an unknown key': (
    "  yield 'a', {'pruning.sparsty': 0.5}",
    'run a: pruning.sparsty: unknown key; did you mean pruning.sparsity?'),
  'a section that is none': (
    "  yield 'a', {'seed.value': 1}", 'run a: seed.value: unknown key'),
  'a whole section': (
    "  yield 'a', {'pruning': {'sparsity': 0.5}}",
    "run a: 'pruning': {'sparsity': 0.5}: overrides must be a value for each"),
  'a value out of range': (
    "  yield 'a', {'pruning.sparsity': 1.5}",
    'run a: pruning.sparsity = 1.5: must be in [0, 1)'),
  'a schedule that does not fit': (
    "  yield 'good', {}\n  yield 'a', sparse(0.5, 30)",
    'run a: pruning and duration.value = 36 steps do not fit'),
  'keys that contradict each other': (
    "  yield 'a', {'accumulation_steps': 3}", 'run a: batch_size = 8: must be'),
  'no run': ('  return []', 'get_runs() gives no run'),
  'no pair': ("  yield 'ab'", "'ab': must be (name, overrides)"),
  'an error of the file': ('  yield 1 / 0', 'division by zero'),
}  # fmt: skip


def assert_refused(argv, words, capsys):
  assert main(argv) == 2
  output = capsys.readouterr()
  assert output.out == ''
  [line] = output.err.splitlines()
  assert line.startswith('error: ') and words in line


@pytest.mark.parametrize('case', BAD_RUNS)
def test_bad_runs_are_one_line_that_names_run_and_key(case, tmp_path, capsys):
  runs, words = BAD_RUNS[case]
  path, directory = write_sweep(tmp_path, runs), tmp_path / 'sweep'
  assert_refused(arguments(path, directory), words, capsys)
  assert not directory.exists()


@pytest.mark.parametrize('more, words', [
  (['--index=1'], '--index and --count: must be given together'),
  (['--index=2', '--count=2'], '--index = 2: must be from 0 to --count - 1'),
  (['--index=one', '--count=2'], 'invalid int value'),
  (['--config.model.n_layer=2'], 'n_layer'),
  (['--config.pruning.every=0'], 'run d20: pruning.every = 0: must be'),
  (['--colour=red'], 'colour'),
  (['--plan', '--collect'], 'not allowed with argument'),
  (['--workdir='], '--workdir: must be given'),
  (['--workdir=s3://bucket'], 's3://bucket: must be a path of this machine'),
  (['--config=nowhere.py'], 'nowhere.py: must be a file'),
  (['--collect', '--config.seed=1'], '--config.seed=1: is of no use'),
])  # fmt: skip
def test_bad_arguments_are_one_line_that_names_them(
  more, words, path, tmp_path, capsys
):
  directory = tmp_path / 'sweep'
  assert_refused(arguments(path, directory, *more), words, capsys)
  assert not directory.exists()


@pytest.mark.parametrize('text, words', [
  ('def get_config(:', 'invalid syntax'),
  ('def get_runs():\n  return []', 'must define get_config()'),
  ('def get_config():\n  return {}', 'must define get_runs()'),
  ('def get_config():\n  return {}\ndef get_runs():\n  yield "a", {}',
   'get_config() must give a ConfigDict'),
])  # fmt: skip
def test_a_file_that_is_no_sweep_is_refused(text, words, tmp_path, capsys):
  path = tmp_path / 'sweep.py'
  path.write_text(text)
  assert_refused(arguments(path, tmp_path / 'sweep'), words, capsys)


def test_nothing_is_collected_where_nothing_is(tmp_path, capsys):
  directory = tmp_path / 'nowhere'
  argv = [f'--workdir={directory}', '--collect']
  assert_refused(argv, 'no finished run', capsys)
  assert not directory.exists()


def test_the_workdir_of_a_run_is_no_place_for_a_sweep(path, tmp_path, capsys):
  (tmp_path / 'config.json').write_text('{}')
  assert_refused(arguments(path, tmp_path), 'is the workdir of a run', capsys)


def test_overrides_reach_all_runs_that_do_not_set_them_themselves(path):
  flags = ['--config.optimizer.peak_lr=0.5', '--config.duration.value=50']
  runs = {run.name: run for run in sweep_file.read_sweep(str(path), flags)}
  assert {run.config.optimizer.peak_lr for run in runs.values()} == {0.5}
  assert runs['s5-8'].plan.steps == 50 and runs['d20'].plan.steps == 20


def test_numbers_of_numpy_are_numbers(tmp_path):
  runs = """
  import numpy as np
  for i, s in enumerate(np.linspace(0.2, 0.8, 4)):
    yield f'r{i}', {'pruning.sparsity': s, 'seed': np.int64(i)}
"""
  found = sweep_file.read_sweep(str(write_sweep(tmp_path, runs)), [])
  assert [run.config.seed for run in found] == [0, 1, 2, 3]
  assert found[-1].config.pruning.sparsity == pytest.approx(0.8)


LAW = ScalingLaw(E=1.8, A=480.0, B=2100.0, alpha=0.35, beta=0.37)


def write_finished(sweep, n_runs=16, **summaries):
  """Runs as others might have trained them, of a law that is known.

  Further keywords are what the summary of a run holds besides.
  """
  values = config_lib.defaults()
  for i in range(n_runs):
    n, d = int(1e7 * 3 ** (i % 4)), int(1e9 * 5 ** (i // 4))
    directory = sweep / 'runs' / f'run{i}'
    directory.mkdir(parents=True)
    summary = {
      'completed': True, 'steps': 10, 'average_parameters': n / 2,
      'linear_parameters': n, 'final_parameters': n // 4, 'sparsity': 0.75,
      'tokens': d, 'eval_loss': float(LAW.loss(n / 2, d)), 'train_loss': 1.0,
      'compute_flops': 3 * n * d, 'wall_seconds': 1.0,
      **summaries.get(f'run{i}', {}),
    }  # fmt: skip
    (directory / 'summary.json').write_text(json.dumps(summary))
    plan = {'steps': 10, 'start': 1, 'end': 2, 'compute_fractions': [0.1, 0.2]}
    config = {**values, 'batch_size': 256 + 256 * (i % 2)}
    (directory / 'config.json').write_text(
      json.dumps({'config': config, 'plan': plan})
    )


def test_a_law_is_fitted_to_a_collected_table(tmp_path):
  write_finished(tmp_path)
  assert main([f'--workdir={tmp_path}', '--collect']) == 0
  runs = analysis.load_runs(tmp_path / 'runs.csv')
  assert runs.run == tuple(f'run{i}' for i in range(16))  # 9 before 10
  assert runs.others['batch_size'][:2] == ('256', '512')
  fit = analysis.fit_scaling_law(runs.parameters(), runs.tokens, runs.loss)
  assert fit.law.alpha == pytest.approx(0.35, abs=1e-4)
  assert fit.law.E == pytest.approx(1.8, abs=1e-3)


def test_a_collected_table_tells_which_runs_began_from_another_model(tmp_path):
  tables = {}
  for name, of_run1 in {
    'plain': {},
    'empty': {'init_from': ''},
    'tuned': {'init_from': 'models/base'},
  }.items():
    write_finished(tmp_path / name, 3, run1=of_run1)
    assert main([f'--workdir={tmp_path / name}', '--collect']) == 0
    tables[name] = (tmp_path / name / 'runs.csv').read_text()
  assert tables['empty'] == tables['plain']
  assert 'init_from' not in tables['plain']
  path = tmp_path / 'tuned' / 'runs.csv'
  runs = analysis.load_runs(path, include_continued=True)
  assert runs.others['init_from'] == ('', 'models/base', '')
  with pytest.warns(UserWarning, match="left out: 1 of 3 runs.*'run1'"):
    assert analysis.load_runs(path).run == ('run0', 'run2')


@pytest.mark.slow
def test_from_a_sweep_to_a_law_to_a_report(tmp_path):
  """The shipped sweep, and the two commands that its docstring names."""

  def call(module, *words):
    command = [sys.executable, '-m', f'jax_sparse_pretrain.{module}']
    one_device = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'}
    words = [*command, *map(str, words)]
    subprocess.run(words, check=True, cwd=ROOT, env=one_device)

  sweep, law = tmp_path / 'sweep', tmp_path / 'law.json'
  call('sweep', '--config=configs/sweep_smoke.py', f'--workdir={sweep}')
  call('analysis', 'fit', sweep / 'runs.csv', '--bootstrap=100', '--out', law)
  page = tmp_path / 'report.html'
  call(
    'analysis', 'report', sweep / 'runs.csv', '--bootstrap=100', '--out', page
  )

  runs = analysis.load_runs(sweep / 'runs.csv')
  assert len(runs) == 17 and (runs.sparsity > 0).sum() == 8
  counted = analysis.load_runs(sweep / 'runs')
  order = [counted.run.index(name) for name in runs.run]
  np.testing.assert_array_equal(
    runs.average_parameters, counted.average_parameters[order]
  )
  fit = analysis.ScalingLawFit.from_json(law.read_text())
  # Such short runs are no nearer to a law than this; losses span 20 %.
  assert fit.log_rmse < 0.04
  dense = runs.select(runs.sparsity == 0)
  for n in set(dense.initial_parameters):
    same = dense.select(dense.initial_parameters == n)
    assert (np.diff(same.loss[np.argsort(same.tokens)]) < -0.03).all()
  text = page.read_text()
  assert all(name in text for name in runs.run) and '<img' in text


def test_several_sweeps_are_collected_into_one_table(tmp_path):
  for name in ('both/a', 'both/b', 'alone'):
    write_finished(tmp_path / name, 3)
  (tmp_path / 'both' / 'no_sweep').mkdir()
  for name in ('both', 'alone'):
    assert main([f'--workdir={tmp_path / name}', '--collect']) == 0
  (_, *both), (_, *alone) = (
    csv.reader((tmp_path / name / 'runs.csv').read_text().splitlines())
    for name in ('both', 'alone')
  )
  assert [name for name, *_ in both] == [
    f'{sweep}/{name}' for sweep in 'ab' for name, *_ in alone
  ]
  assert [row[1:] for row in both] == [row[1:] for row in alone] * 2
