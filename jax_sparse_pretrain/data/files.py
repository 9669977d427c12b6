"""Which files a pattern names, and what kind of file each is.

A file's kind is told by its first bytes and by its name. A file of a kind that
is not read here is refused and named; it is never taken for text.
"""

import bz2
import contextlib
import fnmatch
import glob
import gzip
import io
import os
import pathlib
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO, NamedTuple

from jax_sparse_pretrain import config, storage

# Left out of Python's library: packages installed beside it, its tests, and
# modules that its build generates, which differ between machines.
_NOT_STDLIB = {'site-packages', 'dist-packages', '__pycache__'}
_NOT_STDLIB |= {'test', 'tests', 'idle_test'}
_GENERATED = ('config-', '_sysconfigdata_')

_COMPRESSED = {
  b'\x1f\x8b': 'gzip',
  b'\x28\xb5\x2f\xfd': 'zstd',
  b'BZh': 'bzip2',
}
_TABLES = {b'PAR1': 'parquet', b'ARROW1': 'arrow'}
# Kinds that people hand over by mistake, so that the error can name them.
_REFUSED = {
  b'\xfd7zXZ': 'an xz archive',
  b'PK\x03\x04': 'a zip archive',
  b'\x93NUMPY': 'a NumPy array',
  b'%PDF': 'a PDF document',
  b'\xff\xfe': 'UTF-16 text',
  b'\xfe\xff': 'UTF-16 text',
}
_JSON_NAMES = ('.json', '.jsonl', '.ndjson', '.jsonlines')
_COMPRESSED_NAMES = ('.gz', '.zst', '.bz2')


class Kind(NamedTuple):
  """What a file holds: `text`, `json`, `parquet` or `arrow`; how compressed."""

  content: str
  compression: str | None


class Found(NamedTuple):
  """The files of a pattern.

  Attributes:
    paths: file by its path below the fixed part of the pattern, sorted.
    n_repeated: names left out because they lead to a file already in `paths`.
  """

  paths: dict[str, pathlib.Path]
  n_repeated: int


def find_files(pattern: str) -> Found:
  """The files that a path, a directory or a glob names.

  `**` follows linked directories, and a loop of links ends. Hidden files and
  folders are left out unless the pattern names them. A file that is met twice
  counts once.

  Raises:
    ConfigError: if nothing matches, or a folder cannot be read.
  """
  try:
    root, matches = _matches(pattern)
  except (ValueError, NotImplementedError, OSError) as error:
    raise config.ConfigError(
      f'{pattern}: must be a glob of readable files: {error}'
    ) from error
  if not matches:
    raise config.ConfigError(
      f'{pattern}: matches no file; must be a file, a directory or a glob such '
      "as '~/**/*.txt'"
    )
  kept, n_repeated = without_repeats(sorted(matches))
  paths = {path.relative_to(root).as_posix(): path for path in kept}
  return Found(paths, n_repeated)


def without_repeats(
  paths: Iterable[pathlib.Path],
) -> tuple[list[pathlib.Path], int]:
  """The first name of each file, and how many names are left out."""
  kept, n_repeated = {}, 0
  for path in paths:
    identity = os.fspath(path)
    if not storage.is_remote(path):
      about = path.stat()
      identity = about.st_dev, about.st_ino
    n_repeated += identity in kept
    kept.setdefault(identity, path)
  return list(kept.values()), n_repeated


def stdlib_files() -> Found:
  """The modules of Python's standard library: a corpus on every machine."""
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
  return Found(dict(sorted(found.items())), 0)


def _matches(pattern: str) -> tuple[pathlib.Path, list[pathlib.Path]]:
  """The part of the pattern before its first wildcard, and what matches."""
  whole = storage.as_path(pattern)
  if whole.is_file():
    return whole.parent, [whole]
  if whole.is_dir():
    return whole, list(_below(whole, ['**']))
  parts = whole.parts
  n_fixed = next((i for i, p in enumerate(parts) if glob.has_magic(p)), None)
  if n_fixed is None:
    return whole, []
  root = type(whole)(*parts[:n_fixed])
  return root, list(_below(root, parts[n_fixed:]))


def _below(root: pathlib.Path, parts: Sequence[str]) -> Iterator[pathlib.Path]:
  # `**/**` is `**`.
  parts = [
    p
    for p, before in zip(parts, ['', *parts], strict=False)
    if not p == before == '**'
  ]
  if storage.is_remote(root):
    return _remote_matches(root, parts)
  return _walk(root, parts, frozenset()) if root.is_dir() else iter(())


def _walk(folder: pathlib.Path, parts, inside) -> Iterator[pathlib.Path]:
  """Files below `folder`; `inside` holds the folders that `**` went through."""
  part, *rest = parts
  if part == '**':
    about = folder.stat()
    if (about.st_dev, about.st_ino) in inside:
      return
    inside |= {(about.st_dev, about.st_ino)}
    yield from _walk(folder, rest or ['*'], inside)
    for child in _children(folder, '*'):
      if child.is_dir():
        yield from _walk(child, parts, inside)
    return
  for child in _children(folder, part):
    if rest and child.is_dir():
      yield from _walk(child, rest, inside)
    elif not rest and child.is_file():
      yield child


