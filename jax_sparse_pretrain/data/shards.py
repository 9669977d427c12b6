"""Token shards: a prepared corpus as flat arrays that NumPy opens anywhere.

A directory holds `manifest.json`, the tokenizer's own file, and for each shard
`SPLIT-NNNNN.npy`, uint16 or uint32 token ids of whole documents end to end,
and `SPLIT-NNNNN.ends.npy`, where each document ends in it. The manifest is
written last: a directory without one is not prepared.
"""

import bisect
import concurrent.futures
import functools
import hashlib
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from jax_sparse_pretrain import config, storage
from jax_sparse_pretrain.data import files, tokenizers
from jax_sparse_pretrain.schema import one_line

MANIFEST = 'manifest.json'
# How far an unfinished `prepare` is.
JOURNAL = 'progress.json'
_FORMAT, _VERSION = 'token shards', 1


class TokenShards:
  """The tokens of a split, in shards one after another.

  A shard of an object store is copied here before it is read.

  Args:
    shards: (file, byte where the ids begin, type, number of ids).
  """

  def __init__(self, shards: Sequence[tuple[pathlib.Path, int, str, int]]):
    self._shards = list(shards)
    sizes = [size for *_, size in self._shards]
    self._starts = [0, *np.cumsum(sizes, dtype=np.int64).tolist()]
    self._is_remote = any(storage.is_remote(path) for path, *_ in self._shards)
    self._mapped = functools.lru_cache(None)(self._open)
    # Copies of remote shards, here or on their way.
    self._copies: dict[int, concurrent.futures.Future] = {}

  def __len__(self) -> int:
    return self._starts[-1]

  def read(self, start: int, out: np.ndarray) -> None:
    """Fills `out` with the tokens from `start` on."""
    filled = 0
    index = bisect.bisect_right(self._starts, start) - 1
    while filled < len(out):
      inside = start + filled - self._starts[index]
      part = self._ids(index)[inside : inside + len(out) - filled]
      out[filled : filled + len(part)] = part
      filled += len(part)
      index += 1

  def fetch(self, stretches: Iterable[tuple[int, int]]) -> None:
    """Begins to copy the shards of these tokens here, and drops all others.

    It does nothing for shards on this machine.

    Args:
      stretches: (first token, token after the last), the most urgent first.
    """
    if not self._is_remote:
      return
    wanted = [i for stretch in stretches for i in self._shards_of(*stretch)]
    for index in set(self._copies) - set(wanted):
      self._copies.pop(index).cancel()
    for index in wanted:
      self._begin(index)

  def _shards_of(self, start: int, stop: int) -> range:
    return range(
      bisect.bisect_right(self._starts, start) - 1,
      bisect.bisect_left(self._starts, stop),
    )

  def _ids(self, index: int) -> np.ndarray:
    if not self._is_remote:
      return self._mapped(index)
    try:
      return self._begin(index).result()
    except Exception as error:  # Object stores raise many kinds.
      del self._copies[index]
      path, *_ = self._shards[index]
      raise OSError(f'{path}: cannot be copied here: {error}') from error

  def _begin(self, index: int) -> concurrent.futures.Future:
    if index not in self._copies:
      self._copies[index] = _threads().submit(self._open, index)
    return self._copies[index]

  def _open(self, index: int) -> np.ndarray:
    path, offset, dtype, size = self._shards[index]
    # A deleted copy takes up space until its array is gone, and no longer.
    with files.local_copy(path) as local:
      return np.memmap(local, dtype, 'r', offset, (size,))


@functools.cache
def _threads() -> concurrent.futures.ThreadPoolExecutor:
  return concurrent.futures.ThreadPoolExecutor(8, 'token-shards')


def read_manifest(directory: pathlib.Path) -> dict[str, Any]:
  """The manifest of a prepared directory.

  Raises:
    ConfigError: if there is none, or it is none of this version.
  """
  path = directory / MANIFEST
  try:
    manifest = json.loads(path.read_text())
    found = manifest['format'], manifest['version']
  except FileNotFoundError as error:
    unfinished = (directory / JOURNAL).exists()
    hint = (
      'is not finished: run the same prepare again'
      if unfinished
      else 'has no manifest.json: make it with '
      'python -m jax_sparse_pretrain.prepare'
    )
    raise config.ConfigError(f'{directory}: {hint}') from error
  except Exception as error:  # Object stores raise many kinds.
    raise config.ConfigError(
      f'{path}: cannot be read: {one_line(error)}'
    ) from error
  if found != (_FORMAT, _VERSION):
    raise config.ConfigError(
      f'{path}: is {found[0]} {found[1]}; must be {_FORMAT} {_VERSION}'
    )
  return manifest


