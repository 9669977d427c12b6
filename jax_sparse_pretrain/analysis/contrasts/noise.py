"""The noise floor: how much the losses of runs differ that differ in seed."""

import dataclasses
import math
from collections import defaultdict

import numpy as np

from jax_sparse_pretrain.analysis.runs.table import Runs

# Columns of a sweep's table that are of the config, besides section.key.
TOP_LEVEL_KEYS = ('batch_size', 'accumulation_steps')


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
  config, as a sweep's table has them.
  """
  groups = defaultdict(list)
  for label, loss in zip(_configs(runs), runs.loss, strict=True):
    groups[label].append(loss)
  repeated = [np.array(each) for each in groups.values() if len(each) > 1]
  dof = sum(len(each) - 1 for each in repeated)
  if not dof:
    return None
  squares = sum(((each - each.mean()) ** 2).sum() for each in repeated)
  return Noise(math.sqrt(squares / dof), dof, len(repeated))


def _configs(runs: Runs) -> list[tuple]:
  keys = [
    cells
    for name, cells in runs.others.items()
    if '.' in name or name in TOP_LEVEL_KEYS
  ]
  return list(
    zip(runs.initial_parameters, runs.tokens, runs.sparsity, *keys, strict=True)
  )
