"""Speed of reading tokens and of making them, each against its limit.

  python -m benchmarks.data [--rounds 7] [--tokens 2e8] [--text_mb 24] [--skip]

Reading: batches of 256 rows of 2,048 tokens from shards on the disk, in the
order of training, one process, one thread; against the same rows copied by hand
from one memory-mapped array; one of each in turn. The files are in the page
cache, as they are after the first epoch.

Preparing: JSON lines of English-like text -> token shards, with all cores;
against the bare encoder's own batch call on the same texts in memory, which
uses all cores, too. The command's start, a second or two, is counted: take
enough text. `--skip` leaves it out.

The last table says what training needs at 50 % of a chip's peak.
"""

import argparse
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

from jax_sparse_pretrain.data import rows, shards, tokenizers
from jax_sparse_pretrain.data.documents import Reading
from jax_sparse_pretrain.prepare import vocabulary
from jax_sparse_pretrain.prepare.inputs import find_inputs
from jax_sparse_pretrain.text import short, table

LENGTH, BATCH = 2048, 256
STEPS = 16  # a timing

# Linear parameters of the C4 configs.
SIZES = {
  '58M': 41_549_824,
  '162M': 137_822_208,
  '468M': 435_421_184,
  '1.2B': 1_139_277_824,
}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--rounds', type=int, default=7)
  parser.add_argument('--tokens', type=float, default=2e8)
  parser.add_argument('--text_mb', type=float, default=24)
  parser.add_argument('--skip', action='store_true')
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    speed = read_speeds(pathlib.Path(folder), int(args.tokens), args.rounds)
    print_needs(speed)
    if not args.skip:
      prepare_speeds(pathlib.Path(folder), args.text_mb, args.rounds)


def read_speeds(folder: pathlib.Path, n_tokens: int, rounds: int) -> float:
  """Prints tokens/s of reading; returns those of the source."""
  n = n_tokens // 4
  ids = np.random.default_rng(0).integers(0, 32_000, n, np.uint16)
  ids[::700] = 2  # ends of documents
  parts = []
  for index in range(4):
    path = folder / f'train-{index:05d}.npy'
    np.save(path, ids)
    parts.append((path, 128, 'uint16', n))
  whole = folder / 'whole.npy'
  np.save(whole, np.tile(ids, 4))
  tokens = shards.TokenShards(parts)
  shuffled = rows.ShuffledRows(tokens, LENGTH, seed=0)
  plain = rows.Batches(shuffled, BATCH, LENGTH, range(BATCH))
  masked = rows.Batches(shuffled, BATCH, LENGTH, range(BATCH), document_end=2)
  mapped = np.load(whole, mmap_mode='r')

  def by_hand(step: int) -> np.ndarray:
    batch = np.empty((BATCH, LENGTH + 1), np.int32)
    for i, row in enumerate(order[step * BATCH : (step + 1) * BATCH]):
      batch[i] = mapped[row * LENGTH : row * LENGTH + LENGTH + 1]
    return batch

  n_read = 2 * STEPS * BATCH
  order = [shuffled.row_at(position) for position in range(n_read)]
  np.testing.assert_array_equal(by_hand(3), plain[3])
  ways = {
    'by hand': by_hand,
    'tokens source': plain.__getitem__,
    'with mask_documents': masked.__getitem__,
  }
  seconds: dict[str, list[float]] = {name: [] for name in ways}
  for round_ in range(rounds + 1):
    for name in random.sample(list(ways), len(ways)):
      began = time.perf_counter()
      for step in range(STEPS):
        ways[name](step)
      if round_:  # The first one fills the page cache.
        seconds[name].append(time.perf_counter() - began)
  done = STEPS * BATCH * LENGTH
  speeds = {k: done / statistics.median(v) for k, v in seconds.items()}
  limit = speeds['by hand']
  began = time.perf_counter()
  fresh = rows.ShuffledRows(tokens, LENGTH, seed=1)
  rows.Batches(fresh, BATCH, LENGTH, range(BATCH))[10**6]
  late = time.perf_counter() - began
  cells = [[k, f'{v / 1e6:.0f}', f'{v / limit:.2f}'] for k, v in speeds.items()]
  print(table('Reading', ['', 'M tokens/s', 'of the limit'], cells, 80))
  print(f'First batch at step 1,000,000: {late * 1e3:.0f} ms')
  return speeds['tokens source']


