"""Documents -> `[BOS] ids [EOS]`, split by split.

Training on a small corpus and preparing a large one go through here, so that
both give the same tokens.
"""

import collections
import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jax_sparse_pretrain.data.documents import Piece
from jax_sparse_pretrain.data.tokenizers import Tokenizer
from jax_sparse_pretrain.text import percent

# Text that is handed to a tokenizer at once, in bytes or so.
BATCH_BYTES = 1 << 20

SPLITS = ('train', 'validation')

# What is looked at to tell whether a tokenizer loses text, and the share of
# the characters from which on that is said.
_SAMPLE_PIECES, _SAMPLE_CHARACTERS = 100, 10_000
_UNKNOWN_SHARE = 1e-4
# The same for documents that are in both splits.
_SHARED_SHARE = 0.01


def batches_of(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
  """Groups pieces, about `BATCH_BYTES` of text each."""
  batch, size = [], 0
  for piece in pieces:
    batch.append(piece)
    size += len(piece.text)
    if size >= BATCH_BYTES:
      yield batch
      batch, size = [], 0
  if batch:
    yield batch


def encode(tokenizer: Tokenizer, batch: Sequence[Piece]) -> list[np.ndarray]:
  """The ids of each piece, without boundaries, in the smallest type."""
  dtype = token_dtype(tokenizer.vocab_size)
  ids = tokenizer.encode([piece.text for piece in batch])
  return [i.astype(dtype) for i in ids]


def token_dtype(vocab_size: int) -> np.dtype:
  return np.dtype('uint16' if vocab_size <= 1 << 16 else 'uint32')


def warn_of_lost_text(tokenizer: Tokenizer, pieces: Iterable[Piece]) -> None:
  """Warns if the tokenizer has no tokens for characters of the first pieces."""
  texts = [
    piece.text[:_SAMPLE_CHARACTERS]
    for piece in itertools.islice(pieces, _SAMPLE_PIECES)
  ]
  share = tokenizer.unknown_share(texts)
  if share > _UNKNOWN_SHARE:
    warnings.warn(
      f'the tokenizer has no token for {percent(share)} of the characters, '
      'which are lost',
      stacklevel=2,
    )


def warn_of_shared_documents(n_shared: int, n_train: int) -> None:
  """Warns if many training documents are held out, too."""
  if n_shared > _SHARED_SHARE * n_train:
    warnings.warn(
      f'{n_shared:,} of {n_train:,} training documents are held out, too',
      stacklevel=2,
    )


class Joiner:
  """Puts boundaries around documents that come in pieces.

  `is_inside` is whether the last piece did not end its document.
  """

  def __init__(self, tokenizer: Tokenizer, is_inside: bool = False):
    dtype = token_dtype(tokenizer.vocab_size)
    bos = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
    self._begin = np.array(bos, dtype)
    self._end = np.array([tokenizer.eos_id], dtype)
    self.is_inside = is_inside

  def join(self, ids: np.ndarray, ends: bool) -> np.ndarray:
    """The ids of the next piece with the boundaries that belong to it."""
    begin = [] if self.is_inside else [self._begin]
    self.is_inside = not ends
    return np.concatenate([*begin, ids, *([self._end] if ends else [])])


class EncodedSplit(NamedTuple):
  """A split in memory; `digests` has that of each document."""

  ids: np.ndarray
  n_bytes: int
  digests: list[bytes]


def encode_in_memory(
  pieces: Iterable[Piece],
  tokenizer: Tokenizer,
  check: Callable[[int], None] = lambda n_bytes: None,
) -> dict[str, EncodedSplit]:
  """Tokenizes all documents, on all cores if the tokenizer can.

  Args:
    pieces: what a source yields.
    tokenizer: turns text into ids.
    check: called with the bytes read so far; may raise.
  """
  arrays: dict[str, list[np.ndarray]] = {split: [] for split in SPLITS}
  digests: dict[str, list[bytes]] = {split: [] for split in SPLITS}
  sizes = collections.Counter()
  joiner = Joiner(tokenizer)
  for batch in batches_of(pieces):
    for piece, ids in zip(batch, encode(tokenizer, batch), strict=True):
      arrays[piece.split].append(joiner.join(ids, piece.ends))
      if piece.ends:
        digests[piece.split].append(piece.digest)
      sizes[piece.split] += len(piece.text.encode())
    check(sizes.total())
  dtype = token_dtype(tokenizer.vocab_size)
  return {
    split: EncodedSplit(
      np.concatenate([np.empty(0, dtype), *arrays[split]]),
      sizes[split],
      digests[split],
    )
    for split in SPLITS
  }
