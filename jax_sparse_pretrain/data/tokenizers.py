"""Text <-> token ids. Every tokenizer ends a document; most also begin one."""

import hashlib
import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from jax_sparse_pretrain import config, schema, storage

# Names under which published vocabularies keep their two boundary tokens.
_BOS_NAMES = ('<s>', '<bos>', '<|begin_of_text|>', '<|startoftext|>', '[BOS]')
_EOS_NAMES = ('</s>', '<eos>', '<|end_of_text|>', '<|endoftext|>', '[EOS]')


class Tokenizer(Protocol):
  """What this project needs of a tokenizer.

  Attributes:
    kind: 'bytes', 'sentencepiece' or 'huggingface'.
    model: the content of its file; empty for bytes.
    vocab_size: every id is below it.
    bos_id: opens a document; None where the vocabulary has no such token.
    eos_id: closes a document.
    bos, eos: names of the boundary tokens that were given; else empty.
  """

  kind: str
  model: bytes
  bos: str
  eos: str
  vocab_size: int
  bos_id: int | None
  eos_id: int
  # Threads of a call of `encode`, -1 for as many as there are cores.
  n_threads: int

  def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
    """Token ids of each text, int32[n_tokens], without BOS and EOS.

    A text that spells a boundary token gets the ids of its characters.
    """

  def decode(self, ids: Sequence[int]) -> str:
    """Text of token ids; boundary tokens give nothing."""

  def unknown_share(self, texts: Sequence[str]) -> float:
    """Share of the characters, blanks aside, that no token stands for."""


class ByteTokenizer:
  """UTF-8 bytes.

  BOS and EOS are 0xFE and 0xFF, two bytes that never occur in UTF-8, so that
  256 ids are enough and no document can contain a boundary.
  """

  kind = 'bytes'
  n_threads = -1
  model = b''
  bos = eos = ''
  vocab_size = 256
  bos_id = 0xFE
  eos_id = 0xFF

  def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
    return [
      np.frombuffer(text.encode(), np.uint8).astype(np.int32) for text in texts
    ]

  def decode(self, ids: Sequence[int]) -> str:
    raw = bytes(i for i in map(int, ids) if i < self.bos_id)
    return raw.decode(errors='replace')

  def unknown_share(self, texts: Sequence[str]) -> float:
    return 0.0


class _Model:
  """What the tokenizers of the two libraries share."""

  bos_id: int | None
  eos_id: int
  _names: list[str]

  def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
    return [
      self._spelled(text) if self._has_boundary(ids) else ids
      for text, ids in zip(texts, self._ids(texts), strict=True)
    ]

  def _ids(self, texts: Sequence[str]) -> list[np.ndarray]:
    raise NotImplementedError

  def _has_boundary(self, ids: np.ndarray) -> bool:
    has_end = bool((ids == self.eos_id).any())
    return (
      has_end or self.bos_id is not None and bool((ids == self.bos_id).any())
    )

  def _spelled(self, text: str) -> np.ndarray:
    """Ids of a text in which the name of a boundary token is a plain word."""
    cuts = '|'.join(
      f'(?<={re.escape(name[0])})(?={re.escape(name[1:])})'
      for name in self._names
      if len(name) > 1
    )
    ids = np.concatenate(self._ids(re.split(cuts, text) if cuts else [text]))
    if self._has_boundary(ids):
      raise config.ConfigError(
        f'the tokenizer gives {" and ".join(map(repr, self._names))}, which '
        'bound documents, for text within one; data.bos and data.eos must '
        'be special tokens'
      )
    return ids


class SentencePieceTokenizer(_Model):
  """A SentencePiece model, as its serialized proto."""

  kind = 'sentencepiece'
  n_threads = -1

  def __init__(self, model: bytes, bos: str = '', eos: str = ''):
    import sentencepiece

    self.model, self.bos, self.eos = model, bos, eos
    self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    self.vocab_size = self._processor.vocab_size()
    if not self.vocab_size:
      raise ValueError('it is empty')
    bos_id = self._id('bos', bos, self._processor.bos_id())
    self.bos_id = bos_id if bos_id >= 0 else None  # -1: trained without
    self.eos_id = self._id('eos', eos, self._processor.eos_id())
    if self.eos_id < 0:
      raise ValueError('must have an end-of-sentence piece, or data.eos')
    ends = [self.eos_id] if self.bos_id is None else [self.bos_id, self.eos_id]
    self._names = [self._processor.id_to_piece(i) for i in ends]

  def _id(self, key: str, name: str, otherwise: int) -> int:
    if not name:
      return otherwise
    index = self._processor.piece_to_id(name)
    if self._processor.id_to_piece(index) != name:
      raise ValueError(f'data.{key} = {name!r}: no such piece')
    return index

  def _ids(self, texts: Sequence[str]) -> list[np.ndarray]:
    ids = self._processor.encode(list(texts), num_threads=self.n_threads)
    return [np.array(i, np.int32) for i in ids]

  def decode(self, ids: Sequence[int]) -> str:
    ends = (self.bos_id, self.eos_id)
    return self._processor.decode([i for i in map(int, ids) if i not in ends])

  def unknown_share(self, texts: Sequence[str]) -> float:
    unknown_id = self._processor.unk_id()
    n_unknown = sum(
      len(piece.surface)
      for text in texts
      for piece in self._processor.encode(text, out_type='proto').pieces
      if piece.id == unknown_id
    )
    n_all = sum(len(word) for text in texts for word in text.split())
    return n_unknown / n_all if n_all else 0.0


