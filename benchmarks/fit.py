"""Time of the fit and of its bootstrap, against SciPy on the same objective.

  python -m benchmarks.fit [--rounds 5] [--starts 40] [--resamples 40] [--all]

The 240 Chinchilla runs of Besiroglu et al. (arXiv 2404.10102), one process,
one thread, one of each in turn, in an order drawn anew each round; times are
medians over rounds.

Hoffmann: SciPy's L-BFGS-B with finite differences from the 4,500 published
starts. Each round times `--starts` of them, drawn at random, and scales to
4,500; `--all` runs them all, in the first round only.
BFGS: SciPy's BFGS with exact gradients from the optimum of all data, one start
a resample. Each round times `--resamples` of 4,000 and scales. It is timed
with SciPy's own tolerance, at which it stops early, and with one that reaches
the optimum; how far they end above ours is printed with them.
"""

import os

# Before numpy is loaded, which reads them once.
for _name in ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MKL_NUM_THREADS'):
  os.environ[_name] = '1'

import argparse  # noqa: E402
import csv  # noqa: E402
import pathlib  # noqa: E402
import random  # noqa: E402
import statistics  # noqa: E402
import time  # noqa: E402

import numpy as np  # noqa: E402
from scipy import optimize, special  # noqa: E402

from jax_sparse_pretrain.analysis.fitting import design  # noqa: E402
from jax_sparse_pretrain.analysis.fitting.fit import fit_scaling_law  # noqa: E402
from jax_sparse_pretrain.analysis.fitting.grid import (  # noqa: E402
  hoffmann_starts,
  objective,
)

RUNS = (
  pathlib.Path(__file__).parents[1]
  / 'published_runs'
  / 'chinchilla_figure4_runs.csv'
)
DELTA = 1e-3
N_STARTS, N_RESAMPLES = 4500, 4000


def chinchilla():
  """N, D and loss of the 240 runs that are left without the five worst."""
  with open(RUNS) as file:
    rows = list(csv.DictReader(file))
  names = ('Model Size', 'Training FLOP', 'loss')
  size, flops, loss = (np.array([float(r[n]) for r in rows]) for n in names)
  kept = np.argsort(loss)[:-5]
  return size[kept], (flops / (6 * size))[kept], loss[kept]


def huber_of_logsumexp(point, log_n, log_d, log_loss):
  """As it is usually written, for finite differences."""
  a, b, e, alpha, beta = point
  terms = [a - alpha * log_n, b - beta * log_d, np.full_like(log_n, e)]
  predicted = special.logsumexp(terms, axis=0)
  return special.huber(DELTA, log_loss - predicted).sum()


def seconds(function):
  start = time.perf_counter()
  result = function()
  return time.perf_counter() - start, result


class Contest:
  """The methods, and what each of them found."""

  def __init__(self, columns, n_starts: int, n_resamples: int):
    self.columns = columns
    self.logs = [np.log(values) for values in columns]
    self.fit = fit_scaling_law(*columns)
    self.resamples = self.fit.bootstrap(N_RESAMPLES, seed=42)
    self.order = design.make(*columns).order
    self.rng = np.random.default_rng(0)
    self.n_starts, self.n_resamples = n_starts, n_resamples
    self.best = np.inf
    self.excess = {'BFGS': [], 'BFGS, tight': []}

  def ours(self) -> float:
    return seconds(lambda: fit_scaling_law(*self.columns))[0]

  def our_bootstrap(self) -> float:
    return seconds(lambda: self.fit.bootstrap(N_RESAMPLES, seed=42))[0]

  def hoffmann(self) -> float:
    """Seconds for all starts, scaled from some."""
    starts = self.rng.permutation(hoffmann_starts())[: self.n_starts]
    spent, found = seconds(
      lambda: [
        optimize.minimize(
          huber_of_logsumexp, start, args=tuple(self.logs), method='L-BFGS-B'
        ).fun
        for start in starts
      ]
    )
    self.best = min(self.best, *found)
    return spent * N_STARTS / len(starts)

  def bfgs(self, name: str, **options) -> float:
    """Seconds for all resamples, scaled from some."""
    law = self.fit.law
    start = [*np.log([law.A, law.B, law.E]), law.alpha, law.beta]
    picked = self.rng.permutation(N_RESAMPLES)[: self.n_resamples]
    total = 0.0
    for i in picked:
      drawn = np.repeat(self.order, self.resamples.counts[i])
      rows = [values[drawn] for values in self.logs]
      spent, found = seconds(
        lambda rows=rows: optimize.minimize(
          objective,
          start,
          args=(*rows, DELTA),
          jac=True,
          method='BFGS',
          options=options,
        )
      )
      total += spent
      self.excess[name].append(found.fun / self.resamples.objectives[i] - 1)
    return total * N_RESAMPLES / len(picked)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--rounds', type=int, default=5)
  parser.add_argument('--starts', type=int, default=40, help='timed a round')
  parser.add_argument('--resamples', type=int, default=40, help='timed a round')
  parser.add_argument(
    '--all', action='store_true', help='run all 4,500 starts, once'
  )
  args = parser.parse_args()
  n_starts = N_STARTS if args.all else args.starts
  contest = Contest(chinchilla(), n_starts, args.resamples)
  methods = {
    'global fit': contest.ours,
    'Hoffmann': contest.hoffmann,
    '4,000 resamples': contest.our_bootstrap,
    'BFGS': lambda: contest.bfgs('BFGS'),
    'BFGS, tight': lambda: contest.bfgs('BFGS, tight', gtol=1e-9),
  }
  times = {name: [] for name in methods}
  order = random.Random(0)
  for i in range(args.rounds):
    for name in order.sample(list(methods), len(methods)):
      if name == 'Hoffmann' and args.all and i > 0:
        continue
      times[name].append(methods[name]())
  report(contest, times, n_starts, args.resamples)


def report(contest: Contest, times, n_starts: int, n_resamples: int) -> None:
  medians = {name: statistics.median(each) for name, each in times.items()}
  optimum = contest.fit.objective
  hoffmann = contest.best / optimum - 1
  rows = [
    ('global fit', 'global fit', f'{optimum:.15g}'),
    ('Hoffmann', 'global fit', f'best {hoffmann:+.1e} of ours'),
    ('4,000 resamples', '4,000 resamples', ''),
  ]
  for name, excess in contest.excess.items():
    text = f'ends {np.median(excess):+.1e} of ours, at most {max(excess):+.1e}'
    rows.append((name, '4,000 resamples', text))
  print(f'{"method":16}  {"time":>10}  {"time / ours":>11}  objective')
  for name, ours, text in rows:
    ratio = medians[name] / medians[ours]
    print(f'{name:16}  {medians[name]:8.4f} s  {ratio:11,.0f}  {text}')
  print(f'Hoffmann: {n_starts} of {N_STARTS:,} starts timed, scaled.')
  print(f'BFGS: {n_resamples} of {N_RESAMPLES:,} resamples a round, scaled.')


if __name__ == '__main__':
  main()
