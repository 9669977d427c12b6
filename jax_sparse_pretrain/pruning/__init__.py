"""Which leaves, how many where, which weights.

Knows pytrees of arrays; knows neither the model nor the training loop.
"""

from jax_sparse_pretrain.pruning.distribution import (
  DISTRIBUTIONS,
  Distribution,
  Kernel,
)
from jax_sparse_pretrain.pruning.magnitude import (
  magnitude_pruner,
  magnitudes,
  random_scores,
)
from jax_sparse_pretrain.pruning.packed import packed
from jax_sparse_pretrain.pruning.pruner import (
  Pruner,
  count_nonzero,
  no_pruning,
)
from jax_sparse_pretrain.pruning.selection import keep_largest
from jax_sparse_pretrain.pruning.structure import (
  Block,
  Channel,
  NByM,
  Structure,
  Unstructured,
)
from jax_sparse_pretrain.pruning.targets import targets

__all__ = [
  'Block',
  'Channel',
  'DISTRIBUTIONS',
  'Distribution',
  'Kernel',
  'NByM',
  'Pruner',
  'Structure',
  'Unstructured',
  'count_nonzero',
  'keep_largest',
  'magnitude_pruner',
  'magnitudes',
  'no_pruning',
  'packed',
  'random_scores',
  'targets',
]
