"""Documents -> rows of tokens, exactly resumable.

Documents are shuffled anew each epoch and dealt to `streams` streams in turn.
A stream joins `[BOS] document [EOS]` end to end and cuts the line into rows
that overlap by one token: the last target of a row is the first input of the
next, so that every token but the stream's first is a target exactly once,
without padding. Row i of every global batch comes from stream i mod streams.
A stream belongs to rows, not to a process, so the order of the data does not
depend on how many processes read it, and its state is two integers.
"""

import functools
from collections.abc import Sequence
from typing import Any

import grain
import numpy as np

from jax_sparse_pretrain import config
from jax_sparse_pretrain.data.corpus import Documents
from jax_sparse_pretrain.data.tokenizers import Tokenizer

# The evaluation rows are the same for every run, whatever its seed.
_EVALUATION_SEED = 0


def train_batches(
  documents: Documents,
  tokenizer: Tokenizer,
  *,
  batch_size: int,
  context_length: int,
  streams: int,
  seed: int,
  prefetch: int,
  rows: Sequence[int] | None = None,
) -> grain.DatasetIterator:
  """Endless batches, int32 [len(rows), context_length + 1].

  Args:
    documents: read in an order that `seed` decides, anew each epoch.
    tokenizer: turns a document into token ids.
    batch_size: rows of the global batch.
    context_length: predictions a row.
    streams: must divide `batch_size`.
    seed: not negative.
    prefetch: number of batches that a thread prepares ahead; with 0 there is
      no thread.
    rows: the rows of the global batch to produce, in this order; all by
      default.

  Returns:
    An iterator whose state is `{'streams': {'0': [document, token], ...}}`:
    for each stream the document, counted over all epochs, and the token in it
    where the next row begins. The `'streams'` of several processes may be
    merged into one; a stream that this process does not read is ignored.
    Call its `close()` when done: a thread that is still at work when the
    interpreter exits can abort it.

  Raises:
    ConfigError: if there are fewer documents than streams.
    ValueError: if `streams` does not divide `batch_size`, or `rows` are not
      rows of the batch.
  """
  # Plain integers, for a state that is JSON.
  rows = [int(row) for row in (range(batch_size) if rows is None else rows)]
  _check(len(documents), batch_size, streams, rows)
  dataset = PackedRows(
    _shuffled(documents, tokenizer, seed).repeat(),
    batch_size=batch_size,
    context_length=context_length,
    streams=streams,
    rows=rows,
  )
  if prefetch:
    dataset = grain.experimental.ThreadPrefetchIterDataset(
      dataset, prefetch_buffer_size=prefetch
    )
  return iter(dataset)


