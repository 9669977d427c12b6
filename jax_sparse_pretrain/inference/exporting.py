"""A workdir -> a directory that `transformers` opens, or a sparse file."""

import contextlib
import json
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import safetensors.numpy

from jax_sparse_pretrain import pruning, storage
from jax_sparse_pretrain.config import ConfigError
from jax_sparse_pretrain.huggingface import (
  llama,
  model_directory,
  sparse_file,
  tokenizer_files,
)
from jax_sparse_pretrain.huggingface.sparse_file import DTYPES
from jax_sparse_pretrain.inference import model_card
from jax_sparse_pretrain.inference.language_model import (
  LanguageModel,
  load_model,
)
from jax_sparse_pretrain.runs.workdir import Workdir

FORMATS = ('huggingface', 'sparse')
# Tensors of a file; a larger one has a file of its own.
FILE_BYTES = 2 << 30


def export_model(
  path: str | os.PathLike,
  out: str | os.PathLike,
  *,
  step: int | None = None,
  dtype: str | None = None,
  format: str = 'huggingface',
  overwrite: bool = False,
  without_tokenizer: bool = False,
) -> pathlib.Path:
  """Writes a model for others to use, the whole directory or nothing.

  Args:
    path: a workdir, or a directory of Hugging Face.
    out: the directory to make, also `gs://BUCKET/...`.
    step: the checkpoint of a workdir, by default the newest.
    dtype: of the weights, 'float32' or 'bfloat16'; by default float32, and
      bfloat16 in the sparse format.
    format: 'huggingface' for `transformers`; 'sparse' for a bitmap and the
      values that are not pruned, which `load_model` reads.
    overwrite: whether a directory that is there may be replaced.
    without_tokenizer: whether to leave it out.

  Raises:
    ConfigError: for input that cannot work; nothing is written then.
    CheckpointError: if the checkpoint cannot be read.
  """
  dtype = dtype or ('bfloat16' if format == 'sparse' else 'float32')
  for name, value, known in (
    ('format', format, FORMATS),
    ('dtype', dtype, tuple(DTYPES)),
  ):
    if value not in known:
      raise ConfigError(f'--{name} = {value}: must be one of {known}')
  target = storage.resolved(storage.as_path(out))
  _check_target(target, storage.as_path(path), overwrite)
  model = load_model(path, step)
  tokenizer: dict[str, bytes] = {}
  if not without_tokenizer:
    if model.tokenizer is None:
      raise ConfigError(
        f'{path}: has no tokenizer that could be exported; '
        '--without_tokenizer leaves it out'
      )
    tokenizer = tokenizer_files.tokenizer_files(
      model.tokenizer, model.config.context_length
    )
  card = model_card.card(model, _workdir(path, model), dtype, format)
  with _new_directory(target) as directory:
    write_model(model, directory, dtype, format)
    for name, content in {**tokenizer, **card}.items():
      (directory / name).write_bytes(content)
  return target


def write_model(
  model: LanguageModel,
  directory: pathlib.Path,
  dtype: str,
  format: str = 'huggingface',
) -> None:
  """Writes config, weights and masks into a directory of this machine."""
  directory.mkdir(parents=True, exist_ok=True)
  _write_configs(directory, model, dtype)
  if format == 'sparse':
    sparse_file.write_sparse(
      directory / model_directory.SPARSE, _with_masks(model), dtype
    )
  else:
    _write_weights(directory, model, DTYPES[dtype])
    _write_masks(directory, model)


def _check_target(target, source, overwrite: bool) -> None:
  """Refuses what must not be replaced, and what cannot be written."""
  where = f'--out = {target}'
  source = storage.resolved(source)
  if target == source or target in source.parents:
    raise ConfigError(f'{where}: holds the model that is exported')
  if target.exists() and not overwrite:
    raise ConfigError(f'{where}: exists; --overwrite replaces it')
  if target.exists() and not _is_replaceable(target):
    raise ConfigError(f'{where}: is no exported model, and is not replaced')
  if storage.is_remote(target):
    return
  try:
    target.parent.mkdir(parents=True, exist_ok=True)
    probe = storage.partial(target)
    storage.remove_tree(probe)  # Of an export that was killed.
    probe.mkdir()
    probe.rmdir()
  except OSError as error:
    raise ConfigError(f'{where}: {error.strerror}') from None


def _is_replaceable(target: pathlib.Path) -> bool:
  if not target.is_dir():
    return False
  is_model = model_directory.is_model_directory(target)
  return is_model or not any(target.iterdir())


