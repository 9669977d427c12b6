"""Which files a pattern names, what they are, and a corpus of them."""

import bz2
import gzip
import hashlib
import json
import os
import pathlib
import shutil
import sysconfig

import bucket
import numpy as np
import pytest
import tokenizers
import zstandard

from jax_sparse_pretrain import config, data
from jax_sparse_pretrain.data import documents, files
from jax_sparse_pretrain.data import tokenizers as tokenizers_lib


def open_text(pattern, **changes):
  changes = {'validation_fraction': 0.3, 'tokenizer': 'bytes'} | changes
  return data.open_corpus(
    config.Data(source='text', path=str(pattern), **changes)
  )


def open_stdlib():
  return data.open_corpus(config.Data(source='stdlib', tokenizer='bytes'))


def texts_of(tokens):
  """The documents of a split that the bytes of text have become."""
  raw = tokens.ids.astype(np.uint8).tobytes()
  texts = raw.split(b'\xff')
  assert texts.pop() == b''
  assert all(text.startswith(b'\xfe') for text in texts)
  return [text[1:].decode() for text in texts]


def train(corpus):
  return texts_of(corpus.train[0])


def validation(corpus):
  return texts_of(corpus.validation)


def every(corpus):
  return [*train(corpus), *validation(corpus)]


def is_held_out(text, fraction):
  digest = hashlib.sha256(text.encode()).digest()
  return int.from_bytes(digest[:8], 'big') < fraction * 2**64


def write_texts(folder, n_files=40):
  for i in range(n_files):
    path = folder / f'part{i % 3}' / f'{i:02}.txt'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'text {i} é', encoding='utf-8')
  return folder


def found(pattern):
  return sorted(files.find_files(str(pattern)).paths)


def touch(folder, *names):
  for name in names:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(name)
  return folder


def test_a_pattern_is_a_file_a_directory_or_a_glob(tmp_path):
  touch(tmp_path, 'a.txt', 'b.json', 'c/d.txt', 'c/e/f.txt')
  for pattern, names in [
    ('a.txt', ['a.txt']),
    ('', ['a.txt', 'b.json', 'c/d.txt', 'c/e/f.txt']),
    ('c', ['d.txt', 'e/f.txt']),
    ('*.txt', ['a.txt']),
    ('*/*.txt', ['c/d.txt']),
    ('**/*.txt', ['a.txt', 'c/d.txt', 'c/e/f.txt']),
    ('**', ['a.txt', 'b.json', 'c/d.txt', 'c/e/f.txt']),
    ('**/**/*.txt', ['a.txt', 'c/d.txt', 'c/e/f.txt']),
    ('**/e/*', ['c/e/f.txt']),
    ('[ab].*', ['a.txt', 'b.json']),
  ]:
    assert found(tmp_path / pattern) == names, pattern


def test_a_name_with_brackets_is_a_name_if_there_is_such_a_thing(tmp_path):
  touch(tmp_path, 'v[1]/a.txt', 'v1/b.txt', 'x[2].txt')
  assert found(tmp_path / 'v[1]') == ['a.txt']
  assert found(tmp_path / 'x[2].txt') == ['x[2].txt']


def test_globs_agree_with_the_library_where_there_are_no_links(tmp_path):
  write_texts(tmp_path)
  for pattern in ('**/*.txt', 'part[01]/*', 'part?/3*.txt', '*/*'):
    expected = [
      path.relative_to(tmp_path).as_posix()
      for path in tmp_path.glob(pattern)
      if path.is_file()
    ]
    assert files.find_files(str(tmp_path / pattern)).paths.keys() == {*expected}


def test_hidden_files_and_folders_are_left_out_unless_named(tmp_path):
  touch(tmp_path, 'a', '.b', '.git/c', 'd/.e')
  assert found(tmp_path) == found(tmp_path / '**/*') == ['a']
  assert found(tmp_path / '.b') == ['.b']
  assert found(tmp_path / '.git') == ['c']
  assert found(tmp_path / '.*') == ['.b']
  assert found(tmp_path / '**/.*') == ['.b', 'd/.e']


def test_linked_directories_are_followed_and_loops_end(tmp_path):
  touch(tmp_path, 'here/a/b.txt', 'there/c.txt')
  (tmp_path / 'here/link').symlink_to(tmp_path / 'there')
  (tmp_path / 'here/a/up').symlink_to(tmp_path / 'here')
  (tmp_path / 'there/self').symlink_to(tmp_path / 'there')
  (tmp_path / 'here/broken').symlink_to(tmp_path / 'nowhere')
  assert found(tmp_path / 'here') == ['a/b.txt', 'link/c.txt']
  assert found(tmp_path / 'here/**/*.txt') == ['a/b.txt', 'link/c.txt']


