"""Inputs -> token shards, on all cores, the same bytes for any number.

One process reads and writes; the others turn batches of text into ids. Batches
come back in the order in which they were read.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import itertools
import multiprocessing
import os
import pathlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jax_sparse_pretrain import config
from jax_sparse_pretrain.data import documents, encoding, tokenizers
from jax_sparse_pretrain.prepare.inputs import Input
from jax_sparse_pretrain.prepare.writing import (
  Journal,
  SplitWriter,
  open_writers,
)

_JOURNAL_SECONDS = 10.0
# Batches of text under way for each worker.
_AHEAD = 3


@dataclasses.dataclass(frozen=True)
class Job:
  """What is to be made.

  Attributes:
    inputs: in order.
    tokenizer: makes the ids.
    directory: where the shards go.
    shard_tokens: a shard ends with the document that reaches so many.
    max_tokens: training tokens after which to stop; None: never.
    workers: processes that tokenize; 0: this one does.
  """

  inputs: Sequence[Input]
  tokenizer: tokenizers.Tokenizer
  directory: pathlib.Path
  shard_tokens: int
  max_tokens: int | None
  workers: int


class Place(NamedTuple):
  """Where reading has come to: pieces read of an input, documents dropped."""

  source: int
  piece: int
  dropped: dict[str, int]


class Made(NamedTuple):
  """What has been written.

  Attributes:
    splits: counts and shards, as the manifest has them.
    dropped: documents left out, by reason.
    n_inputs: inputs that were begun.
    n_cut: documents that were tokenized in pieces.
    n_shared: training documents that are held out, too.
  """

  splits: dict[str, Any]
  dropped: dict[str, int]
  n_inputs: int
  n_cut: int
  n_shared: int


def make_shards(
  job: Job,
  journal: Journal,
  should_stop: Callable[[], bool] = lambda: False,
  show: Callable[[Place, dict[str, SplitWriter]], None] = lambda *_: None,
) -> Made | None:
  """Writes all shards; None if it was asked to stop before the end.

  Args:
    job: what to make.
    journal: where it goes on, and where it notes how far it is.
    should_stop: asked after each batch.
    show: told after each batch.

  Raises:
    ConfigError: for what cannot be read.
    OSError: if it cannot be written.
  """
  state = journal.read()
  writers = open_writers(
    job.directory,
    encoding.token_dtype(job.tokenizer.vocab_size),
    job.shard_tokens,
    state,
  )
  try:
    run = _Run(job, journal, writers, state)
    return run.to_the_end(should_stop, show)
  finally:
    for writer in writers.values():
      writer.close()


class _Run:
  """A run of `make_shards` in motion."""

  def __init__(self, job: Job, journal: Journal, writers, state):
    self._job, self._journal, self._writers = job, journal, writers
    is_new = state is None
    state = state or {'place': [0, 0, {}], 'inside': False, 'cut': 0}
    self._is_full = state.get('is_full', False)
    self._place = Place(*state['place'])
    self._joiner = encoding.Joiner(job.tokenizer, state['inside'])
    self._n_cut = state['cut']
    self._n_shared = state.get('shared', 0)
    self._held_out = self._digests_held_out()
    if is_new:
      # Before the first shard is begun: it says whose shards these are.
      self._note()

  def to_the_end(self, should_stop, show) -> Made | None:
    noted = time.monotonic()
    with contextlib.closing(self._encoded()) as batches:
      for batch, ids, place in () if self._is_full else batches:
        self._is_full = self._write(batch, ids, place)
        show(self._place, self._writers)
        if self._is_full:
          break
        if should_stop() or time.monotonic() - noted > _JOURNAL_SECONDS:
          self._note()
          noted = time.monotonic()
        if should_stop():
          return None
    for writer in self._writers.values():
      writer.finish_shard()
    self._note()
    return Made(
      {
        split: {**writer.counts, 'shards': writer.finished}
        for split, writer in self._writers.items()
      },
      self._place.dropped,
      min(self._place.source + 1, len(self._job.inputs)),
      self._n_cut,
      self._n_shared,
    )

  def _write(self, batch, ids, place: Place) -> bool:
    """Writes a batch; whether there are enough tokens now."""
    for piece, piece_ids in zip(batch, ids, strict=True):
      begins = not self._joiner.is_inside
      if begins:
        self._n_cut += not piece.ends
        if piece.split == 'train' and piece.digest in self._held_out:
          self._n_shared += 1
      joined = self._joiner.join(piece_ids, piece.ends)
      n_bytes = len(piece.text.encode())
      self._writers[piece.split].write(joined, n_bytes, piece.ends)
      n_train = self._writers['train'].counts['tokens']
      is_full = self._job.max_tokens and n_train >= self._job.max_tokens
      if piece.ends and is_full:
        self._place = place
        return True
    self._place = place
    return False

  def _note(self) -> None:
    self._journal.write(
      {
        'place': list(self._place),
        'inside': self._joiner.is_inside,
        'cut': self._n_cut,
        'shared': self._n_shared,
        'is_full': self._is_full,
        'splits': {s: w.sync() for s, w in self._writers.items()},
      }
    )

  def _digests_held_out(self) -> frozenset[bytes]:
    """Hashes of documents that are held out by name, not by their own hash."""
    dropped: collections.Counter = collections.Counter()
    return frozenset(
      piece.digest
      for source, reading in self._job.inputs
      if reading.split == 'validation'
      for piece in source.pieces(reading, dropped)
    )

  def _batches(self) -> Iterator[tuple[list[documents.Piece], Place]]:
    """Batches of one input each, from the place on where the run is."""
    first, skipped, known = self._place
    before = dict(known)
    for index in range(first, len(self._job.inputs)):
      source, reading = self._job.inputs[index]
      dropped: collections.Counter = collections.Counter(before)
      pieces = source.pieces(reading, dropped)
      n_read = 0
      if index == first and skipped:
        if next(itertools.islice(pieces, skipped - 1, None), None) is None:
          raise config.ConfigError(
            f'{source.name}: has fewer documents than when this was begun; '
            'begin again in another directory'
          )
        # What was dropped on the way has been counted before.
        dropped.clear()
        dropped.update(before)
        n_read = skipped
      for batch in encoding.batches_of(pieces):
        n_read += len(batch)
        yield batch, Place(index, n_read, dict(dropped))
      before = dict(dropped)
      yield [], Place(index + 1, 0, before)

  def _encoded(self):
    """(batch, ids of its pieces, place after it), in order."""
    if not self._job.workers:
      for batch, place in self._batches():
        yield batch, encoding.encode(self._job.tokenizer, batch), place
      return
    with _pool(self._job) as pool:
      pending: collections.deque = collections.deque()
      for batch, place in self._batches():
        texts = [piece.text for piece in batch]
        pending.append((batch, pool.submit(_encode, texts), place))
        if len(pending) > _AHEAD * self._job.workers:
          yield _result(*pending.popleft())
      while pending:
        yield _result(*pending.popleft())


def _result(batch, future, place):
  try:
    ids, lengths = future.result()
  except concurrent.futures.BrokenExecutor as error:
    raise OSError(
      'a worker was killed, perhaps for want of memory: try fewer --workers'
    ) from error
  return batch, np.split(ids, np.cumsum(lengths)[:-1]) if batch else [], place


@contextlib.contextmanager
def _pool(job: Job):
  # The tokenizer's own threads would get in the way of the other processes.
  before = os.environ.get('TOKENIZERS_PARALLELISM')
  os.environ['TOKENIZERS_PARALLELISM'] = 'false'
  pool = concurrent.futures.ProcessPoolExecutor(
    job.workers,
    mp_context=multiprocessing.get_context('spawn'),
    initializer=_start_worker,
    initargs=(
      job.tokenizer.kind,
      job.tokenizer.model,
      job.tokenizer.bos,
      job.tokenizer.eos,
    ),
  )
  try:
    yield pool
  finally:
    pool.shutdown(wait=True, cancel_futures=True)
    if before is None:
      del os.environ['TOKENIZERS_PARALLELISM']
    else:
      os.environ['TOKENIZERS_PARALLELISM'] = before


_worker_tokenizer: Any = None


def _start_worker(kind: str, model: bytes, bos: str, eos: str) -> None:
  global _worker_tokenizer
  # A signal may reach all processes; the first one ends the others.
  signal.signal(signal.SIGINT, signal.SIG_IGN)
  signal.signal(signal.SIGTERM, signal.SIG_IGN)
  threading.Thread(target=_end_with_parent, daemon=True).start()
  _worker_tokenizer = tokenizers.from_model(kind, model, bos, eos)
  _worker_tokenizer.n_threads = 1


def _end_with_parent() -> None:
  # A worker does not notice by itself that the first process was killed.
  multiprocessing.parent_process().join()
  os._exit(1)


def _encode(texts: list[str]) -> tuple[np.ndarray, list[int]]:
  """Ids of all texts end to end, and how many each has."""
  ids = _worker_tokenizer.encode(texts)
  dtype = encoding.token_dtype(_worker_tokenizer.vocab_size)
  if not ids:
    return np.empty(0, dtype), []
  return np.concatenate(ids).astype(dtype), [len(i) for i in ids]
