"""Time of one mask update: ours, by sorting, jaxpruner's, and the floor.

  python -m benchmarks.pruning [--rounds 15] [--millions 0.25 1 4 16]

One float32 kernel of which 60 % stay, all in one process, one update of each
in turn, in an order drawn anew each round. Ratios are over ours, medians and
errors as in `benchmarks.step`.

with sums: ours, and the sums of |w| before and after it (measure_mass).
sort: the threshold from a sorted copy; keeps more than k where weights tie.
jaxpruner: its topk_mask_calculator, an argsort, if it can be imported.
31 passes: 31 times the number of weights at or above a threshold, which is
what a bisection on the bits of a float32 counts.
"""

import argparse
import functools
import statistics

import jax
import jax.numpy as jnp

from benchmarks.step import interleaved, ratio
from jax_sparse_pretrain.pruning import (
  DISTRIBUTIONS,
  Kernel,
  apply_masks,
  keep_largest,
  sums_of_magnitudes,
)
from jax_sparse_pretrain.pruning.jaxpruner import load_jaxpruner

KEPT = 0.6


def ours(weight: jax.Array, with_sums: bool = False):
  kernels = {'kernel': Kernel(weight.shape, stacked=False)}
  distribution = DISTRIBUTIONS['global']
  budget = distribution.budget(kernels, KEPT)

  @jax.jit
  def update(weight, mask, budget):
    weights = {'kernel': weight}
    kept = keep_largest(
      weights, {'kernel': mask}, kernels, budget, distribution
    )
    if not with_sums:
      return kept
    left = apply_masks(weights, kept)
    return kept, [sums_of_magnitudes(w, kernels) for w in (weights, left)]

  mask = jnp.ones(weight.shape, bool)
  return functools.partial(update, weight, mask, budget)


def by_sort(weight: jax.Array):
  @jax.jit
  def update(weight):
    magnitude = jnp.abs(weight)
    pruned = round(weight.size * (1 - KEPT))
    return magnitude >= jnp.sort(magnitude, axis=None)[pruned]

  return functools.partial(update, weight)


def by_jaxpruner(weight: jax.Array):
  """None where jaxpruner is not installed."""
  try:
    mask_calculator = load_jaxpruner().mask_calculator
  except ValueError:
    return None

  @jax.jit
  def update(weight):
    scores = jnp.abs(weight)
    return mask_calculator.topk_mask_calculator(scores, 1 - KEPT)

  return functools.partial(update, weight)


def floor(weight: jax.Array):
  @jax.jit
  def passes(weight, thresholds):
    def count(threshold):
      return jnp.sum(jnp.abs(weight) >= threshold, dtype=jnp.uint32)

    return jax.lax.map(count, thresholds)

  return functools.partial(passes, weight, jnp.linspace(0.0, 3.0, 31))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--rounds', type=int, default=15)
  parser.add_argument(
    '--millions', type=float, nargs='+', default=[0.25, 1, 4, 16]
  )
  args = parser.parse_args()
  makers = {
    'ours': ours,
    'with sums': functools.partial(ours, with_sums=True),
    'sort': by_sort,
    'jaxpruner': by_jaxpruner,
    '31 passes': floor,
  }
  print(f'{"weights":>10}  {"method":10}  {"time":>10}  {"time / ours":>18}')
  for millions in args.millions:
    shape = (round(millions * 1024), 1024)
    weight = jax.random.normal(jax.random.key(0), shape)
    made = {name: make(weight) for name, make in makers.items()}
    updates = {name: update for name, update in made.items() if update}
    seconds = interleaved(updates, args.rounds)
    for name, times in seconds.items():
      print(
        f'{weight.size:10,}',
        f'{name:10}',
        f'{1e3 * statistics.median(times):7.1f} ms',
        f'{ratio(times, seconds["ours"]):>18}',
        sep='  ',
        flush=True,
      )


if __name__ == '__main__':
  main()
