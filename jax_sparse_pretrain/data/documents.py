"""Files -> documents, of which a long one comes in pieces.

A file of JSON, Parquet or Arrow holds a document a record; a text file is one
document, or several with `piece_bytes`. Reading needs no more memory than a
piece and a record, whatever the size of a file.
"""

import collections
import contextlib
import dataclasses
import errno
import functools
import hashlib
import itertools
import json
import pathlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, BinaryIO, NamedTuple

from jax_sparse_pretrain import config, schema, storage
from jax_sparse_pretrain.data import files

# A longer document is tokenized in pieces of about so many bytes, cut at the
# ends of lines.
PIECE_BYTES = 8 << 20
_BYTE_ORDER_MARK = b'\xef\xbb\xbf'  # of UTF-8; it is not text
# With fewer text files than would hold out so many, each file is split instead.
_FEWEST_HELD_OUT = 10


class Piece(NamedTuple):
  """A document, or the next part of one.

  Attributes:
    text: never empty.
    ends: whether the document ends here.
    split: 'train' or 'validation'.
    digest: 8 bytes of a hash of the document's (first) text; the same for
      equal documents.
  """

  text: str
  ends: bool
  split: str
  digest: bytes


@dataclasses.dataclass(frozen=True)
class Reading:
  """How to read, whatever is read.

  Attributes:
    text_field: the field of a record that is the text, as `a.b` if nested.
    errors: what to do about a document that cannot be read: 'strict' raises,
      'replace' mends what is not UTF-8, 'skip' leaves the document out.
    validation_fraction: share of the documents to hold out.
    piece_bytes: cut text files into documents of about so many bytes; 0: no.
    split: the split of all documents, if not by hash.
  """

  text_field: str = 'text'
  errors: str = 'strict'
  validation_fraction: float = 0.0
  piece_bytes: int = 0
  split: str | None = None


class Source:
  """Something that yields documents: a file, or a data set."""

  name: str
  n_bytes_read = 0  # by `pieces`, as far as it is known

  def size(self) -> int:
    """Bytes that there are to read; 0 if not known."""
    return 0

  def pieces(
    self, reading: Reading, dropped: collections.Counter
  ) -> Iterator[Piece]:
    """Yields all pieces, in a fixed order; counts what is left out.

    Args:
      reading: how to read.
      dropped: counts of 'empty' and of 'skipped' documents, increased here.

    Raises:
      ConfigError: for what cannot be read, naming file and line.
    """
    raise NotImplementedError

  def about(self) -> dict[str, Any]:
    """Name, and size and hash where they exist: values for JSON."""
    return {'name': self.name}

  def identity(self) -> list:
    """Differs between sources, as far as that can be told at once, for JSON."""
    return [self.name]

  def stamp(self) -> Any:
    """Changes when the source does; None if that cannot be told at once."""
    return None


class Records(Source):
  """Documents that another library reads.

  Args:
    name: for a person.
    texts: may be gone through more than once.
  """

  def __init__(self, name: str, texts: Iterable[Any]):
    self.name, self._texts = name, texts

  def pieces(self, reading, dropped):
    number = 0
    try:
      for number, text in enumerate(self._texts):
        where = f'{self.name}, document {number}'
        yield from _document(lambda text=text: text, where, reading, dropped)
    except config.ConfigError:
      raise
    except Exception as error:  # Whatever the other library raises.
      raise config.ConfigError(
        f'{self.name}, after document {number}: cannot be read: '
        f'{schema.one_line(error)}'
      ) from error