class HuggingFaceTokenizer(_Model):
  """A `tokenizer.json` of the Hugging Face tokenizers library.

  Its boundary tokens are those of `bos` and `eos` if given; else those that
  its post-processor puts around a text; else the special tokens with a known
  name. A piece of ordinary text is never taken for one.
  """

  kind = 'huggingface'
  n_threads = -1

  def __init__(self, model: bytes, bos: str = '', eos: str = ''):
    import tokenizers

    self.model, self.bos, self.eos = model, bos, eos
    self._tokenizer = tokenizers.Tokenizer.from_str(model.decode())
    # A published file may cut or pad to its model's context, and would read
    # '</s>' in a document as the end of it.
    self._tokenizer.no_truncation()
    self._tokenizer.no_padding()
    self._tokenizer.encode_special_tokens = True
    ids = self._tokenizer.get_vocab()
    self.vocab_size = max(ids.values(), default=0) + 1  # ids may have holes
    content = json.loads(model)
    self._unknown_id = _unknown_id(content, ids)
    before, after = _around(content)
    added = self._tokenizer.get_added_tokens_decoder().values()
    special = {token.content for token in added if token.special}
    self.bos_id = _boundary('bos', bos, [*before], _BOS_NAMES, special, ids)
    eos_id = _boundary('eos', eos, [*after], _EOS_NAMES, special, ids)
    if eos_id is None:
      raise ValueError(
        f'must have a special token {", ".join(_EOS_NAMES)}, or data.eos'
      )
    self.eos_id = eos_id
    ends = (self.bos_id, self.eos_id)
    self._names = [name for name, index in ids.items() if index in ends]

  def _ids(self, texts: Sequence[str]) -> list[np.ndarray]:
    encodings = self._tokenizer.encode_batch_fast(
      list(texts), add_special_tokens=False
    )
    return [np.array(e.ids, np.int32) for e in encodings]

  def decode(self, ids: Sequence[int]) -> str:
    ends = (self.bos_id, self.eos_id)
    kept = [i for i in map(int, ids) if i not in ends]
    return self._tokenizer.decode(kept, skip_special_tokens=False)

  def unknown_share(self, texts: Sequence[str]) -> float:
    # Word by word: past a character without a token, offsets are too small.
    words = [word for text in texts for word in text.split()]
    n_seen = 0
    for word, encoding in zip(
      words,
      self._tokenizer.encode_batch(words, add_special_tokens=False),
      strict=True,
    ):
      seen = np.zeros(len(word), bool)
      for index, (start, end) in zip(
        encoding.ids, encoding.offsets, strict=True
      ):
        seen[start:end] |= index != self._unknown_id
      n_seen += int(seen.sum())
    n_all = sum(map(len, words))
    return 1 - n_seen / n_all if n_all else 0.0


def _unknown_id(model: dict[str, Any], ids: dict[str, int]) -> int | None:
  """The id that stands for all characters without a token."""
  about = model['model']
  return about.get('unk_id', ids.get(about.get('unk_token')))


def _around(model: dict[str, Any]) -> tuple[list[str], list[str]]:
  """The special tokens that a post-processor puts before and after a text."""
  processor = model.get('post_processor') or {}
  steps = processor.get('processors', [processor])
  for step in steps:
    if step.get('type') == 'TemplateProcessing':
      names = [
        part['SpecialToken']['id'] if 'SpecialToken' in part else None
        for part in step['single']
      ]
      middle = names.index(None)
      return names[:middle], names[middle + 1 :]
    if step.get('type') in ('BertProcessing', 'RobertaProcessing'):
      return [step['cls'][0]], [step['sep'][0]]
  return [], []


def opens_with(model: bytes, bos_id: int | None) -> bool:
  """Whether a `tokenizer.json` itself puts this token before a text."""
  content = json.loads(model)
  before, _ = _around(content)
  added = {t['content']: t['id'] for t in content.get('added_tokens', [])}
  return bos_id is not None and bos_id in [added.get(name) for name in before]


def _boundary(key, given, around, known, special, ids) -> int | None:
  if given and given not in ids:
    raise ValueError(f'data.{key} = {given!r}: no such token')
  names = [given] if given else [*around, *(n for n in known if n in special)]
  return next((ids[name] for name in names if name in ids), None)


