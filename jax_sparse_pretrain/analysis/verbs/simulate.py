"""Draws runs from a law, to try a fit or a choice of runs on."""

import argparse
import itertools

import numpy as np

from jax_sparse_pretrain.analysis.fitting.simulate import simulate_runs
from jax_sparse_pretrain.analysis.runs_table import NUMBERS, Runs, as_csv
from jax_sparse_pretrain.analysis.verbs import Answer
from jax_sparse_pretrain.analysis.verbs.arguments import check_not_negative
from jax_sparse_pretrain.analysis.verbs.laws import NUMBERS as LAW
from jax_sparse_pretrain.analysis.verbs.laws import add_law, read_law
from jax_sparse_pretrain.analysis.verbs.schedules import count, make_plan

SUMMARY = 'draw a table of runs from a law, with noise'
EXAMPLE = (
  f'simulate --law {LAW} \\\n    --linear_parameters 1e8 3e8 1e9 '
  '--tokens 2e9 8e9 3e10 --out runs.csv'
)
SUFFIXES = ('.csv', '.json')

# Of any length, the mean density is the same; here to four digits.
STEPS = 100_000
LARGEST_NOISE = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
  add_law(parser)
  many = {'nargs': '+', 'required': True, 'metavar': 'N', 'type': count}
  parser.add_argument('--linear_parameters', help='dense sizes', **many)
  parser.add_argument('--tokens', help='D; each with each size', **many)
  parser.add_argument(
    '--sparsity',
    nargs='+',
    type=float,
    default=[0.0],
    metavar='X',
    help='at the end, by the default schedule; each with each size (0)',
  )
  parser.add_argument(
    '--noise', type=float, default=0.005, help='of log loss (0.005)'
  )
  parser.add_argument('--seed', type=int, default=0, help='of the noise (0)')


def answer(arguments: argparse.Namespace) -> Answer:
  given = read_law(arguments.law)
  check_not_negative(arguments, 'seed')
  if arguments.noise > LARGEST_NOISE:
    raise ValueError(
      f'--noise = {arguments.noise}: must be at most {LARGEST_NOISE:g}, of '
      'log loss'
    )
  density = {s: _mean_density(s) for s in arguments.sparsity}
  cells = itertools.product(
    arguments.linear_parameters, arguments.sparsity, arguments.tokens
  )
  n, s, d = np.array(list(cells), dtype=np.float64).T
  sizes = {
    'average': np.rint(n * [density[each] for each in s.tolist()]),
    'initial': n,
    'final': np.rint(n * (1 - s)),
  }
  loss = simulate_runs(
    given.law, sizes[given.kind], d, noise=arguments.noise, seed=arguments.seed
  )
  runs = Runs(
    tuple(f'simulated-{i + 1}' for i in range(len(n))),
    **{f'{kind}_parameters': values for kind, values in sizes.items()},
    sparsity=s,
    tokens=d,
    loss=loss,
  )
  columns = {name: getattr(runs, name) for name in NUMBERS}
  return Answer(
    data={'law': given.law.as_dict(), 'run': runs.run, **columns},
    # On its own it can be piped into a file; beside a file it need not be.
    text=f'{len(runs)} runs' if arguments.out else as_csv(runs),
    writers={'.csv': lambda path: path.write_text(as_csv(runs))},
  )


def _mean_density(sparsity: float) -> float:
  """N_avg / N by the schedule that the config has by default."""
  return make_plan({'sparsity': sparsity}, steps=STEPS).mean_density
