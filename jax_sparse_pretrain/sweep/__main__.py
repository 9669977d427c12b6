"""Trains many runs, the first steps that they have in common only once.

The config file has get_config(), of what runs have in common, and get_runs(),
which yields (name, {'section.key': value}) for each. Run it again with the same
arguments to continue a sweep that was stopped. Each run has a workdir of its
own, DIR/runs/NAME; DIR/runs.csv is the table of finished runs.
Exit status: 0 done, 1 some runs failed, 2 bad input, 75 stopped on request
after saving the state.
"""

import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Sequence

from jax_sparse_pretrain import command_line
from jax_sparse_pretrain.command_line import Stopped, StopRequest
from jax_sparse_pretrain.config import ConfigError


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command and returns its exit status."""
  try:
    args, overrides = _parser().parse_known_args(argv)
    _check(args)
    if args.collect:
      return _collect(args, overrides)
    with StopRequest() as stop:
      return _sweep(args, overrides, stop)
  except ConfigError as error:
    print(f'error: {error}', file=sys.stderr)
    return command_line.BAD_INPUT


def _parser() -> argparse.ArgumentParser:
  parser = command_line.make_parser(
    'sweep',
    __doc__,
    epilog='Any key of what runs have in common: --config.SECTION.KEY=VALUE',
  )
  parser.add_argument('--config', help='a file with get_config(), get_runs()')
  parser.add_argument('--workdir', help='files of the sweep; needed to train')
  what = parser.add_mutually_exclusive_group()
  what.add_argument(
    '--plan', action='store_true', help='print runs and cost, and stop'
  )
  what.add_argument(
    '--collect',
    action='store_true',
    help='make DIR/runs.csv from the runs that are there, and stop; DIR may '
    'hold directories of sweeps',
  )
  share = parser.add_argument_group('a share of the runs, for an array of jobs')
  share.add_argument('--index', type=int, help='of this share, from 0')
  share.add_argument('--count', type=int, help='of shares')
  return parser


def _check(args: argparse.Namespace) -> None:
  needed = ['workdir'] if args.collect else ['config']
  if not (args.collect or args.plan):
    needed.append('workdir')
  for name in needed:
    if not getattr(args, name):
      raise ConfigError(f'--{name}: must be given; see --help')
  if (args.index is None) != (args.count is None):
    raise ConfigError('--index and --count: must be given together')
  if args.count is not None and not 0 <= args.index < args.count:
    raise ConfigError(
      f'--index = {args.index}: must be from 0 to --count - 1 = '
      f'{args.count - 1}'
    )


def _collect(args: argparse.Namespace, overrides: Sequence[str]) -> int:
  from jax_sparse_pretrain.sweep import collect, runner

  if overrides:
    raise ConfigError(f'{overrides[0]}: is of no use to --collect')
  root = runner.find_root(args.workdir)
  n_runs = collect.write_table(root)
  if not n_runs:
    raise ConfigError(f'{root / "runs"}: no finished run')
  print(f'{n_runs:,} finished runs: {root / "runs.csv"}')
  return 0


def _sweep(
  args: argparse.Namespace, overrides: Sequence[str], stop: StopRequest
) -> int:
  """Plans the sweep, or trains it."""
  # Imported here, so that --help answers at once.
  from jax_sparse_pretrain.runs import lock, workdir
  from jax_sparse_pretrain.sweep import collect, prefixes, sweep_file
  from jax_sparse_pretrain.sweep.runner import Runner, find_root

  everything = sweep_file.read_sweep(args.config, overrides)
  configs = [dataclasses.asdict(run.config) for run in everything]
  columns = collect.differing_keys(configs)
  common = prefixes.common_steps(everything)
  mine = list(range(len(everything)))
  if args.count is not None:
    mine = prefixes.share(everything, common, args.index, args.count)
  runs = [everything[i] for i in mine]
  if not runs:
    print('No runs in this share.')
    return 0
  common = common[mine][:, mine]
  forks = prefixes.find_forks(common, [run.plan.steps for run in runs])
  names = f'{prefixes.runs_text(runs, forks)}\n\n' if args.plan else ''
  if not args.workdir:
    print(names + prefixes.plan_text(runs, forks))
    return 0
  root = find_root(args.workdir)
  runner = Runner(root, runs, common, columns)
  runner.check()
  if not args.plan:
    workdir.open_root(args.workdir)
  plan = prefixes.plan_text(runs, forks, *runner.status())
  print(names + plan, flush=True)
  if args.plan:
    return 0
  name = f'.lock-{args.index or 0}-of-{args.count or 1}'
  with lock.locked(workdir.Workdir(root), name):
    return _train(runner, len(runs), root / 'runs.csv', stop)


def _train(runner, n_runs: int, table: pathlib.Path, stop: StopRequest) -> int:
  try:
    runner.train_all(stop)
  except Stopped as stopped:
    print(stopped, file=sys.stderr)
    return command_line.STOPPED
  n_failed = len(runner.failures)
  print(f'Finished: {n_runs - n_failed:,} of {n_runs:,} runs')
  if table.exists():
    print(f'Table: {table}')
  for name, reason in runner.failures.items():
    print(f'error: run {name}: {reason}', file=sys.stderr)
  return command_line.FAILED if n_failed else 0


if __name__ == '__main__':
  command_line.run_and_exit(main)
