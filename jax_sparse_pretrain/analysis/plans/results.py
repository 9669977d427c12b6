"""What a plan says: the dense run, the sparse runs, and their dense twins."""

import dataclasses
from typing import Any

from jax_sparse_pretrain.analysis.fitting.law import ScalingLaw
from jax_sparse_pretrain.analysis.plans.planned_run import PlannedRun


@dataclasses.dataclass(frozen=True)
class SparsePlan:
  """A sparse run, and the dense run of its N_avg and tokens.

  By the law the two reach the same loss, but for the layers that the twin is
  rounded to.
  """

  run: PlannedRun
  twin: PlannedRun

  @property
  def fewer_than_twin(self) -> float:
    """Share of the twin's linear parameters that are saved at inference."""
    return fewer(self.run, self.twin)


def fewer(run: PlannedRun, other: PlannedRun) -> float:
  """Share of the other's linear parameters, and FLOPs, saved at inference."""
  return 1 - run.final_parameters / other.final_parameters


@dataclasses.dataclass(frozen=True)
class RunPlans:
  """What to train.

  Attributes:
    law: that predicts the losses.
    given: the budget, loss or size asked for.
    dense: the compute-optimal dense run; of a final size alone, the dense run
      of that size.
    sparse: one for each sparsity that can be met.
    level: of the intervals; None if there are none.
    warnings: sentences on what is extrapolated, open or left out.
  """

  law: ScalingLaw
  given: dict[str, float]
  dense: PlannedRun
  sparse: tuple[SparsePlan, ...]
  level: float | None
  warnings: tuple[str, ...]

  @property
  def runs(self) -> tuple[PlannedRun, ...]:
    """Dense, then each sparse run and its twin."""
    pairs = (run for each in self.sparse for run in (each.run, each.twin))
    return (self.dense, *pairs)

  def as_dict(self) -> dict[str, Any]:
    """All of it in plain values, for JSON."""
    return {
      'law': self.law.as_dict(),
      'given': self.given,
      'level': self.level,
      'dense': self.dense.as_dict(),
      'sparse': [
        {
          **each.run.as_dict(),
          'twin': each.twin.as_dict(),
          'fewer_than_twin': each.fewer_than_twin,
          'fewer_than_dense': fewer(each.run, self.dense),
        }
        for each in self.sparse
      ],
      'warnings': list(self.warnings),
    }
