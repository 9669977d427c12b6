"""The command, from its arguments to the files that it leaves."""

import concurrent.futures
import dataclasses
import json
import pathlib
import re
import shutil
import signal
import sys
import threading
from contextlib import nullcontext

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
import run_files
import tiny

from jax_sparse_pretrain import command_line, history, train
from jax_sparse_pretrain import data as data_lib
from jax_sparse_pretrain.command_line import Stopped, StopRequest
from jax_sparse_pretrain.config import ConfigError
from jax_sparse_pretrain.model.decoder import Decoder
from jax_sparse_pretrain.runs import lock, workdir
from jax_sparse_pretrain.training import loop, setup, train_model

SMOKE = pathlib.Path(__file__).parents[1] / 'configs' / 'smoke.py'
STEPS, SPARSITY = 30, 0.8
SUMMARY_KEYS = {
  *('steps', 'tokens', 'eval_loss', 'train_loss', 'linear_parameters'),
  *('total_parameters', 'final_parameters', 'average_parameters', 'sparsity'),
  *('compute_flops', 'dense_equivalent_tokens', 'wall_seconds'),
  *('tokens_per_second', 'completed'),
}

compiled = []  # Names of the programs that this process has compiled.


def note_compilation(event, seconds, **about):
  # optax makes a scalar zero when it is asked for the shape of its state.
  name = about.get('fun_name')
  if 'backend_compile' in event and name != 'jit(convert_element_type)':
    compiled.append(name)


jax.monitoring.register_event_duration_secs_listener(note_compilation)


def flatten(values, prefix=''):
  for name, value in values.items():
    if isinstance(value, dict):
      yield from flatten(value, f'{prefix}{name}.')
    else:
      yield f'--config.{prefix}{name}={value}'


TINY = [
  *flatten(tiny.VALUES),
  '--config.model.scan_layers=True',
  '--config.pruning.end=0.9',
  '--config.evaluation.every=20',
  '--config.checkpoint.every=10',
  '--config.checkpoint.keep=3',
  '--config.logging.every=5',
  '--config.logging.peak_flops=1e12',
]


def command(directory, *arguments, config=SMOKE):
  """The tiny run's arguments; those given last win."""
  return [f'--config={config}', f'--workdir={directory}', *TINY, *arguments]


def files_of(directory):
  return {p: p.read_bytes() for p in directory.rglob('*') if p.is_file()}


def lines_of(path):
  return [json.loads(line) for line in path.read_text().splitlines()]


def arrays_of(directory, step):
  """The state in a checkpoint as nested dicts, read by Orbax alone."""
  path = directory / 'checkpoints' / str(step) / 'state'
  with ocp.StandardCheckpointer() as checkpointer:
    return jax.device_get(checkpointer.restore(path))


def kernels_of(params):
  leaves = jax.tree.leaves_with_path(params)
  return [x for path, x in leaves if path[-1].key == 'kernel']


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  """The files of a run from its first step to its last."""
  directory = tmp_path_factory.mktemp('train') / 'run'
  assert train.main(command(directory)) == 0
  assert 'jit(train_step)' in compiled  # Or the tests below would show nothing.
  return directory


def test_help_is_a_success(capsys):
  with pytest.raises(SystemExit, match='0'):
    train.main(['--help'])
  assert '--fork' in capsys.readouterr().out


def write(path, text):
  path.write_text(text)
  return path


