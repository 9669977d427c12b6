"""Which files make up a corpus: Python's own library, or those of a glob."""

import functools
import io
import os
import pathlib
import sysconfig
from collections.abc import Iterator
from typing import BinaryIO

from jax_sparse_pretrain import config, storage

# Not Python's library: packages installed beside it, its tests, and modules
# that its build generates, which differ between machines.
_NOT_STDLIB = {'site-packages', 'dist-packages', '__pycache__'}
_NOT_STDLIB |= {'test', 'tests', 'idle_test'}
_GENERATED = ('config-', '_sysconfigdata_')


class Fetched:
  """A file of an object store, read once: each document would be a request."""

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


def library_files() -> dict[str, Path]:
  """The modules of Python's standard library by path below it, sorted."""
  return dict(
    sorted(_modules_below(pathlib.Path(sysconfig.get_path('stdlib'))))
  )


def files_matching(pattern: str) -> dict[str, Path]:
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


def _modules_below(root: pathlib.Path) -> Iterator[tuple[str, pathlib.Path]]:
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
        yield path.relative_to(root).as_posix(), path


def _glob(pattern: str) -> tuple[pathlib.Path, list[pathlib.Path]]:
  """The fixed part, and the files that match; etils refuses `**`."""
  whole = storage.as_path(pattern)
  kind, parts = type(whole), whole.parts
  wild = [any(c in part for c in '*?[') for part in parts]
  n_fixed = wild.index(True) if any(wild) else len(parts) - 1
  root = kind(*parts[:n_fixed])
  matches = root.glob('/'.join(parts[n_fixed:]))
  return root, [path for path in matches if path.is_file()]
