"""Documents of files, against the text that the files were written from."""

import bz2
import collections
import gzip
import json

import numpy as np
import pyarrow
import pytest
import zstandard
from pyarrow import ipc, parquet

from jax_sparse_pretrain import config
from jax_sparse_pretrain.data import (
  cutting,
  documents,
  encoding,
  files,
  tokenizers,
)

TEXTS = [f'line {i}\nof é 🙂' * (i % 3 + 1) for i in range(30)]


def read(path, **changes):
  """(text, split) of the documents of files, and counts of those dropped."""
  pieces, dropped = read_pieces(path, **changes)
  found, parts = [], []
  for piece in pieces:
    assert piece.text
    parts.append(piece.text)
    if piece.ends:
      found.append((''.join(parts), piece.split))
      parts = []
  assert not parts  # The last document ends.
  return found, dropped


def read_pieces(path, **changes):
  reading = documents.Reading(**changes)
  dropped = collections.Counter()
  sources = documents.file_sources(
    files.find_files(str(path)), reading.validation_fraction
  )
  pieces = [p for each in sources for p in each.pieces(reading, dropped)]
  return pieces, dict(dropped)


def texts(path, **changes):
  return [text for text, _ in read(path, **changes)[0]]


def write(path, raw):
  path.write_bytes(raw.encode() if isinstance(raw, str) else raw)
  return path


def write_lines(path, lines):
  return write(path, '\n'.join(lines) + '\n')


def error(path, **changes):
  with pytest.raises(config.ConfigError) as caught:
    read(path, **changes)
  message = str(caught.value)
  assert '\n' not in message
  return message


@pytest.fixture
def small_pieces(monkeypatch):
  monkeypatch.setattr(cutting, 'PIECE_BYTES', 1000)


def test_a_text_file_is_one_document_in_one_piece(tmp_path):
  for i, text in enumerate(
    ['a', 'abc', 'abcd', 'ab\ncd', 'é🙂', 'a\n\nb\n', '\n', 'x' * 5000 + '\ny']
  ):
    path = write(tmp_path / f'{i}.txt', text)
    (piece,), dropped = read_pieces(path)
    assert (piece.text, piece.ends, piece.split) == (text, True, 'train')
    assert not dropped


def test_a_byte_order_mark_is_dropped_and_line_ends_are_kept(tmp_path):
  text = 'one\r\ntwo\rthree\u2028\x0b\n'
  mark = b'\xef\xbb\xbf'
  write(tmp_path / 'a.txt', mark + text.encode())
  line = json.dumps({'text': text}).encode()
  write(tmp_path / 'b.jsonl', mark + line + b'\r\n' + line + b'\r\n')
  write(tmp_path / 'c.json', mark + b'[' + line + b']')
  assert texts(tmp_path) == [text] * 4
  assert read(write(tmp_path / 'd.txt', mark)) == ([], {'empty': 1})


def test_json_lines_are_documents(tmp_path):
  lines = [json.dumps({'id': i, 'body': t}) for i, t in enumerate(TEXTS)]
  lines[5] = json.dumps({'body': TEXTS[5]}, ensure_ascii=False)
  lines[3:3] = ['', '  ']  # Blank lines are skipped.
  lines[0:0] = ['', '']
  path = write_lines(tmp_path / 'a.jsonl', lines)
  assert texts(path, text_field='body') == TEXTS


def test_json_in_a_file_named_otherwise_is_text_and_noted(tmp_path):
  write(tmp_path / 'a.txt', '{"text": "a"}\n{"text": "b"}\n')
  write(tmp_path / 'b.gz', gzip.compress(b'{"text": "c"}'))
  write(tmp_path / 'c.txt', '{no JSON}\n{"text": "a"}')
  write(tmp_path / 'd.txt', '12')
  write(tmp_path / 'e.jsonl', '{"text": "a"}')
  write(tmp_path / 'f.bin', b'{\0')
  found = files.find_files(str(tmp_path))
  (note,) = documents.notes_on(found)
  assert note.startswith('a.txt and 1 more: begins with a record of JSON, but')
  assert len(texts(tmp_path / 'a.txt')) == 1
  (tmp_path / 'a.txt').unlink()
  (tmp_path / 'b.gz').unlink()
  assert not documents.notes_on(files.find_files(str(tmp_path)))


