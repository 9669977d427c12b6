"""Trains one model, dense or sparse, from a config file.

Run it again with the same arguments to continue a run that was stopped.
Exit status: 0 done, 1 failed, 2 bad input, 69 other processes of the run are
missing, 70 this process of several failed, 75 stopped on request after saving
the state.
"""

import argparse
import sys
from collections.abc import Sequence

from jax_sparse_pretrain import command_line
from jax_sparse_pretrain import config as config_lib


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command and returns its exit status."""
  try:
    args, overrides = _parser().parse_known_args(argv)
    _require('--config', args.config)
    if args.topology and not args.compile_only:
      raise config_lib.ConfigError('--topology: only with --compile_only')
    config = command_line.load_config(args.config, overrides)
    if args.plan:
      return _show_plan(config)
    if args.compile_only:
      return _compile_only(config, args.topology)
    _require('--workdir', args.workdir)
    return _train(config, args)
  except config_lib.ConfigError as error:
    print(f'error: {error}', file=sys.stderr)
    return command_line.BAD_INPUT


def _parser() -> argparse.ArgumentParser:
  parser = command_line.make_parser(
    'train',
    __doc__,
    epilog='Any key of the config: --config.SECTION.KEY=VALUE',
  )
  parser.add_argument(
    '--config', help='a file with get_config(), or the name of a shipped one'
  )
  parser.add_argument('--workdir', help="the run's directory; needed to train")
  parser.add_argument(
    '--plan',
    action='store_true',
    help='print steps, tokens, compute and parameters of the run, and stop',
  )
  parser.add_argument(
    '--compile_only',
    action='store_true',
    help='compile the train step for --topology, print what it takes, and stop',
  )
  parser.add_argument(
    '--topology',
    metavar='NAME',
    help='devices that need not be here: v4-N, v5e-N, v5p-N, v6e-N or cpu-N',
  )
  parser.add_argument(
    '--fork',
    action='store_true',
    help="go on from the workdir's checkpoint under an altered config",
  )
  _add_processes(parser)
  return parser


def _add_processes(parser: argparse.ArgumentParser) -> None:
  group = parser.add_argument_group(
    'several processes',
    'Run the same command in each process. Cloud TPU, GKE, Slurm and Open MPI '
    'tell the processes apart; elsewhere give the first three flags.',
  )
  group.add_argument(
    '--coordinator',
    metavar='HOST:PORT',
    help='address of process 0; PORT is free',
  )
  group.add_argument('--process', type=int, metavar='I', help='from 0 to N - 1')
  group.add_argument('--processes', type=int, metavar='N', help='how many')
  group.add_argument(
    '--coordinator_port',
    type=int,
    metavar='PORT',
    help='the port to use if the one that a cluster implies is closed',
  )
  group.add_argument(
    '--connect_timeout',
    type=int,
    default=300,
    metavar='SECONDS',
    help='time for all processes to join; default %(default)s',
  )
  group.add_argument(
    '--heartbeat_timeout',
    type=int,
    default=100,
    metavar='SECONDS',
    help='time without a sign of life after which a process counts as dead '
    'and the others leave; default %(default)s',
  )


def _require(name: str, value: str | None) -> None:
  if not value:
    raise config_lib.ConfigError(f'{name}: must be given; see --help')


def _show_plan(config: config_lib.Config) -> int:
  from jax_sparse_pretrain.huggingface import model_directory
  from jax_sparse_pretrain.training import init_from, recipe

  plan = recipe.make_plan(config)
  # Refuses what the run would refuse.
  recipe.make_pruner(config, plan)
  if config.init_from:
    where = f'init_from = {config.init_from!r}'
    there = model_directory.ModelDirectory(config.init_from, where).model
    init_from.check_sizes(config.model, there, where)
  print(recipe.plan_table(config, plan))
  for note in recipe.corpus_notes(config):
    print(note)
  return 0


def _compile_only(config: config_lib.Config, name: str | None) -> int:
  """Status 0 if the step fits, or no chip is named; 1 if it does not."""
  _require('--topology', name)
  from jax_sparse_pretrain import compile_ahead

  topology = compile_ahead.parse_topology(name)
  compiled = compile_ahead.compile_train_step(config, topology)
  print(compile_ahead.step_table(compiled))
  return command_line.FAILED if compiled.fits is False else 0


def _train(config: config_lib.Config, args: argparse.Namespace) -> int:
  with command_line.StopRequest() as stop:
    # Imported here, so that --help and bad configs answer at once.
    from jax_sparse_pretrain import distributed

    options = {
      name: getattr(args, name) for name in distributed.Options._fields
    }
    return distributed.run_joined(
      distributed.Options(**options),
      stop,
      lambda stop: _train_joined(config, args, stop),
    )


def _train_joined(
  config: config_lib.Config, args: argparse.Namespace, stop
) -> int:
  """What every process of the run does."""
  from jax_sparse_pretrain import distributed
  from jax_sparse_pretrain.runs import workdir
  from jax_sparse_pretrain.runs.checkpoint import CheckpointError
  from jax_sparse_pretrain.runs.lock import TakenOver
  from jax_sparse_pretrain.training import entry, progress
  from jax_sparse_pretrain.training.metrics import NonFiniteError

  try:
    outcome = entry.train_here(config, args.workdir, stop, fork=args.fork)
  except command_line.Stopped as stopped:
    if distributed.is_primary():
      print(stopped, file=sys.stderr)
    return command_line.STOPPED
  except (NonFiniteError, CheckpointError, TakenOver) as error:
    print(f'error: {error}', file=sys.stderr)
    return command_line.FAILED
  root = workdir.root_of(args.workdir)
  distributed.on_primary(
    lambda: print(progress.end_of_run_table(outcome, root))
  )
  return 0


if __name__ == '__main__':
  command_line.run_and_exit(main)
