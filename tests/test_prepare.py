"""The command that prepares tokens, against documents encoded one by one."""

import contextlib
import fcntl
import gzip
import hashlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow
import pytest
import sentencepiece
import tokenizers
from pyarrow import parquet

from jax_sparse_pretrain import config, data
from jax_sparse_pretrain.data import tokenizers as tokenizers_lib
from jax_sparse_pretrain.prepare import __main__ as prepare

ROOT = pathlib.Path(__file__).parents[1]
DOCUMENTS = [f'document {i}\n' + 'the word é ' * (i % 20) for i in range(500)]


def write_documents(folder, n=500):
  """The same documents in files of several kinds."""
  folder.mkdir(exist_ok=True)
  lines = [json.dumps({'text': text}) for text in DOCUMENTS[:n]]
  third = n // 3
  (folder / 'a.jsonl').write_text('\n'.join(lines[:third]))
  packed = gzip.compress('\n'.join(lines[third : 2 * third]).encode())
  (folder / 'b.jsonl.gz').write_bytes(packed)
  table = pyarrow.table({'text': DOCUMENTS[2 * third : n]})
  parquet.write_table(table, folder / 'c.parquet')
  return folder


@pytest.fixture(scope='module')
def source(tmp_path_factory):
  return write_documents(tmp_path_factory.mktemp('source') / 'texts')


def command(source, out, **options):
  options = {
    'tokenizer': 'bytes',
    'workers': 0,
    'shard_tokens': 9000,
    'validation_fraction': 0.1,
  } | options
  words = [
    word
    for name, value in options.items()
    if value is not None
    for word in (f'--{name}', *map(str, np.atleast_1d(value)))
  ]
  return [*map(str, np.atleast_1d(source)), f'--out={out}', *words]


def run(*arguments, **options):
  assert prepare.main(command(*arguments, **options)) == 0
  return pathlib.Path(arguments[1])


def refused(capsys, argv, status=2):
  """The one line of an error."""
  capsys.readouterr()
  assert prepare.main([*map(str, argv)]) == status
  message = capsys.readouterr().err
  assert message.startswith('error: ')
  assert message.count('\n') == 1
  return message


def content(folder):
  """Name -> bytes of all that a directory holds."""
  return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def manifest_of(folder):
  return json.loads((folder / 'manifest.json').read_text())


def documents_of(folder, split='train', end=255):
  """Ids of the documents of each shard, by its ends index."""
  found = []
  for shard in manifest_of(folder)['splits'][split]['shards']:
    ids = np.load(folder / shard['file'])
    ends = np.load(folder / shard['file'].replace('.npy', '.ends.npy'))
    assert ends[-1] == len(ids) == shard['tokens']
    assert len(ends) == shard['documents']
    parts = np.split(ids, ends[:-1].astype(int))
    assert all(part[-1] == end for part in parts)
    found += parts
  return found


def texts_of(folder, split='train'):
  return [
    part[1:-1].astype(np.uint8).tobytes().decode()
    for part in documents_of(folder, split)
  ]


@pytest.fixture(scope='module')
def made(source, tmp_path_factory):
  return run(source, tmp_path_factory.mktemp('made') / 'out')


def test_shards_hold_every_document_once_and_numpy_opens_them(made):
  splits = texts_of(made), texts_of(made, 'validation')
  assert sorted(splits[0] + splits[1]) == sorted(DOCUMENTS)
  # In the order in which they were read.
  for texts in splits:
    assert texts == [text for text in DOCUMENTS if text in set(texts)]
  assert 20 < len(splits[1]) < 90
  shards = manifest_of(made)['splits']['train']['shards']
  assert len(shards) > 5
  for shard in shards[:-1]:
    assert 9000 <= shard['tokens'] < 9300
    assert np.load(made / shard['file'], mmap_mode='r').dtype == np.uint16
  assert {path.suffix for path in made.iterdir()} == {'.npy', '.json'}


def test_the_manifest_tells_what_was_made_of_what(made, source):
  manifest = manifest_of(made)
  for split in ('train', 'validation'):
    texts, found = texts_of(made, split), manifest['splits'][split]
    assert found['documents'] == len(texts)
    assert found['bytes'] == sum(len(text.encode()) for text in texts)
    assert found['tokens'] == found['bytes'] + 2 * len(texts)
  assert [each['sha256'] for each in manifest['inputs']] == [
    hashlib.sha256(path.read_bytes()).hexdigest()
    for path in sorted(source.iterdir())
  ]
  for split in manifest['splits'].values():
    for shard in split['shards']:
      raw = (made / shard['file']).read_bytes()
      assert hashlib.sha256(raw).hexdigest() == shard['sha256']
  assert manifest['versions']['numpy'] == np.__version__