@pytest.mark.parametrize('indent', [None, 2])
def test_an_array_of_json_is_documents(indent, tmp_path):
  records = [{'text': text} for text in TEXTS]
  path = write(tmp_path / 'a.json', json.dumps(records, indent=indent))
  assert texts(path) == TEXTS


def test_an_object_over_several_lines_is_a_document(tmp_path):
  path = write(tmp_path / 'a.json', json.dumps({'text': 'a'}, indent=2))
  assert texts(path) == ['a']


@pytest.mark.parametrize('form', ['jsonl', 'json', 'parquet', 'arrow'])
def test_the_text_may_be_in_a_nested_field(form, tmp_path):
  records = [{'a': {'b': {'c': text}, 'd': 1}} for text in TEXTS]
  path = tmp_path / f'x.{form}'
  if form == 'jsonl':
    write_lines(path, map(json.dumps, records))
  elif form == 'json':
    write(path, json.dumps(records))
  else:
    write_table(path, pyarrow.Table.from_pylist(records))
  assert texts(path, text_field='a.b.c') == TEXTS


def write_table(path, table):
  if path.suffix == '.parquet':
    parquet.write_table(table, path, row_group_size=7)
    return path
  stream = path.suffix == '.arrow'
  make = ipc.new_stream if stream else ipc.new_file
  with make(str(path), table.schema) as writer:
    writer.write_table(table, max_chunksize=7)
  return path


@pytest.mark.parametrize('name', ['a.parquet', 'a', 'a.arrow', 'a.feather'])
@pytest.mark.parametrize('kind', ['string', 'large_string', 'binary'])
def test_tables_are_read_as_their_library_reads_them(kind, name, tmp_path):
  column = pyarrow.array(TEXTS).cast(kind)
  table = pyarrow.table({'id': range(len(TEXTS)), 'text': column})
  path = write_table(tmp_path / name, table)
  assert texts(path) == TEXTS


PACKED = [
  ('.gz', gzip.compress),
  ('.bz2', bz2.compress),
  ('.zst', zstandard.compress),
]


@pytest.mark.parametrize('suffix, pack', PACKED)
@pytest.mark.parametrize('name', ['a.txt', 'a.jsonl', 'a.json'])
def test_compressed_files_hold_the_same_documents(name, suffix, pack, tmp_path):
  content = {
    'a.txt': ''.join(TEXTS),
    'a.jsonl': '\n'.join(json.dumps({'text': text}) for text in TEXTS),
    'a.json': json.dumps([{'text': text} for text in TEXTS]),
  }[name].encode()
  plain = write(tmp_path / name, content)
  # Compressors write several members or frames one after another, too.
  packed = pack(content[:100]) + pack(content[100:])
  compressed = write(tmp_path / f'{name}{suffix}', packed)
  assert texts(compressed) == texts(plain) != []


