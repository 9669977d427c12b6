"""Token files of other projects, taken as they lie.

nanoGPT writes `train.bin` and `val.bin`: uint16 ids and nothing else
(github.com/karpathy/nanoGPT, data/openwebtext/prepare.py). llm.c's begin with
a header of 256 int32: a mark, a version, the number of ids. The mark 20240520
with version 1 is for uint16 ids, 20240801 with version 7 for uint32
(github.com/karpathy/llm.c, dev/data/data_common.py).
"""

import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from jax_sparse_pretrain import config, storage
from jax_sparse_pretrain.data import encoding, files, shards

# Mark and version of llm.c's header -> type of the ids.
_HEADERS = {20240520: (1, 'uint16'), 20240801: (7, 'uint32')}
_HEADER_BYTES = 1024


def adopt(
  names: Sequence[str], vocab_size: int, eos_id: int
) -> dict[str, dict[str, Any]]:
  """What the manifest says of these files.

  Args:
    names: files or globs; one with the word `val` in its name is held out.
    vocab_size: every id must be below it.
    eos_id: stands between documents.

  Returns:
    Counts and shards of each split. The bytes of text are not known.

  Raises:
    ConfigError: for a file that is no token file, or an id out of range.
  """
  splits = {
    split: {'documents': 0, 'tokens': 0, 'bytes': None, 'shards': []}
    for split in encoding.SPLITS
  }
  for path in _token_files(names):
    shard = _shard(path, vocab_size, eos_id)
    split = splits['validation' if _is_held_out(path.stem) else 'train']
    split['shards'].append(shard)
    split['tokens'] += shard['tokens']
    split['documents'] += shard['documents']
  for split, found in splits.items():
    if not found['tokens']:
      raise config.ConfigError(
        f'--adopt: no file for {split}; one with val in its name is held out'
      )
  return splits


def _token_files(names: Sequence[str]) -> list[pathlib.Path]:
  """The files, each once."""
  paths = []
  for name in names:
    if storage.is_remote(name):
      raise config.ConfigError(f'--adopt: {name}: must be on this machine')
    paths += files.find_files(name).paths.values()
  kept, _ = files.without_repeats(paths)
  return [path.resolve() for path in kept]


def _is_held_out(name: str) -> bool:
  """Whether `val` is a word of the name: not in `medieval_train`."""
  return not {'val', 'valid', 'validation'}.isdisjoint(
    re.split('[^a-z]+', name.lower())
  )


def _shard(path: pathlib.Path, vocab_size: int, eos_id: int) -> dict[str, Any]:
  size = path.stat().st_size
  offset, dtype = 0, np.dtype('uint16')
  head = np.fromfile(path, np.int32, 3)
  if len(head) == 3 and int(head[0]) in _HEADERS:
    version, name = _HEADERS[int(head[0])]
    offset, dtype = _HEADER_BYTES, np.dtype(name)
    if head[1] != version or size != offset + dtype.itemsize * int(head[2]):
      raise config.ConfigError(
        f'{path}: version {head[1]} with {head[2]} ids of llm.c; must be '
        f'version {version}, {name}, and whole'
      )
  if size % dtype.itemsize or size == offset:
    raise config.ConfigError(f'{path}: {size} bytes are no {dtype} token ids')
  ids = np.memmap(path, dtype, 'r', offset)
  n_documents = 0
  for start in range(0, len(ids), 1 << 24):
    block = ids[start : start + (1 << 24)]
    if block.max() >= vocab_size:
      raise config.ConfigError(
        f'{path}: has id {block.max()}; must be below the vocabulary of '
        f'{vocab_size}'
      )
    n_documents += int(np.count_nonzero(block == eos_id))
  return {
    'file': os.fspath(path),
    'offset': offset,
    'dtype': dtype.name,
    'tokens': len(ids),
    'documents': n_documents,
    'sha256': shards.checksum(path),
  }
