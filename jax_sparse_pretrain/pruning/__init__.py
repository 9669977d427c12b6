"""Which leaves are pruned, how many weights where, and which weights.

A library for any pytree of arrays: it knows neither our model nor our loop.
`wrap` prunes inside any optax optimizer (`transform`); `magnitude_pruner` is
for a train step of one's own. Selection is exact and the same on every mesh,
and tests hold it to sorting oracles bit for bit: whatever replaces it must keep
that. jaxpruner's updaters are in the room `jaxpruner`.
"""

from jax_sparse_pretrain.pruning.distribution import (
  DISTRIBUTIONS,
  Distribution,
  kept_on_the_way,
  targets,
)
from jax_sparse_pretrain.pruning.kernels import (
  Kernel,
  apply_masks,
  by_path,
  count_nonzero,
  path_name,
  select,
  sums_of_magnitudes,
)
from jax_sparse_pretrain.pruning.pruner import (
  ORDERS,
  Pruner,
  magnitude_pruner,
  magnitudes,
  no_pruning,
  packed,
  random_scores,
)
from jax_sparse_pretrain.pruning.selection import keep_largest
from jax_sparse_pretrain.pruning.structure import (
  Block,
  Channel,
  NByM,
  Structure,
  Unstructured,
)
from jax_sparse_pretrain.pruning.transform import (
  PrunedState,
  apply,
  kept,
  masks,
  post_gradient_update,
  sparsity,
  wrap,
)

__all__ = [
  'Block',
  'Channel',
  'DISTRIBUTIONS',
  'Distribution',
  'Kernel',
  'NByM',
  'ORDERS',
  'PrunedState',
  'Pruner',
  'Structure',
  'Unstructured',
  'apply',
  'apply_masks',
  'by_path',
  'count_nonzero',
  'keep_largest',
  'kept',
  'kept_on_the_way',
  'magnitude_pruner',
  'magnitudes',
  'masks',
  'no_pruning',
  'packed',
  'path_name',
  'post_gradient_update',
  'random_scores',
  'select',
  'sparsity',
  'sums_of_magnitudes',
  'targets',
  'wrap',
]