def print_needs(speed: float) -> None:
  peaks = {
    'one H100': 989e12,
    'eight H100': 8 * 989e12,
    'v5e host of 8': 8 * 197e12,
  }
  cells = [
    [
      f'{name}, {chips}',
      short(peak / 2 / (6 * n), 3),
      f'{speed / (peak / 2 / (6 * n)):.0f}x',
    ]
    for name, n in SIZES.items()
    for chips, peak in peaks.items()
  ]
  print(
    table(
      'What training needs at 50 % of the peak, 6 N FLOPs a token',
      ['', 'tokens/s', 'one thread reads'],
      cells,
      80,
    )
  )


def prepare_speeds(folder: pathlib.Path, megabytes: float, rounds: int) -> None:
  texts = _texts(megabytes)
  source = folder / 'text.jsonl'
  with source.open('w') as file:
    for text in texts:
      file.write(json.dumps({'text': text}) + '\n')
  inputs, _ = find_inputs([str(source)], Reading())
  made = {'huggingface': vocabulary.train_bpe(inputs, 8_000).model}
  for kind in ('bpe', 'unigram'):
    made[f'sentencepiece {kind}'] = _train_sentencepiece(folder, texts, kind)
  cells = []
  for name, model in made.items():
    kind = name.split()[0]
    path = (
      folder
      / f'{name.replace(" ", "-")}.{"json" if kind[0] == "h" else "model"}'
    )
    path.write_bytes(model)
    bare, ours = [], []
    for index in range(rounds):
      tokenizer = tokenizers.from_model(kind, model)
      began = time.perf_counter()
      n_tokens = sum(map(len, tokenizer.encode(texts)))
      bare.append(time.perf_counter() - began)
      out = folder / f'out-{path.name}-{index}'
      ours.append(_time_prepare(source, path, out))
    bare_time, our_time = statistics.median(bare), statistics.median(ours)
    cells.append(
      [
        name,
        f'{n_tokens / bare_time / 1e6:.2f}',
        f'{n_tokens / our_time / 1e6:.2f}',
        f'{bare_time / our_time:.2f}',
      ]
    )
  header = ['', 'encoder, M/s', 'prepare, M/s', 'ratio']
  print(table(f'Preparing {megabytes:.0f} MB, all cores', header, cells, 80))


def _time_prepare(source, tokenizer, out) -> float:
  """Seconds of the whole command, the start of Python and workers included."""
  began = time.perf_counter()
  module = [sys.executable, '-m', 'jax_sparse_pretrain.prepare']
  flags = ['--tokenizer', str(tokenizer), '--out', str(out)]
  subprocess.run(
    [*module, str(source), *flags], check=True, capture_output=True
  )
  return time.perf_counter() - began


def _train_sentencepiece(folder, texts, kind: str) -> bytes:
  import io

  import sentencepiece

  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(texts[:2_000]),
    model_writer=model,
    vocab_size=8_000,
    model_type=kind,
    byte_fallback=True,
    hard_vocab_limit=False,
    minloglevel=2,
  )
  return model.getvalue()


def _texts(megabytes: float) -> list[str]:
  """Documents of about 2 kB, cut from the files of Python's library."""
  root = pathlib.Path(os.__file__).parent
  paths = sorted(root.glob('*.py'))
  whole = ''.join(path.read_text(errors='replace') for path in paths)
  n = int(megabytes * 1e6 / 2_000)
  starts = random.Random(0).choices(range(len(whole) - 4_000), k=n)
  lengths = random.Random(1).choices(range(200, 3_800), k=n)
  return [whole[s : s + k] for s, k in zip(starts, lengths, strict=True)]


if __name__ == '__main__':
  main()