class File(Source):
  """A file of text, JSON, Parquet or Arrow, perhaps compressed."""

  def __init__(self, name: str, path: pathlib.Path, by_position: bool = False):
    self.name, self._path = name, path
    self._by_position = by_position

  def about(self):
    with files.local_copy(self._path) as path, path.open('rb') as file:
      digest = hashlib.file_digest(file, 'sha256').hexdigest()
      return {'name': self.name, 'bytes': file.tell(), 'sha256': digest}

  def identity(self):
    # An object is written whole, and cannot change in part.
    if storage.is_remote(self._path):
      return [self.name, self.size()]
    return [self.name, self.size(), _hash_of_ends(self._path)]

  def size(self):
    about = self._path.stat()
    is_remote = storage.is_remote(self._path)
    return about.length if is_remote else about.st_size

  def stamp(self):
    if storage.is_remote(self._path):
      return None
    about = self._path.stat()
    return str(self._path), about.st_size, about.st_mtime_ns

  def pieces(self, reading, dropped):
    try:
      with files.local_copy(self._path) as path:
        kind = files.kind_of(path)
        if kind.content == 'text':
          yield from self._text_pieces(path, kind, reading, dropped)
          return
        if reading.piece_bytes:
          raise config.ConfigError(
            f'{self._path}: data.piece_bytes = {reading.piece_bytes}: must be '
            '0 for files that hold a document a record'
          )
        with self._opened(path, kind) as stream:
          records = _RECORDS[kind.content](stream, reading)
          for place, get in records:
            where = f'{self._path}, {place}'
            self.n_bytes_read = self._raw.tell()
            yield from _document(get, where, reading, dropped)
    except config.ConfigError:
      raise
    except Exception as error:  # Libraries raise many kinds for damaged files.
      if getattr(error, 'errno', None) == errno.ENOSPC:
        raise  # By the copy of an object; the file is good.
      raise config.ConfigError(
        f'{self._path}: cannot be read: {schema.one_line(error)}'
      ) from error

  @contextlib.contextmanager
  def _opened(self, path, kind):
    with path.open('rb') as self._raw:
      with files.decompressed(self._raw, kind.compression) as stream:
        yield stream

  def _text_pieces(self, path, kind, reading, dropped):
    split = reading.split
    if reading.errors == 'skip' and not self._is_utf8(path, kind):
      dropped['skipped'] += 1
      return
    cut = None
    if self._by_position and split is None:
      cut = _size(path, kind) * (1 - reading.validation_fraction)
    with self._opened(path, kind) as stream:
      parts = _by_position(_blocks(stream), cut, split)
      digest, begins, line = None, True, 1
      for last, (raw, part_split, ends_part) in _with_last(parts):
        self.n_bytes_read = self._raw.tell()
        if begins:
          digest = _digest(raw)
          held_out = _is_held_out(digest, reading.validation_fraction)
          by_hash = 'validation' if held_out else 'train'
        begins = ends_part
        text = self._decoded(raw, line, reading.errors)
        line += raw.count(b'\n')
        where = part_split or by_hash
        if not reading.piece_bytes:
          yield Piece(text, last or ends_part, where, digest)
          continue
        for piece in _pieces_of(text.encode(), reading.piece_bytes):
          yield Piece(piece.decode(), True, where, digest)
    if digest is None:
      dropped['empty'] += 1

  def _decoded(self, raw: bytes, line: int, errors: str) -> str:
    """The text of a block that begins at a line."""
    try:
      return raw.decode('utf-8', _decoding(errors))
    except UnicodeDecodeError as error:
      line += raw[: error.start].count(b'\n')
      raise config.ConfigError(
        f'{self._path}, line {line}: not UTF-8 ({error.reason}); '
        "must be, or set the errors to 'replace' or 'skip'"
      ) from error

  def _is_utf8(self, path, kind) -> bool:
    with self._opened(path, kind) as stream:
      try:
        for block in _blocks(stream):
          block.decode()
      except UnicodeDecodeError:
        return False
    return True


def file_sources(found: files.Found, fraction: float) -> list[File]:
  """Sources for files; a few text files are each split by position.

  The last share of such a file is held out, from the end of a line on. A hash
  of so few documents could hold out none.
  """
  few = len(found.paths) * fraction < _FEWEST_HELD_OUT
  return [File(name, path, few) for name, path in found.paths.items()]


def notes_on(found: files.Found) -> list[str]:
  """A note if files that are read as text begin with a record of JSON."""
  names = [n for n, path in found.paths.items() if _is_json_as_text(path)]
  if not names:
    return []
  others = f' and {len(names) - 1:,} more' if names[1:] else ''
  return [
    f'{names[0]}{others}: begins with a record of JSON, but is read as text; '
    'name it .jsonl to read its records'
  ]


def _is_json_as_text(path: pathlib.Path) -> bool:
  if storage.is_remote(path):
    return False  # It would have to be copied here.
  try:
    kind = files.kind_of(path)
    if kind.content != 'text':
      return False
    with path.open('rb') as raw, files.decompressed(raw, kind.compression) as f:
      line = f.readline(1 << 20)
    return isinstance(json.loads(line), dict)
  except Exception:  # What cannot be read is an error later on.
    return False