def write_manifest(directory: pathlib.Path, content: dict[str, Any]) -> None:
  manifest = {'format': _FORMAT, 'version': _VERSION, **content}
  storage.replace(directory / MANIFEST, json.dumps(manifest, indent=1) + '\n')


def open_split(
  directories: Sequence[pathlib.Path],
  manifests: Mapping[pathlib.Path, dict[str, Any]],
  split: str,
) -> TokenShards:
  """The tokens of one split, over all directories.

  Raises:
    ConfigError: for a shard that is missing or has another size.
  """
  paths, shards = [], []
  for directory in directories:
    for shard in manifests[directory]['splits'][split]['shards']:
      paths.append(shard_path(directory, shard))
      shards.append(shard)
  # A question to an object store takes long, and there may be a thousand.
  list(_threads().map(_check_size, paths, shards))
  return TokenShards(
    [
      (path, shard['offset'], shard['dtype'], shard['tokens'])
      for path, shard in zip(paths, shards, strict=True)
    ]
  )


def shard_path(directory: pathlib.Path, shard: dict[str, Any]) -> pathlib.Path:
  """Where a shard of the manifest lies."""
  name = shard['file']
  # An adopted file lies elsewhere.
  return storage.as_path(name) if '/' in name else directory / name


def ends_path(directory: pathlib.Path, shard: dict[str, Any]) -> pathlib.Path:
  """Where the ends of a prepared shard's documents lie."""
  return directory / f'{shard["file"].removesuffix(".npy")}.ends.npy'


def _check_size(path: pathlib.Path, shard: dict[str, Any]) -> None:
  n_bytes = shard['tokens'] * np.dtype(shard['dtype']).itemsize
  expected = shard['offset'] + n_bytes
  try:
    about = path.stat()
  except OSError as error:
    raise config.ConfigError(f'{path}: a shard is missing: {error}') from error
  size = about.length if storage.is_remote(path) else about.st_size
  if size != expected:
    raise config.ConfigError(
      f'{path}: has {size} bytes; the manifest says {expected}: the shard has '
      'changed or is cut short'
    )


def tokenizer_of(
  directory: pathlib.Path, about: dict[str, Any]
) -> tokenizers.Tokenizer | None:
  """The tokenizer of a prepared directory; None if it has none (adopted).

  Args:
    directory: where its file lies.
    about: what the manifest says of it.

  Raises:
    ConfigError: if its file is not the one of the manifest.
  """
  if about['kind'] == 'bytes':
    return tokenizers.ByteTokenizer()
  if not about.get('file'):
    return None
  path = directory / about['file']
  tokenizer = tokenizers.read_tokenizer(
    about['kind'],
    path,
    str(path),
    about.get('bos', ''),
    about.get('eos', ''),
  )
  found = tokenizers.identity(tokenizer)
  if found['sha256'] != about['sha256']:
    raise config.ConfigError(
      f'{path}: is not the tokenizer that made these tokens'
    )
  return tokenizer


def check_shards(directory: pathlib.Path, manifest: dict[str, Any]) -> int:
  """Compares every file with its checksum; returns how many shards there are.

  Raises:
    ConfigError: for the first that differs.
  """
  n_checked = 0
  tokenizer_of(directory, manifest['tokenizer'])
  for split in manifest['splits'].values():
    for shard in split['shards']:
      path = shard_path(directory, shard)
      _check_size(path, shard)
      _check_content(path, shard['sha256'])
      if 'ends_sha256' in shard:
        _check_content(ends_path(directory, shard), shard['ends_sha256'])
      n_checked += 1
  return n_checked


def _check_content(path: pathlib.Path, expected: str) -> None:
  try:
    found = checksum(path)
  except FileNotFoundError as error:
    raise config.ConfigError(f'{path}: is missing') from error
  if found != expected:
    raise config.ConfigError(
      f'{path}: its content has changed since it was prepared'
    )


def checksum(path: pathlib.Path) -> str:
  """SHA-256 of a whole file."""
  with path.open('rb') as file:
    digest = hashlib.sha256()
    while block := file.read(1 << 22):
      digest.update(block)
  return digest.hexdigest()
