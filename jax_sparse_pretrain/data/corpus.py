"""The corpus: documents to train on and documents held out."""

from typing import Any, NamedTuple, Protocol

from jax_sparse_pretrain import config
from jax_sparse_pretrain.data import files, prepared

_OPEN = {
  'stdlib': files.open_stdlib,
  'text': files.open_text,
  'tfds': prepared.open_tfds,
}


class Documents(Protocol):
  """A sequence of texts, read when they are asked for."""

  def __len__(self) -> int: ...

  def __getitem__(self, index: int) -> str: ...


class Corpus(NamedTuple):
  """Two splits, neither empty, and what identifies them.

  Attributes:
    fingerprint: values for JSON. They are equal for equal documents in equal
      order, wherever the documents lie.
  """

  train: Documents
  validation: Documents
  fingerprint: dict[str, Any]


def open_corpus(data: config.Data) -> Corpus:
  """Opens the corpus that `data` names.

  Raises:
    ConfigError: if it is missing or malformed, or a split of it is empty.
  """
  train, validation, fingerprint = _OPEN[data.source](data)
  return Corpus(train, validation, {'source': data.source, **fingerprint})
