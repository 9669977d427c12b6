"""What a sweep is going to be, and what each run was, for a person."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jax_sparse_pretrain.model import counts
from jax_sparse_pretrain.runs import workdir
from jax_sparse_pretrain.sweep import directory as directory_lib
from jax_sparse_pretrain.sweep import shares
from jax_sparse_pretrain.sweep.directory import Directory
from jax_sparse_pretrain.sweep.forest import Fork, most_trunks
from jax_sparse_pretrain.sweep.sweep_file import Run
from jax_sparse_pretrain.text import Line, duration, listing, table
from jax_sparse_pretrain.training import program_keys


class Status(NamedTuple):
  """What the files say of a sweep.

  Attributes:
    finished: runs.
    begun: runs.
    left: steps to make, of each run.
    pace: seconds a step of each run; None if nothing was measured.
  """

  finished: int = 0
  begun: int = 0
  left: Sequence[int] = ()
  pace: Sequence[float] | None = None


def read_status(
  directory: Directory, runs: Sequence[Run], own: Sequence[int]
) -> Status:
  """Args:

  directory: of the sweep.
  runs: of it.
  own: steps that each makes itself.
  """
  done = [directory_lib.is_finished(directory, run) for run in runs]
  newest = [directory_lib.newest_step(directory, run) for run in runs]
  left = [
    0 if is_done else min(n, run.plan.steps - step)
    for is_done, n, run, step in zip(done, own, runs, newest, strict=True)
  ]
  begun = sum(n > 0 and not d for n, d in zip(newest, done, strict=True))
  measured = [run for run, is_done in zip(runs, done, strict=True) if is_done]
  return Status(sum(done), begun, left, _paces(directory, runs, measured))


def _paces(
  directory: Directory, runs: Sequence[Run], measured: Sequence[Run]
) -> list[float] | None:
  """As runs of the same program had it, or all in proportion to FLOPs."""
  seconds: dict[str, list[float]] = {}
  per_flop = []
  for run in measured:
    files = directory.run(run.name)
    summary = workdir.finished_summary(files, run.plan.steps)
    pace = summary['wall_seconds'] / run.plan.steps
    seconds.setdefault(program_keys.program_key(run.config), []).append(pace)
    per_flop.append(pace / shares.step_flops(run))
  if not measured:
    return None
  usual = _mean(per_flop)
  return [
    _mean(
      seconds.get(
        program_keys.program_key(run.config), [usual * shares.step_flops(run)]
      )
    )
    for run in runs
  ]


def _mean(values: Sequence[float]) -> float:
  return sum(values) / len(values)


def plan_text(
  runs: Sequence[Run], forks: Sequence[Fork | None], status: Status
) -> str:
  """The sweep as a table, before it is trained.

  Args:
    runs: all.
    forks: where each goes on from another, as if nothing had been trained.
    status: what has been.
  """
  n_programs = len({program_keys.program_key(run.config) for run in runs})
  lines = [
    Line('Runs', f'{len(runs):,}', _so_far(status)),
    *_step_lines(runs, forks),
    *_cost_lines(runs, forks),
    Line('Programs', f'{n_programs:,}', 'each compiled once'),
    Line('Trunks', f'{most_trunks(forks):,}', 'states kept at once, at most'),
    Line('Time left', *_time_left(status)),
  ]
  return listing('Sweep', lines)


def _so_far(status: Status) -> str:
  return f'{status.finished:,} finished, {status.begun:,} begun'


def _step_lines(runs, forks) -> list[Line]:
  alone = sum(run.plan.steps for run in runs)
  shared = sum(fork.step for fork in forks if fork)
  tokens = sum(
    (run.plan.steps - (fork.step if fork else 0)) * run.config.tokens_per_step
    for run, fork in zip(runs, forks, strict=True)
  )
  n = sum(fork is not None for fork in forks)
  return [
    Line('Steps', f'{alone - shared:,}', f'of {alone:,} if each began alone'),
    Line('  shared', f'{shared:,}', f'{shared / alone:.1%} less, by {n} runs'),
    Line('Tokens', f'{tokens:,}', 'trained on'),
  ]


def _cost_lines(runs, forks) -> list[Line]:
  alone = sum(_flops(run, run.plan.steps) for run in runs)
  shared = sum(
    _flops(run, fork.step)
    for run, fork in zip(runs, forks, strict=True)
    if fork
  )
  return [
    Line('Compute', f'{alone - shared:.3e}', 'FLOPs, 6 N_avg D'),
    Line('  shared', f'{shared:.3e}', f'{shared / alone:.1%} less'),
  ]


def _flops(run: Run, steps: int) -> float:
  """Of the first steps of a run, 6 N_avg D as planned."""
  linear = counts.linear_parameters(run.config.model)
  dense_steps = run.plan.schedule.compute(steps)
  return 6 * linear * dense_steps * run.config.tokens_per_step


def _time_left(status: Status) -> tuple[str, str]:
  if status.pace is None:
    return 'unknown', 'until a run is finished'
  pairs = zip(status.left, status.pace, strict=True)
  seconds = sum(steps * pace for steps, pace in pairs)
  return duration(seconds), f'at the speed of {status.finished:,} finished runs'


def runs_text(runs: Sequence[Run], forks: Sequence[Fork | None]) -> str:
  """Every run with its length and where it begins."""
  header = ['run', 'steps', 'own', 'from', 'at step']
  return table('Runs', header, [
    [
      run.name,
      f'{run.plan.steps:,}',
      f'{run.plan.steps - (fork.step if fork else 0):,}',
      runs[fork.parent].name if fork else '',
      f'{fork.step:,}' if fork else '',
    ]
    for run, fork in zip(runs, forks, strict=True)
  ])  # fmt: skip


def run_line(
  name: str, summary: Mapping, seconds: float, trunk: Mapping
) -> str:
  """One finished run.

  Args:
    name: of it.
    summary: its `summary.json`.
    seconds: that it took here.
    trunk: `run` and `step` that it went on from; empty if from none.
  """
  average = f'{summary["average_parameters"]:,.0f}'
  origin = f'  from {trunk["run"]} at step {trunk["step"]:,}' if trunk else ''
  return (
    f'{name}: loss {summary["eval_loss"]:.4f}  N_avg {average}  '
    f'{duration(seconds)}{origin}'
  )