def test_a_run_that_is_done_is_not_done_again(made, source, capsys):
  before = {path: path.stat().st_mtime_ns for path in made.iterdir()}
  run(source, made)
  assert 'is prepared' in capsys.readouterr().out
  assert {p: p.stat().st_mtime_ns for p in made.iterdir()} == before


@pytest.mark.parametrize(
  'change',
  [
    {'validation_fraction': 0.2},
    {'errors': 'skip'},
    {'tokens': 1000},
    {'shard_tokens': 1000},
  ],
)
def test_other_arguments_need_another_directory(change, made, source, capsys):
  before = content(made)
  message = refused(capsys, command(source, made, **change))
  assert f'differs in --{[*change][0]};' in message
  assert content(made) == before


def test_other_inputs_need_another_directory(made, source, tmp_path, capsys):
  message = refused(capsys, command(source / 'a.jsonl', made))
  assert 'differs in inputs' in message


def test_an_input_that_changed_on_the_way_is_refused(
  few, tmp_path, monkeypatch, capsys
):
  source, options = few
  with monkeypatch.context() as patch:
    killed_at(patch, pathlib.Path, 'replace', 8)
    with pytest.raises(KeyboardInterrupt):
      run(source, tmp_path / 'out', **options)
  before = content(tmp_path / 'out')
  path = source / 'a.txt'
  path.write_text(path.read_text().replace('line', 'lane'))
  message = refused(capsys, command(source, tmp_path / 'out', **options))
  assert 'differs in inputs' in message
  path.write_text(path.read_text().replace('lane', 'line'))
  assert content(tmp_path / 'out') == before
  run(source, tmp_path / 'out', **options)


@pytest.mark.slow  # Starts processes.
def test_workers_do_not_change_a_byte(made, source, tmp_path):
  for workers in (1, 2):
    out = run(source, tmp_path / f'{workers}', workers=workers)
    assert content(out) == content(made)


@pytest.mark.slow  # Starts processes.
def test_workers_know_the_boundaries_that_were_given(source, tmp_path):
  tokenizer = tokenizers.Tokenizer(
    tokenizers.models.WordLevel({'?': 0, 'the': 1}, unk_token='?')
  )
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
  tokenizer.add_special_tokens(['<in>', '<out>'])
  path = tmp_path / 't.json'
  tokenizer.save(str(path))
  with pytest.warns(UserWarning, match='no token for'):
    outs = [
      run(
        source,
        tmp_path / str(workers),
        tokenizer=path,
        workers=workers,
        bos='<in>',
        eos='<out>',
      )
      for workers in (0, 1)
    ]
  assert content(outs[0]) == content(outs[1])
  assert documents_of(outs[0], end=3)[0][0] == 2
  corpus = data.open_corpus(config.Data(source='tokens', path=str(outs[0])))
  assert (corpus.tokenizer.bos_id, corpus.document_end) == (2, 3)


@contextlib.contextmanager
def process(argv):
  """A run of the command, killed at the end."""
  with subprocess.Popen(
    [sys.executable, '-m', 'jax_sparse_pretrain.prepare', *argv],
    cwd=ROOT,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.PIPE,
    start_new_session=True,
    text=True,
  ) as child:
    try:
      yield child
    finally:
      with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)


def wait_for(path, child):
  while not path.exists():
    assert child.poll() is None, child.stderr.read()
    time.sleep(0.002)


def wait_for_end(group):
  """Workers end by themselves if the first process is gone."""
  deadline = time.monotonic() + 60
  with contextlib.suppress(ProcessLookupError):
    while time.monotonic() < deadline:
      os.killpg(group, 0)
      time.sleep(0.02)
    raise AssertionError('there are workers left')


def write_many(folder):
  """Text that takes a second or so, in several batches."""
  folder.mkdir()
  rng = np.random.default_rng(0)
  for name in 'abc':
    words = rng.integers(0, 10**6, (1500, 300))
    lines = [json.dumps({'text': ' '.join(map(str, w))}) for w in words]
    (folder / f'{name}.jsonl').write_text('\n'.join(lines))
  return folder


@pytest.mark.slow  # Starts processes.
@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize(
  'seen', ['progress.json', 'train-00000.npy', 'train-00004.npy']
)
def test_a_killed_run_goes_on_to_the_same_bytes(seen, workers, tmp_path):
  source = write_many(tmp_path / 'texts')
  options = {'shard_tokens': 600_000, 'workers': workers}
  whole = run(source, tmp_path / 'whole', shard_tokens=600_000)
  out = tmp_path / 'out'
  with process(command(source, out, **options)) as child:
    wait_for(out / seen, child)
    child.send_signal(signal.SIGKILL)
    child.wait()
    wait_for_end(child.pid)
  with pytest.raises(config.ConfigError, match='is not finished'):
    data.open_corpus(config.Data(source='tokens', path=str(out)))
  run(source, out, shard_tokens=600_000)
  assert content(out) == content(whole)


