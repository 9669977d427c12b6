"""N_avg of a run: exact from its mask history, or planned from a schedule."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jax_sparse_pretrain import history, storage
from jax_sparse_pretrain.analysis.runs.counted import Average, count_history
from jax_sparse_pretrain.analysis.runs.workdir import logged_steps
from jax_sparse_pretrain.planning import Plan

__all__ = ['Average', 'average_parameters', 'planned_average']


def average_parameters(
  source: history.History | os.PathLike | str, steps: int | None = None
) -> Average:
  """N_avg of a run from its mask history.

  Args:
    source: a history, a `mask_history.jsonl`, or the workdir that holds one.
    steps: of the run. Needed for a history or its file; of a workdir, at
      most those of its summary, or its metrics where it has none, and by
      default all of them.

  Raises:
    ValueError: if there is nothing to average over, for a malformed file, or
      if the history and `summary.json` disagree, naming both.
  """
  if isinstance(source, history.History):
    return count_history(source, _given(steps, 'a history'), 'run')
  path = storage.as_path(source)
  if path.is_file():
    past = history.read(path)
    name = storage.resolved(path.parent).name
    return count_history(past, _given(steps, str(path)), name)
  return _from_workdir(path, steps)


def _given(steps: int | None, what: str) -> int:
  if steps is None:
    raise ValueError(f'steps: must be given for {what}, which does not tell')
  return steps


def planned_average(
  linear_parameters: int, plan: Plan, tokens_per_step: int | None = None
) -> Average:
  """N_avg that a schedule asks for, before any run.

  Args:
    linear_parameters: the dense N.
    plan: the schedule and the steps of the run.
    tokens_per_step: of the batch, for what is counted in tokens.
  """
  schedule = plan.schedule
  starts = np.unique(np.append(0, schedule.update_steps + schedule.delay))
  kept = np.rint(schedule.density(starts) * linear_parameters)
  rows = [
    history.Row(step, nonzero, {})
    for step, nonzero in zip(starts.tolist(), map(int, kept), strict=True)
  ]
  header = history.Header(linear_parameters, linear_parameters, 1, {})
  found = count_history(history.History(header, rows), plan.steps, 'plan')
  return dataclasses.replace(found, tokens_per_step=tokens_per_step)


def _from_workdir(workdir: pathlib.Path, steps: int | None) -> Average:
  path = workdir / 'mask_history.jsonl'
  if not path.is_file():
    raise ValueError(f'{workdir}: no workdir of a run: no mask_history.jsonl')
  past = history.read(path)
  summary = read_json(workdir / 'summary.json')
  told = _steps_of(workdir, summary)
  if steps is not None and steps > told:
    raise ValueError(f'{workdir}: steps = {steps}: it has only {told:,}')
  is_whole = steps in (None, told)
  found = count_history(
    past,
    told if is_whole else steps,
    storage.resolved(workdir).name,
    completed=is_whole and summary.get('completed') is True,
  )
  if is_whole and summary:
    _check_against_summary(found, summary, workdir)
  match read_json(workdir / 'config.json'):
    case {'plan': {'mean_density': float(planned)}}:
      return dataclasses.replace(found, planned_density=planned)
  return found


def _steps_of(workdir: pathlib.Path, summary: Mapping) -> int:
  """By the summary; without one, as many as have been logged."""
  told = summary['steps'] if 'steps' in summary else logged_steps(workdir)
  if type(told) is not int:
    path = workdir / 'summary.json'
    raise ValueError(f'{path}: steps = {told!r}: must be a whole number')
  if told < 1:
    raise ValueError(f'{workdir}: no step has been logged yet')
  return told


def read_json(path: pathlib.Path) -> Mapping[str, Any]:
  """The object in a file; empty if there is no file.

  Raises:
    ValueError: for anything else, naming the file.
  """
  if not path.exists():
    return {}
  if not path.is_file():
    raise ValueError(f'{path}: must be a file')
  try:
    found = json.loads(path.read_text())
  except ValueError as error:
    raise ValueError(f'{path}: not JSON: {error}') from None
  if not isinstance(found, dict):
    raise ValueError(f'{path}: must be a JSON object')
  return found


def _check_against_summary(
  found: Average, summary: Mapping, workdir: pathlib.Path
) -> None:
  """The summary repeats what the history says; a copy can be out of date."""
  names = ['linear_parameters', 'average_parameters', 'tokens']
  # In mid-run the newest masks may not have been in a forward pass yet.
  if found.completed:
    names.append('final_parameters')
  for name in names:
    told, counted = summary.get(name), getattr(found, name)
    is_number = isinstance(told, int | float)
    if not is_number or abs(told - counted) > 1e-9 * counted:
      raise ValueError(
        f'{workdir / "summary.json"}: {name} = {told}, but '
        f'mask_history.jsonl gives {counted}'
      )
