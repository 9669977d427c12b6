"""Documents that lie in files: Python's own library, text, JSON lines.

Opening a corpus reads all of it once, so that a bad file is an error before
training and not during it. What stays in memory is where each document is; of
files in an object store, all.
"""

import array
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from jax_sparse_pretrain import config
from jax_sparse_pretrain.data.matching import (
  Path,
  files_matching,
  library_files,
)

_Opened = tuple['FileDocuments', 'FileDocuments', dict[str, Any]]


def open_stdlib(data: config.Data) -> _Opened:
  """The modules of Python's standard library: a corpus on every machine."""
  return _open(library_files(), _module_text, data, "data.source = 'stdlib'")


def open_text(data: config.Data) -> _Opened:
  """UTF-8 files, a document each, and .jsonl files, a document a line."""
  read = functools.partial(_text, data.text_feature)
  where = f'data.path = {data.path!r}'
  return _open(files_matching(data.path), read, data, where)


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
  """The documents of one split as they are found."""

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
  """Yields suffix to the file's name, first byte, size, text as UTF-8."""
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
  """The whole, or whole lines of it that are just not less than asked.

  A line feed is no part of another character in UTF-8.
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
