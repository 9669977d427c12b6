"""Documents that lie in files: Python's own library, text, JSON lines.

Opening a corpus reads all of it once, so that a bad file is an error before
training and not during it. What stays in memory is where each document is; of
files in an object store, their content, too.
"""

import array
import functools
import hashlib
import io
import json
import os
import pathlib
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np

from jax_sparse_pretrain import config, storage

_Opened = tuple['FileDocuments', 'FileDocuments', dict[str, Any]]

# Left out of Python's library: packages installed beside it, its tests, and
# modules that its build generates, which differ between machines.
_NOT_STDLIB = {'site-packages', 'dist-packages', '__pycache__'}
_NOT_STDLIB |= {'test', 'tests', 'idle_test'}
_GENERATED = ('config-', '_sysconfigdata_')


class Fetched:
  """A file of an object store, read once: not a request for each document."""

  def __init__(self, path: pathlib.Path):
    self._path, self.suffix = path, path.suffix

  def __str__(self) -> str:
    return str(self._path)

  @functools.cached_property
  def _content(self) -> bytes:
    return self._path.read_bytes()

  def read_bytes(self) -> bytes:
    return self._content

  def open(self, mode: str) -> BinaryIO:
    del mode
    return io.BytesIO(self._content)


Path = pathlib.Path | Fetched


def open_stdlib(data: config.Data) -> _Opened:
  """The modules of Python's standard library: a corpus on every machine."""
  return _open(_library_files(), _module_text, data, "data.source = 'stdlib'")


def open_text(data: config.Data) -> _Opened:
  """UTF-8 files of one document, and .jsonl files with a document on a line."""
  read = functools.partial(_text, data.text_feature)
  where = f'data.path = {data.path!r}'
  return _open(_files_matching(data.path), read, data, where)


class FileDocuments:
  """Spans of files, as text."""

  def __init__(
    self,
    paths: list[Path],
    spans_Nx3: np.ndarray,
    read: Callable[[Path, bytes], str],
  ):
    """Spans hold the index of a path, the first byte, the number of bytes."""
    self._paths, self._spans_Nx3, self._read = paths, spans_Nx3, read

  def __len__(self) -> int:
    return len(self._spans_Nx3)

  def __getitem__(self, index: int) -> str:
    n_path, start, size = self._spans_Nx3[index].tolist()
    path = self._paths[n_path]
    with path.open('rb') as file:
      file.seek(start)
      return self._read(path, file.read(size))


class _Split:
  """Collects the documents of one split as they are found."""

  def __init__(self):
    self._spans = array.array('q')
    self._n_bytes = 0
    self._hash = hashlib.sha256()

  def add(self, name: bytes, span: tuple[int, int, int], content: bytes):
    self._spans.extend(span)
    self._n_bytes += len(content)
    for part in (name, content):
      self._hash.update(hashlib.sha256(part).digest())

  def spans_Nx3(self) -> np.ndarray:
    return np.array(self._spans, np.int64).reshape(-1, 3)

  def fingerprint(self) -> dict[str, Any]:
    return {
      'documents': len(self._spans) // 3,
      'bytes': self._n_bytes,
      'sha256': self._hash.hexdigest(),
    }


def _open(
  files: Mapping[str, Path],
  read: Callable[[Path, bytes], str],
  data: config.Data,
  where: str,
) -> _Opened:
  if not files:
    raise config.ConfigError(
      f"{where}: matches no file; must be a file or a glob such as '~/**/*.txt'"
    )
  train, validation = _Split(), _Split()
  for n_path, (file_name, path) in enumerate(files.items()):
    found = _documents(path, read, data.piece_bytes, where)
    for suffix, start, size, content in found:
      # A file name need not be UTF-8.
      name = os.fsencode(file_name + suffix)
      held_out = _share(name) < data.validation_fraction
      split = validation if held_out else train
      split.add(name, (n_path, start, size), content)
  fingerprint = {
    'train': train.fingerprint(),
    'validation': validation.fingerprint(),
  }
  _check_not_empty(fingerprint, data.validation_fraction, where)
  opened = (
    FileDocuments(list(files.values()), split.spans_Nx3(), read)
    for split in (train, validation)
  )
  return *opened, fingerprint


