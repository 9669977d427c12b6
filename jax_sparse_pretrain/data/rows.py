"""Tokens -> rows -> batches: a batch is a pure function of (seed, step).

The tokens of a split are one line. Row r holds tokens [r L, r L + L], so that
rows overlap by one token and each token but the first is a target exactly
once, without padding; what fills no row at the end is left out. Rows come in a
random order, anew each epoch: groups of neighbouring rows in random order, and
the rows of a group in random order, so that a run that reads from far away
needs only one group at a time. Nothing is read again before all is read once.
"""

import functools
import hashlib
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from jax_sparse_pretrain import config

# Rows that are shuffled together: at most so many, with so many tokens.
GROUP_ROWS = 1 << 20
GROUP_TOKENS = 1 << 31
# A mixture is exact in each block of so many rows.
_MIXTURE_BLOCK = 10_000


class Tokens(Protocol):
  """Token ids in a line, at hand or in files."""

  def __len__(self) -> int: ...

  def read(self, start: int, out: np.ndarray) -> None:
    """Fills `out`, int32, with the tokens from `start` on."""

  def fetch(self, stretches: Iterable[tuple[int, int]]) -> None:
    """Told which tokens will be read soon: (first, after the last) of each."""


class ArrayTokens:
  """Tokens in memory."""

  def __init__(self, ids: np.ndarray):
    self.ids = ids

  def __len__(self) -> int:
    return len(self.ids)

  def read(self, start: int, out: np.ndarray) -> None:
    out[:] = self.ids[start : start + len(out)]

  def fetch(self, stretches: Iterable[tuple[int, int]]) -> None:
    pass  # All are here.