def merge_states(states: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """Merges the states of several processes; any of them can resume from it."""
  streams = {k: at for state in states for k, at in state['streams'].items()}
  return {'streams': dict(sorted(streams.items(), key=lambda x: int(x[0])))}


def evaluation_rows(
  documents: Documents,
  tokenizer: Tokenizer,
  *,
  n_rows: int,
  context_length: int,
) -> np.ndarray:
  """The first rows of one stream over `documents` in a fixed random order.

  Returns:
    int32 [n_rows, context_length + 1]. Reads no more documents than it needs.

  Raises:
    ConfigError: if the documents have too few tokens.
  """
  shuffled = _shuffled(documents, tokenizer, _EVALUATION_SEED)
  needed = n_rows * context_length + 1
  parts, n_tokens = [], 0
  for index in range(len(documents)):
    parts.append(shuffled[index])
    n_tokens += parts[-1].size
    if n_tokens >= needed:
      break
  else:
    raise config.ConfigError(
      f'evaluation.rows = {n_rows}: must be at most '
      f'{max(n_tokens - 1, 0) // context_length}, the rows of '
      f'{context_length} tokens that the validation split holds'
    )
  line = np.concatenate(parts)[:needed]
  windows = np.lib.stride_tricks.sliding_window_view(line, context_length + 1)
  return windows[::context_length].copy()


class PackedRows(grain.IterDataset):
  """Token sequences -> batches of rows; see `train_batches`."""

  def __init__(
    self,
    parent: grain.MapDataset,
    *,
    batch_size: int,
    context_length: int,
    streams: int,
    rows: list[int],
  ):
    super().__init__(parent)
    self._layout = (batch_size, context_length, streams, rows)

  def __iter__(self) -> grain.DatasetIterator:
    return _PackedRowsIterator(self._parent, *self._layout)


class _PackedRowsIterator(grain.DatasetIterator):
  def __init__(self, parent, batch_size, context_length, streams, rows):
    super().__init__()
    self._rows = rows
    self._streams = {
      index: _Stream(parent, index, streams, context_length)
      for index in sorted({row % streams for row in self._rows})
    }
    # Rows of other processes included, where they share a stream with ours.
    self._sources = {
      row: self._streams[row % streams]
      for row in range(batch_size)
      if row % streams in self._streams
    }

  def __next__(self) -> np.ndarray:
    batch = {row: stream.next_row() for row, stream in self._sources.items()}
    return np.stack([batch[row] for row in self._rows])

  def get_state(self) -> dict[str, Any]:
    streams = {str(i): [s.document, s.token] for i, s in self._streams.items()}
    return {'streams': streams}

  def set_state(self, state: dict[str, Any]) -> None:
    for index, stream in self._streams.items():
      if str(index) not in state['streams']:
        raise ValueError(
          f'state of the data: must hold stream {index}; holds '
          f'{", ".join(state["streams"])}'
        )
      stream.move_to(*state['streams'][str(index)])


class _Stream:
  """Every `stride`-th document, end to end, cut into rows."""

  def __init__(self, parent, index: int, stride: int, context_length: int):
    self._parent = parent
    self._index, self._stride = index, stride
    self._row_length = context_length + 1
    self.move_to(index, 0)

  def move_to(self, document: int, token: int) -> None:
    """Lets the next row begin at this token of this document."""
    tokens = self._parent[document]
    if document % self._stride != self._index or not 0 <= token < tokens.size:
      raise ValueError(
        f'state of the data: stream {self._index} of {self._stride} cannot be '
        f'at document {document}, token {token}: the corpus, the tokenizer or '
        'data.streams has changed since'
      )
    self.document, self.token, self._tokens = document, token, tokens

  def next_row(self) -> np.ndarray:
    row = np.empty(self._row_length, np.int32)
    n_filled = 0
    while True:
      part = self._tokens[self.token :][: row.size - n_filled]
      row[n_filled : n_filled + part.size] = part
      n_filled += part.size
      if n_filled == row.size:
        break
      self.move_to(self.document + self._stride, 0)
    self.token += part.size - 1  # The row's last token opens the next row.
    return row


def _shuffled(
  documents: Documents, tokenizer: Tokenizer, seed: int
) -> grain.MapDataset:
  """Token sequences of one epoch, each int32 [n_tokens], in random order."""
  shuffled = grain.MapDataset.source(documents).seed(seed).shuffle()
  return shuffled.map(functools.partial(_tokens_of, tokenizer))


def _tokens_of(tokenizer: Tokenizer, document: str) -> np.ndarray:
  bos = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
  ends = np.array([*bos, tokenizer.eos_id], np.int32)
  return np.concatenate([ends[:-1], tokenizer.encode(document), ends[-1:]])


def _check(
  n_documents: int, batch_size: int, streams: int, rows: list[int]
) -> None:
  if streams < 1 or batch_size % streams:
    raise ValueError(
      f'streams = {streams}: must divide batch_size = {batch_size}'
    )
  if not rows or not set(rows) <= set(range(batch_size)):
    raise ValueError(f'rows = {rows}: must be rows of a batch of {batch_size}')
  if n_documents < streams:
    raise config.ConfigError(
      f'data.streams = {streams} (0: batch_size): must be at most '
      f'{n_documents}, the number of training documents; set data.streams to '
      f'a divisor of batch_size = {batch_size}, or use more documents'
    )