def _workdir(path: str | os.PathLike, model: LanguageModel) -> Workdir | None:
  return Workdir(storage.as_path(path)) if model.run else None


@contextlib.contextmanager
def _new_directory(target: pathlib.Path) -> Iterator[pathlib.Path]:
  """A directory to fill, which takes the place of `target` in the end."""
  if not storage.is_remote(target):
    with storage.whole_or_not(target) as directory:
      yield directory
    return
  with tempfile.TemporaryDirectory(prefix='export-') as name:
    directory = pathlib.Path(name)
    yield directory
    try:
      storage.remove_tree(target)
      # The config comes last: without it a directory is no model.
      for file in sorted(directory.iterdir(), key=_config_last):
        storage.copy(file, target / file.name)
    except Exception as error:  # Object stores raise many kinds.
      raise OSError(f'{target}: cannot be written: {error}') from error


def _config_last(path: pathlib.Path) -> tuple[bool, str]:
  return path.name == model_directory.CONFIG, path.name


def _write_configs(
  directory: pathlib.Path, model: LanguageModel, dtype: str
) -> None:
  tokenizer = model.tokenizer
  ids = (tokenizer.bos_id, tokenizer.eos_id) if tokenizer else (None, None)
  config = llama.to_llama_config(model.config, dtype, *ids)
  generation = {
    '_from_model_config': True,
    'bos_token_id': ids[0],
    'eos_token_id': ids[1],
  }
  for name, values in (
    (model_directory.CONFIG, config),
    ('generation_config.json', generation),
  ):
    (directory / name).write_text(json.dumps(values, indent=2) + '\n')


def _tensors(model: LanguageModel) -> Iterator[tuple[llama.Tensor, np.ndarray]]:
  """Their tensors one after another."""
  leaves = pruning.by_path(model.params)
  for tensor in llama.tensors(model.config):
    yield tensor, tensor.to_theirs(leaves[tensor.path])


def _with_masks(model: LanguageModel) -> Iterator[tuple[str, Any, Any]]:
  masks = model.masks or {}
  for tensor, array in _tensors(model):
    mask = None
    if tensor.path in masks:
      mask = tensor.to_theirs(masks[tensor.path])
    yield tensor.name, array, mask


def _write_weights(
  directory: pathlib.Path, model: LanguageModel, dtype: np.dtype
) -> None:
  """One file, or several of about 2 GiB and an index."""
  sizes = {
    tensor.name: np.prod(tensor.shape, dtype=int) * dtype.itemsize
    for tensor in llama.tensors(model.config)
  }
  files: list[list[str]] = [[]]
  for name, size in sizes.items():
    if files[-1] and sum(sizes[n] for n in files[-1]) + size > FILE_BYTES:
      files.append([])
    files[-1].append(name)
  names = [model_directory.WEIGHTS]
  if len(files) > 1:
    names = [
      f'model-{i + 1:05}-of-{len(files):05}.safetensors'
      for i in range(len(files))
    ]
  tensors = _tensors(model)
  for name, parts in zip(names, files, strict=True):
    content = {
      tensor.name: array.astype(dtype)
      for _, (tensor, array) in zip(parts, tensors)  # noqa: B905
    }
    _save(content, directory / name, 'pt')
  if len(files) > 1:
    where = {n: name for name, ns in zip(names, files, strict=True) for n in ns}
    index = {
      'metadata': {'total_size': int(sum(sizes.values()))},
      'weight_map': where,
    }
    (directory / model_directory.INDEX).write_text(
      json.dumps(index, indent=2) + '\n'
    )


def _write_masks(directory: pathlib.Path, model: LanguageModel) -> None:
  """A bit a weight, as NumPy's packbits(axis=1, bitorder='little') has it."""
  if not model.masks:
    return
  bits = {
    tensor.name: np.packbits(
      tensor.to_theirs(model.masks[tensor.path]), axis=1, bitorder='little'
    )
    for tensor in llama.tensors(model.config)
    if tensor.path in model.masks
  }
  _save(
    bits,
    directory / model_directory.MASKS,
    'one bit a weight, [out, in / 8], lowest bit first',
  )


def _save(content: dict[str, np.ndarray], path: pathlib.Path, format: str):
  try:
    safetensors.numpy.save_file(content, path, metadata={'format': format})
    # The library keeps others from reading it.
    path.chmod((path.parent / model_directory.CONFIG).stat().st_mode)
  except safetensors.SafetensorError as error:
    raise OSError(f'{path}: cannot be written: {error}') from None