class ShuffledRows:
  """The rows of a line of tokens, in the order of training, without end.

  Args:
    tokens: the line.
    context_length: predictions a row.
    seed: decides the order.
    group_rows: rows that are shuffled together.
  """

  def __init__(
    self,
    tokens: Tokens,
    context_length: int,
    seed: int,
    group_rows: int | None = None,
  ):
    self._tokens, self._length = tokens, context_length
    self._seed = seed
    self.n_rows = max(len(tokens) - 1, 0) // context_length
    group_rows = group_rows or min(GROUP_ROWS, GROUP_TOKENS // context_length)
    self._starts = np.arange(0, self.n_rows, max(group_rows, 1))
    self._sizes = np.diff(self._starts, append=self.n_rows)
    self._fetched: tuple[int, int] | None = None
    self._groups_of = functools.lru_cache(2)(self._groups)
    self._within = functools.lru_cache(2)(self._permuted_group)

  def row_at(self, position: int) -> int:
    """The row that is read at a position, counted over all epochs."""
    return self._row(*self._place(position))

  def read(self, position: int, out: np.ndarray) -> None:
    """Fills `out`, int32[L + 1], with the row at a position."""
    epoch, index, inside = self._place(position)
    if (epoch, index) != self._fetched:
      self._fetched = epoch, index
      self._fetch_two_groups(epoch, index)
    self._tokens.read(self._row(epoch, index, inside) * self._length, out)

  def close(self) -> None:
    """Ends the fetching of what would be read next."""
    self._fetched = None
    self._tokens.fetch([])

  def _place(self, position: int) -> tuple[int, int, int]:
    """(epoch, how many groups come before in it, place in the group)."""
    epoch, place = divmod(position, self.n_rows)
    order, ends = self._groups_of(epoch)
    index = int(np.searchsorted(ends, place, side='right'))
    before = int(ends[index]) - int(self._sizes[order[index]])
    return epoch, index, place - before

  def _row(self, epoch: int, index: int, inside: int) -> int:
    group = self._group(epoch, index)
    return int(self._starts[group]) + int(self._within(epoch, group)[inside])

  def _fetch_two_groups(self, epoch: int, index: int) -> None:
    """Fetches the group that is read now, and the one after it."""
    following = epoch, index + 1
    if index + 1 == len(self._starts):
      following = epoch + 1, 0
    groups = [self._group(epoch, index), self._group(*following)]
    first_rows, n_rows = self._starts[groups], self._sizes[groups]
    starts = first_rows * self._length
    stops = (first_rows + n_rows) * self._length + 1
    self._tokens.fetch(zip(starts.tolist(), stops.tolist(), strict=True))

  def _group(self, epoch: int, index: int) -> int:
    return int(self._groups_of(epoch)[0][index])

  def _groups(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    order = permutation(len(self._starts), self._seed, epoch)
    return order, np.cumsum(self._sizes[order])

  def _permuted_group(self, epoch: int, group: int) -> np.ndarray:
    return permutation(int(self._sizes[group]), self._seed, epoch, group)


def permutation(n: int, *key: int | str) -> np.ndarray:
  """A random order of n things that only `key` decides, int64[n].

  It sorts the raw output of a counter-based generator, which NumPy promises
  to keep; its own `permutation` may change from version to version.
  """
  digest = hashlib.sha256(' '.join(map(str, key)).encode()).digest()
  words = np.frombuffer(digest[:16], '<u8')
  return np.argsort(np.random.Philox(key=words).random_raw(n), kind='stable')


class MixedRows:
  """Rows of several sets, in exact proportions.

  Each block of 10,000 rows holds the same number of each set's rows, in an
  order that the seed decides. Each set goes through its own epochs.
  """

  def __init__(
    self, sets: Sequence[ShuffledRows], weights: Sequence[float], seed: int
  ):
    self._sets, self._seed = sets, seed
    self._counts = _apportioned(np.asarray(weights, float), _MIXTURE_BLOCK)
    if not self._counts.all():
      raise config.ConfigError(
        f'data.mixture: the weights {tuple(weights)} give a set none of '
        f'{_MIXTURE_BLOCK:,} rows; must give each at least one'
      )
    self._block = functools.lru_cache(2)(self._make_block)

  def which(self, position: int) -> tuple[int, int]:
    """The set read at a position, and the position in that set."""
    block, place = divmod(position, _MIXTURE_BLOCK)
    sets, places = self._block(block)
    chosen = int(sets[place])
    return chosen, block * int(self._counts[chosen]) + int(places[place])

  def read(self, position: int, out: np.ndarray) -> None:
    chosen, place = self.which(position)
    self._sets[chosen].read(place, out)

  def close(self) -> None:
    for each in self._sets:
      each.close()

  def _make_block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
    in_order = np.repeat(np.arange(len(self._counts)), self._counts)
    sets = in_order[permutation(_MIXTURE_BLOCK, self._seed, 'mixture', block)]
    places = np.zeros(_MIXTURE_BLOCK, int)
    for index, count in enumerate(self._counts):
      places[sets == index] = np.arange(count)
    return sets, places


def _apportioned(weights: np.ndarray, total: int) -> np.ndarray:
  """Whole numbers in proportion that add up, by largest remainders."""
  shares = weights / weights.sum() * total
  counts = np.floor(shares).astype(int)
  most_missed = np.argsort(counts - shares, kind='stable')
  counts[most_missed[: total - counts.sum()]] += 1
  return counts


def with_documents(rows: np.ndarray, end: int) -> np.ndarray:
  """Adds the number of each token's document in its row: int32[n, 2, L + 1].

  Args:
    rows: int32[n, L + 1].
    end: the id that closes a document, and belongs to it.
  """
  is_end = rows == end
  n_before = np.cumsum(is_end, axis=-1, dtype=np.int32) - is_end
  return np.stack([rows, n_before], axis=1)


class Batches:
  """Batch of a step (0-based), int32[len(rows), L + 1]; endless.

  Args:
    shuffled: where rows are read.
    batch_size: rows of the global batch.
    context_length: predictions a row.
    rows: those of the global batch to produce, in this order.
    document_end: if given, batches come `with_documents`.
  """

  def __init__(
    self,
    shuffled: ShuffledRows | MixedRows,
    batch_size: int,
    context_length: int,
    rows: Sequence[int],
    document_end: int | None = None,
  ):
    rows = [int(row) for row in rows]
    if not rows or not set(rows) <= set(range(batch_size)):
      raise ValueError(
        f'rows = {rows}: must be rows of a batch of {batch_size}'
      )
    self._shuffled, self._batch_size = shuffled, batch_size
    self._rows, self._row_length = rows, context_length + 1
    self._document_end = document_end

  def __len__(self) -> int:
    return sys.maxsize

  def __getitem__(self, step: int) -> np.ndarray:
    batch = np.empty((len(self._rows), self._row_length), np.int32)
    for out, row in zip(batch, self._rows, strict=True):
      self._shuffled.read(step * self._batch_size + row, out)
    if self._document_end is None:
      return batch
    return with_documents(batch, self._document_end)

  def close(self) -> None:
    self._shuffled.close()


class BatchIterator:
  """Batches from a step on, prepared ahead by a thread.

  Call `close` when done: a thread that is still at work when the interpreter
  exits can abort it.

  Args:
    batches: the batches by step.
    prefetch: how many to prepare ahead; with 0 there is no thread.
  """

  def __init__(self, batches: Batches, prefetch: int):
    import grain  # Slow to import, and `prepare` has no need of it.

    options = grain.ReadOptions(
      num_threads=min(prefetch, 1), prefetch_buffer_size=prefetch
    )
    self._batches = batches
    dataset = grain.MapDataset.source(batches).to_iter_dataset(options)
    self._iterator = iter(dataset)

  def __iter__(self) -> 'BatchIterator':
    return self

  def __next__(self) -> np.ndarray:
    return next(self._iterator)

  def get_state(self) -> dict[str, Any]:
    """`{'step': finished steps}`: the same in every process."""
    return {'step': self._iterator.get_state()['next_index']}

  def set_state(self, state: dict[str, Any]) -> None:
    """Goes to a step.

    Raises:
      ConfigError: for a state that is none.
    """
    if 'streams' in state:
      raise config.ConfigError(
        'this checkpoint is of an earlier version, which read the data in '
        'another order: it can be opened to read, but not continued; needs '
        'another workdir'
      )
    step = state.get('step')
    if not isinstance(step, int) or step < 0:
      raise config.ConfigError(f'state of the data: {state} is no step')
    self._iterator.set_state({'next_index': step})

  def close(self) -> None:
    self._iterator.close()
    self._batches.close()
