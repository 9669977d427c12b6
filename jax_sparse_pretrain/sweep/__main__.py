"""Trains many runs, the first steps that they have in common only once.

The config file has get_config(), of what runs have in common, and get_runs(),
which yields (name, {'section.key': value}) for each. Run it again with the same
arguments to continue a sweep that was stopped. Each run has a workdir of its
own, DIR/runs/NAME; DIR/runs.csv is the table of finished runs.
`--jobs N` trains N shares of the runs at once, each on its own CPUs.
Exit status: 0 done, 1 some runs failed, 2 bad input, 75 stopped on request
after saving the state.
"""

import argparse
import dataclasses
import functools
import sys
from collections.abc import Callable, Sequence

from jax_sparse_pretrain import command_line
from jax_sparse_pretrain.command_line import Stopped, StopRequest
from jax_sparse_pretrain.config import ConfigError
from jax_sparse_pretrain.sweep import cpus
from jax_sparse_pretrain.sweep.job_report import JobReport


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
  parser.add_argument(
    '--jobs',
    type=int,
    metavar='N',
    help='train in N processes at once, each on its own part of the CPUs; '
    'best for small models, which gain little from a second core',
  )
  # The end of a pipe, for a process that --jobs has started.
  parser.add_argument('--report', type=int, help=argparse.SUPPRESS)
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
  if args.jobs is not None:
    _check_jobs(args)


def _check_jobs(args: argparse.Namespace) -> None:
  if args.count is not None:
    raise ConfigError('--jobs: makes shares itself; not with --index, --count')
  if args.collect:
    raise ConfigError('--jobs: is of no use to --collect')
  # More would take turns on a CPU and gain nothing.
  n_cpus = len(cpus.available())
  if not 1 <= args.jobs <= n_cpus:
    raise ConfigError(
      f'--jobs = {args.jobs}: must be from 1 to {n_cpus}, the number of CPUs '
      'that this process may use'
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
  from jax_sparse_pretrain.sweep import collect, jobs, prefixes, sweep_file
  from jax_sparse_pretrain.sweep.runner import Runner, find_root

  everything = sweep_file.read_sweep(args.config, overrides)
  configs = [dataclasses.asdict(run.config) for run in everything]
  columns = collect.differing_keys(configs)
  common = prefixes.common_steps(everything)
  mine = list(range(len(everything)))
  n_jobs = min(args.jobs or 1, len(everything))
  shares = prefixes.shares(everything, common, args.count or n_jobs)
  if args.count is not None:
    mine = shares[args.index]
    shares = [list(range(len(mine)))]
  runs = [everything[i] for i in mine]
  if not runs:
    print('No runs in this share.')
    return 0
  common = prefixes.within_shares(common[mine][:, mine], shares)
  forks = prefixes.find_forks(common, [run.plan.steps for run in runs])
  names = f'{prefixes.runs_text(runs, forks)}\n\n' if args.plan else ''
  if not args.workdir:
    print(names + prefixes.plan_text(runs, forks, shares))
    return 0
  root = find_root(args.workdir)
  runner = Runner(root, runs, common, columns)
  runner.check()
  if not args.plan:
    jobs.check_device(n_jobs)
    workdir.open_root(args.workdir)
  plan = prefixes.plan_text(runs, forks, shares, *runner.status())
  print(names + plan, flush=True)
  if args.plan:
    return 0
  index, count = args.index or 0, args.count or 1
  if n_jobs > 1:
    index, count = 'all', n_jobs
  with lock.share_locked(workdir.Workdir(root), index, count):
    if args.report is not None:
      return _train_as_job(runner, stop, JobReport(args.report))
    words = f'--config={args.config}', f'--workdir={args.workdir}', *overrides
    train_all = runner.train_all
    if n_jobs > 1:
      train_all = functools.partial(jobs.train_all, runner, shares, words)
    return _train(runner, train_all, stop, is_whole=args.count is None)


def _train_as_job(runner, stop: StopRequest, report: JobReport) -> int:
  """Leaves it to the process that has started this one to say what failed."""
  try:
    runner.train_all(stop, report)
  except Stopped as stopped:
    report.note(str(stopped))
    return command_line.STOPPED
  report.end(runner.failures)
  return command_line.FAILED if runner.failures else 0


def _train(
  runner, train_all: Callable, stop: StopRequest, is_whole: bool
) -> int:
  try:
    broken = train_all(stop) or {}
  except Stopped as stopped:
    print(stopped, file=sys.stderr)
    return command_line.STOPPED
  if is_whole:
    runner.tidy()
  finished = runner.finished()
  print(f'Finished: {sum(finished):,} of {len(finished):,} runs')
  if runner.table.exists():
    print(f'Table: {runner.table}')
  for name, reason in runner.failures.items():
    print(f'error: run {name}: {reason}', file=sys.stderr)
  for name, reason in broken.items():
    print(f'error: {name} {reason}', file=sys.stderr)
  return command_line.FAILED if runner.failures or broken else 0


if __name__ == '__main__':
  command_line.run_and_exit(main)
