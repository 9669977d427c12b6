"""What a run had on average: sums over its steps, exact in whole numbers.

N_avg is the mean over training tokens of the nonzero linear parameters. Every
step has the same number of tokens, so it is the mean over steps (arXiv
2501.12486).
"""

import dataclasses
import numbers
from typing import Any, NamedTuple

from jax_sparse_pretrain import history
from jax_sparse_pretrain.analysis.runs.workdir import phases_in_steps

# Whole weights round the plan by less; what differs more differs by its kind.
PLAN_TOLERANCE = 1e-3


class PhaseAverage(NamedTuple):
  """A span of steps.

  Attributes:
    name: dense, pruning or recovery.
    start: its first step.
    end: the step after its last.
    density: mean over it of the nonzero share of the linear parameters.
    compute_fraction: its part of the run's compute.
  """

  name: str
  start: int
  end: int
  density: float
  compute_fraction: float


@dataclasses.dataclass(frozen=True)
class Average:
  """What a run had, on average, and what that costs.

  Attributes:
    run: its name.
    steps: over which the average is taken.
    tokens_per_step: predicted tokens in a step, if known.
    linear_parameters: the dense N.
    final_parameters: nonzero in the last of the steps.
    parameter_steps: sum over the steps of the nonzero count. Exact from a
      history, rounded from a schedule.
    phases: dense, pruning, recovery; empty if nothing was pruned.
    counts: (first step, nonzero count) wherever the count changes.
    planned_density: mean density by the plan, where there is one.
    completed: whether the run was.
  """

  run: str
  steps: int
  tokens_per_step: int | None
  linear_parameters: int
  final_parameters: int
  parameter_steps: int
  phases: tuple[PhaseAverage, ...]
  counts: tuple[tuple[int, int], ...]
  planned_density: float | None = None
  completed: bool = True

  @property
  def average_parameters(self) -> float:
    """N_avg: whole numbers up to this one division."""
    return self.parameter_steps / self.steps

  @property
  def density(self) -> float:
    """N_avg / N."""
    return self.parameter_steps / (self.steps * self.linear_parameters)

  @property
  def sparsity(self) -> float:
    """At the end."""
    return 1 - self.final_parameters / self.linear_parameters

  @property
  def tokens(self) -> int | None:
    """D; None for a plan that does not say how many a step has."""
    return self.tokens_per_step and self.steps * self.tokens_per_step

  @property
  def compute_flops(self) -> int | None:
    """6 N_avg D, exactly."""
    return self.tokens and 6 * self.parameter_steps * self.tokens_per_step

  @property
  def dense_equivalent_tokens(self) -> float | None:
    """Tokens of the dense run of equal compute, D N_avg / N."""
    return self.tokens and self.compute_flops / (6 * self.linear_parameters)

  @property
  def departs_from_plan(self) -> bool:
    """Whether a finished run had another density than its plan."""
    if self.planned_density is None or not self.completed:
      return False
    return abs(self.density - self.planned_density) > PLAN_TOLERANCE

  def as_dict(self) -> dict[str, Any]:
    """For JSON."""
    names = ('average_parameters', 'density', 'sparsity', 'tokens')
    more = ('compute_flops', 'dense_equivalent_tokens')
    return {
      **vars(self),
      'phases': [phase._asdict() for phase in self.phases],
      **{name: getattr(self, name) for name in names + more},
    }


def count_history(
  past: history.History, steps: int, name: str, completed: bool = True
) -> Average:
  """The average over the first `steps` steps of a history.

  Raises:
    ValueError: naming the run, if there is nothing to average over.
  """
  if not isinstance(steps, numbers.Integral) or steps < 1:
    raise ValueError(f'{name}: steps = {steps}: must be a count, at least 1')
  steps = int(steps)  # Sums of NumPy's would not be exact.
  rows = [row for row in past.rows if row.step < steps]
  if not rows:
    raise ValueError(f'{name}: the mask history has no row of counts')
  counts = tuple((row.step, row.nonzero) for row in rows)
  used = history.History(past.header, rows)
  total = _parameter_steps(counts, 0, steps)
  if not total:
    raise ValueError(f'{name}: the mask history has no nonzero parameter')
  return Average(
    run=name,
    steps=steps,
    tokens_per_step=past.header.tokens_per_step,
    linear_parameters=past.header.linear_parameters,
    final_parameters=rows[-1].nonzero,
    parameter_steps=total,
    phases=tuple(
      _phase(counts, *span, past.header.linear_parameters, total)
      for span in phases_in_steps(used, steps, completed)
    ),
    counts=counts,
    completed=completed,
  )


def _phase(counts, name, start, end, linear: int, total: int) -> PhaseAverage:
  inside = _parameter_steps(counts, start, end)
  density = inside / (linear * (end - start))
  return PhaseAverage(name, start, end, density, inside / total)


def _parameter_steps(counts, start: int, end: int) -> int:
  """Sum of the nonzero count over the steps from `start` up to `end`."""
  ends = [step for step, _ in counts[1:]] + [end]
  return sum(
    nonzero * max(min(stop, end) - max(step, start), 0)
    for (step, nonzero), stop in zip(counts, ends, strict=True)
  )
