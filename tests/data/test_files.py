"""Corpora of files: the standard library, text, JSON lines."""

import hashlib
import json
import pathlib
import shutil
import sysconfig

import bucket
import pytest

from jax_sparse_pretrain import config, data


def open_text(pattern, **changes):
  changes = {'validation_fraction': 0.3} | changes
  return data.open_corpus(
    config.Data(source='text', path=str(pattern), **changes)
  )


def write_texts(folder, n_files=40):
  for i in range(n_files):
    path = folder / f'part{i % 3}' / f'{i:02}.txt'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'text {i} é', encoding='utf-8')
  return folder


def write_lines(path, lines):
  path.write_text('\n'.join(lines) + '\n', encoding='utf-8')
  return path


def every(corpus):
  return [*corpus.train, *corpus.validation]


def is_held_out(name, fraction):
  digest = hashlib.sha256(name.encode()).digest()
  return int.from_bytes(digest[:8], 'big') < fraction * 2**64


def stdlib_modules():
  root = pathlib.Path(sysconfig.get_path('stdlib'))
  folders = {path.name for path in root.iterdir() if path.is_dir()}
  for folder in folders - {'site-packages', 'dist-packages', 'test'}:
    for path in (root / folder).rglob('*.py'):
      yield path.relative_to(root).as_posix(), path
  for path in root.glob('*.py'):
    yield path.name, path


@pytest.fixture(scope='module')
def stdlib():
  return data.open_corpus(config.Data(source='stdlib'))


def test_stdlib_splits_are_disjoint_complete_and_by_name(stdlib):
  texts = {
    name: path.read_bytes().decode(errors='replace')
    for name, path in sorted(stdlib_modules())
    if not {'test', 'tests', 'idle_test'} & set(name.split('/'))
    and not name.startswith(('config-', '_sysconfigdata_'))
    and path.stat().st_size
  }
  held_out = [name for name in texts if is_held_out(name, 0.05)]
  rest = [name for name in texts if name not in held_out]
  assert list(stdlib.validation) == [texts[name] for name in held_out]
  assert list(stdlib.train) == [texts[name] for name in rest]


def test_stdlib_holds_the_library_and_not_its_tests(stdlib):
  texts = every(stdlib)
  root = pathlib.Path(sysconfig.get_path('stdlib'))
  assert root.joinpath('dataclasses.py').read_text('utf-8') in texts
  assert root.joinpath('json/decoder.py').read_text('utf-8') in texts
  assert not any('class TestCase(unittest.TestCase)' in t for t in texts)
  assert not any('\nimport pytest' in text for text in texts)


def test_stdlib_is_the_same_when_opened_again(stdlib):
  again = data.open_corpus(config.Data(source='stdlib'))
  assert again.fingerprint == stdlib.fingerprint
  assert json.loads(json.dumps(again.fingerprint)) == again.fingerprint
  assert list(again.validation) == list(stdlib.validation)


def test_the_fingerprint_counts_documents_and_bytes(tmp_path):
  corpus = open_text(write_texts(tmp_path) / '**/*.txt')
  assert corpus.fingerprint['source'] == 'text'
  for name in ('train', 'validation'):
    documents = getattr(corpus, name)
    split = corpus.fingerprint[name]
    assert split['documents'] == len(documents) > 0
    assert split['bytes'] == sum(len(text.encode()) for text in documents)


@pytest.mark.parametrize('change', ['content', 'name', 'fraction'])
def test_the_fingerprint_tells_other_documents_apart(change, tmp_path):
  pattern = write_texts(tmp_path) / '**/*.txt'
  before = open_text(pattern).fingerprint
  path, fraction = tmp_path / 'part0/00.txt', 0.3
  if change == 'content':
    path.write_text('text 1 é', encoding='utf-8')  # As many bytes.
  elif change == 'name':
    path.rename(path.with_name('0.txt'))
  else:
    fraction = 0.6
  after = open_text(pattern, validation_fraction=fraction).fingerprint
  assert before != after