def test_two_runs_do_not_write_to_one_directory(source, made, tmp_path, capsys):
  out = tmp_path / 'out'
  out.mkdir()
  descriptor = os.open(out, os.O_RDONLY)
  fcntl.flock(descriptor, fcntl.LOCK_EX)  # As the other run does.
  assert 'another run of prepare is' in refused(capsys, command(source, out))
  os.close(descriptor)
  assert content(run(source, out)) == content(made)


@pytest.mark.slow  # Starts processes.
@pytest.mark.parametrize('whole_group', [False, True])
def test_a_run_that_is_asked_to_stop_says_so_and_goes_on(whole_group, tmp_path):
  source = write_many(tmp_path / 'texts')
  whole = run(source, tmp_path / 'whole', shard_tokens=600_000)
  out = tmp_path / 'out'
  argv = command(source, out, shard_tokens=600_000, workers=1)
  with process(argv) as child:
    wait_for(out / 'train-00000.npy', child)
    # Schedulers send the signal to all processes.
    send = os.killpg if whole_group else os.kill
    send(child.pid, signal.SIGTERM)
    assert child.wait() == 75
    assert child.stderr.read() == (
      'SIGTERM: stopped; the same command goes on from here\n'
    )
  assert (out / 'progress.json').exists()
  run(source, out, shard_tokens=600_000)
  assert content(out) == content(whole)


def killed_at(monkeypatch, target, name, count):
  """Makes the call of that number raise, as if the process had ended there."""
  plain, calls = getattr(target, name), [0]

  def wrapper(*args, **kwargs):
    calls[0] += 1
    if calls[0] == count:
      raise KeyboardInterrupt
    return plain(*args, **kwargs)

  monkeypatch.setattr(target, name, wrapper)
  return calls


@pytest.fixture
def few(tmp_path, monkeypatch):
  """A source and options with many shards, batches and journals of a few KB."""
  monkeypatch.setattr(
    'jax_sparse_pretrain.prepare.pipeline._JOURNAL_SECONDS', 0
  )
  monkeypatch.setattr('jax_sparse_pretrain.data.encoding.BATCH_BYTES', 700)
  monkeypatch.setattr('jax_sparse_pretrain.data.cutting.PIECE_BYTES', 600)
  source = write_documents(tmp_path / 'texts', 60)
  (source / 'a.txt').write_text('a line of a long document\n' * 100)
  return source, {'shard_tokens': 2000, 'validation_fraction': 0.3}


@pytest.mark.parametrize(
  'function',
  ['replace', 'unlink', pytest.param('fsync', marks=pytest.mark.slow)],
)
@pytest.mark.parametrize(
  'tokens', [pytest.param(None, marks=pytest.mark.slow), 1500]
)
def test_a_run_that_ends_at_any_change_of_a_file_goes_on_to_the_same_bytes(
  function, tokens, few, tmp_path, monkeypatch
):
  """The calls with which shards, index, journal and manifest change."""
  target = os if function == 'fsync' else pathlib.Path
  source, options = few
  whole = content(run(source, tmp_path / 'whole', tokens=tokens, **options))
  assert len(whole) >= 5
  for count in [*range(1, 20), *range(20, 300, 5)]:
    out = tmp_path / f'{count}'
    with monkeypatch.context() as patch:
      calls = killed_at(patch, target, function, count)
      with contextlib.suppress(KeyboardInterrupt):
        run(source, out, tokens=tokens, **options)
    run(source, out, tokens=tokens, **options)
    assert content(out) == whole
    if calls[0] < count:
      break  # There are no more.
  assert count > 2


def test_a_limit_ends_with_the_document_that_reaches_it(made, source, tmp_path):
  out = run(source, tmp_path / 'out', tokens=20_000)
  texts = texts_of(out)
  assert texts == texts_of(made)[: len(texts)]
  sizes = [len(text.encode()) + 2 for text in texts]
  assert sum(sizes[:-1]) < 20_000 <= sum(sizes)
  more = run(source, tmp_path / 'more', tokens=10**9)
  assert texts_of(more) == texts_of(made)


