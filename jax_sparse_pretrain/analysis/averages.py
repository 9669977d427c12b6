"""N_avg of a run: counted in its mask history, or planned from a schedule.

N_avg is the mean over training tokens of the nonzero linear parameters. Every
step has the same number of tokens, so it is the mean over steps (arXiv
2501.12486). All sums are of whole numbers and exact.
"""

import dataclasses
import fnmatch
import numbers
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jax_sparse_pretrain import history, storage
from jax_sparse_pretrain.analysis.training_log import (
  MARK,
  find_begun,
  logged_steps,
  phases_in_steps,
  read_json,
)
from jax_sparse_pretrain.model.counts import training_flops
from jax_sparse_pretrain.planning import Plan
from jax_sparse_pretrain.runs.workdir import Workdir

# A run whose mean density differs from its plan by more has left the plan.
# Rounding to whole weights makes a smaller difference.
PLAN_TOLERANCE = 1e-3


class PhaseAverage(NamedTuple):
  """The average over one phase of a run.

  From the step `start` up to `end`; the shares are of the linear parameters
  that are nonzero, on average, and of the run's compute.
  """

  name: str
  start: int
  end: int
  density: float
  compute_fraction: float


@dataclasses.dataclass(frozen=True)
class Average:
  """The average of a run, and its tokens and compute.

  Attributes:
    run: the name of the run.
    steps: the number of steps averaged over.
    tokens_per_step: predicted tokens in a step, if known.
    linear_parameters: N of the dense model.
    final_parameters: nonzero parameters in the last step.
    parameter_steps: the sum over the steps of the nonzero count. It is exact
      from a history, and rounded from a schedule.
    phases: dense, pruning, recovery; empty if nothing was pruned.
    counts: (first step, nonzero count) wherever the count changes.
    planned_density: the mean density of the plan, where there is one.
    completed: whether the run has ended.
    exempt_parameters: linear parameters in kernels that are never pruned, if
      known.
    l1_measured_parameters: N_eff from the sums of magnitudes that the history
      holds, in the last step; None if a cut was not measured.
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
  exempt_parameters: int | None = None
  l1_measured_parameters: float | None = None

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
    """The sparsity of the last step."""
    return 1 - self.final_parameters / self.linear_parameters

  @property
  def l1_parameters(self) -> float | None:
    """N_eff by the Gaussian formula, in the last step; None if not known."""
    if self.final_parameters == self.linear_parameters:
      return float(self.linear_parameters)
    if self.exempt_parameters is None:
      return None
    return history.gaussian_parameters(
      self.linear_parameters, self.exempt_parameters, self.final_parameters
    )

  @property
  def tokens(self) -> int | None:
    """D; None for a plan that does not know the tokens of a step."""
    return self.tokens_per_step and self.steps * self.tokens_per_step

  @property
  def compute_flops(self) -> int | None:
    """6 N_avg D, exactly."""
    return self.tokens and training_flops(
      self.parameter_steps, self.tokens_per_step
    )

  @property
  def dense_equivalent_tokens(self) -> float | None:
    """D N_avg / N, the tokens of the dense run of equal compute."""
    a_token = training_flops(self.linear_parameters, 1)
    return self.tokens and self.compute_flops / a_token

  @property
  def departs_from_plan(self) -> bool:
    """Whether a finished run had another density than its plan."""
    if self.planned_density is None or not self.completed:
      return False
    return abs(self.density - self.planned_density) > PLAN_TOLERANCE

  def as_dict(self) -> dict[str, Any]:
    """Plain values, for JSON."""
    names = ('average_parameters', 'density', 'sparsity', 'tokens')
    more = ('compute_flops', 'dense_equivalent_tokens', 'l1_parameters')
    return {
      **vars(self),
      'phases': [phase._asdict() for phase in self.phases],
      **{name: getattr(self, name) for name in names + more},
    }


def average_parameters(
  source: history.History | os.PathLike | str, steps: int | None = None
) -> Average:
  """N_avg of a run from its mask history.

  Args:
    source: a history, a `mask_history.jsonl`, or the workdir that holds one.
    steps: the number of steps to average over. A history and its file need
      it. For a workdir the default is all steps of its summary, or of its
      metrics where it has no summary.

  Raises:
    ValueError: if there is nothing to average over, for a malformed file, or
      if the history and the summary disagree, naming both.
  """
  past, path, name = source, 'a history', 'run'
  if not isinstance(source, history.History):
    path = storage.as_path(source)
    if not path.is_file():
      return _of_workdir(Workdir(path), steps)
    past, name = history.read(path), storage.resolved(path.parent).name
  if steps is None:
    raise ValueError(f'steps: must be given for {path}, which does not tell')
  return _count(past, steps, name)


def read_averages(paths: Iterable[os.PathLike | str]) -> list[Average]:
  """The average of every run at or below these paths."""
  return [
    dataclasses.replace(average_parameters(workdir), run=name)
    for path in paths
    for name, workdir in find_begun(storage.as_path(path))
  ]


def planned_average(
  linear_parameters: int, plan: Plan, tokens_per_step: int | None = None
) -> Average:
  """The N_avg that a schedule asks for, before any run.

  Without `tokens_per_step`, tokens and compute stay unknown.
  """
  schedule = plan.schedule
  starts = np.unique(np.append(0, schedule.update_steps + schedule.delay))
  kept = np.rint(schedule.density(starts) * linear_parameters)
  rows = [
    history.Row(step, nonzero, {})
    for step, nonzero in zip(starts.tolist(), map(int, kept), strict=True)
  ]
  header = history.Header(linear_parameters, linear_parameters, 1, {})
  found = _count(history.History(header, rows), plan.steps, 'plan')
  return dataclasses.replace(
    found, tokens_per_step=tokens_per_step, l1_measured_parameters=None
  )


def _count(
  past: history.History, steps: int, name: str, completed: bool = True
) -> Average:
  """The average over the first `steps` steps of a history."""
  if not isinstance(steps, numbers.Integral) or steps < 1:
    raise ValueError(f'{name}: steps = {steps}: must be a count, at least 1')
  steps = int(steps)  # Sums of NumPy's integers would not be exact.
  rows = [row for row in past.rows if row.step < steps]
  if not rows:
    raise ValueError(f'{name}: the mask history has no row of counts')
  counts = tuple((row.step, row.nonzero) for row in rows)
  linear, total = past.header.linear_parameters, _summed(counts, 0, steps)
  if not total:
    raise ValueError(f'{name}: the mask history has no nonzero parameter')
  phases = []
  used = history.History(past.header, rows)
  for phase, start, end in phases_in_steps(used, steps, completed):
    inside = _summed(counts, start, end)
    density = inside / (linear * (end - start))
    phases.append(PhaseAverage(phase, start, end, density, inside / total))
  return Average(
    run=name,
    steps=steps,
    tokens_per_step=past.header.tokens_per_step,
    linear_parameters=linear,
    final_parameters=rows[-1].nonzero,
    parameter_steps=total,
    phases=tuple(phases),
    counts=counts,
    completed=completed,
    l1_measured_parameters=used.measured_parameters(),
  )


def _summed(counts: Sequence[tuple[int, int]], start: int, end: int) -> int:
  """The sum of the nonzero count over the steps from `start` up to `end`."""
  ends = [step for step, _ in counts[1:]] + [end]
  return sum(
    nonzero * max(min(stop, end) - max(step, start), 0)
    for (step, nonzero), stop in zip(counts, ends, strict=True)
  )


def _of_workdir(files: Workdir, steps: int | None) -> Average:
  if not files.history.is_file():
    raise ValueError(f'{files.root}: no workdir of a run: no {MARK}')
  summary = read_json(files.summary)
  logged = _steps(files, summary)
  if steps is not None and steps > logged:
    raise ValueError(f'{files.root}: steps = {steps}: it has only {logged:,}')
  is_whole = steps in (None, logged)
  past, config = history.read(files.history), read_json(files.config)
  found = _count(
    past,
    logged if is_whole else steps,
    storage.resolved(files.root).name,
    completed=is_whole and summary.get('completed') is True,
  )
  if is_whole and summary:
    _check_against_summary(found, summary, files.summary)
  found = dataclasses.replace(
    found, exempt_parameters=exempt_parameters(past.header, config)
  )
  match config:
    case {'plan': {'mean_density': float(planned)}}:
      return dataclasses.replace(found, planned_density=planned)
  return found


def exempt_parameters(header: history.Header, resolved: Mapping) -> int | None:
  """The parameters in kernels that `pruning.exempt` names; None if unknown.

  From the config, which runs of any age have; 0 in a dense run. That a count
  never changes does not tell: one threshold over all kernels may spare one.
  """
  match resolved:
    case {'config': {'pruning': {'exempt': [*patterns]} as asked} as config}:
      if not (asked.get('sparsity') or config.get('init_masks_from_zeros')):
        return 0
      layers = header.layers
      names = {n for p in patterns for n in fnmatch.filter(layers, str(p))}
      return sum(layers[name] for name in names)
  return None


def _steps(files: Workdir, summary: Mapping) -> int:
  """The steps of the summary; without one, the steps that were logged."""
  steps = summary['steps'] if 'steps' in summary else logged_steps(files.root)
  if type(steps) is not int:
    raise ValueError(
      f'{files.summary}: steps = {steps!r}: must be a whole number'
    )
  if steps < 1:
    raise ValueError(f'{files.root}: no step has been logged yet')
  return steps


def _check_against_summary(
  found: Average, summary: Mapping, path: pathlib.Path
) -> None:
  """Refuses a copy of a summary that is out of date."""
  names = ['linear_parameters', 'average_parameters', 'tokens']
  # In mid-run the newest masks may not have been in a forward pass yet.
  if found.completed:
    names.append('final_parameters')
  for name in names:
    told, counted = summary.get(name), getattr(found, name)
    is_number = isinstance(told, int | float)
    if not is_number or abs(told - counted) > 1e-9 * counted:
      raise ValueError(f'{path}: {name} = {told}, but {MARK} gives {counted}')
