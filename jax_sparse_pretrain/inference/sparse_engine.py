"""Decoding on a CPU, straight from a sparse file.

A Llama decoder as Hugging Face defines it: RMSNorm, rotary embeddings of pairs
(i, i + K / 2), grouped queries, SwiGLU, float32 throughout; only the weights
are as they are stored. Of the sparse file all linear maps stay sparse; the
embedding is looked up.

Dims: B batch, L length, D hidden_size, V vocab_size, K head_dim.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from jax_sparse_pretrain.huggingface.sparse_file import SparseFile
from jax_sparse_pretrain.inference.sparse_kernels import Weights, padded
from jax_sparse_pretrain.schema import ConfigError

EMBEDDING, HEAD = 'model.embed_tokens.weight', 'lm_head.weight'
_LINEAR = (
  *(f'self_attn.{name}_proj.weight' for name in 'qkvo'),
  *(f'mlp.{name}_proj.weight' for name in ('gate', 'up', 'down')),
)
_NORMS = ('input_layernorm.weight', 'post_attention_layernorm.weight')
# Tokens of a prompt that go through the layers at a time: enough to read a
# weight seldom, and few enough for their activations to stay in the cache.
_CHUNK = 64


class SparseEngine:
  """A language model that reads its weights from a sparse file.

  Attributes:
    lengths: int64[B], tokens that are in the cache of each row.
    capacity: tokens that a row can hold.
  """

  def __init__(
    self,
    sparse_file: SparseFile,
    config: Mapping[str, Any],
    kernel: str | None = None,
  ):
    """Loads the weights.

    Args:
      sparse_file: an open file with the tensors of a Llama state dict.
      config: keys of Hugging Face's LlamaConfig.
      kernel: in place of the best one, see `choose_kernel`.

    Raises:
      ConfigError: for a tensor or a key that is missing or does not fit, or for
        what the engine cannot do.
    """
    self._where = str(sparse_file.path)
    n_layers, self._n_heads, self._n_groups, self._head_dim = _sizes(
      config, self._where
    )
    layers = [f'model.layers.{i}.' for i in range(n_layers)]
    linear = [layer + name for layer in layers for name in _LINEAR]
    tied = config.get('tie_word_embeddings') or HEAD not in sparse_file
    head = EMBEDDING if tied else HEAD
    self._check_shapes(sparse_file, config, layers, head)
    self._weights = Weights(sparse_file, [*linear, head], kernel)
    self._embedding = sparse_file.dense(EMBEDDING)
    norms = [layer + name for layer in layers for name in _NORMS]
    self._norms = np.stack([_floats(sparse_file, name) for name in norms])
    self._last_norm = _floats(sparse_file, 'model.norm.weight')
    self._eps = np.float32(config['rms_norm_eps'])
    self._frequency = rotary_frequencies(config, self._head_dim)
    self._n_layers = n_layers
    self.reset(1, 0)

  def describe(self) -> str:
    """One line for a person: which kernel, and why."""
    return self._weights.describe()

  @property
  def weight_bytes(self) -> int:
    """Bytes of the weights that a step reads."""
    return self._weights.memory.nbytes

  def reset(self, batch: int, capacity: int) -> None:
    """Empties the cache, and makes room for that many rows and tokens."""
    shape = (self._n_layers, batch, self._n_groups, capacity, self._head_dim)
    self._keys, self._values = (np.zeros(shape, np.float32) for _ in range(2))
    self.lengths = np.zeros(batch, np.int64)
    self.capacity = capacity
    position = np.arange(capacity, dtype=np.float32)
    angle = position[:, None] * self._frequency
    self._sin, self._cos = np.sin(angle), np.cos(angle)

  def prefill(self, tokens: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Reads prompts after what is in the cache.

    Args:
      tokens: int32[B, L]; what is past a row's length is not looked at.
      lengths: int[B], at least 1.

    Returns:
      Logits float32[B, V] after the last token of each row.

    Raises:
      ValueError: if the tokens do not fit the cache.
    """
    tokens, lengths = np.asarray(tokens), np.asarray(lengths, np.int64)
    n_rows = len(self.lengths)
    if tokens.ndim != 2 or len(tokens) != n_rows or lengths.shape != (n_rows,):
      raise ValueError(
        f'tokens {list(tokens.shape)} and lengths {list(lengths.shape)}: must '
        f'be [{n_rows}, L] and [{n_rows}]'
      )
    if (lengths < 1).any() or (lengths > tokens.shape[1]).any():
      raise ValueError(f'lengths: must be from 1 to {tokens.shape[1]}')
    self._check_room(lengths)
    last = np.zeros((n_rows, self._embedding.shape[1]), np.float32)
    each = max(1, _CHUNK // n_rows)
    for start in range(0, int(lengths.max()), each):
      here = np.arange(start, min(start + each, tokens.shape[1]))
      rows, at = np.nonzero(here < lengths[:, None])
      columns = here[at]
      hidden = self._through_layers(
        tokens[rows, columns], rows, self.lengths[rows] + columns
      )
      ends = columns == lengths[rows] - 1
      last[rows[ends]] = hidden[ends]
    self.lengths += lengths
    return self._logits(last)

  def step(self, tokens: np.ndarray) -> np.ndarray:
    """One more token for each row, int32[B] -> logits float32[B, V]."""
    tokens = np.asarray(tokens)
    if tokens.shape != self.lengths.shape:
      raise ValueError(
        f'tokens {list(tokens.shape)}: must be [{len(self.lengths)}]'
      )
    self._check_room(1)
    rows = np.arange(len(tokens))
    hidden = self._through_layers(tokens, rows, self.lengths)
    self.lengths += 1
    return self._logits(hidden)

  def _check_room(self, more: np.ndarray | int) -> None:
    needed = int((self.lengths + more).max(initial=0))
    if needed > self.capacity:
      raise ValueError(
        f'{needed} tokens: the cache holds {self.capacity}; see reset'
      )

  def _through_layers(self, tokens, rows, positions) -> np.ndarray:
    """Tokens int[N] at places in the cache -> hidden float32[N, D]."""
    n = len(tokens)
    hidden = np.zeros((padded(n), self._embedding.shape[1]), np.float32)
    hidden[:n] = self._embedding[tokens]
    w = self._weights
    w.jit.run_layers(
      *(w.marker, w.memory, w.table, w.offsets, w.n_parts),
      *(self._norms, self._eps, hidden, rows, positions),
      *(self._sin, self._cos, self._keys, self._values, self._n_heads),
    )
    return hidden[:n]

  def _logits(self, hidden: np.ndarray) -> np.ndarray:
    """The last norm and the head: float32[N, D] -> float32[N, V]."""
    variance = np.square(hidden).mean(axis=1, keepdims=True)
    hidden = hidden / np.sqrt(variance + self._eps) * self._last_norm
    return self._weights.multiply(self._weights.names[-1], hidden)

  def _check_shapes(self, file: SparseFile, config, layers, head) -> None:
    width, inner = config['hidden_size'], config['intermediate_size']
    queries = self._n_heads * self._head_dim
    groups = self._n_groups * self._head_dim
    shapes = [
      *((queries, width), (groups, width), (groups, width), (width, queries)),
      *((inner, width), (inner, width), (width, inner)),
    ]
    vocabulary = (config['vocab_size'], width)
    wanted = {EMBEDDING: vocabulary, head: vocabulary}
    wanted['model.norm.weight'] = (width,)
    for layer in layers:
      names = [layer + name for name in (*_LINEAR, *_NORMS)]
      wanted |= zip(names, [*shapes, (width,), (width,)], strict=True)
    for name, shape in wanted.items():
      if file.shape(name) != shape:
        raise ConfigError(
          f'{file.path}: {name}: its shape is {list(file.shape(name))}, '
          f'must be {list(shape)} for this config'
        )
    biases = [name for name in file.names() if name.endswith('.bias')]
    if biases:
      raise ConfigError(f'{file.path}: {biases[0]}: the engine knows no biases')


def _floats(file: SparseFile, name: str) -> np.ndarray:
  return file.dense(name).astype(np.float32)


def _sizes(config: Mapping[str, Any], where: str) -> tuple[int, int, int, int]:
  """Layers, heads, groups of heads and head_dim."""
  try:
    n_heads = config['num_attention_heads']
    n_groups = config.get('num_key_value_heads') or n_heads
    head_dim = config.get('head_dim') or config['hidden_size'] // n_heads
    n_layers = config['num_hidden_layers']
    for key in ('intermediate_size', 'rms_norm_eps', 'vocab_size'):
      _ = config[key]
  except KeyError as error:
    raise ConfigError(f'{where}: the config has no {error}') from None
  if config.get('hidden_act', 'silu') != 'silu':
    raise ConfigError(
      f'{where}: hidden_act = {config["hidden_act"]!r}: must be silu'
    )
  if n_heads % n_groups or head_dim % 2:
    raise ConfigError(
      f'{where}: {n_heads} heads in {n_groups} groups of head_dim {head_dim}: '
      'the groups must divide the heads, and head_dim must be even'
    )
  return n_layers, n_heads, n_groups, head_dim


def rotary_frequencies(config: Mapping[str, Any], head_dim: int) -> np.ndarray:
  """Radians that each pair turns per position, float32[K / 2].

  With the scaling of Llama 3.1 waves that are long beside the context it was
  trained on first are made longer still by `factor`, and those in between in
  part (`_compute_llama3_parameters` in transformers).

  Args:
    config: has rope_theta, and rope_scaling or None; or rope_parameters, in
      which transformers 5 keeps both.
    head_dim: K.

  Raises:
    ConfigError: for another kind of scaling.
  """
  told = config.get('rope_parameters') or config.get('rope_scaling') or {}
  base = told.get('rope_theta') or config.get('rope_theta') or 10_000.0
  pair = np.arange(0, head_dim, 2, dtype=np.float32)
  frequency = (1 / base ** (pair / head_dim)).astype(np.float32)
  kind = told.get('rope_type') or told.get('type') or 'default'
  if kind == 'default':
    return frequency
  if kind != 'llama3':
    raise ConfigError(f'rope_type = {kind!r}: must be default or llama3')
  trained_on = told['original_max_position_embeddings']
  low, high = told['low_freq_factor'], told['high_freq_factor']
  waves = trained_on * frequency / (2 * math.pi)  # in the first context
  share = np.clip((waves - low) / (high - low), 0, 1)
  scaled = (1 - share) * frequency / told['factor'] + share * frequency
  return scaled.astype(np.float32)