def _children(folder: pathlib.Path, pattern: str) -> list[pathlib.Path]:
  return [
    pathlib.Path(entry)
    for entry in os.scandir(folder)
    if fnmatch.fnmatchcase(entry.name, pattern)
    and _is_wanted(entry.name, pattern)
  ]


def _is_wanted(name: str, pattern: str) -> bool:
  return pattern.startswith('.') or not name.startswith('.')


def _remote_matches(root, parts) -> Iterator[pathlib.Path]:
  # etils refuses `**`, and a bucket has no links.
  if '**' in parts:
    found = (
      # etils leaves `gs://` out of the folders.
      storage.as_path(f'gs://{os.fspath(folder).removeprefix("gs://")}') / name
      for folder, _, names in root.walk()
      for name in names
    )
  else:
    found = (p for p in root.glob('/'.join(parts)) if p.is_file())
  for path in found:
    if _is_match(path.relative_to(root).parts, parts):
      yield path


def _is_match(names: Sequence[str], parts: Sequence[str]) -> bool:
  """Whether the parts of a pattern match those of a path."""
  if not parts or not names:
    return not parts and not names
  part, *rest = parts
  if part == '**' and _is_match(names, rest or ['*']):
    return True
  wanted = '*' if part == '**' else part
  return (
    fnmatch.fnmatchcase(names[0], wanted)
    and _is_wanted(names[0], wanted)
    and _is_match(names[1:], parts if part == '**' else rest)
  )


def kind_of(path: pathlib.Path) -> Kind:
  """Tells a file's kind.

  Raises:
    ConfigError: for one that is not read here, naming what it is.
  """
  with path.open('rb') as file:
    start = file.read(8192)
  compression = _starting(_COMPRESSED, start)
  name = path.name.lower()
  if compression:
    with path.open('rb') as raw, decompressed(raw, compression) as file:
      start = file.read(8192)
    if name.endswith(_COMPRESSED_NAMES):
      name = name.rpartition('.')[0]
  elif start and name.endswith(_COMPRESSED_NAMES):
    raise config.ConfigError(f'{path}: is not compressed as its name says')
  if table := _starting(_TABLES, start):
    return Kind(table, compression)
  if name.endswith('.arrow'):  # A stream of Arrow has no mark of its own.
    return Kind('arrow', compression)
  if what := _starting(_REFUSED, start):
    raise config.ConfigError(f'{path}: is {what}; must be text or JSON lines')
  if b'\0' in start:
    raise config.ConfigError(
      f'{path}: is a binary file; must be text, JSON, Parquet or Arrow'
    )
  if name.endswith('.parquet'):
    raise config.ConfigError(f'{path}: is not a Parquet file')
  content = 'json' if name.endswith(_JSON_NAMES) else 'text'
  return Kind(content, compression)


def _starting(kinds: dict[bytes, str], start: bytes) -> str | None:
  return next((k for mark, k in kinds.items() if start.startswith(mark)), None)


def decompressed(raw: BinaryIO, compression: str | None) -> BinaryIO:
  """A binary stream of what a stream holds."""
  if compression is None:
    return raw
  if compression == 'zstd':
    try:
      import zstandard
    except ImportError as error:
      raise config.ConfigError(
        "zstd needs: pip install 'jax_sparse_pretrain[prepare]'"
      ) from error
    reader = _ZstdReader(raw, zstandard.ZstdDecompressor())
    return io.BufferedReader(reader, 1 << 20)
  if compression == 'bzip2':
    return bz2.BZ2File(raw)
  return io.BufferedReader(gzip.GzipFile(fileobj=raw), 1 << 20)


class _ZstdReader(io.RawIOBase):
  """Reads frames of zstd; the library's own reader is silent at a cut file."""

  def __init__(self, raw: BinaryIO, decompressor):
    self._raw, self._decompressor = raw, decompressor
    self._frame = None
    self._compressed = self._held = b''

  def readable(self) -> bool:
    return True

  def readinto(self, out) -> int:
    while not self._held:
      block = self._compressed or self._raw.read(1 << 17)
      if not block and self._frame is not None:
        raise EOFError('the file ends within a frame of zstd')
      if not block:
        return 0
      self._frame = self._frame or self._decompressor.decompressobj()
      self._held = memoryview(self._frame.decompress(block))
      self._compressed = self._frame.unused_data
      if self._frame.eof:
        self._frame = None
    n = min(len(out), len(self._held))
    out[:n], self._held = self._held[:n], self._held[n:]
    return n


@contextlib.contextmanager
def local_copy(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """The file itself, or a copy here of an object, deleted at the end."""
  if not storage.is_remote(path):
    yield path
    return
  with tempfile.TemporaryDirectory() as folder:
    copy = pathlib.Path(folder, path.name)
    path.copy(copy)
    yield copy
