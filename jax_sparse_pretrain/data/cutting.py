"""Where a long text may be cut: at the ends of lines, or between characters.

In UTF-8 the byte of a line feed is never a part of another character.
"""

from collections.abc import Iterator
from typing import BinaryIO

from jax_sparse_pretrain.data.records import BYTE_ORDER_MARK

# A longer document is tokenized in pieces of about so many bytes.
PIECE_BYTES = 8 << 20


def blocks(stream: BinaryIO) -> Iterator[bytes]:
  """Blocks of about `PIECE_BYTES` that end with a line, without a mark.

  A line that is longer is cut between two characters.
  """
  rest = stream.read(3).removeprefix(BYTE_ORDER_MARK)
  while len(block := stream.read(PIECE_BYTES)) == PIECE_BYTES:
    block = rest + block
    end = block.rfind(b'\n') + 1 or _character_start(block, len(block) - 1)
    yield block[:end]
    rest = block[end:]
  if block := rest + block:
    yield block


def _character_start(raw: bytes, index: int) -> int:
  """The last index up to this one at which a character of UTF-8 begins."""
  starts = range(index, max(index - 4, -1), -1)
  return next((i for i in starts if raw[i] & 0xC0 != 0x80), index)


def _character_end(raw: bytes, index: int) -> int:
  """The first index from this one on at which a character of UTF-8 begins."""
  while index < len(raw) and raw[index] & 0xC0 == 0x80:
    index += 1
  return index


def split_at(
  blocks: Iterator[bytes], cut: float | None, split: str | None
) -> Iterator[tuple[bytes, str | None, bool]]:
  """(block, its split if not by hash, whether a document ends with it)."""
  if cut is None:
    for block in blocks:
      yield block, split, False
    return
  start = 0
  for block in blocks:
    inside = int(cut) - start
    start += len(block)
    if inside > len(block):
      yield block, 'train', False
    elif inside < 0:
      yield block, 'validation', False
    elif inside == len(block):
      yield block, 'train', True
      cut = -1
    else:
      end = _cut_near(block, inside)
      for raw, name in ((block[:end], 'train'), (block[end:], 'validation')):
        if raw:
          yield raw, name, name == 'train'
      cut = -1


def _cut_near(block: bytes, index: int) -> int:
  """Where to cut a block: at the end of a line, or between two characters."""
  end = block.find(b'\n', index) + 1
  if not 0 < end < len(block):
    end = block.rfind(b'\n', 0, index) + 1
  end = end or _character_start(block, index)
  # Before the first character there is no text to train on.
  return end or _character_end(block, index)


def with_last(items):
  """(whether it is the last, item)."""
  items = iter(items)
  held = next(items, None)
  while held is not None:
    following = next(items, None)
    yield following is None, held
    held = following


def pieces_of(raw: bytes, piece_bytes: int) -> Iterator[bytes]:
  """Pieces of whole lines with at least so many bytes; the last may have less.

  Past `PIECE_BYTES`, a piece is cut between two characters instead.
  """
  start = 0
  while start < len(raw):
    end = raw.find(b'\n', start + piece_bytes - 1) + 1 or len(raw)
    if end - start > 2 * PIECE_BYTES:
      end = _character_start(raw, start + PIECE_BYTES)
    yield raw[start:end]
    start = end
