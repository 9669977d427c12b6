"""Files -> documents, of which a long one comes in pieces.

A file of JSON, Parquet or Arrow holds a document a record; a text file is one
document, or several with `piece_bytes`. Reading needs no more memory than a
piece and a record, whatever the size of a file.
"""

import collections
import contextlib
import dataclasses
import errno
import hashlib
import json
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from jax_sparse_pretrain import config, schema, storage
from jax_sparse_pretrain.data import cutting, files, records

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
          read = records.OF_KIND[kind.content]
          for place, get in read(stream, reading):
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
      parts = cutting.split_at(cutting.blocks(stream), cut, split)
      digest, begins, line = None, True, 1
      for last, (raw, part_split, ends_part) in cutting.with_last(parts):
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
        for piece in cutting.pieces_of(text.encode(), reading.piece_bytes):
          yield Piece(piece.decode(), True, where, digest)
    if digest is None:
      dropped['empty'] += 1

  def _decoded(self, raw: bytes, line: int, errors: str) -> str:
    """The text of a block that begins at a line."""
    try:
      return raw.decode('utf-8', records.decoding(errors))
    except UnicodeDecodeError as error:
      line += raw[: error.start].count(b'\n')
      raise config.ConfigError(
        f'{self._path}, line {line}: not UTF-8 ({error.reason}); '
        'must be, or see --errors and data.errors'
      ) from error

  def _is_utf8(self, path, kind) -> bool:
    with self._opened(path, kind) as stream:
      try:
        for block in cutting.blocks(stream):
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
      text = text.decode('utf-8', records.decoding(reading.errors))
    if not isinstance(text, str):
      raise ValueError(
        f'must hold text in {reading.text_field!r} (the text field)'
      )
    # Lone surrogates of JSON are not UTF-8.
    raw = text.encode('utf-8', records.decoding(reading.errors))
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
  if len(raw) <= cutting.PIECE_BYTES:
    yield Piece(raw.decode(), True, split, digest)
    return
  start = 0
  for piece in cutting.pieces_of(raw, cutting.PIECE_BYTES):
    start += len(piece)
    yield Piece(piece.decode(), start == len(raw), split, digest)


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


def _digest(raw: bytes) -> bytes:
  return hashlib.sha256(raw).digest()[:8]


def _is_held_out(digest: bytes, fraction: float) -> bool:
  """Decided by the document alone, so equal documents share a split."""
  return int.from_bytes(digest) < fraction * 2**64
