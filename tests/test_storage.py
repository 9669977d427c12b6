"""Files in an object store: workdir, data and tokenizer of a run."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import bucket
import processes
import pytest
import sentencepiece
import test_sweep
from run_files import Run, assert_same_history, assert_same_run

from jax_sparse_pretrain import ConfigError, export_model, history, load_model
from jax_sparse_pretrain.runs import lock, output, sinks, workdir

pytestmark = pytest.mark.slow

EXIT_FAILED, EXIT_BAD_INPUT, EXIT_STOPPED = 1, 2, 75


@pytest.fixture(scope='module')
def launcher(tmp_path_factory):
  return processes.Launcher(tmp_path_factory.mktemp('launcher'))


@pytest.fixture(scope='module')
def inputs(launcher, tmp_path_factory):
  """A directory with `documents/` and `tokenizer.model`."""
  folder = tmp_path_factory.mktemp('inputs')
  shutil.copytree(launcher.documents, folder / 'documents')
  sentencepiece.SentencePieceTrainer.train(
    input=','.join(map(str, (folder / 'documents').iterdir())),
    model_prefix=str(folder / 'tokenizer'),
    vocab_size=256,
    character_coverage=0.98,
    hard_vocab_limit=False,
    minloglevel=2,
  )
  return folder


SNAPSHOT = 150


def reading(where):
  """Arguments of a run, of inputs that lie there."""
  return [
    *processes.LONG,
    f'--config.pruning.snapshots=({SNAPSHOT},)',
    f'--config.data.path={where}/documents/*.py',
    '--config.data.tokenizer=sentencepiece',
    f'--config.data.tokenizer_path={where}/tokenizer.model',
  ]


@pytest.fixture(scope='module')
def local(launcher, inputs, tmp_path_factory):
  """The workdir of a run that knows no object store."""
  where = tmp_path_factory.mktemp('local') / 'run'
  launcher.finish_one(where, 1, *reading(inputs))
  return where


def test_a_run_in_a_bucket_is_that_on_disk_even_if_stopped(
  launcher, inputs, local, google, store, tmp_path
):
  bucket.upload(inputs, store('inputs'))
  remote = store('stopped/run')
  arguments = reading(f'{bucket.ROOT}/inputs')
  home = tmp_path / 'home'
  home.mkdir()
  environment = {
    **google,
    # What is here in the end, is not in the bucket alone.
    **{'HOME': str(home), 'TMPDIR': str(home)},
    'MPLCONFIGDIR': str(tmp_path),
  }
  command = launcher.train(remote, *arguments)
  process = launcher.start(command, 1, **environment)
  while not workdir.Workdir(remote).saved_steps:
    assert process.poll() is None, processes.outcome([process])
    time.sleep(0.01)
  process.send_signal(signal.SIGTERM)
  [end] = processes.outcome([process])
  assert end.status == EXIT_STOPPED, end
  [end] = processes.outcome([launcher.start(command, 1, **environment)])
  assert end.status == 0, end
  assert f'Files: {remote}' in end.output
  assert not list(home.rglob('*'))
  fetched = bucket.fetch(remote, tmp_path / 'run')
  assert_same_end(fetched, local)
  snapshot = f'mask_snapshots/{SNAPSHOT}.npz'
  assert (fetched / snapshot).read_bytes() == (local / snapshot).read_bytes()
  assert (fetched / 'training.png').read_bytes()[:4] == b'\x89PNG'
  assert len(list(fetched.glob('events.out.tfevents*'))) == 2


def assert_same_end(run, reference):
  """One that was stopped has saved after another step as well."""
  ours, theirs = Run(run), Run(reference)
  step = ours.saved[-1]
  assert step == theirs.saved[-1]
  for name, array in ours.checkpoint(step).items():
    assert array.tobytes() == theirs.checkpoint(step)[name].tobytes(), name
  assert ours.position_in_data(step) == theirs.position_in_data(step)
  history = 'mask_history.jsonl'
  assert (run / history).read_bytes() == (reference / history).read_bytes()
  assert ours.metrics == theirs.metrics
  assert ours.summary == theirs.summary


def test_a_model_leaves_a_bucket_as_it_leaves_a_disk(local, store, tmp_path):
  remote = bucket.upload(local, store('left/run'))
  here, there = tmp_path / 'here', store('left/model')
  export_model(local, here)
  export_model(remote, there)
  fetched = bucket.fetch(there, tmp_path / 'there')
  names = sorted(path.name for path in here.iterdir())
  assert names == sorted(path.name for path in fetched.iterdir())
  for name in names:
    assert (here / name).read_bytes() == (fetched / name).read_bytes(), name
  options = {'max_tokens': 5, 'temperature': 0.0}
  texts = [
    load_model(path).generate(['import os'], **options)
    for path in (local, remote, here, there)
  ]
  assert texts == texts[:1] * 4
  with pytest.raises(ConfigError, match='exists; --overwrite'):
    export_model(remote, there)
  export_model(remote, there, overwrite=True)


def test_two_processes_train_in_a_bucket(
  launcher, inputs, local, google, store, tmp_path
):
  remote = store('two/run')
  command = launcher.train(remote, *reading(inputs))
  ends = processes.outcome(launcher.start_two(command, 1, **google))
  assert [end.status for end in ends] == [0, 0], ends
  fetched = bucket.fetch(remote, tmp_path / 'run')
  assert_same_history(fetched, local)
  assert Run(fetched).saved == Run(local).saved


@pytest.mark.parametrize('every', [100, 0])
def test_a_later_start_takes_the_workdir_over(
  every, launcher, inputs, google, store
):
  """Even if the earlier one does not notice before its end."""
  remote = store(f'taken-{every}/run')
  command = launcher.train(
    remote,
    *reading(inputs),
    '--config.duration.value=1500',
    '--config.pruning.end=1400',
    f'--config.evaluation.every={every}',
    # None, for Orbax tells of those that it cannot finish for itself.
    '--config.checkpoint.every=0',
    '--config.pruning.snapshots=()',
  )
  files = workdir.Workdir(remote)
  early = launcher.start(command, 1, **google)
  while not files.history.exists() or not history.read(files.history).rows[1:]:
    assert early.poll() is None, processes.outcome([early])
    time.sleep(0.01)
  late = launcher.start(command, 1, **google)
  first, second = processes.outcome([early, late])
  assert first.status == EXIT_FAILED, first
  assert any('has been taken over by' in line for line in first.errors)
  assert second.status == 0, second
  rows = history.read(files.history).rows
  assert [row.step for row in rows] == [0, *range(100, 1401, 50)]
  lines = files.metrics.read_text().splitlines()
  steps = [(json.loads(x)['step'], 'eval_loss' in x) for x in lines]
  assert steps == sorted(set(steps))
  assert {step for step, _ in steps} >= set(range(5, 1501, 5))


def test_what_another_start_has_claimed_is_not_written(store, monkeypatch):
  files = workdir.Workdir(store('claimed/run'))
  header = history.Header(4, 4, 1, {'w': 4})
  history.write(files.history, header)

  def start():
    with lock.locked(files) as claim:
      metrics = sinks.JsonLines(files.metrics)
      past = history.read(files.history)
      return output.Output(files, claim, past, [metrics])

  def lines(path):
    return len(path.read_text().splitlines())

  early = start()
  early.write_scalars(1, {'loss': 1.0})
  assert lines(files.metrics) == 0  # Until a minute is over.
  monkeypatch.setattr(output, '_UPLOAD_SECONDS', -1)
  early.write_scalars(2, {'loss': 1.0})
  early.write_row(history.Row(0, 4, {'w': 4}))
  assert (lines(files.metrics), lines(files.history)) == (2, 2)
  start()
  early.write_scalars(3, {'loss': 1.0})
  early.write_row(history.Row(3, 2, {'w': 2}))
  early.write_summary({})
  assert (lines(files.metrics), lines(files.history)) == (2, 2)
  assert not files.summary.exists()
  with pytest.raises(lock.TakenOver, match='has been taken over by'):
    early.settle()


def test_a_checkpoint_in_a_bucket_counts_once_orbax_has_said_so(store):
  files = workdir.Workdir(store('half/run'))
  (files.checkpoints / '20' / 'state' / 'd').write_bytes(b'half')
  assert files.saved_steps == []
  (files.checkpoints / '20' / 'commit_success.txt').write_text('')
  assert files.saved_steps == [20]


def test_a_damaged_checkpoint_in_a_bucket_is_set_aside(
  launcher, inputs, local, google, store, tmp_path
):
  remote = store('damaged/run')
  command = launcher.train(remote, *reading(inputs))
  [end] = processes.outcome([launcher.start(command, 1, **google)])
  assert end.status == 0, end
  (remote / 'summary.json').unlink()
  newest = remote / 'checkpoints' / str(processes.LONG_STEPS)
  # Orbax 0.11 looks in the directory of the process as well.
  for folder in ('state', 'state/ocdbt.process_0'):
    (newest / folder / 'manifest.ocdbt').write_bytes(b'damaged')
  [end] = processes.outcome([launcher.start(command, 1, **google)])
  assert end.status == 0, end
  assert any('cannot be read' in line for line in end.errors)
  aside = remote / 'unreadable' / newest.name
  assert (aside / 'state' / 'manifest.ocdbt').read_bytes() == b'damaged'
  assert (remote / 'unreadable' / f'{newest.name}.txt').read_text()
  assert_same_end(bucket.fetch(remote, tmp_path / 'run'), local)


def test_the_analysis_reads_a_run_in_a_bucket(local, google, store):
  remote = bucket.upload(local, store('analysis/run'))
  verb = [sys.executable, '-m', 'jax_sparse_pretrain.analysis', 'average']
  ours, theirs, below = (
    subprocess.run(
      [*verb, str(where), '--json'],
      cwd=processes.ROOT,
      env={**os.environ, **google},
      capture_output=True,
      text=True,
      check=True,
    ).stdout
    for where in (local, remote, remote.parent)
  )
  assert json.loads(ours) == json.loads(theirs) == json.loads(below)


def test_a_sweep_in_a_bucket_is_that_on_disk(launcher, google, store, tmp_path):
  path = test_sweep.write_sweep(tmp_path, test_sweep.SPARSE)
  remote, local = store('sweep'), tmp_path / 'local'
  for where in (local, remote):
    command = [*test_sweep.SWEEP, *test_sweep.arguments(path, where)]
    [end] = processes.outcome([launcher.start(command, 1, **google)])
    assert end.status == 0, end
    assert any('from s5-8 at step 8' in line for line in end.errors)
  fetched = bucket.fetch(remote, tmp_path / 'fetched')
  for name in ('s5-8', 's8-14'):
    assert_same_run(fetched / 'runs' / name, local / 'runs' / name)
  assert table_of(fetched) == table_of(local)
  assert not (fetched / 'trunks').exists()


def table_of(sweep):
  with (sweep / 'runs.csv').open() as lines:
    return [{**row, 'wall_seconds': ''} for row in csv.DictReader(lines)]


@pytest.mark.parametrize(
  'key, value',
  [
    ('--workdir', 'gs://no-such-bucket/run'),
    ('--workdir', 'nonsense://bucket/run'),
    ('--workdir', 'gs:/bucket/run'),
    ('--workdir', 'gs:///run'),
    ('data.path', 'gs://no-such-bucket/*.txt'),
    ('data.path', 'gs://bucket/none/**/*.txt'),
    ('data.tokenizer_path', 'gs://bucket/none.model'),
  ],
)
def test_what_is_not_there_is_one_line(
  key, value, launcher, inputs, google, tmp_path
):
  argument = key if key.startswith('--') else f'--config.{key}'
  command = launcher.train(tmp_path / 'run', *reading(inputs))
  process = launcher.start([*command, f'{argument}={value}'], 1, **google)
  [end] = processes.outcome([process])
  assert end.status == EXIT_BAD_INPUT, end
  [line] = end.errors
  assert line.startswith(f'error: {key} = ') and value in line


def test_what_is_not_installed_is_one_line(tmp_path):
  code = (
    'import sys; sys.modules["gcsfs"] = None\n'
    'from jax_sparse_pretrain import storage, schema\n'
    'try: storage.as_path("gs://bucket/run")\n'
    'except schema.ConfigError as error: print(error)'
  )
  done = subprocess.run(
    [sys.executable, '-c', code],
    cwd=processes.ROOT,
    capture_output=True,
    text=True,
  )
  assert done.stdout.startswith('gs://bucket/run: ') and 'gcsfs' in done.stdout
