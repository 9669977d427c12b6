"""The loss of a model on text, with its error, and in bits a byte."""

import functools
import itertools
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_sparse_pretrain import config as config_lib
from jax_sparse_pretrain import data as data_lib
from jax_sparse_pretrain.config import ConfigError
from jax_sparse_pretrain.data.rows import Tokens
from jax_sparse_pretrain.huggingface import tokenizer_files
from jax_sparse_pretrain.inference.generation import power_of_two
from jax_sparse_pretrain.inference.language_model import LanguageModel
from jax_sparse_pretrain.model.decoder import Decoder
from jax_sparse_pretrain.training import step as step_lib

# Tokens that are computed at once, and logits: half a GiB, unless the logits of
# one row take more.
_BATCH_TOKENS, _BATCH_LOGITS = 16_384, 1 << 27
_SHORTEST = 16
# Documents that are sorted by length before they are put into batches.
_SORTED_TOGETHER = 1024


class Evaluation(NamedTuple):
  """What was measured.

  Attributes:
    loss: nats a token, over all tokens.
    standard_error: of the loss, from the spread over documents or rows.
    unit: 'documents' or 'rows'.
    n: how many of them.
    tokens: predicted ones.
    n_bytes: of their text, UTF-8; None if not known.
    seconds: without the first batch, which compiles.
    timed_tokens: that were computed in this time.
  """

  loss: float
  standard_error: float
  unit: str
  n: int
  tokens: int
  n_bytes: float | None
  seconds: float
  timed_tokens: int

  @property
  def perplexity(self) -> float:
    return float(np.exp(self.loss))

  @property
  def bits_per_byte(self) -> float | None:
    """Comparable between tokenizers."""
    if not self.n_bytes:
      return None
    return self.loss * self.tokens / self.n_bytes / math.log(2)

  @property
  def tokens_per_second(self) -> float | None:
    return self.timed_tokens / self.seconds if self.timed_tokens else None


def evaluate_texts(model: LanguageModel, texts: Sequence[str]) -> Evaluation:
  """The loss on texts, each a document as in training, `[BOS] ids [EOS]`."""
  tokenizer = model.require_tokenizer()
  end = np.array([tokenizer.eos_id], np.int32)
  documents = [np.concatenate([model.encode(text), end]) for text in texts]
  n_bytes = sum(len(text.encode()) for text in texts)
  return evaluate_documents(
    model, _opened(documents, tokenizer.bos_id, tokenizer.eos_id), n_bytes
  )


def _opened(
  documents: Iterable[np.ndarray], bos_id: int | None, eos_id: int
) -> Iterable[np.ndarray]:
  """Documents without BOS come after the end of another, as in a packed row.

  So the first token is predicted in any case, and its bytes count.
  """
  if bos_id is not None:
    return documents
  end = np.array([eos_id], np.int32)
  return (np.concatenate([end, ids]) for ids in documents)


def evaluate_documents(
  model: LanguageModel,
  documents: Iterable[np.ndarray],
  n_bytes: float | None = None,
) -> Evaluation:
  """The loss on documents one by one.

  A document that is longer than the context is read in stretches of that
  length, so that each token but its first is predicted once.

  Args:
    model: what `load_model` returns.
    documents: token ids with the boundaries that belong to them.
    n_bytes: of their text together, if known.
  """
  length = model.config.context_length
  losses, counts, clock = [], [], _Clock()
  documents = iter(documents)
  while some := list(itertools.islice(documents, _SORTED_TOGETHER)):
    lost, counted = np.zeros(len(some)), np.zeros(len(some), int)
    stretches = [
      (index, ids[start : start + length + 1])
      for index, ids in enumerate(some)
      for start in range(0, len(ids) - 1, length)
    ]
    for batch in _by_length(stretches, batch_tokens(model)):
      sums = _summed(model, [ids for _, ids in batch], clock)
      for (index, ids), loss in zip(batch, sums, strict=True):
        lost[index] += loss
        counted[index] += len(ids) - 1
    losses.append(lost[counted > 0])
    counts.append(counted[counted > 0])
  return _evaluation('documents', losses, counts, n_bytes, clock)