BAD_INPUT = {
  'heads': (['--config.model.d_model=36', '--config.model.n_heads=5'],
            'model.d_model = 36: must be divisible by model.n_heads = 5'),
  'devices': (['--config.batch_size=12'],
              'batch_size / accumulation_steps = 12: must be divisible by'),
  'mesh': (['--config.mesh.fsdp=3'], 'mesh.fsdp = 3'),
  'split': (['--config.mesh.fsdp=8', '--config.model.d_model=36',
             '--config.model.n_heads=2'],
            'mesh.fsdp = 8: must divide'),
  'sparsity': (['--config.pruning.sparsity=1'],
               'pruning.sparsity = 1.0: must be in [0, 1)'),
  'negative sparsity': (['--config.pruning.sparsity=-0.5'],
                        'pruning.sparsity = -0.5: must be in [0, 1)'),
  'schedule': (['--config.pruning.unit=steps', '--config.pruning.start=10',
                '--config.pruning.end=30'],
               'step 30, must come before the end of the run, step 30'),
  'vocabulary': (['--config.model.vocab_size=255'],
                 'model.vocab_size = 255: must be at least'),
  'evaluation rows': (['--config.evaluation.rows=100000000'],
                      'evaluation.rows = 100000000: must be at most'),
  'evaluation batch': (['--config.evaluation.batch_size=9'],
                       'evaluation.batch_size = 9: must be divisible by'),
  'no such text': (['--config.data.source=text', '--config.data.path=NOWHERE'],
                   'data.path = '),
  'key': (['--config.model.d_modle=32'], 'd_modle'),
  'type': (['--config.model.d_model=wide'], 'model.d_model=wide'),
  'flag': (['--colour=red'], 'colour'),
  'argument': (['red'], 'red: is not an argument'),
}  # fmt: skip


def assert_refused(argv, words, directory, capsys):
  """Status 2, one line, no program compiled, no file written."""
  before = list(compiled)
  assert train.main(argv) == 2
  output = capsys.readouterr()
  assert output.out == ''
  [line] = output.err.splitlines()
  assert line.startswith('error: ')
  assert words in line
  assert compiled == before
  assert files_of(directory) == {}


@pytest.mark.parametrize('case', BAD_INPUT)
def test_bad_input_is_one_line_that_names_the_key(case, tmp_path, capsys):
  arguments, words = BAD_INPUT[case]
  argv = command(tmp_path / 'run', *arguments)
  assert_refused(argv, words, tmp_path, capsys)


@pytest.mark.parametrize('text', ['', '\n'], ids=['no bytes', 'one newline'])
def test_an_empty_corpus_is_refused(text, tmp_path, capsys):
  path = write(tmp_path / 'empty.txt', text)
  run = tmp_path / 'run'
  source = ['--config.data.source=text', f'--config.data.path={path}']
  assert_refused(command(run, *source), 'data.', run, capsys)


@pytest.mark.parametrize(
  ('text', 'words'),
  [
    ('def get_config(:', 'invalid syntax'),
    ('colour = 1', 'get_config'),
    ('def get_config():\n  return {"seed": 1}', 'to_dict'),
    ('def get_config():\n  return 1 / 0', 'division by zero'),
    (
      'import ml_collections\n'
      'def get_config():\n'
      "  return ml_collections.ConfigDict({'pruning': {'sparsty': 0.5}})",
      'did you mean pruning.sparsity?',
    ),
  ],
  ids=['syntax', 'no function', 'dict', 'raises', 'unknown key'],
)
def test_a_config_file_that_cannot_be_used_is_refused(
  text, words, tmp_path, capsys, monkeypatch
):
  # ml_collections loads every file into one module, over what is there.
  monkeypatch.delitem(sys.modules, 'config_config', raising=False)
  path = write(tmp_path / 'config.py', text)
  run = tmp_path / 'run'
  argv = [f'--config={path}', f'--workdir={run}']
  assert_refused(argv, words, run, capsys)


def test_arguments_that_are_missing_are_named(tmp_path, capsys):
  run, nowhere = tmp_path / 'run', tmp_path / 'nowhere.py'
  assert_refused(
    command(run, config=nowhere), f'{nowhere}: must be a file', run, capsys
  )
  assert_refused([f'--workdir={run}'], '--config: must be given', run, capsys)
  assert_refused([f'--config={SMOKE}'], '--workdir: must be', run, capsys)
  assert_refused(
    [f'--config={SMOKE}', '--workdir='], '--workdir: must be', run, capsys
  )
  assert_refused([f'--config={SMOKE}', '--workdir'], '--workdir', run, capsys)