def _document(
  get, where: str, reading: Reading, dropped: collections.Counter
) -> Iterator[Piece]:
  """The pieces of one record."""
  try:
    text = get()
    if isinstance(text, bytes):
      text = text.decode('utf-8', _decoding(reading.errors))
    if not isinstance(text, str):
      raise ValueError(
        f'must hold text in {reading.text_field!r} (the text field)'
      )
    # Lone surrogates of JSON are not UTF-8.
    raw = text.encode('utf-8', _decoding(reading.errors))
  except (ValueError, RecursionError) as error:
    if reading.errors != 'skip':
      raise config.ConfigError(f'{where}: {schema.one_line(error)}') from error
    dropped['skipped'] += 1
    return
  if not raw:
    dropped['empty'] += 1
    return
  digest = _digest(raw)
  held_out = _is_held_out(digest, reading.validation_fraction)
  split = reading.split or ('validation' if held_out else 'train')
  if len(raw) <= PIECE_BYTES:
    yield Piece(raw.decode(), True, split, digest)
    return
  start = 0
  for piece in _pieces_of(raw, PIECE_BYTES):
    start += len(piece)
    yield Piece(piece.decode(), start == len(raw), split, digest)


def _json_records(stream: BinaryIO, reading: Reading):
  """Yields (place, function that gives the text) of JSON or JSON lines."""
  lines = enumerate(itertools.chain(_first_line(stream), stream), 1)
  start = next((line for line in lines if line[1].strip()), None)
  if start is None:
    return
  if not isinstance(_json_or_none(start[1], reading), dict):
    # An array, an object over several lines, or a first line that is no JSON.
    lines = [start, *lines]
    whole = _json_or_none(b''.join(line for _, line in lines), reading)
    if whole is not None:
      records = whole if isinstance(whole, list) else [whole]
      for number, record in enumerate(records):
        yield (
          f'record {number}',
          functools.partial(field_of, record, reading.text_field),
        )
      return
    start, lines = lines[0], lines[1:]
  for number, line in itertools.chain([start], lines):
    if line.strip():
      yield f'line {number}', functools.partial(_line_text, line, reading)


def _first_line(stream: BinaryIO) -> list[bytes]:
  """The first line in a list, without a mark; none of an empty stream."""
  line = stream.readline().removeprefix(_BYTE_ORDER_MARK)
  return [line] if line else []


def _line_text(line: bytes, reading: Reading) -> Any:
  return field_of(_parsed(line, reading), reading.text_field)


def _json_or_none(raw: bytes, reading: Reading) -> Any:
  try:
    return _parsed(raw, reading)
  except (ValueError, RecursionError):
    return None


def _parsed(raw: bytes, reading: Reading) -> Any:
  try:
    return json.loads(raw.decode('utf-8', _decoding(reading.errors)))
  except UnicodeDecodeError as error:
    raise ValueError(f'not UTF-8 ({error.reason})') from error
  except ValueError as error:
    raise ValueError(f'not JSON ({error})') from error


def field_of(record: Any, field: str) -> Any:
  """The value of a field `a.b` of nested mappings; None if it is not there."""
  for name in field.split('.'):
    record = record.get(name) if isinstance(record, dict) else None
  return record


def _parquet_records(stream: BinaryIO, reading: Reading):
  pyarrow = _pyarrow()
  from pyarrow import parquet

  file = parquet.ParquetFile(pyarrow.PythonFile(stream, 'r'))
  yield from _table_records(
    file.schema_arrow.names,
    reading.text_field,
    lambda column: file.iter_batches(batch_size=1024, columns=[column]),
  )


def _arrow_records(stream: BinaryIO, reading: Reading):
  pyarrow = _pyarrow()
  if stream.read(6) == b'ARROW1':
    stream.seek(0)
    file = pyarrow.ipc.open_file(stream)
    batches = map(file.get_batch, range(file.num_record_batches))
  else:
    stream.seek(0)
    file = batches = pyarrow.ipc.open_stream(stream)
  yield from _table_records(
    file.schema.names,
    reading.text_field,
    lambda column: (batch.select([column]) for batch in batches),
  )


def _table_records(columns: Sequence[str], field: str, batches_of):
  column, _, below = field.partition('.')
  if column not in columns:
    raise ValueError(
      f'no field {column!r} (the text field); has {", ".join(columns)}'
    )
  number = 0
  for batch in batches_of(column):
    for value in batch.column(0).to_pylist():
      text = field_of(value, below) if below else value
      yield f'record {number}', lambda text=text: text
      number += 1


