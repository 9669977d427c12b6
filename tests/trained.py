"""A small sparse run on a small text, for tests of what one does with it."""

import hashlib
import pathlib

import tiny

from jax_sparse_pretrain import train_model
from jax_sparse_pretrain.data import documents as documents_lib
from jax_sparse_pretrain.prepare import inputs, vocabulary

ROWS = 24


def documents(folder):
  """Python sources of this project, a file a document."""
  folder.mkdir()
  root = pathlib.Path(tiny.config_lib.__file__).parent
  for path in sorted(root.glob('*.py')):
    (folder / f'{path.stem}.txt').write_text(path.read_text())
  return folder


def tokenizer_file(folder, path, vocab_size=300):
  """A byte-level BPE of the documents."""
  reading = documents_lib.Reading(split='train')
  found, _ = inputs.find_inputs([str(folder)], reading)
  tokenizer = vocabulary.train_bpe(found, vocab_size)
  path.write_bytes(tokenizer.model)
  return path


def config_of(folder, **changes):
  """The tiny config on the documents of a folder."""
  data = {
    'source': 'text',
    'path': str(folder),
    'validation_fraction': 0.3,
    'tokenizer': 'bytes',
  }
  sections = {
    'data': {**data, **changes.pop('data', {})},
    'evaluation': {'rows': ROWS},
    'logging': {'tensorboard': False},
  }
  for name, change in changes.items():
    is_section = isinstance(change, dict)
    sections[name] = (
      {**sections.get(name, {}), **change} if is_section else change
    )
  return tiny.tiny_config(**sections)


def train(folder, workdir, **changes):
  """Trains; returns the summary."""
  return train_model(config_of(folder, **changes), workdir)


def files_of(folder):
  """{path: (hash, time of the last change)} of all files below."""
  return {
    path: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime)
    for path in sorted(folder.rglob('*'))
    if path.is_file()
  }