def test_shares_of_many_machines_make_up_the_whole(tmp_path):
  folder = tmp_path / 'texts'
  folder.mkdir()
  for i, text in enumerate(DOCUMENTS[:200]):
    (folder / f'{i:03}.txt').write_text(text)
  whole = run(folder, tmp_path / 'whole')
  shares = [
    run(folder, tmp_path / 'out', index=i, count=3) / f'{i:05}-of-00003'
    for i in range(3)
  ]
  for split in ('train', 'validation'):
    texts = [text for share in shares for text in texts_of(share, split)]
    assert sorted(texts) == sorted(texts_of(whole, split))


def test_shares_train_the_same_tokenizer(tmp_path):
  for i, text in enumerate(DOCUMENTS[:40]):
    (tmp_path / f'{i:03}.txt').write_text(text)
  options = {'tokenizer': None, 'train_tokenizer': 'bpe', 'vocab_size': 290}
  for i in range(2):
    run(f'{tmp_path}/*.txt', tmp_path / 'out', index=i, count=2, **options)
  corpus = data.open_corpus(
    config.Data(source='tokens', path=f'{tmp_path}/out/*')
  )
  assert corpus.fingerprint['train']['documents'] > 20


@pytest.mark.parametrize(
  'change, match',
  [
    ({'index': 0}, 'must be given together'),
    ({'index': 3, 'count': 3}, '--index = 3: must be'),
    ({'index': 3, 'count': 9}, 'leaves this share no input'),
    ({'workers': -1}, '--workers = -1: must be'),
    ({'tokens': 0}, '--tokens = 0.0: must be'),
    ({'tokens': 'nan'}, '--tokens = nan: must be'),
    ({'piece_bytes': -5}, '--piece_bytes = -5: must be'),
    ({'validation_fraction': 1}, '--validation_fraction = 1.0: must be'),
    ({'errors': 'ignore'}, '--errors: invalid choice'),
    ({'tokenizer': None}, 'needs --tokenizer'),
    ({'train_tokenizer': 'bpe'}, 'needs --tokenizer'),
    ({'tokenizer': None, 'train_tokenizer': 'bpe'}, 'needs --vocab_size'),
    ({'tokenizer': '/missing.json'}, '--tokenizer = /missing.json: must name'),
    ({'text_field': 'body'}, "a.jsonl, line 1: must hold text in 'body'"),
    ({'piece_bytes': 5}, 'a.jsonl: data.piece_bytes = 5: must be 0'),
    ({'unknown': 5}, 'unrecognized arguments'),
  ],
)
def test_a_bad_argument_is_one_line_on_standard_error(
  change, match, source, tmp_path, capsys
):
  assert match in refused(capsys, command(source, tmp_path / 'out', **change))
  assert not (tmp_path / 'out/manifest.json').exists()


def test_a_bad_field_of_a_table_is_named(source, tmp_path, capsys):
  argv = command(source / 'c.parquet', tmp_path / 'out', text_field='body')
  message = refused(capsys, argv)
  assert 'c.parquet' in message and "no field 'body'" in message


