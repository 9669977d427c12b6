"""What a sweep is going to be, and what each run was, as text for people."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jax_sparse_pretrain import text
from jax_sparse_pretrain.model import counts
from jax_sparse_pretrain.runs import workdir
from jax_sparse_pretrain.sweep.directory import Directory
from jax_sparse_pretrain.sweep.prefixes import Fork, most_trunks, step_flops
from jax_sparse_pretrain.sweep.sweep_file import Run
from jax_sparse_pretrain.text import Line
from jax_sparse_pretrain.training import jitted


class Status(NamedTuple):
  """What the files say of a sweep.

  Attributes:
    finished: number of runs.
    begun: number of runs.
    seconds_left: at the pace of the finished runs; None if there is none.
  """

  finished: int = 0
  begun: int = 0
  seconds_left: float | None = None


def read_status(
  directory: Directory, runs: Sequence[Run], own: Sequence[int]
) -> Status:
  """How far a sweep is.

  Args:
    directory: the files of the sweep.
    runs: its runs.
    own: how many steps each run makes itself.
  """
  finished = [run for run in runs if directory.is_finished(run)]
  newest = [directory.newest_step(run) for run in runs]
  left = [
    min(n, run.plan.steps - step)
    for n, run, step in zip(own, runs, newest, strict=True)
  ]
  seconds = None
  if finished:
    paces = _paces(directory, runs, finished)
    seconds = sum(n * pace for n, pace in zip(left, paces, strict=True))
  begun = sum(n > 0 for n in newest) - len(finished)
  return Status(len(finished), begun, seconds)


def _paces(
  directory: Directory, runs: Sequence[Run], finished: Sequence[Run]
) -> list[float]:
  """Seconds a step of each run.

  They are those of finished runs of the same program; where there is none,
  those of all in proportion to their FLOPs.
  """
  seconds: dict[str, list[float]] = {}
  per_flop = []
  for run in finished:
    files = directory.run(run.name)
    summary = workdir.finished_summary(files, run.plan.steps)
    pace = summary['wall_seconds'] / run.plan.steps
    seconds.setdefault(jitted.program_key(run.config), []).append(pace)
    per_flop.append(pace / step_flops(run))
  usual = sum(per_flop) / len(per_flop)
  paces = []
  for run in runs:
    same = seconds.get(jitted.program_key(run.config))
    paces.append(sum(same) / len(same) if same else usual * step_flops(run))
  return paces


def plan_text(
  runs: Sequence[Run], forks: Sequence[Fork | None], status: Status
) -> str:
  """The sweep as a table, before it is trained.

  Args:
    runs: all of them.
    forks: where each goes on from another, as if nothing had been trained.
    status: how far the sweep is.
  """
  shared = [fork.step if fork else 0 for fork in forks]
  alone = sum(run.plan.steps for run in runs)
  tokens = sum(
    (run.plan.steps - n) * run.config.tokens_per_step
    for run, n in zip(runs, shared, strict=True)
  )
  flops_alone = sum(_flops(run, run.plan.steps) for run in runs)
  flops_shared = sum(
    _flops(run, n) for run, n in zip(runs, shared, strict=True)
  )
  n_forks = sum(fork is not None for fork in forks)
  n_programs = len({jitted.program_key(run.config) for run in runs})
  so_far = f'{status.finished:,} finished, {status.begun:,} begun'
  steps = alone - sum(shared)
  return text.listing('Sweep', [
    Line('Runs', f'{len(runs):,}', so_far),
    Line('Steps', f'{steps:,}', f'of {alone:,} if each began alone'),
    Line('  shared', f'{sum(shared):,}',
         f'{sum(shared) / alone:.1%} less, by {n_forks} runs'),
    Line('Tokens', f'{tokens:,}', 'trained on'),
    Line('Compute', f'{flops_alone - flops_shared:.3e}', 'FLOPs, 6 N_avg D'),
    Line('  shared', f'{flops_shared:.3e}',
         f'{flops_shared / flops_alone:.1%} less'),
    Line('Programs', f'{n_programs:,}', 'each compiled once'),
    Line('Trunks', f'{most_trunks(forks):,}', 'states kept at once, at most'),
    Line('Time left', *_time_left(status)),
  ])  # fmt: skip


def _flops(run: Run, steps: int) -> float:
  """6 N_avg D of the first steps of a run, as planned."""
  linear = counts.linear_parameters(run.config.model)
  dense_steps = run.plan.schedule.compute(steps)
  return counts.training_flops(linear * dense_steps, run.config.tokens_per_step)


def _time_left(status: Status) -> tuple[str, str]:
  if status.seconds_left is None:
    return 'unknown', 'until a run is finished'
  left = text.duration(status.seconds_left)
  return left, f'at the speed of {status.finished:,} finished runs'


def runs_text(runs: Sequence[Run], forks: Sequence[Fork | None]) -> str:
  """Every run with its length and where it begins."""
  header = ['run', 'steps', 'own', 'from', 'at step']
  return text.table('Runs', header, [
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
  name: str, summary: Mapping, seconds: float, origin: Mapping
) -> str:
  """One finished run.

  Args:
    name: the run's name.
    summary: its `summary.json`.
    seconds: how long it took here.
    origin: the `run` and `step` from which it went on; empty if it began alone.
  """
  average = f'{summary["average_parameters"]:,.0f}'
  begun = f'  from {origin["run"]} at step {origin["step"]:,}' if origin else ''
  return (
    f'{name}: loss {summary["eval_loss"]:.4f}  N_avg {average}  '
    f'{text.duration(seconds)}{begun}'
  )
