"""What a run would take on devices that are not here.

The train step of a run is compiled ahead of time, for TPUs by their own
compiler, and read. `topology` names the devices, `program` compiles for them
and accounts for memory and costs, and `hlo` reads the compiled text. Nothing
here allocates an array or runs a step. The only promise to the rest of the
package is the three verbs below.
"""

from jax_sparse_pretrain.compile_ahead.program import (
  compile_train_step,
  step_table,
)
from jax_sparse_pretrain.compile_ahead.topology import parse_topology

__all__ = ['compile_train_step', 'parse_topology', 'step_table']
