"""Which leaves, how many where, which weights.

Knows pytrees of arrays; knows neither the model nor the training loop.
"""

from jax_sparse_pretrain.pruning.distribution import (
  DISTRIBUTIONS,
  Distribution,
  Kernel,
)
from jax_sparse_pretrain.pruning.pruner import (
  Pruner,
  count_nonzero,
  magnitude_pruner,
  no_pruning,
)
from jax_sparse_pretrain.pruning.selection import keep_largest
from jax_sparse_pretrain.pruning.targets import targets

__all__ = [
  'DISTRIBUTIONS',
  'Distribution',
  'Kernel',
  'Pruner',
  'count_nonzero',
  'keep_largest',
  'magnitude_pruner',
  'no_pruning',
  'targets',
]
