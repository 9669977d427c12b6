"""Text from a model, token by token.

An engine computes logits: `DecoderEngine` with JAX, on whatever device there
is; `sparse_engine` on a CPU, straight from the bits and values of a sparse
file. What is sampled from them is written once, here.
"""

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jax_sparse_pretrain.config import ConfigError
from jax_sparse_pretrain.inference.language_model import LanguageModel
from jax_sparse_pretrain.model.decoder import Decoder, empty_cache

# Lengths that programs are compiled for are powers of two, from these on.
_SHORTEST_PROMPT, _SMALLEST_CACHE = 16, 64
# To write, if nothing is said.
_MOST_TOKENS = 256


class Engine(Protocol):
  """What decodes a batch of texts."""

  def reset(self, batch_size: int, capacity: int) -> None:
    """Forgets all, and makes room for so many texts of so many tokens."""

  def prefill(self, tokens: np.ndarray, lengths: np.ndarray) -> Any:
    """Reads the prompts, int32[B, L], of which `lengths` tokens are real.

    Returns float32[B, V], the logits of the token after each.
    """

  def step(self, tokens: np.ndarray) -> Any:
    """Reads a token of each text, int32[B]; returns as `prefill` does."""


class DecoderEngine:
  """The decoder with a cache.

  Compiled once for each size of the cache, and for each length of prompts.
  """

  def __init__(self, model: LanguageModel):
    self._params, self._config = model.params, model.config

  def reset(self, batch_size: int, capacity: int) -> None:
    capacity = power_of_two(capacity, _SMALLEST_CACHE)
    self._cache = empty_cache(self._config, batch_size, capacity)
    self._positions = np.zeros(batch_size, np.int32)

  def prefill(self, tokens: np.ndarray, lengths: np.ndarray) -> jax.Array:
    length = power_of_two(tokens.shape[1], _SHORTEST_PROMPT)
    padded = np.zeros((len(tokens), length), np.int32)
    padded[:, : tokens.shape[1]] = tokens
    # What is past the end of a prompt fills places that are not seen before
    # they are filled again.
    self._cache = _fill(self._config, self._params, self._cache, padded)
    self._positions = lengths.astype(np.int32) - 1
    return self.step(tokens[np.arange(len(tokens)), self._positions])

  def step(self, tokens: np.ndarray) -> jax.Array:
    logits, self._cache = _step(
      self._config, self._params, self._cache, tokens, self._positions
    )
    self._positions = self._positions + 1
    return logits


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _fill(config, params, cache, tokens_BxL):
  positions_BxL = jnp.broadcast_to(
    jnp.arange(tokens_BxL.shape[1]), tokens_BxL.shape
  )
  # The logits are not used, so the head is not computed.
  return _apply(config, params, cache, tokens_BxL, positions_BxL)[1]


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _step(config, params, cache, tokens_B, positions_B):
  logits_Bx1xV, cache = _apply(
    config, params, cache, tokens_B[:, None], positions_B[:, None]
  )
  return logits_Bx1xV[:, 0], cache


def _apply(config, params, cache, tokens_BxL, positions_BxL):
  logits_BxLxV, changed = Decoder(config).apply(
    {'params': params, 'cache': cache},
    tokens_BxL,
    None,
    positions_BxL,
    mutable=['cache'],
  )
  return logits_BxLxV, changed['cache']


def power_of_two(n: int, least: int) -> int:
  """The smallest power of two that is at least `n` and `least`."""
  return 1 << (max(n, least) - 1).bit_length()


def generate(
  model: LanguageModel,
  prompts: Sequence[str],
  *,
  max_tokens: int | None = None,
  temperature: float = 1.0,
  top_k: int = 0,
  top_p: float = 1.0,
  seed: int = 0,
  samples: int = 1,
  engine: Engine | str = 'jax',
  on_text: Callable[[int, str], None] | None = None,
) -> list[str]:
  """What the model writes after each prompt, up to the end of the text.

  A text depends on the seed and on its place in the list, not on the others.

  Args:
    model: what `load_model` returns.
    prompts: texts of any lengths, read as the beginnings of documents.
    max_tokens: the most tokens to write; by default as many as the context
      still holds, up to 256.
    temperature: divides the logits; 0 takes the likeliest token each time.
    top_k: sample from so many of the likeliest tokens; 0: from all.
    top_p: sample from the likeliest tokens that together have this
      probability.
    seed: of the samples.
    samples: texts for each prompt.
    engine: what decodes: 'jax', 'sparse' for a sparse export on a CPU, or any
      engine.
    on_text: called with (index of a text, what has been added to it) as soon
      as there is something.

  Returns:
    The texts without their prompts, all of a prompt together.

  Raises:
    ConfigError: for an argument out of range, or a model without tokenizer.
  """
  n_tokens = 1 if max_tokens is None else max_tokens
  _check(n_tokens, temperature, top_k, top_p, seed, samples)
  texts = [Text(model, p) for p in prompts for _ in range(samples)]
  if not texts:
    return []
  longest = max(len(text.ids) for text in texts)
  if max_tokens is None:
    left = model.config.context_length - longest
    max_tokens = max(1, min(left, _MOST_TOKENS))
  if longest + max_tokens > model.config.context_length:
    warnings.warn(
      f'{longest} tokens of a prompt and {max_tokens} to write: more than the '
      f'{model.config.context_length} that the model was trained on',
      stacklevel=2,
    )
  lengths = np.array([len(text.ids) for text in texts])
  tokens = np.zeros((len(texts), longest), np.int32)
  for row, text in zip(tokens, texts, strict=True):
    row[: len(text.ids)] = text.ids
  if isinstance(engine, str):
    engine = open_engine(engine, model)
  engine.reset(len(texts), longest + max_tokens)
  logits = engine.prefill(tokens, lengths)
  for i in range(max_tokens):
    chosen = np.asarray(
      choose(
        jnp.asarray(logits), seed, i, temperature, top_k, top_p,
        top_k > 0 or top_p < 1,
      )
    )  # fmt: skip
    for index, (text, token) in enumerate(zip(texts, chosen, strict=True)):
      added = text.add(int(token), is_last=i == max_tokens - 1)
      if added and on_text:
        on_text(index, added)
    if all(text.has_ended for text in texts) or i == max_tokens - 1:
      break
    logits = engine.step(chosen)
  return [text.written for text in texts]