def test_a_file_that_is_met_twice_is_read_once_and_counted(tmp_path):
  write_texts(tmp_path)
  (tmp_path / 'z').symlink_to(tmp_path / 'part0')  # 14 files
  (tmp_path / 'part1/again.txt').hardlink_to(tmp_path / 'part1/01.txt')
  once = files.find_files(str(tmp_path))
  assert len(once.paths) == 40
  assert once.n_repeated == 15
  corpus = open_text(tmp_path)
  assert sorted(every(corpus)) == sorted(f'text {i} é' for i in range(40))
  assert '15 more names' in corpus.notes[0]


def test_a_pattern_that_matches_no_file_is_an_error(tmp_path):
  (tmp_path / 'empty').mkdir()
  for pattern in ('*.txt', 'missing/**/*.txt', 'a.txt', 'empty'):
    with pytest.raises(config.ConfigError, match='matches no file'):
      files.find_files(str(tmp_path / pattern))


def test_a_folder_that_may_not_be_read_is_an_error(tmp_path):
  touch(tmp_path, 'a.txt', 'closed/b.txt')
  (tmp_path / 'closed').chmod(0)
  if os.access(tmp_path / 'closed', os.R_OK):
    pytest.skip('this user may read everything')
  with pytest.raises(config.ConfigError, match='closed'):
    files.find_files(str(tmp_path))


def test_a_home_folder_in_a_glob_is_expanded(tmp_path, monkeypatch):
  write_texts(tmp_path)
  monkeypatch.setenv('HOME', str(tmp_path))
  assert len(found('~/*/*.txt')) == 40


PACKED = {
  'gzip': ('.gz', gzip.compress),
  'bzip2': ('.bz2', bz2.compress),
  'zstd': ('.zst', zstandard.compress),
}


@pytest.mark.parametrize('compression', [None, *PACKED])
@pytest.mark.parametrize(
  'name, content',
  [
    ('a.txt', 'text'),
    ('a', 'text'),
    ('a.md', 'text'),
    ('a.json', 'json'),
    ('a.jsonl', 'json'),
    ('a.ndjson', 'json'),
    ('a.jsonlines', 'json'),
    ('A.JSONL', 'json'),
  ],
)
def test_the_kind_of_a_file(name, content, compression, tmp_path):
  suffix, pack = PACKED.get(compression, ('', bytes))
  for end in (suffix, suffix.upper()):
    path = tmp_path / (name + end)
    path.write_bytes(pack(b'{"text": "a"}\n'))
    assert files.kind_of(path) == (content, compression)


def test_a_compressed_file_is_told_by_its_content(tmp_path):
  path = tmp_path / 'a.jsonl'
  path.write_bytes(gzip.compress(b'{}'))
  assert files.kind_of(path) == ('json', 'gzip')
  path = tmp_path / 'a.jsonl.gz'
  path.write_bytes(b'{"text": "a"}')
  with pytest.raises(config.ConfigError, match='gz: is not compressed as'):
    files.kind_of(path)


@pytest.mark.parametrize('compression', [None, *PACKED])
@pytest.mark.parametrize(
  'content, match',
  [
    (b'a\0b', 'a binary file'),
    ('text'.encode('utf-16'), 'UTF-16 text'),
    ('text'.encode('utf-16-le'), 'a binary file'),
    (b'PK\x03\x04 and more', 'a zip archive'),
    (b'\xfd7zXZ\x00', 'an xz archive'),
    (b'%PDF-1.7', 'a PDF'),
    (b'\x93NUMPY\x01', 'a NumPy array'),
  ],
)
def test_a_file_of_another_kind_is_refused_and_named(
  content, match, compression, tmp_path
):
  suffix, pack = PACKED.get(compression, ('', bytes))
  write_texts(tmp_path)
  for name in ('a.txt', 'a.jsonl'):
    path = tmp_path / (name + suffix)
    path.write_bytes(pack(content))
    with pytest.raises(config.ConfigError, match=f'{name}.*: is {match}'):
      open_text(tmp_path)
    path.unlink()


def test_text_named_parquet_is_refused(tmp_path):
  touch(tmp_path, 'a.parquet')
  with pytest.raises(config.ConfigError, match='is not a Parquet file'):
    open_text(tmp_path)


