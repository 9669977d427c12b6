"""A directory with a Llama of Hugging Face: config, weights and tokenizer."""

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import shutil
import tempfile
import weakref
from typing import Any

import numpy as np
import safetensors

from jax_sparse_pretrain import storage
from jax_sparse_pretrain.config import ConfigError
from jax_sparse_pretrain.data import tokenizers
from jax_sparse_pretrain.huggingface import llama, sparse_file
from jax_sparse_pretrain.schema import one_line

CONFIG = 'config.json'
INDEX = 'model.safetensors.index.json'
WEIGHTS = 'model.safetensors'
SPARSE = 'model.sparse.safetensors'
MASKS = 'masks.safetensors'
TOKENIZER = 'tokenizer.json'

# Rotary frequencies, which files of old versions hold, are computed.
_COMPUTED = '.rotary_emb.inv_freq'


def is_model_directory(path: pathlib.Path) -> bool:
  """Whether it looks like one of Hugging Face, not like a workdir."""
  return any((path / name).exists() for name in (INDEX, WEIGHTS, SPARSE))


def is_sparse(path: str | os.PathLike) -> bool:
  """Whether a directory holds its weights as a bitmap and values."""
  return (storage.as_path(path) / SPARSE).exists()


class ModelDirectory:
  """A directory that is read when asked; one in a bucket is copied here first.

  Args:
    path: the directory.
    where: begins the message of an error; by default the path.

  Attributes:
    values: what its `config.json` holds.
    model: the same as keys of ours.

  Raises:
    ConfigError: if it is missing, or of another architecture.
  """

  def __init__(self, path: str | os.PathLike, where: str = ''):
    self.path = storage.as_path(path)
    self._where = where or str(path)
    self.values = self._read_config()
    self.model = llama.from_llama_config(
      self.values, f'{self._where}: {CONFIG}'
    )
    self._files: dict[str, Any] = {}
    self._copies: pathlib.Path | None = None

  def _read_config(self) -> dict[str, Any]:
    try:
      values = json.loads((self.path / CONFIG).read_text())
    except Exception as error:  # Object stores raise many kinds.
      raise ConfigError(
        f'{self._where}: must hold {CONFIG} of a model ({one_line(error)})'
      ) from None
    if not isinstance(values, dict):
      raise ConfigError(f'{self._where}: {CONFIG}: is no config of a model')
    return values

  @property
  def sizes(self) -> dict[str, Any]:
    """The section `model` of a config for this model."""
    return dataclasses.asdict(self.model)

  @functools.cached_property
  def fingerprint(self) -> str:
    """SHA-256 of the config and of all weights; in a bucket, the path.

    There, each restart of each host would have to fetch them.
    """
    if storage.is_remote(self.path):
      return str(self.path)
    digest = hashlib.sha256(json.dumps(self.values, sort_keys=True).encode())
    for tensor in llama.tensors(self.model):
      digest.update(np.ascontiguousarray(self.read(tensor.name)).view(np.uint8))
    return digest.hexdigest()

  def tokenizer(self) -> tokenizers.Tokenizer | None:
    """The tokenizer, with the boundaries of the model; None if it has none."""
    path = self.path / TOKENIZER
    if not path.exists():
      return None
    where = f'{self._where}: {TOKENIZER}'
    ids = {key: self.values.get(f'{key}_token_id') for key in ('bos', 'eos')}
    try:
      content = path.read_bytes()
      if isinstance(ids['eos'], list):  # Those of chats come after the first.
        ids['eos'] = ids['eos'][0]
      if ids['eos'] is None:
        return tokenizers.from_model('huggingface', content)
      if not tokenizers.opens_with(content, ids['bos']):
        ids['bos'] = None  # As the model was trained, it seems.
      return tokenizers.with_boundaries(
        'huggingface', content, ids['bos'], ids['eos']
      )
    except Exception as error:  # The library has no errors of its own.
      raise ConfigError(f'{where}: cannot be used: {one_line(error)}') from None

  @functools.cached_property
  def is_sparse(self) -> bool:
    """Whether the weights are a bitmap and values."""
    return is_sparse(self.path)

  def check(self) -> None:
    """Whether the tensors are those of the model, no more and no less.

    Raises:
      ConfigError: naming the first that is missing, too much, or of another
        shape or type.
    """
    shapes = {t.name: t.their_shape for t in llama.tensors(self.model)}
    names = {n for n in self._index if not n.endswith(_COMPUTED)}
    if 'lm_head.weight' not in shapes:
      names.discard('lm_head.weight')  # Some save it though it is tied.
    for name in [*shapes, *sorted(names - shapes.keys())]:
      if name not in names:
        raise ConfigError(f'{self._where}: has no tensor {name}')
      if name not in shapes:
        raise ConfigError(f'{self._where}: {name}: is no tensor of this Llama')
      self._check_tensor(name, shapes[name])

  def _check_tensor(self, name: str, shape: tuple[int, ...]) -> None:
    found, kind = self._about(name)
    if found != shape:
      raise ConfigError(
        f'{self._where}: {name}: must have shape {shape}, not {found}'
      )
    if kind not in ('F32', 'BF16'):
      raise ConfigError(
        f'{self._where}: {name}: must be float32 or bfloat16, not {kind}'
      )

  def read(self, name: str) -> np.ndarray:
    """A tensor as it is stored, float32 or bfloat16."""
    if self.is_sparse:
      return self.sparse_file.dense(name)
    return self._open(self._index[name]).get_tensor(name)

  def has_mask(self, name: str) -> bool:
    if self.is_sparse:
      return self.sparse_file.is_sparse(name)
    return (self.path / MASKS).exists() and name in self._open(MASKS).keys()

  def mask(self, name: str) -> np.ndarray:
    """The mask of a tensor, bool of its shape; all True if it has none.

    Raises:
      ConfigError: if it is not that of the weights.
    """
    shape, _ = self._about(name)
    if not self.has_mask(name):
      return np.ones(shape, bool)
    if self.is_sparse:
      return self.sparse_file.mask(name)
    bits = self._open(MASKS).get_tensor(name)
    is_like = len(shape) == 2 and bits.shape == (shape[0], -(-shape[1] // 8))
    if not is_like or bits.dtype != np.uint8:
      raise ConfigError(f'{self._where}: {MASKS}: {name}: is no mask of it')
    kept = np.unpackbits(bits, axis=1, count=shape[1], bitorder='little')
    kept = kept.view(bool)
    if self.read(name)[~kept].any():
      raise ConfigError(
        f'{self._where}: {MASKS}: {name}: leaves out weights that are not '
        'zero; remove the file if the model has been trained on'
      )
    return kept

  @functools.cached_property
  def sparse_file(self) -> sparse_file.SparseFile:
    return sparse_file.read_sparse(self._local(SPARSE))

  @functools.cached_property
  def _index(self) -> dict[str, str]:
    """Tensor -> the file that holds it."""
    if self.is_sparse:
      return dict.fromkeys(self.sparse_file.names(), SPARSE)
    index = self.path / INDEX
    if not index.exists():
      return dict.fromkeys(self._open(WEIGHTS).keys(), WEIGHTS)
    try:
      return json.loads(index.read_text())['weight_map']
    except (ValueError, KeyError, TypeError):
      raise ConfigError(f'{index}: is no index of tensors') from None

  def _about(self, name: str) -> tuple[tuple[int, ...], str]:
    """The shape and the type of a tensor."""
    if self.is_sparse:
      return self.sparse_file.shape(name), 'F32'
    try:
      found = self._open(self._index[name]).get_slice(name)
    except safetensors.SafetensorError as error:
      raise ConfigError(
        f'{self._where}: {name}: is not where the index says '
        f'({one_line(error)})'
      ) from None
    return tuple(found.get_shape()), found.get_dtype()

  def _open(self, name: str) -> Any:
    if name not in self._files:
      try:
        self._files[name] = safetensors.safe_open(
          self._local(name), framework='np'
        )
      except (OSError, safetensors.SafetensorError) as error:
        raise ConfigError(
          f'{self.path / name}: cannot be read as safetensors '
          f'({one_line(error)})'
        ) from None
    return self._files[name]

  def _local(self, name: str) -> pathlib.Path:
    """The file, or a copy of it on this machine."""
    if not storage.is_remote(self.path):
      return self.path / name
    if self._copies is None:
      self._copies = pathlib.Path(tempfile.mkdtemp(prefix='model-'))
      weakref.finalize(self, shutil.rmtree, self._copies, ignore_errors=True)
    copy = self._copies / name
    if not copy.exists():
      try:
        storage.copy(self.path / name, copy)
      except Exception as error:  # Object stores raise many kinds.
        raise ConfigError(
          f'{self.path / name}: cannot be copied here ({one_line(error)})'
        ) from None
    return copy