def test_a_recursive_glob_reads_every_file_once(tmp_path):
  corpus = open_text(write_texts(tmp_path) / '**/*.txt')
  expected = [f'text {i} é' for i in range(40)]
  assert sorted(every(corpus)) == sorted(expected)


def test_a_home_folder_in_a_glob_is_expanded(tmp_path, monkeypatch):
  write_texts(tmp_path)
  monkeypatch.setenv('HOME', str(tmp_path))
  assert len(every(open_text('~/*/*.txt'))) == 40


def test_moving_a_corpus_does_not_change_it(tmp_path):
  write_texts(tmp_path / 'here')
  before = open_text(tmp_path / 'here/**/*.txt')
  shutil.copytree(tmp_path / 'here', tmp_path / 'there')
  after = open_text(tmp_path / 'there/**/*.txt')
  assert list(after.validation) == list(before.validation)
  assert after.fingerprint == before.fingerprint


def test_a_new_file_moves_no_other_between_the_splits(tmp_path):
  before = open_text(write_texts(tmp_path) / '**/*.txt')
  after = open_text(write_texts(tmp_path, n_files=60) / '**/*.txt')
  assert set(before.train) < set(after.train)
  assert set(before.validation) < set(after.validation)


@pytest.mark.parametrize('pattern', ['part*/*.txt', 'm*.jsonl', 'more.jsonl'])
def test_moving_a_corpus_to_a_bucket_does_not_change_it(
  pattern, tmp_path, store
):
  write_texts(tmp_path)
  lines = [json.dumps({'text': f'line {i}'}) for i in range(40)]
  write_lines(tmp_path / 'more.jsonl', lines)
  remote = bucket.upload(tmp_path, store('corpus'))
  there, here = (open_text(where / pattern) for where in (remote, tmp_path))
  assert len(there.train) > 20
  assert list(there.train) == list(here.train)
  assert list(there.validation) == list(here.validation)
  assert there.fingerprint == here.fingerprint


def test_json_lines_are_documents_at_random_access(tmp_path):
  texts = [f'line {i}\nof é' for i in range(30)]
  lines = [json.dumps({'id': i, 'body': t}) for i, t in enumerate(texts)]
  lines[5] = json.dumps({'body': texts[5]}, ensure_ascii=False)
  lines[3:3] = ['', '  ']  # Blank lines are skipped.
  path = write_lines(tmp_path / 'a.jsonl', lines)
  corpus = open_text(path, text_feature='body')
  assert sorted(every(corpus)) == sorted(texts)
  assert corpus.train[len(corpus.train) - 1] == list(corpus.train)[-1]
  with pytest.raises(IndexError):
    corpus.train[len(corpus.train)]
  names = {
    json.loads(line)['body']: f'a.jsonl:{number}'
    for number, line in enumerate(lines, 1)
    if line.strip()
  }
  assert all(is_held_out(names[text], 0.3) for text in corpus.validation)
  assert not any(is_held_out(names[text], 0.3) for text in corpus.train)


def test_text_and_json_lines_may_be_mixed(tmp_path):
  write_texts(tmp_path)
  write_lines(tmp_path / 'a.jsonl', [json.dumps({'text': 'a line'})])
  assert 'a line' in every(open_text(tmp_path / '**/*.*'))


def test_empty_documents_are_left_out(tmp_path):
  write_texts(tmp_path)
  tmp_path.joinpath('empty.txt').touch()
  write_lines(tmp_path / 'a.jsonl', ['{"text": ""}', '{"text": "a"}'])
  corpus = open_text(tmp_path / '**/*.*')
  assert len(every(corpus)) == 41
  assert '' not in every(corpus)


@pytest.mark.parametrize(
  'line, reason',
  [
    ('{"text": "a"', 'Expecting'),
    ('["a"]', "text in 'text'"),
    ('{"body": "a"}', r"text in 'text' \(data\.text_feature\)"),
    ('{"text": 3}', "text in 'text'"),
    (r'{"text": "\ud800"}', 'surrogates not allowed'),
  ],
)
def test_a_bad_line_is_an_error_with_its_file_and_number(
  line, reason, tmp_path
):
  path = write_lines(tmp_path / 'a.jsonl', ['{"text": "a"}', '', line])
  message = rf'data\.path = .*a\.jsonl:3: .*{reason}'
  with pytest.raises(config.ConfigError, match=message):
    open_text(path)


