"""How often the intervals of the fit hold the truth, over simulated runs.

  python -m benchmarks.coverage --sizes 8 --noise 0.005 [--draws 200]

Draws runs of a known law on a square grid of sizes and token counts and counts,
for each coefficient, the draws whose interval holds its true value. The first
design of the table in docs/analysis.md is asserted by the tests.
"""

import argparse

import numpy as np

from jax_sparse_pretrain.analysis import (
  ScalingLaw,
  fit_scaling_law,
  simulate_runs,
)

LAW = ScalingLaw(E=1.8, A=480.0, B=2100.0, alpha=0.35, beta=0.37)


def coverage(sizes: int, noise: float, draws: int, n_resamples: int):
  """{'profile' and 'bootstrap': {coefficient: share of the draws}}."""
  grid = np.meshgrid(
    np.geomspace(3e7, 1e10, sizes), np.geomspace(1e9, 1e12, sizes)
  )
  parameters, tokens = (values.ravel() for values in grid)
  truth = LAW.as_dict()
  hits = {kind: dict.fromkeys(truth, 0) for kind in ('profile', 'bootstrap')}
  for seed in range(draws):
    loss = simulate_runs(LAW, parameters, tokens, noise=noise, seed=seed)
    fit = fit_scaling_law(parameters, tokens, loss)
    found = {
      'profile': fit.intervals(),
      'bootstrap': fit.bootstrap(n_resamples, seed=seed).intervals(),
    }
    for kind, intervals in found.items():
      for name, (low, high) in intervals.items():
        hits[kind][name] += low <= truth[name] <= high
  return {
    kind: {name: n / draws for name, n in each.items()}
    for kind, each in hits.items()
  }


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--sizes', type=int, default=12, help='along each side')
  parser.add_argument('--noise', type=float, default=0.003, help='of log loss')
  parser.add_argument('--draws', type=int, default=200)
  parser.add_argument('--resamples', type=int, default=200)
  args = parser.parse_args()
  found = coverage(args.sizes, args.noise, args.draws, args.resamples)
  for kind, shares in found.items():
    text = '  '.join(f'{name} {share:.1%}' for name, share in shares.items())
    print(f'{kind:9}  {text}')


if __name__ == '__main__':
  main()
