"""Files on this machine, or in an object store as `gs://BUCKET/...`.

Paths in object stores are those of etils, which Orbax and TFDS use too. An
object appears whole and cannot grow; there is nothing to flush and no lock.
Standard library only, as long as no such path is given.
"""

import os
import pathlib
import shutil

from jax_sparse_pretrain.schema import ConfigError, one_line


def is_remote(path: os.PathLike | str) -> bool:
  return '://' in os.fspath(path)


def as_path(name: os.PathLike | str) -> pathlib.Path:
  """A path of pathlib, or of etils, which has the same methods.

  Raises:
    ConfigError: if what reads the object store is not installed.
  """
  if not is_remote(name):
    return pathlib.Path(name).expanduser()
  import fsspec
  from etils import epath

  protocol = os.fspath(name).split('://')[0]
  # Other processes write there as well; by default it remembers listings.
  fsspec.config.conf.setdefault(protocol, {})['use_listings_cache'] = False
  try:
    fsspec.get_filesystem_class(protocol)
  except (ImportError, ValueError) as error:
    raise ConfigError(f'{name}: {one_line(error)}') from None
  return epath.Path(name)


def replace(path: os.PathLike | str, content: str | bytes) -> None:
  """Writes a file in one step, so that a reader never sees half of it."""
  path = as_path(path)
  raw = content.encode() if isinstance(content, str) else content
  if is_remote(path):
    path.write_bytes(raw)
    return
  temporary = path.with_name(f'{path.name}.tmp')
  temporary.write_bytes(raw)
  temporary.replace(path)


def append(path: os.PathLike | str, text: str, durable: bool = False) -> None:
  """Adds to a file; an object is written anew.

  Args:
    path: created if missing.
    text: to add.
    durable: whether it has to outlast the machine; an object does.
  """
  path = as_path(path)
  if is_remote(path):
    before = path.read_text() if path.exists() else ''
    replace(path, before + text)
    return
  with path.open('a') as file:
    file.write(text)
    if durable:
      file.flush()
      os.fsync(file.fileno())


def resolved(path: pathlib.Path) -> pathlib.Path:
  """Absolute, without links; an object store has neither."""
  return path if is_remote(path) else path.resolve()


def copy(source: pathlib.Path, target: pathlib.Path) -> None:
  replace(target, source.read_bytes())


def copy_tree(source: pathlib.Path, target: pathlib.Path) -> None:
  """Copies a directory, which must be new; files after what is below it.

  So what says that a directory is whole comes last.
  """
  if not is_remote(source):
    shutil.copytree(source, target)
    return
  for path in sorted(source.iterdir(), key=lambda path: path.is_file()):
    if path.is_file():
      copy(path, target / path.name)
    else:
      copy_tree(path, target / path.name)


def remove_tree(path: pathlib.Path) -> None:
  """Deletes a directory and all below it, if it is there."""
  if path.exists():
    path.rmtree() if is_remote(path) else shutil.rmtree(path)
