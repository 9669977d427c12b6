"""Trains a tokenizer on a sample of the inputs."""

import collections
from collections.abc import Iterator, Sequence

from jax_sparse_pretrain import config
from jax_sparse_pretrain.data import tokenizers
from jax_sparse_pretrain.prepare.inputs import Input

BOS, EOS = '<|startoftext|>', '<|endoftext|>'


def train_bpe(
  inputs: Sequence[Input],
  vocab_size: int,
  *,
  alphabet: str = 'all',
  sample_bytes: int = 100 << 20,
) -> tokenizers.Tokenizer:
  """Byte-level BPE: the same inputs give the same file.

  Args:
    inputs: the first bytes of them are the sample.
    vocab_size: with the two boundary tokens.
    alphabet: 'all' 256 bytes, so that any text can be written; or 'text', those
      that the sample has, so that a small vocabulary has no unused ids.
    sample_bytes: of text, over all inputs.

  Raises:
    ConfigError: for a vocabulary that cannot hold the alphabet, or a sample
      without text.
  """
  import tokenizers as hf

  whole = hf.pre_tokenizers.ByteLevel.alphabet()
  smallest = 2 + (len(whole) if alphabet == 'all' else 1)
  if vocab_size < smallest:
    raise config.ConfigError(
      f'--vocab_size = {vocab_size}: must be at least {smallest}, or use '
      '--alphabet text'
    )
  tokenizer = hf.Tokenizer(hf.models.BPE())
  tokenizer.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = hf.decoders.ByteLevel()
  trainer = hf.trainers.BpeTrainer(
    vocab_size=vocab_size,
    initial_alphabet=sorted(whole) if alphabet == 'all' else [],
    special_tokens=[BOS, EOS],
    show_progress=False,
  )
  n_texts = collections.Counter()
  tokenizer.train_from_iterator(
    _sample(inputs, sample_bytes, n_texts), trainer=trainer
  )
  if not n_texts['texts']:
    raise config.ConfigError('--train_tokenizer: the inputs hold no text')
  if tokenizer.get_vocab_size() > vocab_size:
    raise config.ConfigError(
      f'--vocab_size = {vocab_size}: must be at least '
      f'{tokenizer.get_vocab_size()}, for the alphabet of this text'
    )
  return tokenizers.from_model('huggingface', tokenizer.to_str().encode())


def _sample(
  inputs: Sequence[Input], sample_bytes: int, n_texts: collections.Counter
) -> Iterator[str]:
  # A MiB of each, or more of a few. Of a thousand files, those first that lie
  # evenly among them: they may have to be copied here.
  share = max(sample_bytes // max(len(inputs), 1), 1 << 20)
  step = max(len(inputs) * share // sample_bytes, 1)
  n_left = sample_bytes
  for source, reading in (
    i for first in range(step) for i in inputs[first::step]
  ):
    n_input = 0
    for piece in source.pieces(reading, collections.Counter()):
      # A trainer takes a text as a whole, so a long piece comes in lines.
      for line in piece.text.splitlines(keepends=True):
        n_texts['texts'] += 1
        yield line
      n_input += len(piece.text)
      if n_input >= min(share, n_left):
        break
    n_left -= n_input
    if n_left <= 0:
      return
