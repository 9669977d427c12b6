"""What to prepare: files, directories of data sets, data sets of a hub."""

import dataclasses
import os
from collections.abc import Sequence
from typing import NamedTuple

from jax_sparse_pretrain import config, schema, storage
from jax_sparse_pretrain.data import documents, files, records, tfds
from jax_sparse_pretrain.text import count


class Input(NamedTuple):
  """A source, and how to read it."""

  source: documents.Source
  reading: documents.Reading


def find_inputs(
  names: Sequence[str], reading: documents.Reading
) -> tuple[list[Input], list[str]]:
  """The inputs that the words of the command name, and notes for a person.

  A word is a file, a directory, a glob, the directory of a data set that TFDS
  or Hugging Face's `datasets` has saved, or `hf:NAME[:CONFIG][@SPLIT]`. If a
  data set has a split for validation, that one is held out; with a split in
  `reading`, only that one is read.

  Raises:
    ConfigError: for a word that names nothing.
  """
  inputs, plain = [], []
  notes = []
  for name in names:
    if name.startswith('hf:'):
      inputs += [Input(source, reading) for source in _from_hub(name, reading)]
    elif sources := _data_set(name, reading):
      inputs += sources
    else:
      plain.append(name)
  found = [files.find_files(name) for name in plain]
  kept, n_repeated = files.without_repeats(
    path for each in found for path in each.paths.values()
  )
  n_repeated += sum(each.n_repeated for each in found)
  if n_repeated:
    notes.append(
      f'{count(n_repeated)} names lead to a file that was met before'
    )
  paths = {os.fspath(path): path for path in kept}
  found = files.Found(paths, n_repeated)
  notes += documents.notes_on(found)
  sources = documents.file_sources(found, reading.validation_fraction)
  inputs += [Input(source, reading) for source in sources]
  return inputs, notes


def _data_set(name: str, reading: documents.Reading) -> list[Input]:
  """The splits to read of a saved data set; none if this is no data set."""
  path = storage.as_path(name)
  if (path / 'features.json').exists():
    splits = tfds.open_splits(name, reading.text_field)
  elif (path / 'dataset_dict.json').exists() or (path / 'state.json').exists():
    splits = _saved(os.fspath(path), reading)
  else:
    return []
  if reading.split == 'validation' and 'validation' in splits:
    return [Input(splits['validation'], reading)]
  if 'train' not in splits:
    raise config.ConfigError(
      f'{name}: has no split train, only {", ".join(splits)}'
    )
  if reading.split or 'validation' not in splits:
    return [Input(splits['train'], reading)]
  return [
    Input(splits[split], dataclasses.replace(reading, split=split))
    for split in ('train', 'validation')
  ]


def _saved(name: str, reading) -> dict[str, documents.Records]:
  datasets = _datasets()
  try:
    loaded = datasets.load_from_disk(name)
  except Exception as error:  # The library raises many kinds.
    raise config.ConfigError(
      f'{name}: cannot be loaded: {schema.one_line(error)}'
    ) from error
  if not isinstance(loaded, datasets.DatasetDict):
    return {'train': _records(name, loaded, reading)}
  return {
    split: _records(f'{name} {split}', examples, reading)
    for split, examples in loaded.items()
  }


def _records(name: str, examples, reading) -> documents.Records:
  return documents.Records(name, _Texts(examples, reading))


def _from_hub(name: str, reading) -> list[documents.Records]:
  address, _, split = name.removeprefix('hf:').partition('@')
  repository, _, configuration = address.partition(':')
  datasets = _datasets()
  try:
    loaded = datasets.load_dataset(
      repository, configuration or None, split=split or 'train', streaming=True
    )
  except Exception as error:  # The hub and its client raise many kinds.
    raise config.ConfigError(
      f'{name}: cannot be loaded: {schema.one_line(error)}'
    ) from error
  return [_records(name, loaded, reading)]


class _Texts:
  """The text field of each example; may be gone through again."""

  def __init__(self, examples, reading: documents.Reading):
    self._examples, self._field = examples, reading.text_field

  def __iter__(self):
    for example in self._examples:
      yield records.field_of(example, self._field)


def _datasets():
  try:
    import datasets
  except ImportError as error:
    raise config.ConfigError(
      "data sets of Hugging Face need: pip install 'jax_sparse_pretrain"
      "[datasets]'"
    ) from error
  return datasets
