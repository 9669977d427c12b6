"""How long a run is and when it prunes: fractions of compute -> whole steps.

A step costs what its kept weights cost. With T the steps of a dense run of
equal compute and g the mean density of the ramp, the paper's 25/50/25 of
compute is a dense phase of 0.25 T steps, a ramp of 0.50 T / g and a recovery
of 0.25 T / (1 - s) (arXiv 2501.12486, section 3). NumPy only.
"""

import dataclasses

from jax_sparse_pretrain.schedule import SHAPES, PruningSchedule

# Tables of this length are made on the host; no real run is near it.
MAX_STEPS = 100_000_000


@dataclasses.dataclass(frozen=True)
class Plan:
  """A schedule and the length of its run.

  Attributes:
    schedule: when to prune.
    steps: steps of the run.
  """

  schedule: PruningSchedule
  steps: int

  @property
  def dense_steps(self) -> float:
    """Steps of the dense run of equal compute."""
    return self.schedule.compute(self.steps)

  @property
  def mean_density(self) -> float:
    """Average over steps of the kept fraction: planned N_avg / N."""
    return self.dense_steps / self.steps

  @property
  def compute_fractions(self) -> tuple[float, float]:
    """(start, end) of the ramp as fractions of the run's compute."""
    ramp = (self.schedule.start, self.schedule.end)
    start, end = (self.schedule.compute(t) / self.dense_steps for t in ramp)
    return start, end


@dataclasses.dataclass(frozen=True)
class Request:
  """What a user asks of a schedule.

  Attributes:
    shape: a key of `SHAPES`.
    sparsity: final, in [0, 1).
    start: first update, in `unit`.
    end: last update, in `unit`.
    unit: 'compute_fraction', 'step_fraction' or 'steps'.
    every: steps between updates; the ramp is a whole number of them.
    power: of the shape 'polynomial'.
    share: of the linear parameters, those that the schedule acts on.
    delay: steps from an update to the first forward pass that sees it.
    begins_sparse: whether weights are pruned before the first update.
  """

  shape: str
  sparsity: float
  start: float
  end: float
  unit: str
  every: int
  power: float = 3.0
  share: float = 1.0
  delay: int = 0
  begins_sparse: bool = False

  def schedule(self, start: int, end: int) -> PruningSchedule:
    return PruningSchedule(
      self.shape,
      self.sparsity,
      start,
      end,
      self.every,
      self.power,
      self.share,
      self.delay,
      self.begins_sparse,
    )

  @property
  def first_density(self) -> float:
    return self.final_density if self.begins_sparse else 1.0

  @property
  def final_density(self) -> float:
    return 1 - self.share * self.sparsity

  @property
  def ramp_density(self) -> float:
    """Mean over the ramp in the continuous limit."""
    if self.end == self.start:
      return self.first_density
    mean = SHAPES[self.shape].mean_density(self.sparsity, self.power)
    return 1 - self.share * (1 - mean)


def plan(
  *, steps: int | None = None, dense_steps: int | None = None, **request
) -> Plan:
  """Turns fractions of compute or of steps into whole steps.

  Args:
    steps: length of the run; or
    dense_steps: its compute, in steps of the dense model. The run is then as
      long as it takes, to within half a step of the sparse model.
    **request: the fields of `Request`.

  Raises:
    ValueError: if not exactly one length is given, if no period fits into
      the ramp, if the last update leaves no step after it, or if the run is
      longer than `MAX_STEPS`.
  """
  if (steps is None) == (dense_steps is None):
    raise ValueError('give one of steps and dense_steps')
  asked = Request(**request)
  _check_length(steps or dense_steps)
  if asked.sparsity == 0:
    return Plan(asked.schedule(0, 0), steps or dense_steps)
  schedule = _UNITS[asked.unit](asked, steps, dense_steps)
  if steps is None:
    last = schedule.end + asked.delay
    left = dense_steps - schedule.compute(last)
    steps = last + round(left / asked.final_density)
  _check_length(steps)
  if steps <= schedule.end:
    raise ValueError(
      f'the last mask update, step {schedule.end}, must come before the end '
      f'of the run, step {steps}'
    )
  return Plan(schedule, steps)


def _check_length(steps: int) -> None:
  if steps > MAX_STEPS:
    raise ValueError(f'{steps:,} steps: must be at most {MAX_STEPS:,}')


def _in_steps(asked: Request, steps, dense_steps) -> PruningSchedule:
  del steps, dense_steps
  return asked.schedule(int(asked.start), int(asked.end))


def _in_step_fractions(asked: Request, steps, dense_steps) -> PruningSchedule:
  density = (
    asked.start * asked.first_density
    + (asked.end - asked.start) * asked.ramp_density
    + (1 - asked.end) * asked.final_density
  )
  total = steps or round(dense_steps / density)
  start = round(asked.start * total)
  n = _periods((asked.end - asked.start) * total, asked.every)
  return asked.schedule(start, start + n * asked.every)


def _in_compute_fractions(
  asked: Request, steps, dense_steps
) -> PruningSchedule:
  """The ramp of whole periods that ends nearest to `end` in compute.

  The staircase of updates lies below the continuous ramp, so the periods next
  to the continuous answer are tried.
  """
  ramp = (asked.end - asked.start) / asked.ramp_density
  dense = asked.start / asked.first_density
  stretch = dense + ramp + (1 - asked.end) / asked.final_density
  compute = dense_steps or steps / stretch
  start = round(dense * compute)
  n = _periods(ramp * compute, asked.every)
  ramps = [
    asked.schedule(start, start + k * asked.every)
    for k in range(max(n - 1, min(n, 1)), n + 3 if n else 1)
  ]
  end = asked.end * compute
  return min(ramps, key=lambda ramp: abs(ramp.compute(ramp.end) - end))


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