def test_a_workdir_that_cannot_be_written_is_refused(tmp_path, capsys):
  run = write(tmp_path / 'file', 'mine') / 'run'
  assert train.main(command(run)) == 2
  [line] = capsys.readouterr().err.splitlines()
  assert line.startswith(f'error: --workdir = {run}: must be a directory')
  assert files_of(tmp_path) == {tmp_path / 'file': b'mine'}


def test_a_run_leaves_the_files_of_the_contract(finished):
  names = {path.name for path in finished.iterdir()}
  assert names >= {
    *('config.json', 'metrics.jsonl', 'mask_history.jsonl', 'checkpoints'),
    *('summary.json', 'training.png'),
  }
  assert any(name.startswith('events.out.tfevents') for name in names)
  assert not any(name.endswith('.tmp') for name in names)
  saved = {path.name for path in (finished / 'checkpoints').iterdir()}
  assert saved == {'10', '20', '30'}
  assert (finished / 'training.png').read_bytes().startswith(b'\x89PNG')
  config = json.loads((finished / 'config.json').read_text())
  assert config['config']['model']['d_model'] == 32
  metrics = lines_of(finished / 'metrics.jsonl')
  trained = [line['step'] for line in metrics if 'train_loss' in line]
  evaluated = [line['step'] for line in metrics if 'eval_loss' in line]
  assert (trained, evaluated) == ([5, 10, 15, 20, 25, 30], [20, 30])


def test_the_summary_agrees_with_history_and_weights(finished):
  summary = json.loads((finished / 'summary.json').read_text())
  assert summary.keys() >= SUMMARY_KEYS
  assert summary['completed'] is True
  assert (summary['steps'], summary['tokens']) == (STEPS, STEPS * 8 * 32)

  # Attention 4 D^2 and MLP 3 D F in each of two layers, and the head.
  dense = 2 * (4 * 32 * 32 + 3 * 32 * 64) + 32 * 256
  assert summary['linear_parameters'] == dense
  header, *rows = lines_of(finished / 'mask_history.jsonl')
  assert header['linear_parameters'] == dense
  nonzero = np.zeros(STEPS)
  for row in rows:
    nonzero[row['step'] :] = row['nonzero']
  assert nonzero[0] == dense
  assert summary['average_parameters'] == pytest.approx(
    nonzero.mean(), rel=1e-12
  )
  assert summary['compute_flops'] == pytest.approx(
    6 * nonzero.sum() * 8 * 32, rel=1e-12
  )

  weights = kernels_of(arrays_of(finished, STEPS)['params'])
  kept = sum(np.count_nonzero(kernel) for kernel in weights)
  assert kept == round(dense * (1 - SPARSITY))
  assert summary['final_parameters'] == kept == rows[-1]['nonzero']
  assert summary['sparsity'] == pytest.approx(1 - kept / dense, rel=1e-12)


@pytest.mark.slow
def test_mfu_counts_the_weights_that_the_hardware_computes(finished):
  """All of them: a masked product is as large as a dense one."""
  last = [x for x in lines_of(finished / 'metrics.jsonl') if 'mfu' in x][-1]
  dense = json.loads((finished / 'summary.json').read_text())[
    'linear_parameters'
  ]
  assert last['nonzero'] < dense / 4
  # Attention: two products of 6 FLOPs, over 2 layers, d_model 32, length 32.
  flops_per_token = 6 * dense + 2 * 6 * 2 * 32 * 32
  peak = 1e12 * jax.device_count()
  assert last['mfu'] / last['tokens_per_second'] == pytest.approx(
    flops_per_token / peak, rel=1e-12
  )


