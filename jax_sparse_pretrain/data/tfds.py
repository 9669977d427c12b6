"""Documents of a data set that TensorFlow Datasets (TFDS) has prepared.

Read from ArrayRecord files, without TensorFlow.
"""

import dataclasses
import pathlib
import re
from collections.abc import Iterator

import numpy as np

from jax_sparse_pretrain import config, storage
from jax_sparse_pretrain.data.documents import Reading, Records

_NAME = re.compile(r'(\w+(?:/[\w.+-]+)?):(\d+\.\d+\.\d+)')


def open_tfds(
  data: config.Data, reading: Reading
) -> list[tuple[Records, Reading]]:
  """The two splits as sources of documents; reads no document yet."""
  builder = _named_builder(data)
  _check_feature(builder, 'data.text_feature', data.text_feature)
  opened = []
  for split in ('train', 'validation'):
    key = f'data.{split}_split'
    name = getattr(data, f'{split}_split')
    _check_split(builder, key, name)
    how = dataclasses.replace(reading, split=split)
    opened.append((_records(builder, name, data.text_feature), how))
  return opened


def open_splits(path: str, text_field: str) -> dict[str, Records]:
  """All splits of the data set in a directory, by name."""
  builder = _builder(storage.as_path(path), path)
  _check_feature(builder, '--text_field', text_field)
  return {
    name: _records(builder, name, text_field)
    for name, split in builder.info.splits.items()
    if split.num_examples
  }


def _records(builder, split: str, feature: str) -> Records:
  texts = _Texts(builder.as_data_source(split), feature)
  return Records(f'{builder.info.full_name} {split}', texts)


class _Texts:
  """The texts of a split; may be gone through again."""

  def __init__(self, examples, feature: str):
    self._examples, self._feature = examples, feature

  def __iter__(self) -> Iterator[bytes]:
    for index in range(len(self._examples)):
      yield self._examples[index][self._feature]


def _named_builder(data: config.Data):
  directory = storage.as_path(data.path)
  if name := _NAME.fullmatch(data.path):
    import tensorflow_datasets as tfds  # Slow, and only this source needs it.

    root = data.data_dir or tfds.core.constants.DATA_DIR
    directory = storage.as_path(root) / name[1] / name[2]
  return _builder(directory, f'data.path = {data.path!r}')


def _builder(directory: pathlib.Path, where: str):
  import tensorflow_datasets as tfds

  # Not `tfds.builder`: for a data set that is not prepared it turns to the
  # code that generates it, and to the network.
  try:
    builder = tfds.builder_from_directory(directory)
  except Exception as error:  # Whatever a damaged description raises.
    raise config.ConfigError(
      f'{where}: no prepared data set in {directory}; must '
      'be name[/config]:version below data.data_dir, or the directory of a '
      'prepared data set. To prepare one, where TensorFlow is installed: tfds '
      'build NAME/CONFIG --file_format=array_record --data_dir=DIRECTORY'
    ) from error
  _check_files(builder, directory, where)
  return builder


def _check_files(builder, directory: pathlib.Path, where: str) -> None:
  file_format = builder.info.file_format.value
  if file_format != 'array_record':
    raise config.ConfigError(
      f'{where}: is prepared as {file_format}; must be array_record. To '
      'convert it, where TensorFlow is installed: tfds convert_format '
      f'--dataset_version_dir={directory} '
      '--out_file_format=array_record --out_dir=NEW_DIRECTORY'
    )
  present = {path.name for path in directory.iterdir()}
  missing = sorted(
    path.name
    for split in builder.info.splits.values()
    for path in split.filepaths
    if path.name not in present
  )
  if missing:
    raise config.ConfigError(
      f'{where}: {directory} lacks {len(missing)} files, among them '
      f'{missing[0]}; must hold all files of the data set'
    )


def _check_feature(builder, key: str, feature: str) -> None:
  features = builder.info.features
  texts = [name for name, kind in features.items() if _is_text(kind)]
  if feature not in texts:
    raise config.ConfigError(
      f'{key} = {feature!r}: must be a text feature of the data '
      f'set: {", ".join(texts) or "it has none"}'
    )


def _is_text(kind) -> bool:
  return kind.shape == () and kind.np_dtype == np.object_


def _check_split(builder, key: str, split: str) -> None:
  """A split, or a slice of one, such as `train[:1%]`."""
  allowed = f'must be one of {", ".join(builder.info.splits)}, or a slice of it'
  try:
    found = builder.info.splits[split]
  except ValueError as error:
    raise config.ConfigError(f'{key} = {split!r}: {allowed}') from error
  if not found.num_examples:
    raise config.ConfigError(f'{key} = {split!r}: no documents; {allowed}')