_OF_A_FILE = {
  'sentencepiece': SentencePieceTokenizer,
  'huggingface': HuggingFaceTokenizer,
}

KINDS = ('bytes', *_OF_A_FILE)


def load_tokenizer(data: config.Data) -> Tokenizer:
  """The tokenizer that `data` names; not 'auto'.

  Raises:
    ConfigError: if its file is missing, is no such model, or has no
      end-of-text token.
  """
  if data.tokenizer == 'bytes':
    return ByteTokenizer()
  where = f'data.tokenizer_path = {data.tokenizer_path!r}'
  if not data.tokenizer_path:
    raise config.ConfigError(
      f'{where}: must name a {data.tokenizer} model file'
    )
  return read_tokenizer(
    data.tokenizer, data.tokenizer_path, where, data.bos, data.eos
  )


def read_tokenizer(
  kind: str, path, where: str, bos: str = '', eos: str = ''
) -> Tokenizer:
  """A tokenizer of a file; `where` begins the message of an error.

  Raises:
    ConfigError: as for `load_tokenizer`.
  """
  try:
    model = storage.as_path(path).read_bytes()
  except Exception as error:  # Object stores raise many kinds.
    raise config.ConfigError(
      f'{where}: must name a {kind} model file ({schema.one_line(error)})'
    ) from error
  try:
    return from_model(kind, model, bos, eos)
  except ImportError:
    raise
  except Exception as error:  # Hugging Face raises nothing more precise.
    reason = ' '.join(str(error).split())
    raise config.ConfigError(
      f'{where}: not a usable {kind} model: {reason}'
    ) from error


def from_model(
  kind: str, model: bytes, bos: str = '', eos: str = ''
) -> Tokenizer:
  """A tokenizer of its file's content."""
  return (
    ByteTokenizer() if kind == 'bytes' else _OF_A_FILE[kind](model, bos, eos)
  )


def kind_of_file(path: str) -> str:
  """'huggingface' for a .json file, 'sentencepiece' for a .model file."""
  suffix = pathlib.PurePath(path).suffix.lower()
  return 'huggingface' if suffix == '.json' else 'sentencepiece'


def identity(tokenizer: Tokenizer) -> dict[str, Any]:
  """What tells tokenizers apart: values for JSON."""
  return {
    'kind': tokenizer.kind,
    'sha256': hashlib.sha256(tokenizer.model).hexdigest(),
    'vocab_size': tokenizer.vocab_size,
    'bos_id': tokenizer.bos_id,
    'eos_id': tokenizer.eos_id,
  }


def from_identity(stored: dict[str, Any], model: bytes) -> Tokenizer:
  """The tokenizer whose `identity` a run has stored.

  Args:
    stored: what `identity` gave.
    model: the content of its file; empty for bytes.

  Raises:
    ConfigError: if this is not the file, or it does not give these ids.
  """
  kind = stored['kind']
  if hashlib.sha256(model).hexdigest() != stored['sha256']:
    raise config.ConfigError(
      f'the {kind} tokenizer is not the file that the run was trained with '
      f'(sha256 {stored["sha256"]})'
    )
  ids = stored['bos_id'], stored['eos_id']
  tokenizer = with_boundaries(kind, model, *ids)
  if identity(tokenizer) != stored:
    raise config.ConfigError(
      f'the {kind} tokenizer does not have the {stored["vocab_size"]} ids of '
      'the run'
    )
  return tokenizer


def with_boundaries(
  kind: str, model: bytes, bos_id: int | None, eos_id: int | None
) -> Tokenizer:
  """A tokenizer of its file's content, with these boundary tokens.

  Raises:
    ConfigError: if it has no such tokens, or is no such model.
  """
  # By default, as the file says; else by the names of the tokens.
  for names in ([], _boundary_names(kind, model, (bos_id, eos_id))):
    try:
      tokenizer = from_model(kind, model, *names)
    except ValueError:
      continue
    if bos_id is None:
      tokenizer.bos_id = None  # It has one, and does not use it.
    if (tokenizer.bos_id, tokenizer.eos_id) == (bos_id, eos_id):
      return tokenizer
  raise config.ConfigError(
    f'the {kind} tokenizer does not have the boundary tokens of the model, '
    f'{bos_id} and {eos_id}'
  )


def _boundary_names(
  kind: str, model: bytes, ids: Sequence[int | None]
) -> list[str]:
  """The names of the boundary tokens; '' for one that is not there."""
  if kind == 'sentencepiece':
    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    name_of, n_ids = processor.id_to_piece, processor.vocab_size()
  elif kind == 'huggingface':
    import tokenizers

    made = tokenizers.Tokenizer.from_str(model.decode())
    name_of, n_ids = made.id_to_token, 1 << 31
  else:
    return []
  return [
    (name_of(i) or '') if i is not None and 0 <= i < n_ids else '' for i in ids
  ]