def test_the_evaluation_loss_is_that_of_the_last_checkpoint(finished):
  config = tiny.tiny_config()
  rows = data_lib.evaluation_rows(
    data_lib.open_corpus(config.data),
    n_rows=config.evaluation.rows,
    context_length=config.model.context_length,
  )
  params = arrays_of(finished, STEPS)['params']
  apply = jax.jit(Decoder(config.model).apply)
  logits = np.float64(apply({'params': params}, rows[:, :-1]))
  logits -= logits.max(axis=-1, keepdims=True)
  log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
  targets = np.take_along_axis(log_p, rows[:, 1:, None], axis=-1)
  summary = json.loads((finished / 'summary.json').read_text())
  # float32 logits near 5: rounding of about 1e-6 each, less in the mean.
  assert summary['eval_loss'] == pytest.approx(-targets.mean(), abs=2e-6)


def test_pruned_weights_never_return(finished):
  states = [arrays_of(finished, step) for step in (10, 20, 30)]
  counts = [sum(m.sum() for m in s['masks'].values()) for s in states]
  assert counts[0] > counts[1] > counts[2]  # Masks have changed in between.
  for before, after in zip(states, states[1:], strict=False):
    for name, mask in after['masks'].items():
      assert not np.any(mask & ~before['masks'][name]), name
  for state in states:
    for name, mask in state['masks'].items():
      kernel = state['params']
      for part in name.split('/'):
        kernel = kernel[part]
      assert np.all(kernel[~mask] == 0), name


def test_an_altered_config_is_refused_and_nothing_is_touched(finished, capsys):
  before = files_of(finished)
  argv = command(finished, '--config.optimizer.peak_lr=0.01', '--config.seed=3')
  n_compiled = compiled.count('jit(train_step)')
  assert train.main(argv) == 2
  [line] = capsys.readouterr().err.splitlines()
  assert line.startswith(f'error: --workdir = {finished}: ')
  assert 'optimizer.peak_lr: 0.003 -> 0.01' in line
  assert 'seed: 0 -> 3' in line
  assert '--fork' in line
  assert compiled.count('jit(train_step)') == n_compiled
  assert files_of(finished) == before


@pytest.mark.slow
def test_a_fork_goes_on_under_the_new_config(finished, tmp_path, capsys):
  run = tmp_path / 'run'
  shutil.copytree(finished, run)
  argv = command(
    run, '--config.duration.value=34', '--config.pruning.unit=steps',
    '--config.pruning.sparsity=0.9', '--config.pruning.start=30',
    '--config.pruning.end=33', '--config.pruning.schedule=constant',
  )  # fmt: skip
  assert train.main(argv) == 2
  assert 'duration.value: 30 -> 34' in capsys.readouterr().err
  assert train.main([*argv, '--fork']) == 0
  output = capsys.readouterr()
  assert 'Finished: 34 steps' in output.out
  metrics = lines_of(run / 'metrics.jsonl')
  assert [line['step'] for line in metrics][-2:] == [34, 34]
  # The old run's lines stand.
  old = lines_of(finished / 'metrics.jsonl')
  assert metrics[: len(old)] == old
  config = json.loads((run / 'config.json').read_text())
  assert config['config']['duration']['value'] == 34
  [fork] = config['forks']
  assert fork['step'] == 30
  assert 'duration.value: 30 -> 34' in fork['changes']
  past = history.read(run / 'mask_history.jsonl')
  assert past.rows[-1].step == 33
  # It may now be continued as what it has become.
  assert train.main(argv) == 0
  assert 'Finished: 34 steps' in capsys.readouterr().out


def test_a_run_is_finished_at_its_planned_length_only(finished):
  # A fork may be killed before it writes a summary of its own.
  files = workdir.open_workdir(finished)
  assert workdir.finished_summary(files, STEPS)['steps'] == STEPS
  assert workdir.finished_summary(files, STEPS + 4) is None


