"""What a run writes: shards, the tokenizer, a journal that lets it go on.

What is open ends in `.part`. The journal says how much of it counts: after a
kill, the rest is cut off and made again.
"""

import contextlib
import fcntl
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO

import numpy as np

from jax_sparse_pretrain import config, schema, storage
from jax_sparse_pretrain.data import encoding, shards, tokenizers

_HEADER_BYTES = 128


class SplitWriter:
  """Writes the shards of one split, each of whole documents.

  Args:
    directory: where they go.
    split: begins their names.
    dtype: of the ids.
    shard_tokens: a shard ends with the document that reaches so many.
    state: what `sync` returned before, to go on from there.
  """

  def __init__(
    self,
    directory: pathlib.Path,
    split: str,
    dtype: np.dtype,
    shard_tokens: int,
    state: dict[str, Any] | None,
  ):
    self._directory, self._split = directory, split
    self._dtype, self._shard_tokens = np.dtype(dtype), shard_tokens
    state = state or {
      'documents': 0,
      'tokens': 0,
      'bytes': 0,
      'shards': [],
      'open': {'tokens': 0, 'documents': 0},
    }
    self.counts = {k: state[k] for k in ('documents', 'tokens', 'bytes')}
    self.finished: list[dict[str, Any]] = state['shards']
    self._open = dict(state['open'])
    self._tokens_file: BinaryIO | None = None
    self._ends_file: BinaryIO | None = None
    if self._open['tokens']:
      self._reopen()

  def write(self, ids: np.ndarray, n_bytes: int, ends: bool) -> None:
    """Adds the next piece of a document."""
    if self._tokens_file is None:
      self._tokens_file = self._part('').open('wb')
      self._tokens_file.write(b'\0' * _HEADER_BYTES)
      self._ends_file = self._part('.ends').open('wb')
    self._tokens_file.write(ids.astype(self._dtype, copy=False).tobytes())
    self._open['tokens'] += len(ids)
    self.counts['tokens'] += len(ids)
    self.counts['bytes'] += n_bytes
    if not ends:
      return
    self._ends_file.write(np.uint64(self._open['tokens']).tobytes())
    self._open['documents'] += 1
    self.counts['documents'] += 1
    if self._open['tokens'] >= self._shard_tokens:
      self.finish_shard()

  def sync(self) -> dict[str, Any]:
    """Brings all of it to the disk; returns what it takes to go on."""
    for file in (self._tokens_file, self._ends_file):
      if file is not None:
        file.flush()
        os.fsync(file.fileno())
    return {**self.counts, 'shards': self.finished, 'open': dict(self._open)}

  def finish_shard(self) -> None:
    """Makes the open files a shard, if there are any."""
    if self._tokens_file is None:
      return
    n_tokens, n_documents = self._open['tokens'], self._open['documents']
    self.sync()
    self._tokens_file.seek(0)
    self._tokens_file.write(_header(self._dtype, n_tokens))
    self._tokens_file.flush()
    os.fsync(self._tokens_file.fileno())
    self.close()
    ends = np.fromfile(self._part('.ends'), np.uint64)
    with self._part('.ends.new').open('wb') as file:
      np.save(file, ends)
    self._part('.ends.new').replace(self._path('.ends'))
    self._part('').replace(self._path(''))
    self._part('.ends').unlink()
    self.finished.append(
      {
        'file': self._path('').name,
        'offset': _HEADER_BYTES,
        'dtype': self._dtype.name,
        'tokens': n_tokens,
        'documents': n_documents,
        'sha256': shards.checksum(self._path('')),
        'ends_sha256': shards.checksum(self._path('.ends')),
      }
    )
    self._open = {'tokens': 0, 'documents': 0}

  def close(self) -> None:
    for file in (self._tokens_file, self._ends_file):
      if file is not None:
        file.close()
    self._tokens_file = self._ends_file = None

  def _reopen(self) -> None:
    """Takes up the open shard, without what the journal does not know."""
    # A kill may have come between the end of a shard and the journal.
    if not self._part('').exists():
      self._path('').replace(self._part(''))
    if not self._part('.ends').exists():
      ends = np.load(self._path('.ends'))
      ends.tofile(self._part('.ends'))
    itemsize = self._dtype.itemsize
    size = _HEADER_BYTES + self._open['tokens'] * itemsize
    self._tokens_file = _cut(self._part(''), size)
    self._ends_file = _cut(self._part('.ends'), 8 * self._open['documents'])

  def _path(self, what: str) -> pathlib.Path:
    name = f'{self._split}-{len(self.finished):05d}{what}.npy'
    return self._directory / name

  def _part(self, what: str) -> pathlib.Path:
    path = self._path(what)
    return path.with_name(f'{path.name}.part')


