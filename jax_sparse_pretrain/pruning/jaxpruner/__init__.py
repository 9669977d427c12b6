"""jaxpruner's updaters in our step, with all the patches that they need.

`bridge` turns an updater into a `Pruner`; `upstream` imports jaxpruner, mends
it for current jax, and checks what it is asked. jaxpruner is an optional extra:
importing this room does not import it. No other room may know its insides.
"""

from jax_sparse_pretrain.pruning.jaxpruner.bridge import jaxpruner_pruner
from jax_sparse_pretrain.pruning.jaxpruner.upstream import (
  Traits,
  load_jaxpruner,
  traits,
)

__all__ = ['Traits', 'jaxpruner_pruner', 'load_jaxpruner', 'traits']