def _pyarrow():
  try:
    import pyarrow.ipc
  except ImportError as error:
    raise config.ConfigError(
      "Parquet and Arrow need: pip install 'jax_sparse_pretrain[prepare]'"
    ) from error
  return pyarrow


_RECORDS = {
  'json': _json_records,
  'parquet': _parquet_records,
  'arrow': _arrow_records,
}


def _blocks(stream: BinaryIO) -> Iterator[bytes]:
  """Blocks of about `PIECE_BYTES` that end with a line, without a mark.

  A line that is longer is cut between two characters.
  """
  rest = stream.read(3).removeprefix(_BYTE_ORDER_MARK)
  while len(block := stream.read(PIECE_BYTES)) == PIECE_BYTES:
    block = rest + block
    end = block.rfind(b'\n') + 1 or _character_start(block, len(block) - 1)
    yield block[:end]
    rest = block[end:]
  if block := rest + block:
    yield block


def _character_start(raw: bytes, index: int) -> int:
  """The last index up to this one at which a character of UTF-8 begins."""
  starts = range(index, max(index - 4, -1), -1)
  return next((i for i in starts if raw[i] & 0xC0 != 0x80), index)


def _character_end(raw: bytes, index: int) -> int:
  """The first index from this one on at which a character of UTF-8 begins."""
  while index < len(raw) and raw[index] & 0xC0 == 0x80:
    index += 1
  return index


def _by_position(
  blocks: Iterator[bytes], cut: float | None, split: str | None
) -> Iterator[tuple[bytes, str | None, bool]]:
  """(block, its split if not by hash, whether a document ends with it)."""
  if cut is None:
    for block in blocks:
      yield block, split, False
    return
  start = 0
  for block in blocks:
    inside = int(cut) - start
    start += len(block)
    if inside > len(block):
      yield block, 'train', False
    elif inside < 0:
      yield block, 'validation', False
    elif inside == len(block):
      yield block, 'train', True
      cut = -1
    else:
      end = _cut_near(block, inside)
      for raw, name in ((block[:end], 'train'), (block[end:], 'validation')):
        if raw:
          yield raw, name, name == 'train'
      cut = -1


def _cut_near(block: bytes, index: int) -> int:
  """Where to cut a block: at the end of a line, or between two characters."""
  end = block.find(b'\n', index) + 1
  if not 0 < end < len(block):
    end = block.rfind(b'\n', 0, index) + 1
  end = end or _character_start(block, index)
  # Before the first character there is no text to train on.
  return end or _character_end(block, index)


def _with_last(items):
  """(whether it is the last, item)."""
  items = iter(items)
  held = next(items, None)
  while held is not None:
    following = next(items, None)
    yield following is None, held
    held = following


def _pieces_of(raw: bytes, piece_bytes: int) -> Iterator[bytes]:
  """Pieces of whole lines with at least so many bytes; the last may have less.

  In UTF-8 the byte of a line feed is never a part of another character. Past
  `PIECE_BYTES`, a piece is cut between two characters instead.
  """
  start = 0
  while start < len(raw):
    end = raw.find(b'\n', start + piece_bytes - 1) + 1 or len(raw)
    if end - start > 2 * PIECE_BYTES:
      end = _character_start(raw, start + PIECE_BYTES)
    yield raw[start:end]
    start = end


def _size(path: pathlib.Path, kind: files.Kind) -> int:
  if kind.compression is None:
    return path.stat().st_size
  with (
    path.open('rb') as raw,
    files.decompressed(raw, kind.compression) as stream,
  ):
    return sum(map(len, iter(lambda: stream.read(1 << 20), b'')))


def _hash_of_ends(path: pathlib.Path) -> str:
  """SHA-256 of the first and the last MiB of a file."""
  with path.open('rb') as file:
    digest = hashlib.sha256(file.read(1 << 20))
    file.seek(max(path.stat().st_size - (1 << 20), 0))
    digest.update(file.read())
  return digest.hexdigest()


def _decoding(errors: str) -> str:
  return 'replace' if errors == 'replace' else 'strict'


def _digest(raw: bytes) -> bytes:
  return hashlib.sha256(raw).digest()[:8]


def _is_held_out(digest: bytes, fraction: float) -> bool:
  """Decided by the document alone, so equal documents share a split."""
  return int.from_bytes(digest) < fraction * 2**64
