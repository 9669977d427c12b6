"""Sources -> documents -> tokens -> rows -> batches.

`files` says which files a pattern names and what they are; `documents` reads
them, with `records` for formats of records and `cutting` for long texts;
`tfds` reads data sets. `encoding` makes token ids with `tokenizers`, and
`shards` keeps them on disk. `corpus` opens what a config names, and `rows`
deals it to batches. The order of the data is a promise to runs that resume: it
may not change.
"""

from collections.abc import Sequence

import numpy as np

from jax_sparse_pretrain import config
from jax_sparse_pretrain.data.corpus import (
  Corpus,
  describe,
  is_prepared,
  open_corpus,
  open_evaluation_set,
)
from jax_sparse_pretrain.data.rows import (
  Batches,
  BatchIterator,
  MixedRows,
  ShuffledRows,
  with_documents,
)
from jax_sparse_pretrain.data.tokenizers import Tokenizer, load_tokenizer

__all__ = [
  'BatchIterator',
  'Corpus',
  'Tokenizer',
  'describe',
  'evaluation_rows',
  'is_prepared',
  'load_tokenizer',
  'open_corpus',
  'open_evaluation_set',
  'train_batches',
  'with_documents',
]

# The evaluation rows are the same for every run, whatever its seed.
_EVALUATION_SEED = 0


def evaluation_rows(
  corpus: Corpus,
  *,
  n_rows: int,
  context_length: int,
  mask_documents: bool = False,
  name: str = 'eval_loss',
) -> np.ndarray:
  """Validation rows in a fixed random order, of the form of a batch.

  `name` is that of the metric, for an error.

  Raises:
    ConfigError: if there are too few tokens.
  """
  shuffled = ShuffledRows(corpus.validation, context_length, _EVALUATION_SEED)
  if shuffled.n_rows < n_rows:
    raise config.ConfigError(
      f'evaluation.rows = {n_rows}: must be at most {shuffled.n_rows}, the '
      f'rows of {context_length} tokens in the validation split for {name}'
    )
  starts = [shuffled.row_at(i) * context_length for i in range(n_rows)]
  rows = np.empty((n_rows, context_length + 1), np.int32)
  # Only what these rows need, not whole groups.
  corpus.validation.fetch((at, at + context_length + 1) for at in starts)
  for start, out in zip(starts, rows, strict=True):
    corpus.validation.read(start, out)
  corpus.validation.fetch([])
  return with_documents(rows, corpus.document_end) if mask_documents else rows


def train_batches(
  corpus: Corpus,
  *,
  batch_size: int,
  context_length: int,
  seed: int,
  prefetch: int = 0,
  mask_documents: bool = False,
  rows: Sequence[int] | None = None,
) -> BatchIterator:
  """Endless batches, int32[len(rows), L + 1], from the first step on.

  With `mask_documents` they are int32[len(rows), 2, L + 1]: tokens, and the
  number of each token's document in the row.

  Args:
    corpus: what `open_corpus` returns.
    batch_size: rows of the global batch.
    context_length: predictions a row, L.
    seed: decides the order of the rows, anew each epoch.
    prefetch: batches that a thread prepares ahead; with 0 there is none.
    mask_documents: whether attention and loss are to stay within documents.
    rows: the rows of the global batch to produce, in this order; all by
      default.

  Raises:
    ConfigError: if a set has too few tokens for a row.
    ValueError: if `rows` are not rows of the batch.
  """
  sets = [ShuffledRows(t, context_length, seed) for t in corpus.train]
  if not all(each.n_rows for each in sets):
    raise config.ConfigError(
      f'model.context_length = {context_length}: must be below the number of '
      f'training tokens, {min(map(len, corpus.train))}'
    )
  shuffled = sets[0]
  if len(sets) > 1:
    shuffled = MixedRows(sets, corpus.weights, seed)
  rows = range(batch_size) if rows is None else rows
  end = corpus.document_end if mask_documents else None
  batches = Batches(shuffled, batch_size, context_length, rows, end)
  return BatchIterator(batches, prefetch)