def batch_tokens(model: LanguageModel) -> int:
  """How many tokens are computed at once."""
  return max(1, min(_BATCH_TOKENS, _BATCH_LOGITS // model.config.vocab_size))


def _by_length(stretches, n_tokens: int) -> Iterator[list]:
  """Batches of stretches whose programs have the same shape."""
  ordered = sorted(stretches, key=lambda stretch: len(stretch[1]))

  def padded(stretch) -> int:
    return power_of_two(len(stretch[1]) - 1, _SHORTEST)

  for size, group in itertools.groupby(ordered, padded):
    group = list(group)
    rows = max(1, n_tokens // size)
    yield from (group[i : i + rows] for i in range(0, len(group), rows))


def _summed(model: LanguageModel, stretches, clock: '_Clock') -> np.ndarray:
  """The summed loss of each stretch of one batch, float[n]."""
  size = power_of_two(max(map(len, stretches)) - 1, _SHORTEST)
  # Few shapes, so that few programs are compiled.
  rows = np.zeros((power_of_two(len(stretches), 1), size + 1), np.int32)
  is_target = np.zeros((len(rows), size), bool)
  for row, real, ids in zip(rows, is_target, stretches, strict=False):
    row[: len(ids)] = ids
    real[: len(ids) - 1] = True
  with clock.of(rows.shape, int(is_target.sum())):
    losses = np.asarray(_token_losses(model.config, model.params, rows))
  return np.where(is_target, losses, 0).sum(axis=1, dtype=np.float64)[
    : len(stretches)
  ]


def evaluate_rows(
  model: LanguageModel, batches: Iterable[np.ndarray]
) -> Evaluation:
  """The loss on packed rows, as training has them.

  Args:
    model: what `load_model` returns.
    batches: int32[B, L + 1], or int32[B, 2, L + 1] with documents.
  """
  losses, counts, clock = [], [], _Clock()
  for rows in batches:
    is_target = step_lib.targets_of(rows).is_target
    length = rows.shape[-1] - 1
    n = np.full(len(rows), length) if is_target is None else is_target.sum(1)
    with clock.of(rows.shape, int(n.sum())):
      each = np.asarray(_token_losses(model.config, model.params, rows))
    losses.append(each.sum(axis=1, dtype=np.float64))
    counts.append(n)
  return _evaluation('rows', losses, counts, None, clock)


@functools.partial(jax.jit, static_argnums=0)
def _token_losses(config, params, rows: jax.Array) -> jax.Array:
  decoder = Decoder(config)

  def apply(params, tokens, documents=None):
    return decoder.apply({'params': params}, tokens, documents)

  return step_lib.token_losses(apply, params, jnp.asarray(rows))


def _evaluation(unit, losses, counts, n_bytes, clock) -> Evaluation:
  """Sums over batches -> loss and its error, those of a ratio of means."""
  lost, counted = np.concatenate([*losses, []]), np.concatenate([*counts, []])
  n, tokens = len(lost), int(counted.sum())
  if not tokens:
    raise ConfigError(
      'the text is shorter than one row of the context'
      if unit == 'rows'
      else 'there is no text'
    )
  loss = lost.sum() / tokens
  error = math.nan
  if n > 1:
    spread = np.square(lost - loss * counted).sum() / (n - 1)
    error = math.sqrt(n * spread) / tokens
  return Evaluation(
    float(loss), error, unit, n, tokens, n_bytes, clock.seconds, clock.tokens
  )


class _Clock:
  """Time of all batches but the first of each shape, which compile."""

  def __init__(self):
    self.seconds, self.tokens = 0.0, 0
    self._shapes: set[Any] = set()

  def of(self, shape, tokens: int) -> '_Clock':
    self._shape, self._now = tuple(shape), tokens
    return self

  def __enter__(self) -> None:
    self._start = time.perf_counter()

  def __exit__(self, *error) -> None:
    if self._shape in self._shapes:
      self.seconds += time.perf_counter() - self._start
      self.tokens += self._now
    self._shapes.add(self._shape)


def documents_of(
  tokens: Tokens, end: int, stretch: int = 1 << 20
) -> Iterator[np.ndarray]:
  """Cuts a line of tokens after each end of a document.

  Args:
    tokens: the line.
    end: the id that closes a document.
    stretch: tokens that are read at once.
  """
  pending: list[np.ndarray] = []
  for start in range(0, len(tokens), stretch):
    ids = np.empty(min(stretch, len(tokens) - start), np.int32)
    tokens.fetch([(start, start + len(ids))])
    tokens.read(start, ids)
    cuts = np.flatnonzero(ids == end) + 1
    *whole, rest = np.split(ids, cuts)
    for part in whole:
      yield np.concatenate([*pending, part])
      pending = []
    pending.append(rest)
  last = np.concatenate([*pending, np.empty(0, np.int32)])
  if len(last):
    yield last


def evaluate_corpus(
  model: LanguageModel,
  data: config_lib.Data,
  *,
  split: str = 'validation',
  documents: bool = False,
  n_rows: int | None = None,
) -> Evaluation:
  """The loss on a source that training reads.

  Args:
    model: what `load_model` returns.
    data: names the source; its tokenizer must be that of the model.
    split: 'validation', 'train' or 'all'.
    documents: whether documents are read one by one, or in packed rows.
    n_rows: so many rows of the validation split, in the order of a run's own
      evaluation; by default all rows, in their order.

  Raises:
    ConfigError: if the data cannot be read, or their tokenizer is another one.
  """
  corpus = data_lib.open_corpus(data, model.tokenizer, is_whole=split == 'all')
  _check_tokenizer(model, corpus)
  lines = {'train': corpus.train, 'validation': (corpus.validation,)}
  names = ['train', 'validation'] if split == 'all' else [split]
  tokens = [line for name in names for line in lines[name]]
  splits = [corpus.fingerprint[name] for name in names]
  known = all(each['bytes'] is not None for each in splits)
  n_bytes = sum(each['bytes'] for each in splits) if known else None
  n_tokens = sum(each['tokens'] for each in splits)
  if documents:
    identity = corpus.fingerprint['tokenizer']
    ends = identity['bos_id'], identity['eos_id']
    found = (d for t in tokens for d in documents_of(t, corpus.document_end))
    return evaluate_documents(model, _opened(found, *ends), n_bytes)
  length = model.config.context_length
  batch_size = max(1, batch_tokens(model) // length)
  if n_rows is None:
    batches = _rows_of(tokens, length, batch_size)
    if data.mask_documents:
      end = corpus.document_end
      batches = (data_lib.with_documents(rows, end) for rows in batches)
  else:
    rows = data_lib.evaluation_rows(
      corpus,
      n_rows=n_rows,
      context_length=length,
      mask_documents=data.mask_documents,
    )
    batches = (
      rows[i : i + batch_size] for i in range(0, len(rows), batch_size)
    )
  result = evaluate_rows(model, batches)
  if n_bytes is None or not n_tokens:
    return result
  # Rows cut documents, so their bytes are those of as many targets.
  if data.mask_documents:  # Their first tokens are none.
    n_tokens -= sum(each['documents'] for each in splits)
  return result._replace(n_bytes=n_bytes * result.tokens / n_tokens)


def _check_tokenizer(model: LanguageModel, corpus: data_lib.Corpus) -> None:
  if corpus.tokenizer is model.tokenizer:
    return
  if model.tokenizer is None or corpus.tokenizer is None:
    difference = 'one of them has none that could be compared'
  else:
    difference = tokenizer_files.difference(model.tokenizer, corpus.tokenizer)
  if difference:
    raise ConfigError(
      f'data.path: needs the tokenizer of the model: {difference}'
    )


def _rows_of(tokens, length: int, batch_size: int) -> Iterator[np.ndarray]:
  """Packed rows in their order, int32[at most batch_size, L + 1]."""
  for line in tokens:
    n_rows = max(len(line) - 1, 0) // length
    for first in range(0, n_rows, batch_size):
      n = min(batch_size, n_rows - first)
      ids = np.empty(n * length + 1, np.int32)
      line.fetch([(first * length, first * length + len(ids))])
      line.read(first * length, ids)
      yield np.lib.stride_tricks.sliding_window_view(ids, length + 1)[::length]
