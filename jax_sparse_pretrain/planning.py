"""How long a run is and when it prunes: fractions of compute -> whole steps.

A step costs what its kept weights cost. With T the steps of a dense run of
equal compute and g the mean density of the ramp, the paper's 25/50/25 of
compute is a dense phase of 0.25 T steps, a ramp of 0.50 T / g and a recovery
of 0.25 T / (1 - s) (arXiv 2501.12486, section 3). NumPy only.
"""

import dataclasses

from jax_sparse_pretrain import config as config_lib
from jax_sparse_pretrain.schedule import PruningSchedule

# The host makes tables of this length; no real run comes near it.
MAX_STEPS = 100_000_000


@dataclasses.dataclass(frozen=True)
class Plan:
  """A schedule and the number of steps of its run."""

  schedule: PruningSchedule
  steps: int

  @property
  def dense_steps(self) -> float:
    """Steps of the dense run of equal compute."""
    return self.schedule.compute(self.steps)

  @property
  def mean_density(self) -> float:
    """The kept fraction averaged over steps: the planned N_avg / N."""
    return self.dense_steps / self.steps

  @property
  def compute_fractions(self) -> tuple[float, float]:
    """(start, end) of the ramp as fractions of the run's compute."""
    ramp = (self.schedule.start, self.schedule.end)
    start, end = (self.schedule.compute(t) / self.dense_steps for t in ramp)
    return start, end


def plan(
  *,
  steps: int | None = None,
  dense_steps: int | None = None,
  unit: str,
  start: float,
  end: float,
  sparsity: float,
  **schedule,
) -> Plan:
  """Turns fractions of compute or of steps into whole steps.

  Args:
    steps: length of the run. Give either this or `dense_steps`.
    dense_steps: compute of the run, in steps of the dense model. The run is
      then as long as that compute allows, to within half a step of the sparse
      model.
    unit: 'compute_fraction', 'step_fraction' or 'steps'.
    start: first mask update, in `unit`.
    end: last mask update, in `unit`. In the two fractions, the ramp becomes a
      whole number of periods.
    sparsity: the fraction that is pruned in the end, in [0, 1).
    **schedule: shape and every, and the optional fields, of `PruningSchedule`.

  Raises:
    ValueError: if not exactly one length is given, if no period fits into
      the ramp, if the last update leaves no step after it, or if the run is
      longer than `MAX_STEPS`.
  """
  if (steps is None) == (dense_steps is None):
    raise ValueError('give one of steps and dense_steps')
  given = steps or dense_steps or 0
  _check_length(given)
  if sparsity == 0:
    dense = PruningSchedule(start=0, end=0, sparsity=sparsity, **schedule)
    return Plan(dense, given)
  # Its start and end are in `unit`; all else is as it will be.
  asked = PruningSchedule(
    start=start,  # pyright: ignore[reportArgumentType]
    end=end,  # pyright: ignore[reportArgumentType]
    sparsity=sparsity,
    **schedule,
  )
  made = _UNITS[unit](asked, steps, dense_steps)
  if steps is None:
    last = made.end + made.delay
    steps = last + round((given - made.compute(last)) / made.final_density)
  _check_length(steps)
  if steps <= made.end:
    raise ValueError(
      f'the last mask update, step {made.end}, must come before the end '
      f'of the run, step {steps}'
    )
  return Plan(made, steps)


def plan_config(pruning: config_lib.Pruning, **rest) -> Plan:
  """The plan that the section `pruning` of a config asks for.

  Args:
    pruning: the checked section.
    **rest: `steps` or `dense_steps`, and what else `plan` takes.

  Raises:
    ValueError: as `plan` does.
  """
  return plan(
    shape=pruning.schedule,
    sparsity=pruning.sparsity,
    start=pruning.start,
    end=pruning.end,
    unit=pruning.unit,
    every=pruning.every,
    power=pruning.power,
    **rest,
  )


def stretch(asked: PruningSchedule) -> float:
  """Steps of a run over those of the dense run of equal compute.

  Args:
    asked: a schedule whose start and end are fractions of compute, and whose
      updates count as continuous.
  """
  dense = asked.start / asked.first_density
  ramp = (asked.end - asked.start) / asked.ramp_density
  return dense + ramp + (1 - asked.end) / asked.final_density


def _check_length(steps: int) -> None:
  if steps > MAX_STEPS:
    raise ValueError(f'{steps:,} steps: must be at most {MAX_STEPS:,}')


def _in_steps(asked: PruningSchedule, steps, dense_steps) -> PruningSchedule:
  del steps, dense_steps
  return _moved(asked, int(asked.start), int(asked.end))


def _in_step_fractions(
  asked: PruningSchedule, steps, dense_steps
) -> PruningSchedule:
  density = (
    asked.start * asked.first_density
    + (asked.end - asked.start) * asked.ramp_density
    + (1 - asked.end) * asked.final_density
  )
  total = steps or round(dense_steps / density)
  start = round(asked.start * total)
  n = _periods((asked.end - asked.start) * total, asked.every)
  return _moved(asked, start, start + n * asked.every)


def _in_compute_fractions(
  asked: PruningSchedule, steps, dense_steps
) -> PruningSchedule:
  """The ramp of whole periods that ends nearest to `end` in compute.

  The staircase of updates lies below the continuous ramp, so the periods next
  to the continuous answer are tried.
  """
  compute = dense_steps or steps / stretch(asked)
  start = round(asked.start / asked.first_density * compute)
  length = (asked.end - asked.start) / asked.ramp_density * compute
  n = _periods(length, asked.every)
  ramps = [
    _moved(asked, start, start + k * asked.every)
    for k in range(max(n - 1, min(n, 1)), n + 3 if n else 1)
  ]
  end = asked.end * compute
  return min(ramps, key=lambda ramp: abs(ramp.compute(ramp.end) - end))


def _moved(asked: PruningSchedule, start: int, end: int) -> PruningSchedule:
  return dataclasses.replace(asked, start=start, end=end)


def _periods(length: float, every: int) -> int:
  """Whole periods nearest to `length` steps; none only for a one-shot."""
  if 0 < length < every:
    raise ValueError(
      f'every {every}: must be at most {max(int(length), 1)}, the steps of the '
      'ramp'
    )
  return round(length / every)


_UNITS = {
  'steps': _in_steps,
  'step_fraction': _in_step_fractions,
  'compute_fraction': _in_compute_fractions,
}