@pytest.mark.parametrize('suffix, pack', PACKED)
@pytest.mark.parametrize('name', ['a.txt', 'a.jsonl'])
def test_a_truncated_file_is_an_error_that_names_it(
  name, suffix, pack, tmp_path
):
  rng = np.random.default_rng(0)
  words = ' '.join(map(str, rng.integers(0, 10**9, 20_000)))
  packed = pack(json.dumps({'text': words}).encode())
  path = tmp_path / f'{name}{suffix}'
  for size in (len(packed) - 1, len(packed) // 2, 12):
    write(path, packed[:size])
    assert f'{path}: cannot be read: ' in error(path)


@pytest.mark.parametrize('name', ['a.parquet', 'a.feather', 'a.arrow'])
def test_a_truncated_table_is_an_error_that_names_it(name, tmp_path):
  path = write_table(tmp_path / name, pyarrow.table({'text': TEXTS}))
  raw = path.read_bytes()
  for size in (len(raw) - 20, len(raw) // 2):
    write(path, raw[:size])
    assert f'{path}: cannot be read: ' in error(path)


def test_a_field_that_a_table_lacks_is_an_error_that_lists_what_it_has(
  tmp_path,
):
  table = pyarrow.table({'id': [1], 'body': ['a']})
  for name in ('a.parquet', 'a.feather'):
    path = write_table(tmp_path / name, table)
    message = error(path)
    assert str(path) in message
    assert "no field 'text' (the text field); has id, body" in message


@pytest.mark.parametrize(
  'line, reason',
  [
    ('{"text": "a"', 'not JSON'),
    ('["a"]', "must hold text in 'text'"),
    ('"a"', "must hold text in 'text'"),
    ('{"body": "a"}', "must hold text in 'text' (the text field)"),
    ('{"text": 3}', "must hold text in 'text'"),
    ('{"text": null}', "must hold text in 'text'"),
    (r'{"text": "\ud800"}', 'surrogates not allowed'),
    (b'{"text": "\xff"}', 'not UTF-8'),
  ],
)
def test_a_bad_line_is_an_error_with_its_file_and_number(
  line, reason, tmp_path
):
  line = line if isinstance(line, bytes) else line.encode()
  path = write(tmp_path / 'a.jsonl', b'{"text": "a"}\n\n' + line + b'\n')
  message = error(path)
  assert message.startswith(f'{path}, line 3: ')
  assert reason in message
  path = write(tmp_path / 'b.jsonl', line + b'\n{"text": "a"}\n')
  assert f'{path}, ' in error(path)
  assert read(path, errors='skip') == ([('a', 'train')], {'skipped': 1})


def test_a_bad_record_of_an_array_is_an_error_with_its_number(tmp_path):
  path = write(tmp_path / 'a.json', '[{"text": "a"}, {"body": "b"}]')
  assert f'{path}, record 1: must hold' in error(path)


def test_a_record_of_a_table_without_text_is_an_error_with_its_number(
  tmp_path,
):
  table = pyarrow.table({'text': ['a', 'b', None, 'd']})
  path = write_table(tmp_path / 'a.parquet', table)
  assert f'{path}, record 2: must hold text' in error(path)
  assert read(path, errors='skip')[1] == {'skipped': 1}


def test_invalid_utf8_is_an_error_with_its_file_and_line(tmp_path):
  path = write(tmp_path / 'a.txt', b'a\nb\n\nab\xffc\nd')
  message = error(path)
  assert message.startswith(f'{path}, line 4: not UTF-8')
  assert '--errors' in message and 'data.errors' in message


def test_replacing_mends_what_is_not_utf8(tmp_path):
  write(tmp_path / 'a.txt', b'a\xffb\n')
  write(tmp_path / 'b.jsonl', b'{"text": "a\xffb\\n"}\n')
  table = pyarrow.table({'text': pyarrow.array([b'a\xffb\n'])})
  write_table(tmp_path / 'c.parquet', table)
  assert texts(tmp_path, errors='replace') == ['a\ufffdb\n'] * 3


def test_skipping_leaves_out_whole_documents_and_counts_them(
  tmp_path, small_pieces
):
  write(tmp_path / 'a.txt', 'good')
  # Its first pieces are sound.
  write(tmp_path / 'b.txt', b'line of text\n' * 500 + b'\xff')
  write(tmp_path / 'c.txt', 'good, too')
  write(tmp_path / 'd.jsonl', b'{"text": "a"}\n{"text": "\xff"}\n{}\n')
  found, dropped = read(tmp_path, errors='skip')
  assert [text for text, _ in found] == ['good', 'good, too', 'a']
  assert dropped == {'skipped': 3}


def test_empty_documents_are_left_out_and_counted(tmp_path):
  (tmp_path / 'a.txt').touch()
  write(tmp_path / 'b.txt.gz', gzip.compress(b''))
  write_lines(tmp_path / 'c.jsonl', ['{"text": ""}', '{"text": "a"}'])
  (tmp_path / 'd.jsonl').touch()
  assert read(tmp_path) == ([('a', 'train')], {'empty': 3})


@pytest.mark.parametrize('form', ['a.txt', 'a.jsonl', 'a.txt.gz'])
def test_a_long_document_comes_in_pieces_cut_at_line_ends(
  form, tmp_path, small_pieces
):
  lines = [f'{i} ' + 'é' * (i * 7 % 90) + '\n' for i in range(200)]
  text = ''.join(lines) + 'the end'
  path = tmp_path / form
  if form == 'a.jsonl':
    write(path, json.dumps({'text': text}))
  else:
    write(path, gzip.compress(text.encode()) if 'gz' in form else text.encode())
  pieces, _ = read_pieces(path)
  assert ''.join(piece.text for piece in pieces) == text
  assert [piece.ends for piece in pieces] == [False] * (len(pieces) - 1) + [
    True
  ]
  assert all(piece.text.endswith('\n') for piece in pieces[:-1])
  sizes = [len(piece.text.encode()) for piece in pieces]
  assert max(sizes) <= 2000 and len(sizes) > 5
  assert len({(piece.digest, piece.split) for piece in pieces}) == 1


@pytest.mark.parametrize('form', ['a.txt', 'a.jsonl'])
def test_a_long_line_is_cut_between_two_characters(
  form, tmp_path, small_pieces
):
  text = 'aé日🙂' * 1500
  raw = text if form == 'a.txt' else json.dumps({'text': text})
  pieces, _ = read_pieces(write(tmp_path / form, raw))
  assert ''.join(piece.text for piece in pieces) == text
  assert len(pieces) > 5


def test_pieces_make_the_tokens_of_their_document(tmp_path, small_pieces):
  long = 'a line\n' * 1000
  write(tmp_path / 'a.txt', 'first')
  write(tmp_path / 'b.txt', long)
  write_lines(tmp_path / 'c.jsonl', [json.dumps({'text': long + 'x'})])
  write(tmp_path / 'd.txt', 'last')
  pieces, _ = read_pieces(tmp_path)
  made = encoding.encode_in_memory(pieces, tokenizers.ByteTokenizer())
  expected = ['first', long, long + 'x', 'last']
  raw = b''.join(b'\xfe' + text.encode() + b'\xff' for text in expected)
  assert made['train'].ids.astype(np.uint8).tobytes() == raw
  assert len(made['train'].digests) == 4
  assert made['train'].n_bytes == sum(map(len, expected))


def test_garbage_that_looks_like_the_inside_of_characters_comes_in_pieces(
  tmp_path, small_pieces
):
  path = write(tmp_path / 'a.txt', b'\x80' * 5000)
  (document,) = texts(path, errors='replace')
  assert document == '\ufffd' * 5000


@pytest.mark.parametrize('name', ['a.txt', 'a.txt.gz'])
@pytest.mark.parametrize('ending', ['', '\n'])
def test_the_last_share_of_a_single_text_file_is_held_out(
  name, ending, tmp_path, small_pieces
):
  for n_lines in (2, 10, 1000):
    text = '\n'.join(f'line {i} é' for i in range(n_lines)) + ending
    raw = text.encode()
    path = write(tmp_path / name, gzip.compress(raw) if 'gz' in name else raw)
    (train, held_out), _ = read(path, validation_fraction=0.2)
    assert (train[1], held_out[1]) == ('train', 'validation')
    assert train[0] + held_out[0] == text
    assert train[0].endswith('\n')
    lines = [len(line.encode()) + 1 for line in text.splitlines()]
    assert abs(len(held_out[0].encode()) - 0.2 * len(raw)) <= max(lines)


def test_a_single_line_is_split_between_two_characters(tmp_path):
  for text in ('日本語' * 50, '🙂🙂', 'ab', 'x' * 3000):
    path = write(tmp_path / 'a.txt', text)
    found, _ = read(path, validation_fraction=0.3)
    assert ''.join(each for each, _ in found) == text
    assert [split for _, split in found] == ['train', 'validation']
  found, _ = read(write(path, '🙂'), validation_fraction=0.3)
  assert len(found) == 1  # Nothing to split.


def test_each_split_place_gives_both_documents_their_end(
  tmp_path, small_pieces
):
  """Wherever the cut falls among blocks of lines and of none."""
  for text in ('x' * 4000, 'é' * 2000, ('y' * 499 + '\n') * 8):
    path = write(tmp_path / 'a.txt', text)
    for percent in [*range(1, 100, 3), 25, 50, 75]:
      found, _ = read(path, validation_fraction=percent / 100)
      assert ''.join(each for each, _ in found) == text
      assert [split for _, split in found] == ['train', 'validation']


def test_nothing_is_held_out_of_a_single_file_without_a_fraction(tmp_path):
  path = write(tmp_path / 'a.txt', 'a\nb')
  assert read(path)[0] == [('a\nb', 'train')]


def test_many_files_are_held_out_whole(tmp_path):
  for i in range(40):
    write(tmp_path / f'{i}.txt', f'{i}\n' * 10)
  found, _ = read(tmp_path, validation_fraction=0.3)
  assert sorted(text for text, _ in found) == sorted(
    f'{i}\n' * 10 for i in range(40)
  )
  assert {split for _, split in found} == {'train', 'validation'}


def test_equal_documents_share_a_split_in_any_form(tmp_path):
  documents_of = [f'document {i}\n' * 2 for i in range(50)]
  for i, text in enumerate(documents_of):
    write(tmp_path / f'{i}.txt', text)
  write_lines(
    tmp_path / 'a.jsonl', [json.dumps({'text': t}) for t in documents_of]
  )
  table = pyarrow.table({'text': documents_of})
  write_table(tmp_path / 'a.parquet', table)
  found, _ = read(tmp_path, validation_fraction=0.4)
  assert len(found) == 150
  splits = collections.defaultdict(set)
  for text, split in found:
    splits[text].add(split)
  assert all(len(each) == 1 for each in splits.values())
  assert {'train'} in splits.values() and {'validation'} in splits.values()


@pytest.mark.parametrize('piece_bytes', [1, 7, 100])
def test_text_files_may_be_cut_into_documents(piece_bytes, tmp_path):
  text = 'a\n\nb\n' + 'some line\n' * 50 + 'é' * 300 + '\nlast'
  path = write(tmp_path / 'a.txt', text)
  pieces, _ = read_pieces(path, piece_bytes=piece_bytes)
  assert ''.join(piece.text for piece in pieces) == text
  assert all(piece.ends for piece in pieces)
  for piece in pieces[:-1]:
    *before, last = piece.text.splitlines(keepends=True)
    assert len(''.join(before).encode()) < piece_bytes
    assert len(piece.text.encode()) >= piece_bytes and last.endswith('\n')


def test_records_are_not_cut(tmp_path):
  path = write_lines(tmp_path / 'a.jsonl', ['{"text": "a"}'] * 9)
  assert 'data.piece_bytes = 10: must be 0' in error(path, piece_bytes=10)


def test_a_large_file_is_read_in_little_memory(tmp_path, small_pieces):
  import tracemalloc

  path = write(tmp_path / 'a.txt', b'a line of text\n' * 200_000)  # 3 MB
  (source,) = documents.file_sources(files.find_files(str(path)), 0)
  tracemalloc.start()
  n = sum(1 for _ in source.pieces(documents.Reading(), collections.Counter()))
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert n > 2000
  assert peak < 1_000_000


def test_what_another_library_raises_names_the_source(tmp_path):
  def broken():
    yield 'a'
    raise RuntimeError('of another library')

  source = documents.Records('set', broken())
  with pytest.raises(config.ConfigError, match='set, after .*of another'):
    list(source.pieces(documents.Reading(), collections.Counter()))
