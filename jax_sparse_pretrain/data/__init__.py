"""Sources -> documents -> tokens -> packed rows."""

from jax_sparse_pretrain.data.packing import (
  evaluation_rows,
  merge_states,
  train_batches,
)
from jax_sparse_pretrain.data.sources import Corpus, Documents, open_corpus
from jax_sparse_pretrain.data.tokenizers import Tokenizer, load_tokenizer

__all__ = [
  'Corpus',
  'Documents',
  'Tokenizer',
  'evaluation_rows',
  'load_tokenizer',
  'merge_states',
  'open_corpus',
  'train_batches',
]
