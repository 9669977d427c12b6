"""What a prepared directory holds, for a person."""

import pathlib
from typing import Any

import numpy as np

from jax_sparse_pretrain.data import encoding, shards
from jax_sparse_pretrain.text import count, cut, known, percent, table

_ROWS, _ROW_TOKENS = 3, 64
_PICTURE = 'lengths.png'


def statistics_text(directory: pathlib.Path) -> str:
  """Counts, lengths, vocabulary used, and the first tokens as text.

  Draws the histogram of lengths to `lengths.png` in the directory, unless it
  cannot be written to.
  """
  manifest = shards.read_manifest(directory)
  about = manifest['tokenizer']
  tokenizer = shards.tokenizer_of(directory, about)
  lines, lengths = [], {}
  for split in encoding.SPLITS:
    lengths[split] = _lengths(directory, manifest, split, about['eos_id'])
    lines.append(_row(split, manifest['splits'][split], lengths[split]))
  used = _ids_used(directory, manifest, about['vocab_size'])
  parts = [
    table(
      f'{directory}: {about["kind"]}, {about["vocab_size"]:,} ids, of which '
      f'{used:,} occur',
      ['', 'documents', 'tokens', 'bytes/token', 'median', '90 %', 'longest'],
      lines,
    )
  ]
  if tokenizer is not None:
    parts.append('\n'.join(_first_rows(directory, manifest, tokenizer)))
  try:
    _draw(lengths, directory / _PICTURE)
    parts.append(f'Lengths of documents: {directory / _PICTURE}')
  except OSError as error:
    parts.append(f'Lengths of documents: not drawn ({error})')
  return '\n'.join(parts)


def _row(split: str, found: dict[str, Any], lengths: np.ndarray) -> list[str]:
  per_token = found['bytes'] and found['bytes'] / max(found['tokens'], 1)
  marks = np.percentile(lengths, [50, 90, 100]) if len(lengths) else [0, 0, 0]
  return [
    split,
    count(found['documents']),
    count(found['tokens']),
    known(per_token, lambda value: f'{value:.2f}'),
    *(count(round(mark)) for mark in marks),
  ]


def _lengths(directory, manifest, split: str, eos_id: int) -> np.ndarray:
  """Tokens of each document, boundaries included."""
  lengths = [np.empty(0, np.int64)]
  for shard in manifest['splits'][split]['shards']:
    if 'ends_sha256' in shard:
      ends = np.load(shards.ends_path(directory, shard)).astype(np.int64)
    else:
      ids = _opened(directory, shard)
      ends = np.flatnonzero(ids == eos_id) + 1
    lengths.append(np.diff(ends, prepend=0))
  return np.concatenate(lengths)


def _opened(directory, shard: dict[str, Any]) -> np.ndarray:
  path = shards.shard_path(directory, shard)
  return np.memmap(path, shard['dtype'], 'r', shard['offset'])


def _ids_used(directory, manifest, vocab_size: int) -> int:
  seen = np.zeros(vocab_size, bool)
  for split in manifest['splits'].values():
    for shard in split['shards']:
      ids = _opened(directory, shard)
      for start in range(0, len(ids), 1 << 24):
        seen[ids[start : start + (1 << 24)]] = True
  return int(seen.sum())


def _first_rows(directory, manifest, tokenizer) -> list[str]:
  tokens = shards.open_split([directory], {directory: manifest}, 'train')
  rows = []
  for index in range(min(_ROWS, len(tokens) // _ROW_TOKENS)):
    ids = np.empty(_ROW_TOKENS, np.int32)
    tokens.read(index * _ROW_TOKENS, ids)
    text = repr(tokenizer.decode(ids))
    rows.append(cut(f'  {text}', 78))
  return ['The first tokens as text:', *rows]


def _draw(lengths: dict[str, np.ndarray], path: pathlib.Path) -> None:
  # Matplotlib is slow to import, and only this needs it.
  from jax_sparse_pretrain.analysis.plots import style

  style.STYLE(_draw_histogram)(lengths, path)


def _draw_histogram(lengths, path: pathlib.Path) -> None:
  from jax_sparse_pretrain.analysis.plots import style

  figure = style.new_figure(3.2)
  axes = figure.subplots()
  every = np.concatenate([[1], *lengths.values()])
  shortest, longest = int(every[1:].min(initial=every.max())), int(every.max())
  edges = np.geomspace(shortest, longest + 1, 40)
  colours = (style.BLUE, style.VERMILION)
  for (split, each), colour in zip(lengths.items(), colours, strict=True):
    label = f'{split}, {len(each):,} documents'
    if len(each):
      shares = np.full(len(each), 1 / len(each))
      axes.hist(
        *(each, edges), weights=shares, histtype='step', color=colour,
        label=label,
      )  # fmt: skip
      axes.legend()
  axes.set(
    xlabel='tokens of a document',
    ylabel='share of documents',
    title='Lengths of documents',
  )
  style.log_axis(axes.xaxis, shortest, longest + 1)
  style.write_ticks(lambda value: percent(value, '.3g'), axes.yaxis)
  figure.savefig(path)


def one_line(manifest: dict[str, Any]) -> str:
  """Counts of a manifest for the end of a run."""
  splits, dropped = manifest['splits'], manifest.get('dropped', {})
  train, validation = splits['train'], splits['validation']
  held_out = validation['tokens'] / max(train['tokens'], 1)
  left_out = ''.join(f'; {n:,} {what}' for what, n in sorted(dropped.items()))
  return (
    f'{count(train["documents"])} documents, {count(train["tokens"])} tokens '
    f'to train on; {count(validation["documents"])} documents, '
    f'{count(validation["tokens"])} tokens held out ({percent(held_out)})'
    f'{left_out}'
  )
