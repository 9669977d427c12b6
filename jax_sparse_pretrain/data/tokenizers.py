"""Text -> token ids. Every tokenizer ends a document; most also begin one."""

from typing import Protocol

import numpy as np

from jax_sparse_pretrain import config, schema, storage

# Names under which published vocabularies keep their two boundary tokens.
_BOS_NAMES = ('<s>', '<bos>', '<|begin_of_text|>', '<|startoftext|>', '[BOS]')
_EOS_NAMES = ('</s>', '<eos>', '<|end_of_text|>', '<|endoftext|>', '[EOS]')


class Tokenizer(Protocol):
  """What packing needs of a tokenizer.

  Attributes:
    vocab_size: every id is below it.
    bos_id: opens a document; None where the vocabulary has no such token.
    eos_id: closes a document.
  """

  vocab_size: int
  bos_id: int | None
  eos_id: int

  def encode(self, text: str) -> np.ndarray:
    """Token ids, int32 [n_tokens], without BOS and EOS."""


class ByteTokenizer:
  """UTF-8 bytes.

  BOS and EOS are 0xFE and 0xFF, two bytes that never occur in UTF-8, so that
  256 ids are enough and no document can contain a boundary.
  """

  vocab_size = 256
  bos_id = 0xFE
  eos_id = 0xFF

  def encode(self, text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8).astype(np.int32)


class SentencePieceTokenizer:
  """A SentencePiece model, as its serialized proto."""

  def __init__(self, model: bytes):
    import sentencepiece

    self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    self.vocab_size = self._processor.vocab_size()
    if not self.vocab_size:
      raise ValueError('it is empty')
    bos_id = self._processor.bos_id()  # -1: the model was trained without
    self.bos_id = bos_id if bos_id >= 0 else None
    self.eos_id = self._processor.eos_id()
    if self.eos_id < 0:
      raise ValueError('must have an end-of-sentence piece (eos_id)')

  def encode(self, text: str) -> np.ndarray:
    return np.array(self._processor.encode(text), np.int32)


class HuggingFaceTokenizer:
  """A `tokenizer.json` of the Hugging Face tokenizers library."""

  def __init__(self, model: bytes):
    import tokenizers

    self._tokenizer = tokenizers.Tokenizer.from_str(model.decode())
    # A published file may cut or pad to its model's context, and would read
    # '</s>' in a document as the end of it.
    self._tokenizer.no_truncation()
    self._tokenizer.no_padding()
    self._tokenizer.encode_special_tokens = True
    ids = self._tokenizer.get_vocab()
    self.vocab_size = max(ids.values(), default=0) + 1  # ids may have holes
    self.bos_id = next((ids[n] for n in _BOS_NAMES if n in ids), None)
    self.eos_id = next((ids[n] for n in _EOS_NAMES if n in ids), None)
    if self.eos_id is None:
      raise ValueError(f'must have one of the tokens {", ".join(_EOS_NAMES)}')

  def encode(self, text: str) -> np.ndarray:
    encoding = self._tokenizer.encode(text, add_special_tokens=False)
    return np.array(encoding.ids, np.int32)


_FROM_BYTES = {
  'sentencepiece': SentencePieceTokenizer,
  'huggingface': HuggingFaceTokenizer,
}


def load_tokenizer(data: config.Data) -> Tokenizer:
  """The tokenizer that `data` names.

  Raises:
    ConfigError: if its file is missing, is no such model, or has no
      end-of-text token.
  """
  if data.tokenizer == 'bytes':
    return ByteTokenizer()
  where = f'data.tokenizer_path = {data.tokenizer_path!r}'
  try:
    model = storage.as_path(data.tokenizer_path).read_bytes()
  except Exception as error:  # Object stores raise many kinds.
    raise config.ConfigError(
      f'{where}: must name a {data.tokenizer} model file '
      f'({schema.one_line(error)})'
    ) from error
  return _from_bytes(data.tokenizer, model, where)


def _from_bytes(kind: str, model: bytes, where: str) -> Tokenizer:
  try:
    return _FROM_BYTES[kind](model)
  except ImportError:
    raise
  except Exception as error:  # Hugging Face raises nothing more precise.
    reason = ' '.join(str(error).split())
    raise config.ConfigError(
      f'{where}: not a usable {kind} model: {reason}'
    ) from error
