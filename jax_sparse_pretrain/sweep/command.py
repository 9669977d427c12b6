"""The command once its arguments make sense: plan, or train and tell."""

import argparse
import sys
from collections.abc import Sequence

import numpy as np

from jax_sparse_pretrain import command_line
from jax_sparse_pretrain.command_line import Stopped, StopRequest
from jax_sparse_pretrain.runs import lock, workdir
from jax_sparse_pretrain.sweep import directory as directory_lib
from jax_sparse_pretrain.sweep import forest, prefixes, report, shares, table
from jax_sparse_pretrain.sweep.directory import Directory
from jax_sparse_pretrain.sweep.runner import Runner
from jax_sparse_pretrain.sweep.sweep_file import Run, read_sweep


def run(
  args: argparse.Namespace, overrides: Sequence[str], stop: StopRequest
) -> int:
  """Runs the command and returns its exit status.

  Raises:
    ConfigError: for bad input.
  """
  everything = read_sweep(args.config, overrides)
  columns = table.differing_keys([table.flat(r.config) for r in everything])
  common = prefixes.common_steps_table(everything)
  mine = list(range(len(everything)))
  if args.count is not None:
    mine = shares.share(everything, common, args.index, args.count)
  runs, common = [everything[i] for i in mine], common[np.ix_(mine, mine)]
  if not runs:
    print('No runs in this share.')
    return 0
  if args.plan and not args.workdir:
    print(_plan(runs, common, report.Status()))
    return 0
  directory = directory_lib.find_directory(args.workdir)
  directory_lib.check_runs(directory, runs)
  if not args.plan:
    workdir.open_root(args.workdir)
  runner = Runner(directory, runs, common, columns)
  status = report.read_status(directory, runs, runner.own_steps())
  print(_plan(runs, common, status, with_runs=args.plan), flush=True)
  if args.plan:
    return 0
  name = f'.lock-{args.index or 0}-of-{args.count or 1}'
  with lock.locked(workdir.Workdir(directory.root), name):
    return _train(runner, runs, directory, stop)


def _plan(
  runs: Sequence[Run],
  common: np.ndarray,
  status: report.Status,
  with_runs: bool = True,
) -> str:
  forks = forest.find_forks(common, [run.plan.steps for run in runs])
  text = report.plan_text(runs, forks, status)
  return f'{report.runs_text(runs, forks)}\n\n{text}' if with_runs else text


def _train(
  runner: Runner, runs: Sequence[Run], directory: Directory, stop: StopRequest
) -> int:
  try:
    runner.train_all(stop)
  except Stopped as stopped:
    print(stopped, file=sys.stderr)
    return command_line.STOPPED
  n_failed = len(runner.failures)
  print(f'Finished: {len(runs) - n_failed:,} of {len(runs):,} runs')
  if directory.table.exists():
    print(f'Table: {directory.table}')
  for name, reason in runner.failures.items():
    print(f'error: run {name}: {reason}', file=sys.stderr)
  return command_line.FAILED if n_failed else 0