def test_stdlib_holds_each_module_once_and_no_tests():
  root = pathlib.Path(sysconfig.get_path('stdlib'))
  left_out = {'site-packages', 'dist-packages', 'test', 'tests', 'idle_test'}
  expected = {
    path.relative_to(root).as_posix()
    for path in root.rglob('*.py')
    if not left_out & set(path.relative_to(root).parts)
    and not any(
      part.startswith(('config-', '_sysconfigdata_'))
      for part in path.relative_to(root).parts
    )
  }
  names = files.stdlib_files().paths.keys()
  assert names == expected
  assert {'dataclasses.py', 'json/decoder.py'} < names


@pytest.fixture(scope='module')
def stdlib():
  return open_stdlib()


def test_stdlib_splits_are_disjoint_complete_and_by_content(stdlib):
  raws = [p.read_bytes() for p in files.stdlib_files().paths.values()]
  texts = {
    raw.removeprefix(b'\xef\xbb\xbf').decode(errors='replace'): raw
    for raw in raws
    if raw
  }
  # Equal modules share a split.
  held_out = {
    text
    for text, raw in texts.items()
    if int.from_bytes(hashlib.sha256(raw).digest()[:8]) < 0.05 * 2**64
  }
  assert set(validation(stdlib)) == held_out
  assert set(train(stdlib)) == set(texts) - held_out


def test_a_corpus_is_the_same_when_opened_again(stdlib):
  again = open_stdlib()
  assert again.fingerprint == stdlib.fingerprint
  assert json.loads(json.dumps(again.fingerprint)) == again.fingerprint


def test_a_changed_file_is_seen_when_a_corpus_is_opened_again(tmp_path):
  write_texts(tmp_path)
  before = open_text(tmp_path)
  touch(tmp_path, 'part0/00.txt')
  after = open_text(tmp_path)
  assert 'part0/00.txt' in every(after)
  assert 'part0/00.txt' not in every(before)


def test_another_tokenizer_file_is_seen_when_a_corpus_is_opened_again(tmp_path):
  write_texts(tmp_path / 'texts')
  path = tmp_path / 't.json'
  for word in ('text', 'é'):
    model = tokenizers.models.WordLevel({'?': 0, word: 1}, unk_token='?')
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(['</s>'])
    tokenizer.save(str(path))
    with pytest.warns(UserWarning, match='no token for .* of the characters'):
      corpus = open_text(
        tmp_path / 'texts', tokenizer='huggingface', tokenizer_path=str(path)
      )
    (ids,) = tokenizers_lib.from_model('huggingface', path.read_bytes()).encode(
      ['text 0 é']
    )
    assert corpus.train[0].ids[:4].tolist() == [*ids, 2]


def test_the_fingerprint_counts_documents_tokens_and_bytes(tmp_path):
  corpus = open_text(write_texts(tmp_path))
  assert corpus.fingerprint['source'] == 'text'
  for name, texts in (
    ('train', train(corpus)),
    ('validation', validation(corpus)),
  ):
    split = corpus.fingerprint[name]
    n_bytes = sum(len(text.encode()) for text in texts)
    assert split['documents'] == len(texts) > 0
    assert split['bytes'] == n_bytes
    assert split['tokens'] == n_bytes + 2 * len(texts)


@pytest.mark.parametrize('change', ['content', 'order', 'fraction'])
def test_the_fingerprint_tells_other_tokens_apart(change, tmp_path):
  write_texts(tmp_path)
  before = open_text(tmp_path).fingerprint
  path, fraction = tmp_path / 'part0/00.txt', 0.3
  if change == 'content':
    path.write_text('text a é', encoding='utf-8')  # As many bytes.
  elif change == 'order':
    path.rename(tmp_path / 'part2/99.txt')
  else:
    fraction = 0.6
  after = open_text(tmp_path, validation_fraction=fraction).fingerprint
  assert before != after


def test_moving_a_corpus_does_not_change_it(tmp_path):
  write_texts(tmp_path / 'here')
  before = open_text(tmp_path / 'here/**/*.txt')
  shutil.copytree(tmp_path / 'here', tmp_path / 'there')
  after = open_text(tmp_path / 'there')
  assert validation(after) == validation(before)
  assert after.fingerprint == before.fingerprint


def test_a_new_or_renamed_file_moves_no_other_between_the_splits(tmp_path):
  before = open_text(write_texts(tmp_path))
  write_texts(tmp_path, n_files=60)
  (tmp_path / 'part0/00.txt').rename(tmp_path / 'part1/elsewhere.txt')
  after = open_text(tmp_path)
  assert set(train(before)) < set(train(after))
  assert set(validation(before)) < set(validation(after))


def test_documents_are_held_out_by_a_hash_of_their_text(tmp_path):
  corpus = open_text(write_texts(tmp_path))
  assert all(is_held_out(text, 0.3) for text in validation(corpus))
  assert not any(is_held_out(text, 0.3) for text in train(corpus))