def _header(dtype: np.dtype, size: int) -> bytes:
  """The header of a .npy file, of a fixed length."""
  fields = f"{{'descr': '{dtype.str}', 'fortran_order': False, "
  fields += f"'shape': ({size},), }}"
  magic = b'\x93NUMPY\x01\x00'
  length = _HEADER_BYTES - len(magic) - 2
  body = fields.ljust(length - 1).encode() + b'\n'
  return magic + length.to_bytes(2, 'little') + body


def _cut(path: pathlib.Path, size: int) -> BinaryIO:
  if path.stat().st_size < size:
    raise config.ConfigError(
      f'{path}: has fewer than the {size} bytes that were written; delete the '
      'directory and begin again'
    )
  file = path.open('r+b')
  file.truncate(size)
  file.seek(size)
  return file


class Journal:
  """How far the run is: what it does, and where it goes on.

  Args:
    directory: where it lies.
    identity: what decides the bytes; a run with another one is refused.
  """

  def __init__(self, directory: pathlib.Path, identity: dict[str, Any]):
    self._path = directory / shards.JOURNAL
    self.identity = identity

  def read(self) -> dict[str, Any] | None:
    """The state last written; None if there is none, or nothing was made.

    Raises:
      ConfigError: if it is of another run, naming what differs.
    """
    if not self._path.exists():
      return None
    try:
      content = json.loads(self._path.read_text())
      identity, state = content['identity'], content['state']
    except (ValueError, KeyError, TypeError) as error:
      raise config.ConfigError(
        f'{self._path}: cannot be read: {schema.one_line(error)}'
      ) from error
    if not any(split['tokens'] for split in state['splits'].values()):
      return None  # Other arguments may be right now.
    self.check(identity)
    return state

  def check(self, identity: Mapping[str, Any]) -> None:
    """Compares the identity of an earlier run with that of this one.

    Raises:
      ConfigError: naming what differs.
    """
    differing = [k for k, v in self.identity.items() if identity.get(k) != v]
    if differing:
      raise config.ConfigError(
        f'--out = {self._path.parent}: was begun with other arguments: it '
        f'differs in {", ".join(differing)}; must be another directory'
      )

  def write(self, state: dict[str, Any]) -> None:
    content = {'identity': self.identity, 'state': state}
    storage.replace(self._path, json.dumps(content))

  def remove(self) -> None:
    self._path.unlink(missing_ok=True)


def open_writers(
  directory: pathlib.Path,
  dtype: np.dtype,
  shard_tokens: int,
  state: dict[str, Any] | None,
) -> dict[str, SplitWriter]:
  return {
    split: SplitWriter(
      directory,
      split,
      dtype,
      shard_tokens,
      state['splits'][split] if state else None,
    )
    for split in encoding.SPLITS
  }


def write_tokenizer(
  directory: pathlib.Path,
  tokenizer: tokenizers.Tokenizer,
) -> dict[str, Any]:
  """Copies the tokenizer's file; returns what the manifest says of it."""
  about = tokenizers.identity(tokenizer)
  if tokenizer.kind == 'bytes':
    return about
  suffix = {'huggingface': 'json', 'sentencepiece': 'model'}[tokenizer.kind]
  name = f'tokenizer.{suffix}'
  # In one step: a run that goes on may have trained it, and need this copy.
  storage.replace(directory / name, tokenizer.model)
  return {
    **about,
    'file': name,
    'bos': tokenizer.bos,
    'eos': tokenizer.eos,
  }


def check_place(directory: pathlib.Path) -> None:
  """Refuses a directory with something else in it.

  Raises:
    ConfigError: for such a directory, or one that cannot be made.
  """
  try:
    directory.mkdir(parents=True, exist_ok=True)
    names = {path.name for path in directory.iterdir()}
  except OSError as error:
    raise config.ConfigError(f'--out = {directory}: {error}') from error
  known = {shards.MANIFEST, shards.JOURNAL}
  # Of one that was killed at once.
  written = ('tokenizer.json', 'tokenizer.model', shards.JOURNAL)
  leftovers = {name + end for name in written for end in ('', '.tmp')}
  if names - leftovers and not names & known:
    raise config.ConfigError(
      f'--out = {directory}: holds other files, such as {min(names)}; must be '
      'empty, or a directory that prepare has begun'
    )


@contextlib.contextmanager
def only_writer(directory: pathlib.Path) -> Iterator[None]:
  """A context that no second run enters; a killed run leaves no lock behind.

  Raises:
    ConfigError: if another run is at work in the directory.
  """
  descriptor = os.open(directory, os.O_RDONLY)
  try:
    with contextlib.suppress(OSError):  # Of a file system without locks.
      try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
      except BlockingIOError as error:
        raise config.ConfigError(
          f'--out = {directory}: another run of prepare is writing there'
        ) from error
    yield
  finally:
    os.close(descriptor)
