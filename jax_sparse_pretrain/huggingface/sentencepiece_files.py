"""A SentencePiece model as a tokenizer of the tokenizers library."""

import re
from collections.abc import Collection

import tokenizers
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers

from jax_sparse_pretrain import schema
from jax_sparse_pretrain.huggingface import charsmap

_SPACE = '▁'
# Private-use characters: each stands for a user-defined symbol, which is
# never cut and never merged, as one character is. Noncharacters: what ends a
# symbol that was found, and a blank that is not the first of the text.
_PRIVATE = 0xF0000
_FOUND, _BLANK = '\ufdd2', '\ufdd3'


def converted(model: bytes, ends: Collection[int]) -> tokenizers.Tokenizer:
  """A tokenizer with the ids of a SentencePiece model.

  Args:
    model: the serialized proto.
    ends: ids of the boundary tokens, which no text may have.

  Raises:
    ConfigError: for what cannot be said in a tokenizer.json.
  """
  proto = sentencepiece_model_pb2.ModelProto.FromString(model)
  return _Conversion(proto, ends).tokenizer()


class _Conversion:
  """One model on its way; the fields are parts of its proto."""

  def __init__(self, proto, ends: Collection[int]):
    self.trainer, self.spec = proto.trainer_spec, proto.normalizer_spec
    self.pieces = list(proto.pieces)
    kinds = type(self.pieces[0])
    self.is_unigram = self.trainer.model_type == self.trainer.UNIGRAM
    self.normal = {
      p.piece: i for i, p in enumerate(self.pieces) if p.type == kinds.NORMAL
    }
    self.symbols = {
      p.piece: i
      for i, p in enumerate(self.pieces)
      if p.type == kinds.USER_DEFINED and i not in ends
    }
    self.unknown = next(p.piece for p in self.pieces if p.type == kinds.UNKNOWN)
    self.control = [
      p.piece
      for i, p in enumerate(self.pieces)
      if p.type == kinds.CONTROL and i not in ends
    ]
    self.has_bytes = any(p.type == kinds.BYTE for p in self.pieces)
    self.space = _SPACE if self.spec.escape_whitespaces else ' '
    self.rules = []
    if self.spec.precompiled_charsmap:
      self.rules = [*charsmap.normalizers_of(self.spec.precompiled_charsmap)]
    # By the longest: what SentencePiece finds where several begin.
    in_order = sorted(self.symbols, key=lambda s: (-len(s), s))
    self.private = {s: chr(_PRIVATE + i) for i, s in enumerate(in_order)}
    self.long = {s: to for s, to in self.private.items() if len(s) > 1}

  def tokenizer(self) -> tokenizers.Tokenizer:
    trainer = self.trainer
    if trainer.model_type == trainer.WORD:
      raise schema.ConfigError(
        'a SentencePiece model of whole words cannot be exported; use bpe, '
        'unigram or char'
      )
    tokenizer = tokenizers.Tokenizer(
      self.unigram() if self.is_unigram else self.bpe()
    )
    tokenizer.normalizer = normalizers.Sequence(self.normalizing())
    if self.is_unigram:
      tokenizer.pre_tokenizer = self.cut_names()
    tokenizer.decoder = decoders.Sequence(self.decoding())
    return tokenizer

  def bpe(self) -> models.BPE:
    """Merges in the order in which SentencePiece makes them.

    It merges the two neighbours that together are the piece of the highest
    score, whichever these two are; so a piece has a merge for each way in
    which two pieces make it.
    """
    has_merges = self.trainer.model_type == self.trainer.BPE
    ranked = sorted(
      (-self.pieces[i].score, i, -cut, piece[:cut], piece[cut:])
      for piece, i in self.normal.items()
      for cut in range(1, len(piece))
      if piece[:cut] in self.normal and piece[cut:] in self.normal
    )
    return models.BPE(
      vocab={
        self.long.get(p.piece, p.piece): i for i, p in enumerate(self.pieces)
      },
      merges=[(a, b) for *_, a, b in ranked] if has_merges else [],
      unk_token=self.unknown,
      fuse_unk=True,
      byte_fallback=self.has_bytes,
    )

  def unigram(self) -> models.Unigram:
    """Scores of the pieces; the lowest where a piece has none of its own."""
    lowest = min(self.pieces[i].score for i in self.normal.values())

    def score(piece) -> float:
      if piece.piece in self.normal:
        return piece.score
      if piece.piece in self.symbols:
        # What SentencePiece 0.2.3 gives them, by trial; older ones less.
        return 0.1 * (len(piece.piece.encode()) - 1)
      return lowest

    return models.Unigram(
      [(p.piece, score(p)) for p in self.pieces],
      unk_id=next(
        i for i, p in enumerate(self.pieces) if p.piece == self.unknown
      ),
      byte_fallback=self.has_bytes,
    )

  def normalizing(self) -> list[normalizers.Normalizer]:
    spec, space = self.spec, self.space
    is_suffix = self.trainer.treat_whitespace_as_suffix
    has_prefix = spec.add_dummy_prefix and not is_suffix
    replace = normalizers.Replace
    # Symbols are found as written, and are not normalized.
    kept = self.private if self.rules else {}
    steps = [
      *self.found(kept),
      *([normalizers.Prepend(space)] if has_prefix else []),
      *self.rules,
      *(replace(to, symbol) for symbol, to in kept.items()),
    ]
    if spec.remove_extra_whitespaces:
      first = space if has_prefix else ''
      steps += [
        replace(Regex(rf'\A{first} +'), first),
        replace(Regex(' {2,}'), ' '),
      ]
    if spec.escape_whitespaces:
      steps.append(replace(' ', _SPACE))
    if spec.add_dummy_prefix and is_suffix:
      end = r'(?<=[\s\S])\z'
      if spec.remove_extra_whitespaces:
        end = rf'(?<=[^{space}]){space}*\z|\A{space}+\z'
      steps.append(replace(Regex(end), space))
    elif spec.remove_extra_whitespaces:
      steps.append(replace(Regex(rf'{space}+\z'), ''))
    if not self.is_unigram:
      steps += self.found(self.long)
    return steps

  def found(self, symbols: dict[str, str]) -> list[normalizers.Normalizer]:
    """Puts a private character for each symbol, from left to right."""
    if not symbols:
      return []
    ends = Regex(rf'(?:{_alternatives(symbols)})\K')
    return [
      normalizers.Replace(ends, _FOUND),
      *(normalizers.Replace(s + _FOUND, to) for s, to in symbols.items()),
    ]

  def cut_names(self) -> pre_tokenizers.PreTokenizer:
    """Keeps a Unigram from finding, say, '<0x0A>' where a text spells it."""
    own = self.normal.keys() | self.symbols.keys()
    names = [p.piece for p in self.pieces if p.piece not in own]
    cuts = '|'.join(
      f'(?<={re.escape(name[0])})(?={re.escape(name[1:])})'
      for name in names
      if len(name) > 1
    )
    return pre_tokenizers.Split(Regex(cuts), 'isolated')

  def decoding(self) -> list[decoders.Decoder]:
    replace = decoders.Replace
    surface = self.trainer.unk_surface.replace(' ', _BLANK)
    steps = [replace(Regex(rf'\A{re.escape(self.unknown)}\z'), surface)]
    if self.control:
      steps.append(
        replace(Regex(rf'\A(?:{_alternatives(self.control)})\z'), '')
      )
    if not self.is_unigram:
      steps += [replace(to, symbol) for symbol, to in self.long.items()]
    steps.append(replace(_SPACE, ' '))
    if self.has_bytes:
      steps.append(decoders.ByteFallback())
    steps.append(decoders.Fuse())
    if self.spec.remove_extra_whitespaces:
      steps.append(replace(Regex(r'\A +'), ''))
    elif self.spec.add_dummy_prefix:
      steps.append(decoders.Strip(' ', 1, 0))
    return [*steps, replace(_BLANK, ' ')]


def _alternatives(names: Collection[str]) -> str:
  return '|'.join(map(re.escape, sorted(names, key=len, reverse=True)))
