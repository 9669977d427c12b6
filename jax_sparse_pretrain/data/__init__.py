"""Sources -> documents -> tokens -> packed rows.

`corpus` opens the documents that a config names, from `files` or from data sets
that are `prepared`; `tokenizers` makes token ids of a document; `packing` deals
the tokens to rows. A new source is a function from `config.Data` to two splits
and a fingerprint, named in `corpus`. The order of the data and the state of an
iterator are promises to runs that resume: they may not change.
"""

from jax_sparse_pretrain.data.corpus import Corpus, Documents, open_corpus
from jax_sparse_pretrain.data.packing import (
  evaluation_rows,
  merge_states,
  train_batches,
)
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
