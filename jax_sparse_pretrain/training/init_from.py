"""The weights of a model that exists, for a run to begin with."""

import dataclasses
import warnings
from typing import Any

import jax
import numpy as np

from jax_sparse_pretrain import config as config_lib
from jax_sparse_pretrain import pruning, storage
from jax_sparse_pretrain.config import Config, ConfigError
from jax_sparse_pretrain.data import tokenizers
from jax_sparse_pretrain.huggingface import llama, tokenizer_files
from jax_sparse_pretrain.huggingface.model_directory import ModelDirectory

# Keys that the weights do not decide. A context may be longer or shorter than
# the one that the model has seen.
_FREE = (
  'context_length',
  'tied_is_linear',
  'z_loss',
  'compute_dtype',
  'scan_layers',
  'remat',
  'attention',
)
# Keys that say nothing without another one.
_OF_LLAMA3 = (
  'rope_factor',
  'rope_low_frequency_factor',
  'rope_high_frequency_factor',
  'rope_original_length',
)

# A share of zeros that is no accident.
_MANY_ZEROS = 0.02


def open_model(
  config: Config, tokenizer: tokenizers.Tokenizer | None
) -> ModelDirectory | None:
  """The model in `init_from`, which must be that of the config and the data.

  None if there is no such directory: a run that goes on does not need it.

  Args:
    config: the checked config of the run.
    tokenizer: that of the data; None if only its boundaries are known.

  Raises:
    ConfigError: naming what differs, or the first tensor that is missing, too
      much, or of another shape or type.
  """
  if not storage.as_path(config.init_from).exists():
    return None
  where = f'init_from = {config.init_from!r}'
  model = ModelDirectory(config.init_from, where)
  check_sizes(config.model, model.model, where)
  if not storage.is_remote(model.path):
    model.check()
  if not config.init_other_tokenizer:
    difference = _difference(tokenizer, model.tokenizer())
    if difference:
      raise ConfigError(
        f'{where}: {difference}; init_other_tokenizer = True allows that'
      )
  return model


def _difference(ours, theirs) -> str:
  """What keeps two tokenizers apart, in words; empty if they are alike."""
  if ours is None or theirs is None:
    what = 'data' if ours is None else 'model'
    return f'the {what} has no tokenizer that could be compared'
  difference = tokenizer_files.difference(ours, theirs)
  return difference and f'its tokenizer is not that of the data: {difference}'


def check_sizes(
  asked: config_lib.Model, found: config_lib.Model, where: str
) -> None:
  """Whether the model of a config is the one in a directory.

  Raises:
    ConfigError: naming the first key that differs.
  """
  for name in (field.name for field in dataclasses.fields(asked)):
    if name in _FREE or (name in _OF_LLAMA3 and asked.rope_scaling == 'none'):
      continue
    # What is 0 follows from other keys.
    resolved = {'n_kv_heads': 'kv_heads', 'head_dim': 'head_size'}
    ours, theirs = (
      getattr(model, resolved.get(name, name)) for model in (asked, found)
    )
    if ours != theirs:
      raise ConfigError(
        f'{where}: model.{name} = {ours!r}: must be {theirs!r}, as there'
      )


def read_params(
  model: config_lib.Model,
  directory: ModelDirectory,
  shardings: Any,
  keeps_zeros: bool,
) -> Any:
  """The params on the devices, float32, read one leaf after another.

  Args:
    model: the sizes, and whether layers are stacked.
    directory: what `open_model` returns.
    shardings: where the params live.
    keeps_zeros: whether zeros will be masked; else a warning tells of many.

  Raises:
    ConfigError: as `open_model` does, for a directory in a bucket.
  """
  if storage.is_remote(directory.path):
    directory.check()
  places, leaves = pruning.by_path(shardings), {}
  n_weights = n_zeros = 0
  for path, leaf in llama.leaves_of(model, directory.read):
    leaf = leaf.astype(np.float32)
    n_weights, n_zeros = n_weights + leaf.size, n_zeros + np.sum(leaf == 0)
    leaves[path] = jax.make_array_from_callback(
      leaf.shape, places[path], leaf.__getitem__
    )
  if n_zeros > _MANY_ZEROS * n_weights and not keeps_zeros:
    warnings.warn(
      f'init_from: {n_zeros / n_weights:.0%} of the weights there are zero '
      'and will grow again; init_masks_from_zeros = True keeps them',
      stacklevel=2,
    )
  return llama.as_tree(leaves)