@pytest.mark.parametrize('name', ['b.jsonl.gz', 'c.parquet'])
def test_a_truncated_input_is_refused_and_nothing_is_taken_for_whole(
  name, tmp_path, made, capsys
):
  source = write_documents(tmp_path / 'texts')
  raw = (source / name).read_bytes()
  (source / name).write_bytes(raw[: len(raw) // 2])
  out = tmp_path / 'out'
  message = refused(capsys, command(source, out))
  assert str(source / name) in message
  with pytest.raises(config.ConfigError, match='is not finished'):
    data.open_corpus(config.Data(source='tokens', path=str(out)))
  message = refused(capsys, ['--check', out])
  assert 'is not finished' in message


def test_bad_documents_are_skipped_or_mended_and_counted(tmp_path, capsys):
  path = tmp_path / 'a.jsonl'
  path.write_bytes(b'{"text": "a"}\n{"text": "\xff"}\n{}\n{"text": ""}\n')
  options = {'validation_fraction': 0}
  message = refused(capsys, command(path, tmp_path / 'out', **options))
  assert f'{path}, line 2: not UTF-8' in message
  with pytest.warns(UserWarning, match='validation split is empty'):
    out = run(path, tmp_path / 'skip', errors='skip', **options)
  assert texts_of(out) == ['a']
  assert manifest_of(out)['dropped'] == {'empty': 1, 'skipped': 2}
  path.write_bytes(b'{"text": "a"}\n{"text": "\xff"}\n')
  with pytest.warns(UserWarning, match='validation split is empty'):
    out = run(path, tmp_path / 'replace', errors='replace', **options)
  assert texts_of(out) == ['a', '\ufffd']


def test_inputs_to_hold_out_may_be_named(source, tmp_path):
  held_out = tmp_path / 'held.jsonl'
  lines = [json.dumps({'text': t}) for t in ['new', *DOCUMENTS[:30]]]
  held_out.write_text('\n'.join(lines))
  with pytest.warns(UserWarning, match='30 of 500 training documents are held'):
    out = run(
      source, tmp_path / 'out', validation=held_out, validation_fraction=None
    )
  assert texts_of(out) == DOCUMENTS
  assert texts_of(out, 'validation') == ['new', *DOCUMENTS[:30]]
  assert manifest_of(out)['documents_in_both_splits'] == 30


def test_a_file_that_is_named_twice_is_read_once_and_counted(
  source, made, tmp_path, capsys
):
  (tmp_path / 'link').symlink_to(source / 'b.jsonl.gz')
  words = [source, source / 'a.jsonl', tmp_path / 'link']
  out = run(words, tmp_path / 'out')
  assert '2 names lead to a file that was met' in capsys.readouterr().err
  assert texts_of(out) == texts_of(made)


def test_an_input_that_is_not_there_is_an_error(source, tmp_path, capsys):
  argv = command([source, tmp_path / 'no*.txt'], tmp_path / 'out')
  assert 'no*.txt: matches no file' in refused(capsys, argv)


def test_a_directory_with_other_files_is_refused_as_it_is(
  source, tmp_path, capsys
):
  out = tmp_path / 'out'
  out.mkdir()
  (out / 'mine.txt').write_text('mine')
  assert 'mine.txt' in refused(capsys, command(source, out))
  assert content(out) == {'mine.txt': b'mine'}
  message = refused(capsys, command(source, out / 'mine.txt'))
  assert 'mine.txt' in message
  assert 'gcloud' in refused(capsys, command(source, 'gs://bucket/out'))


def test_a_directory_that_may_not_be_written_is_an_error(
  source, tmp_path, capsys
):
  out = tmp_path / 'out'
  out.mkdir(mode=0o500)
  if os.access(out, os.W_OK):
    pytest.skip('this user may write everywhere')
  assert 'out' in refused(capsys, command(source, out))


def test_an_input_that_may_not_be_read_is_an_error(tmp_path, capsys):
  path = tmp_path / 'a.txt'
  path.write_text('text')
  path.chmod(0)
  if os.access(path, os.R_OK):
    pytest.skip('this user may read everything')
  assert str(path) in refused(capsys, command(path, tmp_path / 'out'))


@pytest.mark.slow  # Starts a process.
def test_a_full_disk_is_a_failure_from_which_the_run_goes_on(
  source, made, tmp_path
):
  out = tmp_path / 'out'
  with subprocess.Popen(
    [
      # No file may be longer; Python ignores the signal and gets an error.
      *('bash', '-c', 'ulimit -f 9; exec "$@"', 'bash'),
      *(sys.executable, '-m', 'jax_sparse_pretrain.prepare'),
      *command(source, out),
    ],
    cwd=ROOT,
    stderr=subprocess.PIPE,
    text=True,
  ) as child:
    message = child.stderr.read()
  assert child.returncode == 1
  assert message.startswith('error: ') and message.count('\n') == 1
  with pytest.raises(config.ConfigError, match='is not finished'):
    data.open_corpus(config.Data(source='tokens', path=str(out)))
  run(source, out)
  assert content(out) == content(made)


def flip(path, index):
  raw = bytearray(path.read_bytes())
  raw[index] ^= 1
  path.write_bytes(raw)


def test_checking_finds_a_flipped_byte_anywhere(source, tmp_path, capsys):
  out = run(
    source,
    tmp_path / 'out',
    tokenizer=None,
    train_tokenizer='bpe',
    vocab_size=300,
  )
  assert prepare.main(['--check', str(out)]) == 0
  assert 'shards match' in capsys.readouterr().out
  for path in sorted(out.iterdir()):
    if path.name != 'manifest.json':
      raw = path.read_bytes()
      for index in (0, len(raw) // 2, len(raw) - 1):
        flip(path, index)
        assert str(path) in refused(capsys, ['--check', out])
        path.write_bytes(raw)
      path.unlink()
      assert str(path) in refused(capsys, ['--check', out])
      path.write_bytes(raw)
  assert prepare.main(['--check', str(out)]) == 0


def test_a_trained_tokenizer_is_the_same_each_time_and_loses_nothing(
  source, tmp_path
):
  options = {'tokenizer': None, 'train_tokenizer': 'bpe', 'vocab_size': 300}
  outs = [run(source, tmp_path / name, **options) for name in 'ab']
  assert content(outs[0]) == content(outs[1])
  oracle = tokenizers.Tokenizer.from_file(str(outs[0] / 'tokenizer.json'))
  assert oracle.get_vocab_size() == 300
  assert oracle.id_to_token(0) == '<|startoftext|>'
  assert oracle.id_to_token(1) == '<|endoftext|>'
  parts = documents_of(outs[0], end=1)
  assert all(part[0] == 0 for part in parts)
  texts = [oracle.decode(part[1:-1].tolist()) for part in parts]
  assert texts == [text for text in DOCUMENTS if text in set(texts)]
  assert len(texts) > 400
  # Any other text, too.
  strange = '\x00日本語\ufffd🙂'
  assert oracle.decode(oracle.encode(strange).ids) == strange


@pytest.mark.slow  # Starts a process.
def test_a_trained_tokenizer_is_the_same_in_another_process(source, tmp_path):
  options = {'tokenizer': None, 'train_tokenizer': 'bpe', 'vocab_size': 300}
  here = run(source, tmp_path / 'here', **options)
  with process(command(source, tmp_path / 'there', **options)) as child:
    assert child.wait() == 0
  assert content(tmp_path / 'there') == content(here)


def test_an_alphabet_of_the_text_leaves_no_unused_byte(source, tmp_path):
  options = {'tokenizer': None, 'train_tokenizer': 'bpe', 'vocab_size': 50}
  out = run(source, tmp_path / 'out', alphabet='text', **options)
  ids = np.concatenate(
    documents_of(out, end=1) + documents_of(out, 'validation', end=1)
  )
  oracle = tokenizers.Tokenizer.from_file(str(out / 'tokenizer.json'))
  assert oracle.get_vocab_size() == 50
  whole = '\n'.join(DOCUMENTS)
  vocabulary = oracle.get_vocab()
  letters = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
  used = {c for word, _ in letters.pre_tokenize_str(whole) for c in word}
  assert {name for name in vocabulary if len(name) == 1} == used
  assert {0, 1} <= set(ids.tolist())


@pytest.mark.parametrize(
  'size, alphabet, match',
  [(257, 'all', 'at least 258'), (9, 'text', 'for the alphabet of this text')],
)
def test_a_vocabulary_too_small_for_its_alphabet_is_an_error(
  size, alphabet, match, source, tmp_path, capsys
):
  argv = command(
    source,
    tmp_path / 'out',
    tokenizer=None,
    train_tokenizer='bpe',
    vocab_size=size,
    alphabet=alphabet,
  )
  capsys.readouterr()
  assert prepare.main(argv) == 2
  assert match in capsys.readouterr().err


def test_a_stopped_run_keeps_the_tokenizer_that_it_trained(
  source, tmp_path, monkeypatch
):
  options = {'tokenizer': None, 'train_tokenizer': 'bpe', 'vocab_size': 300}
  whole = run(source, tmp_path / 'whole', **options)
  with monkeypatch.context() as patch:
    killed_at(patch, pathlib.Path, 'replace', 4)
    with pytest.raises(KeyboardInterrupt):
      run(source, tmp_path / 'out', **options)
  assert content(run(source, tmp_path / 'out', **options)) == content(whole)
  argv = command(source, tmp_path / 'out', **options | {'vocab_size': 290})
  assert prepare.main(argv) == 2


def test_a_pipe_gets_lines_about_how_far_it_is(
  source, tmp_path, monkeypatch, capsys
):
  monkeypatch.setattr(prepare, '_LINE_SECONDS', -1.0)
  run(source, tmp_path / 'out')
  lines = capsys.readouterr().err.splitlines()
  assert any(
    re.match(r'\d+ % of the input, \S+ documents', line) for line in lines
  )


def test_a_wrong_argument_may_be_mended_if_nothing_was_made(source, tmp_path):
  out = tmp_path / 'out'
  assert prepare.main(command(source, out, text_field='none')) == 2
  assert not list(out.glob('*.npy'))
  run(source, out)
  assert prepare.main(command(source, out, text_field='none')) == 2


def test_a_tokenizer_file_is_told_by_its_name(source, tmp_path):
  prefix = tmp_path / 'm'
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(DOCUMENTS),
    model_prefix=str(prefix),
    vocab_size=60,
    hard_vocab_limit=False,
    minloglevel=2,
  )
  model = prefix.with_suffix('.model')
  out = run(source, tmp_path / 'out', tokenizer=model)
  oracle = tokenizers_lib.read_tokenizer('sentencepiece', model, '')
  parts = documents_of(out, end=oracle.eos_id)
  texts = [text for text in DOCUMENTS if text in set(texts_by(made_of(source)))]
  expected = oracle.encode(texts)
  for part, ids in zip(parts, expected, strict=True):
    assert part.tolist() == [oracle.bos_id, *ids, oracle.eos_id]


def made_of(source):
  return data.open_corpus(
    config.Data(
      source='text',
      path=str(source),
      tokenizer='bytes',
      validation_fraction=0.1,
    )
  )


def texts_by(corpus):
  raw = corpus.train[0].ids.astype(np.uint8).tobytes()
  return [text[1:].decode() for text in raw.split(b'\xff')[:-1]]


@pytest.mark.slow  # Starts a process.
def test_preparing_needs_no_jax(source, made, tmp_path):
  argv = command(source, tmp_path / 'out')
  program = (
    'import sys; sys.modules.update(jax=None, grain=None, tensorflow=None); '
    'from jax_sparse_pretrain.prepare.__main__ import main; '
    f'sys.exit(main({argv}))'
  )
  subprocess.run([sys.executable, '-c', program], cwd=ROOT, check=True)
  assert content(tmp_path / 'out') == content(made)


def test_text_may_be_cut_into_documents(tmp_path):
  text = ''.join(f'line {i}\n' for i in range(1000))
  (tmp_path / 'a.txt').write_text(text)
  out = run(tmp_path / 'a.txt', tmp_path / 'out', piece_bytes=100)
  train, held_out = texts_of(out), texts_of(out, 'validation')
  assert ''.join(train) + ''.join(held_out) == text
  assert len(train) > 50 and abs(len(''.join(held_out)) - len(text) / 10) < 20


def nano(path, ids):
  np.array(ids, np.uint16).tofile(path)
  return path


def llmc(path, ids, magic=20240520, version=1, dtype=np.uint16):
  header = np.zeros(256, np.int32)
  header[:3] = magic, version, len(ids)
  path.write_bytes(header.tobytes() + np.array(ids, dtype).tobytes())
  return path


def line_of(tokens):
  ids = np.empty(len(tokens), np.int32)
  tokens.read(0, ids)
  return ids.tolist()


@pytest.mark.parametrize('form', ['nanoGPT', 'llm.c', 'llm.c of Llama 3'])
def test_token_files_of_other_projects_are_taken_as_they_lie(
  form, tmp_path, capsys
):
  rng = np.random.default_rng(0)
  large = form == 'llm.c of Llama 3'
  size, end = (128_256, 128_001) if large else (50_257, 50_256)
  train, held_out = rng.integers(0, size - 300, (2, 500)).tolist()
  train[99] = train[299] = held_out[-1] = end
  write = {
    'nanoGPT': nano,
    'llm.c': llmc,
    'llm.c of Llama 3': lambda path, ids: llmc(
      path, ids, 20240801, 7, np.uint32
    ),
  }[form]
  files = [
    write(tmp_path / 'medieval_train_000.bin', train[:300]),
    write(tmp_path / 'medieval_train_001.bin', train[300:]),
    write(tmp_path / 'medieval_val_000.bin', held_out),
  ]
  before = [path.read_bytes() for path in files]
  out = tmp_path / 'out'
  # A file that is named twice counts once.
  argv = ['--adopt', f'{tmp_path}/*.bin', str(files[0]), f'--out={out}']
  argv += [f'--vocab_size={size}', f'--eos_id={end}']
  assert prepare.main(argv) == 0
  corpus = data.open_corpus(config.Data(source='tokens', path=str(out)))
  assert line_of(corpus.train[0]) == train
  assert line_of(corpus.validation) == held_out
  assert (corpus.vocab_size, corpus.document_end) == (size, end)
  assert corpus.tokenizer is None
  assert corpus.fingerprint['train']['documents'] == 2
  assert [path.read_bytes() for path in files] == before
  assert prepare.main(['--check', str(out)]) == 0
  assert prepare.main(['--stats', str(out)]) == 0
  flip(files[1], -1)
  assert files[1].name in refused(capsys, ['--check', out])
  # It is not adopted again over what is there.
  assert 'holds other tokens' in refused(capsys, argv)


@pytest.mark.parametrize(
  'write, match',
  [
    (lambda p: nano(p, [1, 300]), 'has id 300; must be below'),
    (lambda p: p.write_bytes(b'abc'), '3 bytes are no uint16 token ids'),
    (lambda p: p.write_bytes(b''), '0 bytes are no uint16 token ids'),
    (lambda p: llmc(p, [1, 2], version=2), 'must be version 1, uint16'),
    (
      lambda p: p.write_bytes(llmc(p, [1, 2, 3]).read_bytes()[:-2]),
      'and whole',
    ),
  ],
)
def test_a_file_that_holds_no_tokens_is_not_adopted(
  write, match, tmp_path, capsys
):
  nano(tmp_path / 'val.bin', [1, 2])
  write(tmp_path / 'train.bin')
  argv = ['--adopt', f'{tmp_path}/*.bin', f'--out={tmp_path / "out"}']
  argv += ['--vocab_size=256', '--eos_id=255']
  message = refused(capsys, argv)
  assert 'train.bin: ' in message and match in message


def test_adopted_tokens_need_both_splits_and_a_vocabulary(tmp_path, capsys):
  nano(tmp_path / 'train.bin', [1, 2])
  argv = ['--adopt', f'{tmp_path}/*.bin', f'--out={tmp_path / "out"}']
  assert 'needs --tokenizer, or' in refused(capsys, argv)
  argv += ['--tokenizer=bytes']
  assert 'no file for validation' in refused(capsys, argv)


def test_nothing_is_adopted_over_prepared_tokens(made, tmp_path, capsys):
  nano(tmp_path / 'train.bin', [1, 2])
  before = content(made)
  argv = ['--adopt', f'{tmp_path}/*.bin', f'--out={made}', '--tokenizer=bytes']
  assert 'holds other tokens' in refused(capsys, argv)
  assert content(made) == before


def test_statistics_are_those_of_the_documents(source, tmp_path, capsys):
  out = run(source, tmp_path / 'out')
  capsys.readouterr()
  assert prepare.main(['--stats', str(out)]) == 0
  text = capsys.readouterr().out
  used = set()
  for split in ('train', 'validation'):
    parts = documents_of(out, split)
    used |= {int(i) for part in parts for i in part}
    lengths = np.array([len(part) for part in parts])
    numbers = [len(parts), lengths.sum(), np.median(lengths), lengths.max()]
    (row,) = (line for line in text.splitlines() if line.startswith(split))
    cells = row.replace(',', '').split()
    assert [int(cells[i]) for i in (1, 2, 4, 6)] == [round(n) for n in numbers]
  assert f'256 ids, of which {len(used)} occur' in text
  assert repr(texts_of(out)[0])[1:11] in text
  assert (out / 'lengths.png').read_bytes().startswith(b'\x89PNG')
  # A picture does not make it another directory.
  run(source, out)


def test_statistics_of_a_single_split_are_drawn(source, tmp_path, capsys):
  with pytest.warns(UserWarning, match='validation split is empty'):
    out = run(source, tmp_path / 'out', validation_fraction=0)
  assert prepare.main(['--stats', str(out)]) == 0


def test_nothing_to_do_is_an_error(capsys, tmp_path):
  assert 'see --help' in refused(capsys, [])
  assert 'see --help' in refused(capsys, ['x'])
  for name in ('--check', '--stats'):
    message = refused(capsys, [name, tmp_path])
    assert f'{tmp_path}: has no manifest.json' in message


def test_saved_data_sets_of_hugging_face_are_read(tmp_path, capsys):
  datasets = pytest.importorskip('datasets')
  records = {'a': [{'text': text} for text in DOCUMENTS[:90]]}
  split = datasets.Dataset.from_dict(records)
  split.save_to_disk(str(tmp_path / 'one'), num_shards=2)
  both = datasets.DatasetDict(train=split, test=split.select(range(3)))
  both.save_to_disk(str(tmp_path / 'two'))
  for name in ('one', 'two'):
    out = run(tmp_path / name, tmp_path / f'{name}-out', text_field='a.text')
    texts = texts_of(out) + texts_of(out, 'validation')
    assert sorted(texts) == sorted(DOCUMENTS[:90])
  # A split that the data set gives is kept.
  both = datasets.DatasetDict(train=split, validation=split.select([3, 5]))
  both.save_to_disk(str(tmp_path / 'three'))
  with pytest.warns(UserWarning, match='2 of 90 training documents are held'):
    out = run(tmp_path / 'three', tmp_path / 'out', text_field='a.text')
  assert texts_of(out) == DOCUMENTS[:90]
  assert texts_of(out, 'validation') == [DOCUMENTS[3], DOCUMENTS[5]]
  with pytest.warns(UserWarning, match='2 of 90 training documents are held'):
    again = run(
      tmp_path / 'one',
      tmp_path / 'again',
      text_field='a.text',
      validation=tmp_path / 'three',
      validation_fraction=None,
    )
  assert content(again).keys() == content(out).keys()
  assert texts_of(again, 'validation') == texts_of(out, 'validation')
  capsys.readouterr()
  (tmp_path / 'one/state.json').write_text('{}')
  assert f'{tmp_path}/one: cannot be' in refused(
    capsys, command(tmp_path / 'one', tmp_path / 'bad')
  )