def test_invalid_utf8_is_an_error_with_its_file(tmp_path):
  write_texts(tmp_path)
  tmp_path.joinpath('part0/bad.txt').write_bytes(b'abc\xff')
  message = r"data\.path = .*part0/bad\.txt: 'utf-8' codec .* position 3"
  with pytest.raises(config.ConfigError, match=message):
    open_text(tmp_path / '**/*.txt')


def test_a_glob_that_matches_no_file_is_an_error(tmp_path):
  for pattern in ('*.txt', 'missing/**/*.txt', 'a.txt', ''):
    with pytest.raises(config.ConfigError, match='data.path = .* no file'):
      open_text(tmp_path / pattern)


def test_an_impossible_glob_is_an_error(tmp_path):
  with pytest.raises(config.ConfigError, match=r'data\.path = .*glob'):
    open_text(tmp_path / 'a**' / '***.txt')


def test_a_corpus_of_empty_files_is_an_error(tmp_path):
  tmp_path.joinpath('a.txt').touch()
  with pytest.raises(config.ConfigError, match='data.path = .* empty'):
    open_text(tmp_path / '*.txt')


@pytest.mark.parametrize('fraction', [1e-9, 1 - 1e-9])
def test_a_split_without_documents_is_an_error(fraction, tmp_path):
  write_texts(tmp_path)
  with pytest.raises(
    config.ConfigError, match=r'data\.validation_fraction = .*at least one'
  ):
    open_text(tmp_path / '**/*.txt', validation_fraction=fraction)


def write_long_texts(folder):
  """Files of lines of 3 to 40 bytes, some without a last line feed."""
  for i in range(30):
    lines = [f'{i}:{j}' + 'é' * ((i * 7 + j * 3) % 18) for j in range(40)]
    text = '\n'.join(lines) + '\n' * (i % 2)
    (folder / f'{i:02}.txt').write_text(text, encoding='utf-8')
  return folder


def test_pieces_are_whole_lines_that_make_up_their_file(tmp_path):
  write_long_texts(tmp_path)
  whole = every(open_text(tmp_path / '*.txt'))
  pieces = every(open_text(tmp_path / '*.txt', piece_bytes=100))
  # In each split files come in order of name, and pieces in that of the file.
  assert ''.join(pieces) == ''.join(whole)
  for text in pieces:
    *before, last = text.splitlines(keepends=True)
    assert len(''.join(before).encode()) < 100
    is_last = any(each.endswith(text) for each in whole)
    assert is_last or len(text.encode()) >= 100 and last.endswith('\n')


def test_pieces_of_a_file_are_held_out_together(tmp_path):
  write_long_texts(tmp_path)
  corpus = open_text(tmp_path / '*.txt', piece_bytes=50)
  split_of = {}
  for split in ('train', 'validation'):
    for text in getattr(corpus, split):
      name = f'{int(text.split(":")[0]):02}.txt'
      assert split_of.setdefault(name, split) == split
  held_out = {name for name, split in split_of.items() if split != 'train'}
  assert held_out == {name for name in split_of if is_held_out(name, 0.3)}
  assert len(corpus.train) > 300


def test_pieces_of_one_byte_are_lines(tmp_path):
  (tmp_path / 'a.txt').write_text('a\n\nb\nc')
  (tmp_path / 'b.txt').write_text('b\n' * 9)
  corpus = open_text(tmp_path / '*.txt', piece_bytes=1)
  texts = sorted(every(corpus))
  assert texts == sorted(['a\n', '\n', 'b\n', 'c', *(['b\n'] * 9)])


def test_json_lines_are_not_cut(tmp_path):
  path = write_lines(tmp_path / 'a.jsonl', ['{"text": "a"}'] * 9)
  with pytest.raises(
    config.ConfigError, match='data.piece_bytes = 10: must be 0'
  ):
    open_text(path, piece_bytes=10)