def test_a_fork_cannot_end_before_its_checkpoint(finished, capsys):
  before = files_of(finished)
  argv = command(finished, '--config.duration.value=29', '--fork')
  assert train.main(argv) == 2
  [line] = capsys.readouterr().err.splitlines()
  assert line.startswith('error: duration = 29 steps: must exceed the 30')
  assert files_of(finished) == before


@pytest.mark.slow
def test_what_no_weight_depends_on_may_change(finished, tmp_path, capsys):
  run = tmp_path / 'run'
  shutil.copytree(finished, run)
  (run / 'summary.json').unlink()
  shutil.rmtree(run / 'checkpoints' / '30')
  argv = command(
    run, '--config.logging.every=3', '--config.checkpoint.every=7',
    '--config.evaluation.every=0', '--config.data.prefetch=0',
    '--config.logging.tensorboard=False',
  )  # fmt: skip
  assert train.main(argv) == 0
  steps = [line['step'] for line in lines_of(run / 'metrics.jsonl')]
  assert steps[-5:] == [21, 24, 27, 30, 30]
  a, b = arrays_of(run, STEPS), arrays_of(finished, STEPS)
  assert jax.tree.structure(a) == jax.tree.structure(b)
  same = jax.tree.map(lambda x, y: x.tobytes() == y.tobytes(), a, b)
  assert all(jax.tree.leaves(same))


def rewound(finished, directory, step):
  """A copy of a finished run that has got as far as `step`."""
  shutil.copytree(finished, directory)
  (directory / 'summary.json').unlink()
  for path in (directory / 'checkpoints').iterdir():
    if path.name.isdigit() and int(path.name) > step:
      shutil.rmtree(path)
  return directory


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run(finished, tmp_path, capsys):
  run = rewound(finished, tmp_path / 'run', 20)
  argv = command(
    run, '--fork', '--config.optimizer.peak_lr=1e30',
    '--config.optimizer.clip_norm=0', '--config.checkpoint.every=1',
    '--config.logging.every=1',
  )  # fmt: skip
  assert train.main(argv) == 1
  last = capsys.readouterr().err.splitlines()[-1]
  # The weights overflow in the first step, before its loss would tell.
  assert last.startswith('error: step 21: param_norm = ')
  assert 'Try a lower optimizer.peak_lr' in last
  assert 'Leaves not finite: none' in last  # only their norm is
  loss = float(re.search(r'last finite loss: (\d+\.\d+)', last)[1])
  assert 0 < loss < 6
  saved = sorted(int(p.name) for p in (run / 'checkpoints').iterdir())
  assert saved[-1] == 20
  state = arrays_of(run, 20)
  assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(state))


DENSE = ['--config.pruning.sparsity=0', '--config.duration.value=9']


@pytest.fixture(scope='module')
def dense(tmp_path_factory):
  """The files of a dense run of nine steps."""
  directory = tmp_path_factory.mktemp('dense') / 'run'
  assert train.main(command(directory, *DENSE)) == 0
  return directory


def test_a_dense_run_has_one_row_of_history_and_no_masks(dense):
  past = history.read(dense / 'mask_history.jsonl')
  [row] = past.rows
  assert row.step == 0
  assert row.nonzero == past.header.linear_parameters
  assert not arrays_of(dense, 9).get('masks')
  summary = json.loads((dense / 'summary.json').read_text())
  assert summary['sparsity'] == 0
  assert summary['average_parameters'] == summary['linear_parameters']
  assert (dense / 'training.png').exists()


def die_in_the_first_step_of_a_fork(run, argv):
  config = command_line.load_config(str(SMOKE), argv[2:])
  experiment = setup.set_up(config)

  def controls(step):
    raise InterruptedError(f'step {step}')

  files = workdir.open_workdir(run)
  previous = workdir.check_same_run(files, experiment.resolved, fork=True)
  doomed = dataclasses.replace(experiment, controls=controls)
  with StopRequest() as stop, pytest.raises(InterruptedError):
    loop.train(doomed, files, stop, previous)


