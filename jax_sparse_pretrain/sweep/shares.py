"""The part of a sweep that one of several processes or machines takes."""

from collections.abc import Sequence

import numpy as np

from jax_sparse_pretrain.model import counts
from jax_sparse_pretrain.sweep import forest
from jax_sparse_pretrain.sweep.sweep_file import Run


def step_flops(run: Run) -> float:
  """FLOPs that hardware spends on a step: pruned weights cost as others."""
  model = run.config.model
  per_token = counts.flops_per_token(model, counts.linear_parameters(model))
  return run.config.tokens_per_step * per_token


def share(
  runs: Sequence[Run], common: np.ndarray, index: int, count: int
) -> list[int]:
  """Indices of the runs of share `index` of `count`, in their order.

  A share is a stretch of the forest in tree order, so that few steps are
  trained in two shares; the shares' FLOPs are as equal as that allows. Whole
  trees only would leave all but one idle where every run has one trunk.
  """
  forks = forest.find_forks(common, [run.plan.steps for run in runs])
  order = forest.in_tree_order(forks)
  alone = [runs[i].plan.steps * step_flops(runs[i]) for i in order]
  # The run before in tree order may come later in the sweep.
  both = np.maximum(common, common.T)
  shared = [0, *(both[i, j] for i, j in zip(order, order[1:], strict=False))]
  after = [
    cost - shared_steps * step_flops(runs[i])
    for cost, shared_steps, i in zip(alone, shared, order, strict=True)
  ]
  stretch = forest.share_out(alone, after, count)[index]
  return sorted(order[position] for position in stretch)