def open_engine(name: str, model: LanguageModel) -> Engine:
  """The engine of a name, 'jax' or 'sparse'.

  Raises:
    ConfigError: if it does not serve this model, or is not installed.
  """
  if name == 'jax':
    return DecoderEngine(model)
  if name != 'sparse':
    raise ConfigError(f"engine = {name!r}: must be 'jax' or 'sparse'")
  from jax_sparse_pretrain.inference import sparse_engine

  directory = model.directory
  if directory is None or not directory.is_sparse:
    raise ConfigError(
      'engine = sparse: needs a directory that export has made with '
      '--format=sparse'
    )
  return sparse_engine.SparseEngine(directory.sparse_file, directory.values)


def _check(max_tokens, temperature, top_k, top_p, seed, samples) -> None:
  for name, value, holds, words in (
    ('max_tokens', max_tokens, max_tokens >= 1, 'at least 1'),
    ('temperature', temperature, 0 <= temperature < 1e6, 'at least 0'),
    ('top_k', top_k, 0 <= top_k < 2**31, 'from 0 to 2^31 - 1'),
    ('seed', seed, 0 <= seed < 2**31, 'from 0 to 2^31 - 1'),
    ('top_p', top_p, 0 < top_p <= 1, 'in (0, 1]'),
    ('samples', samples, samples >= 1, 'at least 1'),
  ):
    if not holds:
      raise ConfigError(f'{name} = {value}: must be {words}')


@functools.partial(jax.jit, static_argnums=6)
def choose(
  logits_BxV, seed, step, temperature, top_k, top_p, is_filtered
) -> jax.Array:
  """The next token of each text, int32[B]."""
  n_texts, vocab_size = logits_BxV.shape
  scaled_BxV = logits_BxV / jnp.maximum(temperature, 1e-6)
  if is_filtered:
    scaled_BxV = jnp.where(
      scaled_BxV >= _least_likely(scaled_BxV, top_k, top_p),
      scaled_BxV,
      -jnp.inf,
    )
  key = jax.random.fold_in(jax.random.key(seed), step)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(n_texts))
  sampled = jax.vmap(jax.random.categorical)(keys, scaled_BxV)
  likeliest = jnp.argmax(logits_BxV, axis=-1)
  return jnp.where(temperature > 0, sampled, likeliest).astype(jnp.int32)


def _least_likely(scaled_BxV, top_k, top_p) -> jax.Array:
  """The logit of the last token that may be sampled, [B, 1].

  First the k likeliest are kept, then, of these, those that together have the
  probability; at least one stays.
  """
  vocab_size = scaled_BxV.shape[-1]
  sorted_BxV = jnp.sort(scaled_BxV, axis=-1, descending=True)
  k = jnp.where(top_k > 0, jnp.minimum(top_k, vocab_size), vocab_size)
  places_V = jnp.arange(vocab_size)
  sorted_BxV = jnp.where(places_V < k, sorted_BxV, -jnp.inf)
  p_BxV = jax.nn.softmax(sorted_BxV, axis=-1)
  before_BxV = jnp.cumsum(p_BxV, axis=-1) - p_BxV
  is_kept = (before_BxV < top_p) & (places_V < k)
  return jnp.min(jnp.where(is_kept, sorted_BxV, jnp.inf), -1, keepdims=True)


class Text:
  """A prompt and what has been written after it.

  Attributes:
    ids: those of the prompt, then those written.
    written: the text after the prompt.
    has_ended: whether the model has closed the document.
  """

  def __init__(self, model: LanguageModel, prompt: str):
    self._tokenizer = model.require_tokenizer()
    self.ids = model.encode(prompt).tolist()
    if not self.ids:  # As after the end of another document.
      self.ids = [self._tokenizer.eos_id]
    self._prompt = self._tokenizer.decode(self.ids)
    self.written, self.has_ended = '', False

  def add(self, token: int, is_last: bool) -> str:
    """Adds a token, and returns the text that can be told since."""
    if self.has_ended:
      return ''
    self.has_ended = token == self._tokenizer.eos_id
    if not self.has_ended:
      self.ids.append(token)
    # With the prompt, since a first token may lose its space alone.
    text = self._tokenizer.decode(self.ids)[len(self._prompt) :]
    if not (self.has_ended or is_last):
      text = text.rstrip('\ufffd')  # A character whose bytes are not all here.
    added = text[len(self.written) :]
    if added:
      self.written = text
    return added
