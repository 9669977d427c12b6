"""SentencePiece's rules for characters, as normalizers of tokenizers."""

import collections
import functools
import struct
import unicodedata

import numpy as np
from tokenizers import Regex, normalizers

from jax_sparse_pretrain import schema

# Noncharacters, which no text should hold: what keeps two characters apart,
# and what stands between rules that are tried together.
_APART, _BETWEEN = '\ufdd0', '\ufdd1'
# `Precompiled` looks up what a reader sees as one character by the first rule
# that begins it and drops the rest: 'E' and an accent become 'e' where 'E' has
# a rule. Before these, characters are kept apart. So are those around a control
# character, which a rule may remove: what is left must not be composed.
_JOINING = (
  r'(?=[\p{M}\p{Cf}\x{E33}\x{EB3}\x{FF9E}\x{FF9F}\x{1F3FB}-\x{1F3FF}])'
  r'|(?=[\p{Cc}&&[^\t\n\r]])|(?<=\r)(?=\n)'
)
# Compositions that the Unicode version of tokenizers may not know.
_MOST_LEFT = 100


@functools.lru_cache(maxsize=4)
def normalizers_of(charsmap: bytes) -> tuple[normalizers.Normalizer, ...]:
  """Normalizers that follow the rules of a `precompiled_charsmap`.

  Rules for one character are looked up in the map. Those for several compose
  letters with accents, as NFC does; it is let see only those that have a rule,
  since SentencePiece neither composes others nor puts accents in order. What
  NFC lacks is replaced rule by rule. Rare differences remain, all for accents
  that are written by themselves: one is composed with the last letter of a
  ligature, or of a character that stands for two accents; where case is folded,
  with a capital that only its small letter has a form for, as 'W' with a ring;
  and there a Greek iota subscript does not become part of its letter.

  Raises:
    ConfigError: for rules of another kind.
  """
  rules = rules_of(charsmap)
  looked_up = [
    # It also panics if nothing is left of the first character.
    normalizers.Prepend(_APART),
    normalizers.Replace(Regex(_JOINING), _APART),
    normalizers.Precompiled(charsmap),
  ]
  together = normalizers.Replace(_APART, '')
  spelled = _normalized(list(rules), [*looked_up, together])
  steps = [*looked_up, *_composing(rules, spelled), together]
  given = _normalized(list(rules), steps)
  left = {a: b for a, b in rules.items() if given[a] != b}
  if len(left) > _MOST_LEFT:
    left = {a: b for a, b in left.items() if not _has_accent(a)}
  if len(left) <= _MOST_LEFT:
    steps += [
      normalizers.Replace(spelled[a], left[a])
      for a in sorted(left, key=len, reverse=True)
    ]
    given = _normalized(list(left), steps)
    left = {a: b for a, b in left.items() if given[a] != b}
  if left:
    source, target = next(iter(left.items()))
    raise schema.ConfigError(
      f'the tokenizer replaces {source!r} by {target!r} ({len(left):,} rules '
      'like this), which a tokenizer.json cannot say'
    )
  return tuple(steps)


def _composing(rules, spelled) -> list[normalizers.Normalizer]:
  """NFC, for letters and accents that have a rule."""
  letters = collections.defaultdict(set)
  for source, target in rules.items():
    letter, accents = spelled[source][:1], spelled[source][1:]
    if accents and _has_accent(accents[0]) and target != letter + accents:
      letters[accents].add(letter)
  if not letters:
    return []
  # The last of the accents stands alone; or all of them were one character.
  near = []
  for accents in sorted(letters):
    letter = f'[{"".join(sorted(letters[accents]))}]'
    before = ''.join(_APART + accent for accent in accents[:-1])
    near.append(f'(?<={letter}{before}){_APART}(?={accents[-1]}(?!\\p{{M}}))')
    if before:
      near.append(f'(?<={letter}){_APART}(?={accents}(?!\\p{{M}}))')
  return [normalizers.Replace(Regex('|'.join(near)), ''), normalizers.NFC()]


def _has_accent(text: str) -> bool:
  return any(unicodedata.category(i).startswith('M') for i in text)


def _normalized(texts, steps) -> dict[str, str]:
  joined = normalizers.Sequence(steps).normalize_str(_BETWEEN.join(texts))
  return dict(zip(texts, joined.split(_BETWEEN), strict=True)) if texts else {}


def rules_of(charsmap: bytes) -> dict[str, str]:
  """What is replaced by what.

  A charsmap is the size of a trie in bytes, the trie as a double array of
  uint32 (Darts-clone), and the targets, each ended by a zero byte.
  """
  (size,) = struct.unpack_from('<I', charsmap)
  units = np.frombuffer(charsmap, '<u4', size // 4, offset=4)
  targets = charsmap[4 + size :]
  offsets = (units >> 10) << ((units & (1 << 9)) >> 6)
  bases = (np.arange(len(units)) ^ offsets).tolist()
  is_end = ((units >> 8) & 1).astype(bool).tolist()
  children = collections.defaultdict(list)
  # A unit that holds a value has no label.
  for i, label in enumerate((units & 0x800000FF).tolist()):
    if 0 < label < 256:
      children[i ^ label].append((i, bytes([label])))
  rules = {}
  stack = [(0, b'')]
  while stack:
    node, source = stack.pop()
    base = bases[node]
    if is_end[node]:
      start = int(units[base]) & 0x7FFFFFFF
      end = targets.index(b'\0', start)
      rules[source.decode()] = targets[start:end].decode()
    stack += [(i, source + label) for i, label in children[base]]
  return rules
