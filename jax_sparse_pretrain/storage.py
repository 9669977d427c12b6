"""Files on this machine, or in an object store as `gs://BUCKET/...`.

Paths in object stores are those of etils, which Orbax and TFDS use, too. An
object appears whole and cannot grow: there is nothing to flush, and no lock.
Needs the standard library only, as long as no such path is given.
"""

import contextlib
import os
import pathlib
import re
import shutil
from collections.abc import Iterator

from jax_sparse_pretrain.schema import ConfigError, one_line


def is_remote(path: os.PathLike | str) -> bool:
  return os.fspath(path).startswith('gs://')


def as_path(name: os.PathLike | str) -> pathlib.Path:
  """A path of pathlib, or one of etils, which has the same methods.

  Raises:
    ConfigError: for another kind of address, or if the package that reads the
      object store is not installed.
  """
  if is_remote(name):
    return _remote(os.fspath(name))
  if re.match(r'[A-Za-z][A-Za-z0-9+.-]*:/', os.fspath(name)):
    raise ConfigError(
      f'{name}: must be a path of this machine or gs://BUCKET/...'
    )
  return pathlib.Path(name).expanduser()


def _remote(name: str) -> pathlib.Path:
  import fsspec
  from etils import epath

  if not re.match('gs://[^/]', name):
    raise ConfigError(f'{name}: must name a bucket, gs://BUCKET/...')
  # Other processes write there as well, so listings must not be remembered.
  fsspec.config.conf.setdefault('gs', {})['use_listings_cache'] = False
  try:
    fsspec.get_filesystem_class('gs')
  except ImportError as error:
    raise ConfigError(f'{name}: {one_line(error)}') from None
  return epath.Path(name)


def replace(path: os.PathLike | str, content: str | bytes) -> None:
  """Writes a file in one step: readers see all of it, or what was there."""
  path = as_path(path)
  raw = content.encode() if isinstance(content, str) else content
  if is_remote(path):
    path.write_bytes(raw)
    return
  temporary = path.with_name(f'{path.name}.tmp')
  temporary.write_bytes(raw)
  temporary.replace(path)


def append(path: os.PathLike | str, text: str) -> None:
  """Adds to a file, created if missing; an object is written anew."""
  path = as_path(path)
  if is_remote(path):
    before = path.read_text() if path.exists() else ''
    replace(path, before + text)
    return
  with path.open('a') as file:
    file.write(text)


def resolved(path: pathlib.Path) -> pathlib.Path:
  """Absolute, without links; an object store has neither."""
  return path if is_remote(path) else path.resolve()


def copy(source: pathlib.Path, target: pathlib.Path) -> None:
  """Copies a file, large or small, in one step."""
  temporary = target
  if not is_remote(target):
    temporary = target.with_name(f'{target.name}.tmp')
  with source.open('rb') as reader, temporary.open('wb') as writer:
    shutil.copyfileobj(reader, writer, 1 << 22)
  if temporary is not target:
    temporary.replace(target)


def copy_tree(source: pathlib.Path, target: pathlib.Path) -> None:
  """Copies a directory to a new one, and its files after its directories.

  So the file that says that a directory is whole comes last.
  """
  if not is_remote(source):
    shutil.copytree(source, target)
    return
  for path in sorted(source.iterdir(), key=_directories_first):
    if path.is_file():
      copy(path, target / path.name)
    else:
      copy_tree(path, target / path.name)


def _directories_first(path: pathlib.Path) -> tuple[bool, str]:
  return path.is_file(), path.name


def remove_tree(path: pathlib.Path) -> None:
  """Deletes a directory and all below it, if it is there."""
  if path.exists():
    path.rmtree() if is_remote(path) else shutil.rmtree(path)


@contextlib.contextmanager
def whole_or_not(target: pathlib.Path) -> Iterator[pathlib.Path]:
  """A directory to fill, which is renamed to `target` in the end.

  An object store cannot rename: there it is `target` from the start, and only
  the file that is written last tells whether it is whole.
  """
  if is_remote(target):
    remove_tree(target)
    yield target
    return
  half_made = partial(target)
  remove_tree(half_made)
  half_made.mkdir(parents=True)
  try:
    yield half_made
  except BaseException:
    remove_tree(half_made)
    raise
  remove_tree(target)
  half_made.rename(target)


def partial(target: pathlib.Path) -> pathlib.Path:
  """Where a directory is as long as it is being filled."""
  return target.with_name(f'.{target.name}.partial')
