"""The noise floor: how much the losses of runs differ that differ in seed."""

import dataclasses
import math
from collections import defaultdict

import numpy as np

from jax_sparse_pretrain.analysis.runs_table import Runs

# Columns of a sweep's table that follow from the config, besides section.key.
CONFIG_COLUMNS = (
  *('batch_size', 'accumulation_steps'),
  *('schedule', 'start', 'end'),
)


@dataclasses.dataclass(frozen=True)
class Noise:
  """Of the loss of one run.

  Attributes:
    sd: standard deviation in nats, pooled over groups of seeds.
    dof: degrees of freedom of `sd`; infinite where it was given.
    groups: of seeds; 0 where it was given.
  """

  sd: float
  dof: float = math.inf
  groups: int = 0

  def __post_init__(self):
    if not (self.sd >= 0 and math.isfinite(self.sd)):
      raise ValueError(f'noise {self.sd}: must be at least 0, and finite')


def replicate_noise(runs: Runs) -> Noise | None:
  """From runs that are alike in all but their seed; None if there are none.

  Alike: equal N and D, and equal values of every column that is a key of the
  config or of its plan, as a sweep's table has them. Runs are told apart by the
  column `seed`; a seed that comes again is the same run, and counts once.
  """
  if 'seed' not in runs.others:
    return None
  groups = defaultdict(dict)
  for config, seed, loss in zip(
    _configs(runs), runs.others['seed'], runs.loss, strict=True
  ):
    groups[config].setdefault(seed, loss)
  repeated = [
    np.array(list(losses.values()))
    for losses in groups.values()
    if len(losses) > 1
  ]
  dof = sum(len(losses) - 1 for losses in repeated)
  if not dof:
    return None
  squares = sum(((losses - losses.mean()) ** 2).sum() for losses in repeated)
  return Noise(math.sqrt(squares / dof), dof, len(repeated))


def _configs(runs: Runs) -> list[tuple]:
  keys = [
    cells
    for name, cells in runs.others.items()
    if '.' in name or name in CONFIG_COLUMNS
  ]
  numbers = (runs.initial_parameters, runs.tokens, runs.sparsity)
  return list(zip(*numbers, *keys, strict=True))