def _documents(
  path: Path, read: Callable, piece_bytes: int, where: str
) -> Iterator[tuple[str, int, int, bytes]]:
  """Yields the suffix to the file's name, first byte, size, text as UTF-8."""
  suffix = ''
  try:
    for suffix, start, raw in _spans(path, piece_bytes):
      content = read(path, raw).encode()
      if content:
        yield suffix, start, len(raw), content
  except (OSError, ValueError) as error:
    raise config.ConfigError(f'{where}: {path}{suffix}: {error}') from error


def _spans(path: Path, piece_bytes: int) -> Iterator[tuple[str, int, bytes]]:
  start = 0
  if path.suffix != '.jsonl':
    for piece in _pieces(path.read_bytes(), piece_bytes):
      yield '', start, piece
      start += len(piece)
    return
  if piece_bytes:
    raise ValueError(
      f'data.piece_bytes = {piece_bytes}: must be 0 for .jsonl files, which '
      'hold a document a line'
    )
  with path.open('rb') as lines:
    for number, line in enumerate(lines, 1):
      if line.strip():
        yield f':{number}', start, line
      start += len(line)


def _pieces(raw: bytes, piece_bytes: int) -> Iterator[bytes]:
  """The whole file, or pieces of whole lines with at least so many bytes.

  In UTF-8 the byte of a line feed is never a part of another character.
  """
  start = 0
  while start < len(raw):
    end = raw.find(b'\n', start + piece_bytes - 1) + 1 if piece_bytes else 0
    end = end or len(raw)
    yield raw[start:end]
    start = end


def _text(feature: str, path: Path, raw: bytes) -> str:
  text = raw.decode()
  if path.suffix != '.jsonl':
    return text
  record = json.loads(text)
  if not isinstance(record, dict) or not isinstance(record.get(feature), str):
    raise ValueError(
      f'must be a JSON object with text in {feature!r} (data.text_feature)'
    )
  return record[feature]


def _module_text(path: Path, raw: bytes) -> str:
  del path
  return raw.decode(errors='replace')  # A few modules are not UTF-8.


def _share(name: bytes) -> float:
  """A number in [0, 1) that only the name decides."""
  return int.from_bytes(hashlib.sha256(name).digest()[:8]) / 2**64


def _check_not_empty(
  fingerprint: Mapping[str, Any], fraction: float, where: str
) -> None:
  n_documents = [split['documents'] for split in fingerprint.values()]
  if not any(n_documents):
    raise config.ConfigError(f'{where}: all its files are empty')
  if not all(n_documents):
    raise config.ConfigError(
      f'data.validation_fraction = {fraction}: splits the documents of '
      f'{where} into {n_documents[0]} for training and {n_documents[1]} for '
      'validation; must leave at least one in each: add documents, or change '
      'the fraction'
    )


def _library_files() -> dict[str, Path]:
  """The modules of Python's standard library by path below it, sorted."""
  root, found = pathlib.Path(sysconfig.get_path('stdlib')), {}
  for folder, subfolders, names in os.walk(root):
    # os.walk descends into what is left in the list.
    subfolders[:] = [
      name
      for name in subfolders
      if name not in _NOT_STDLIB and not name.startswith(_GENERATED)
    ]
    for name in names:
      if name.endswith('.py') and not name.startswith(_GENERATED):
        path = pathlib.Path(folder, name)
        found[path.relative_to(root).as_posix()] = path
  return dict(sorted(found.items()))


def _files_matching(pattern: str) -> dict[str, Path]:
  """Glob -> {path below the glob's fixed part: file}, sorted.

  Raises:
    ConfigError: for what is no glob, or cannot be read.
  """
  try:
    root, matches = _glob(pattern)
  except (ValueError, NotImplementedError, OSError) as error:
    raise config.ConfigError(
      f'data.path = {pattern!r}: must be a glob of readable files: {error}'
    ) from error
  read = Fetched if storage.is_remote(pattern) else lambda path: path
  found = sorted((path.relative_to(root).as_posix(), path) for path in matches)
  return {name: read(path) for name, path in found}


def _glob(pattern: str) -> tuple[pathlib.Path, list[pathlib.Path]]:
  """The fixed part, and the files that match; etils refuses `**`."""
  whole = storage.as_path(pattern)
  kind, parts = type(whole), whole.parts
  wild = [any(c in part for c in '*?[') for part in parts]
  n_fixed = wild.index(True) if any(wild) else len(parts) - 1
  root = kind(*parts[:n_fixed])
  matches = root.glob('/'.join(parts[n_fixed:]))
  return root, [path for path in matches if path.is_file()]