@pytest.mark.slow
def test_a_sparse_run_may_branch_from_a_dense_one(dense, tmp_path, capsys):
  run = tmp_path / 'run'
  shutil.copytree(dense, run)
  sparse = command(
    run, '--config.duration.value=12', '--config.pruning.unit=steps',
    '--config.pruning.start=9', '--config.pruning.end=11',
  )  # fmt: skip
  die_in_the_first_step_of_a_fork(run, sparse)
  # The config is that of the fork by now, the checkpoint still a dense one.
  assert train.main(sparse) == 0
  past = history.read(run / 'mask_history.jsonl')
  assert [row.step for row in past.rows] == [0, 9, 11]
  n = past.header.linear_parameters
  assert past.rows[-1].nonzero == round(n * 0.2)
  capsys.readouterr()
  # And not back: what is pruned stays pruned.
  backwards = command(run, *DENSE, '--config.duration.value=15')
  assert train.main([*backwards, '--fork']) == 2
  assert 'sparsity = 0.0: must be at least' in capsys.readouterr().err


@pytest.mark.parametrize(
  'change, words',
  [
    ('batch_size=16', 'batch_size: 8 -> 16. Use another workdir'),
    ('model.d_ff=96', 'model.d_ff: 64 -> 96. Use another workdir'),
    ('optimizer.b1=0.8', 'duration = 30 steps: must exceed the 30'),
  ],
)
def test_a_fork_that_cannot_be_is_refused(finished, capsys, change, words):
  before = files_of(finished)
  argv = command(finished, f'--config.{change}', '--fork')
  assert train.main(argv) == 2
  [line] = capsys.readouterr().err.splitlines()
  assert words in line
  assert files_of(finished) == before


def test_a_fork_cannot_move_mask_updates_into_the_past(
  finished, tmp_path, capsys
):
  run = rewound(finished, tmp_path / 'run', 20)
  argv = command(run, '--config.pruning.sparsity=0.9', '--fork')
  assert train.main(argv) == 2
  [line] = capsys.readouterr().err.splitlines()
  assert 'must be at least 20, where the checkpoint is' in line


def test_only_one_process_trains_in_a_workdir(finished, capsys):
  files = workdir.open_workdir(finished)
  with lock.locked(files):
    assert train.main(command(finished)) == 2
  [line] = capsys.readouterr().err.splitlines()
  assert 'another process is training in it' in line


def test_a_run_without_a_readable_checkpoint_fails(finished, tmp_path, capsys):
  run = rewound(finished, tmp_path / 'run', 30)
  for path in run.glob('checkpoints/*/state/_METADATA'):
    path.unlink()
  before = files_of(run)
  assert train.main(command(run)) == 1
  [line] = capsys.readouterr().err.splitlines()
  assert line.startswith('error: ')
  assert 'the newest, 30,' in line
  assert files_of(run) == before


@pytest.mark.parametrize('name', ['config.json', 'mask_history.jsonl'])
def test_a_workdir_that_lost_a_file_is_refused(
  finished, tmp_path, capsys, name
):
  run = rewound(finished, tmp_path / 'run', 20)
  (run / name).unlink()
  assert train.main(command(run)) == 2
  [line] = capsys.readouterr().err.splitlines()
  assert f'has checkpoints but no {name}' in line


def test_a_summary_that_cannot_be_read_is_written_again(finished, tmp_path):
  run = tmp_path / 'run'
  shutil.copytree(finished, run)
  (run / 'summary.json').write_text('{')
  assert train.main(command(run)) == 0
  ours, theirs = (
    json.loads((where / 'summary.json').read_text())
    for where in (run, finished)
  )
  timings = ('wall_seconds', 'tokens_per_second', 'data_seconds')
  for summary in (ours, theirs):
    for name in timings:
      summary.pop(name)
  assert ours == theirs


