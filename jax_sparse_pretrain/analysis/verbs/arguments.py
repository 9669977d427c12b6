"""Arguments that verbs share, and what they stand for."""

import argparse

from jax_sparse_pretrain.analysis import Runs, load_runs
from jax_sparse_pretrain.analysis.runs_table import KINDS

# Names of the arguments of `add_runs`, but for its paths.
OF_RUNS = ('column', 'where', 'drop_highest_loss', 'unfinished')
# Below it the Huber loss is the absolute one, and only rounds more.
SMALLEST_DELTA = 1e-12


def add_runs(parser: argparse.ArgumentParser, paths: str = '+') -> None:
  """Where runs come from (`paths`: how many), and which of them count."""
  parser.add_argument(
    'paths',
    nargs=paths,
    metavar='PATH',
    help='a CSV table of runs, a workdir, or a directory of workdirs',
  )
  group = parser.add_argument_group('runs')
  group.add_argument(
    '--column',
    action='append',
    default=[],
    metavar='NAME=EXPRESSION',
    help='how a column of a table follows from its others, such as '
    '"tokens=steps * 128 * 512"; quote names with spaces: "loss=\'val-loss\'"',
  )
  group.add_argument(
    '--where',
    action='append',
    default=[],
    metavar='COMPARISON',
    help='keep the runs for which it holds, such as "sparsity == 0"',
  )
  group.add_argument(
    '--drop_highest_loss',
    type=int,
    default=0,
    metavar='N',
    help='leave out the N runs with the highest loss',
  )
  group.add_argument(
    '--unfinished',
    action='store_true',
    help='take unfinished runs as they are',
  )


def add_parameters(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    '--parameters',
    choices=KINDS,
    default='average',
    help='the N of the law; by default the average over training',
  )


def add_delta(group) -> None:
  group.add_argument(
    '--delta', type=float, default=1e-3, help='of the Huber loss (0.001)'
  )


def check_delta(arguments: argparse.Namespace) -> None:
  if 0 < arguments.delta < SMALLEST_DELTA:
    raise ValueError(
      f'--delta = {arguments.delta}: must be at least {SMALLEST_DELTA:g}'
    )


def read_runs(arguments: argparse.Namespace) -> Runs:
  """The runs that the arguments of `add_runs` ask for."""
  return load_runs(
    *arguments.paths,
    columns=dict(map(_assignment, arguments.column)),
    where=arguments.where,
    drop_highest_loss=arguments.drop_highest_loss,
    unfinished=arguments.unfinished,
  )


def _assignment(text: str) -> tuple[str, str]:
  name, mark, expression = text.partition('=')
  if not (mark and name.strip().isidentifier() and expression.strip()):
    raise ValueError(f'--column {text!r}: must be NAME=EXPRESSION')
  return name.strip(), expression


def given_names(
  parser: argparse.ArgumentParser, arguments: argparse.Namespace
) -> list[str]:
  """Arguments of this parser that are not as they are by default."""
  return [
    name
    for name, value in vars(arguments).items()
    if value not in ([], parser.get_default(name))
  ]


def check_not_negative(arguments: argparse.Namespace, *names: str) -> None:
  for name in names:
    value = getattr(arguments, name)
    if value < 0:
      raise ValueError(f'--{name} = {value}: must be at least 0')