def test_equal_documents_share_a_split_whatever_holds_them(tmp_path):
  write_texts(tmp_path)
  lines = [json.dumps({'text': f'text {i} é'}) for i in range(40)]
  (tmp_path / 'more.jsonl').write_text('\n'.join(lines))
  corpus = open_text(tmp_path)
  assert len(every(corpus)) == 80
  assert not set(train(corpus)) & set(validation(corpus))


@pytest.mark.parametrize('pattern', ['part*/*.txt', '**/*.txt', 'more.jsonl'])
def test_moving_a_corpus_to_a_bucket_does_not_change_it(
  pattern, tmp_path, store
):
  write_texts(tmp_path, n_files=35)
  touch(tmp_path, '.hidden/a.txt', 'part0/.b.txt')
  lines = [json.dumps({'text': f'line {i}'}) for i in range(40)]
  (tmp_path / 'more.jsonl').write_text('\n'.join(lines))
  remote = bucket.upload(tmp_path, store('corpus'))
  there, here = (open_text(where / pattern) for where in (remote, tmp_path))
  assert len(train(there)) > 20
  assert train(there) == train(here)
  assert there.fingerprint == here.fingerprint


def test_a_corpus_without_text_is_an_error(tmp_path):
  (tmp_path / 'a.txt').touch()
  with pytest.raises(config.ConfigError, match=r'data\.path = .* no text'):
    open_text(tmp_path)


@pytest.mark.parametrize('fraction', [1e-3, 1 - 1e-9])
def test_a_split_without_documents_is_an_error(fraction, tmp_path):
  lines = [json.dumps({'text': f'line {i}'}) for i in range(9)]
  (tmp_path / 'a.jsonl').write_text('\n'.join(lines))
  with pytest.raises(
    config.ConfigError, match=r'split is empty; .*data\.validation_fraction'
  ):
    open_text(tmp_path, validation_fraction=fraction)


def test_a_corpus_says_what_looks_like_something_else(tmp_path):
  write_texts(tmp_path)
  (tmp_path / 'x.txt').write_text('{"text": "a"}')
  assert any('x.txt: begins with' in n for n in open_text(tmp_path).notes)


def test_a_corpus_can_be_described_without_reading_it(tmp_path):
  write_texts(tmp_path)
  described = data.describe(
    config.Data(source='text', path=str(tmp_path), tokenizer='bytes')
  )
  assert described[0].startswith('data: 40 files, ')
  missing = config.Data(
    source='text', path=str(tmp_path / 'no'), tokenizer='bytes'
  )
  assert 'not here' in data.describe(missing)[0]


def test_more_text_than_fits_in_memory_is_an_error_that_names_prepare(
  tmp_path, monkeypatch
):
  write_texts(tmp_path)
  monkeypatch.setattr(data.corpus, '_LARGEST_IN_MEMORY', 100)
  with pytest.raises(config.ConfigError, match='jax_sparse_pretrain.prepare'):
    open_text(tmp_path)


def test_pieces_are_documents_of_their_own(tmp_path):
  for i in range(40):
    lines = [f'{i}:{j}' + 'é' * ((i * 7 + j * 3) % 18) for j in range(40)]
    text = '\n'.join(lines) + '\n' * (i % 2)
    (tmp_path / f'{i:02}.txt').write_text(text, encoding='utf-8')
  whole = every(open_text(tmp_path))
  corpus = open_text(tmp_path, piece_bytes=100)
  pieces = every(corpus)
  # In each split files come in order of name, and pieces in that of the file.
  assert ''.join(pieces) == ''.join(whole)
  for text in pieces:
    *before, last = text.splitlines(keepends=True)
    assert len(''.join(before).encode()) < 100
    is_last = any(each.endswith(text) for each in whole)
    assert is_last or len(text.encode()) >= 100 and last.endswith('\n')
  # Those of a file are held out together.
  numbers = [
    {text.split(':')[0] for text in split}
    for split in (train(corpus), validation(corpus))
  ]
  assert not numbers[0] & numbers[1]
  assert len(numbers[1]) == len(validation(open_text(tmp_path)))


def test_sources_know_their_size_and_hash(tmp_path):
  (tmp_path / 'a.txt').write_text('text é')
  (source,) = documents.file_sources(files.find_files(str(tmp_path)), 0.1)
  raw = 'text é'.encode()
  assert source.size() == len(raw)
  assert source.about() == {
    'name': 'a.txt',
    'bytes': len(raw),
    'sha256': hashlib.sha256(raw).hexdigest(),
  }