@pytest.mark.slow
def test_another_mesh_is_taken_with_a_warning(finished, tmp_path):
  run = rewound(finished, tmp_path / 'run', 20)
  argv = command(run, '--config.mesh.fsdp=2', '--config.mesh.tensor=2')
  with pytest.warns(UserWarning, match="^mesh: .*'fsdp': 2"):
    assert train.main(argv) == 0


def test_a_signal_stops_the_run_at_the_end_of_its_step(tmp_path):
  experiment = setup.set_up(tiny.tiny_config())

  def controls(step):
    if step == 2:
      signal.raise_signal(signal.SIGTERM)
    return experiment.controls(step)

  files = workdir.open_workdir(tmp_path)
  interrupted = dataclasses.replace(experiment, controls=controls)
  before = signal.getsignal(signal.SIGTERM)
  with StopRequest() as stop, pytest.raises(Stopped, match='at step 3 of 30'):
    loop.train(interrupted, files, stop)
  assert [path.name for path in files.checkpoints.iterdir()] == ['3']
  assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize('first', [signal.SIGTERM, signal.SIGINT])
def test_the_second_interrupt_does_not_wait_for_the_step(first):
  before = signal.getsignal(signal.SIGINT)
  with StopRequest() as stop:
    assert not stop.is_due()
    signal.raise_signal(first)
    assert stop.is_due() and stop.name == first.name
    signal.raise_signal(signal.SIGTERM)  # Not an interrupt: it may wait.
    with pytest.raises(KeyboardInterrupt):
      signal.raise_signal(signal.SIGINT)
  assert signal.getsignal(signal.SIGINT) == before


def prefetching(seconds=5.0):
  """The threads that prepare batches; those told to end are given time."""
  named = [t for t in threading.enumerate() if t.name.startswith('grain-')]
  for thread in named:
    thread.join(seconds)
  return [thread for thread in named if thread.is_alive()]


@pytest.fixture
def short():
  """A run of three steps."""
  return tiny.tiny_config(duration={'value': 3}, pruning={'sparsity': 0.0})


def test_python_trains_as_the_command_does(dense, tmp_path, capsys):
  argv = command(tmp_path, *DENSE)
  config = command_line.load_config(str(SMOKE), argv[2:])
  summary = train_model(config, tmp_path)
  assert 'step 5/9' in capsys.readouterr().err
  ours, theirs = (json.loads((d / 'summary.json').read_text())
                  for d in (tmp_path, dense))  # fmt: skip
  assert summary == ours
  assert run_files.without_timings(ours) == run_files.without_timings(theirs)
  assert files_of(tmp_path).keys() >= {
    tmp_path / name for name in ('config.json', 'training.png')
  }
  # And at once if there is nothing left to do.
  n_compiled = compiled.count('jit(train_step)')
  assert train_model(config, tmp_path) == summary
  assert compiled.count('jit(train_step)') == n_compiled
  assert not prefetching()
  changed = dataclasses.replace(config, seed=1)
  with pytest.raises(ConfigError, match='seed: 0 -> 1'):
    train_model(changed, tmp_path)
  assert not prefetching()


def test_python_trains_outside_the_main_thread(short, tmp_path):
  """Where no signal can be heard, as in some servers of notebooks."""
  with concurrent.futures.ThreadPoolExecutor(1) as pool:
    summary = pool.submit(train_model, short, tmp_path).result()
  assert summary['completed'] and summary['steps'] == 3


@pytest.mark.slow
@pytest.mark.parametrize('fails', [False, True])
def test_nothing_prefetches_once_a_run_has_ended(short, fails, tmp_path):
  experiment = setup.set_up(short)

  def controls(step):
    assert prefetching(seconds=0)
    if fails:
      raise InterruptedError
    return experiment.controls(step)

  watched = dataclasses.replace(experiment, controls=controls)
  files = workdir.open_workdir(tmp_path)
  next(experiment.batches)
  expected = pytest.raises(InterruptedError) if fails else nullcontext()
  with StopRequest() as stop, expected:
    loop.train(watched, files, stop)
  assert not prefetching()
