r"""Beyond the paper: does only N_avg matter, and which weights go?

  python -m jax_sparse_pretrain.sweep --config=configs/sweep_shapes.py \
    --workdir=DIR

Runs of equal N_avg, within 0.2 %, and of equal tokens. The reference is
geometric, 25-75 % of compute, to 80 %. The others change the shape of the ramp,
when it comes or how deep it goes, and move one end of it until N_avg is the
reference's; or they change how weights are chosen. Four seeds each.
Cost: fifteen minutes on two CPU cores.
"""

from collections.abc import Iterator
from typing import Any

import small

from jax_sparse_pretrain import config as config_lib
from jax_sparse_pretrain.planning import Plan
from jax_sparse_pretrain.schedule import PruningSchedule
from jax_sparse_pretrain.training import recipe

SPARSITY, DEEP = 0.8, 0.95
SEEDS = range(4)
WIDTH = 48
TOKENS = 1_500_000


def get_config():
  config = small.get_config(WIDTH, TOKENS)
  config.pruning.sparsity = SPARSITY
  return config


def get_runs():
  for seed in SEEDS:
    for arm, changes in arms():
      yield f'{arm}_{seed}', {'seed': seed, **changes}


def arms() -> Iterator[tuple[str, dict[str, Any]]]:
  """(name, what it changes)."""
  plan = recipe.make_plan(config_lib.from_dict(get_config().to_dict()))
  start, density = plan.schedule.start, plan.mean_density
  yield 'geometric', {}
  yield 'cubic', _ramp(plan, 'cubic', start)
  yield 'linear', _ramp(plan, 'linear', start)
  yield 'early', _ramp(plan, 'geometric', 0)
  yield 'one_shot', _jump(plan, SPARSITY)
  yield 'one_shot_deep', _jump(plan, DEEP)
  yield 'from_the_start', _jump(plan, 1 - density)
  yield 'uniform', {'pruning.distribution': 'uniform'}
  yield 'random', {'pruning.algorithm': 'random'}


def _ramp(plan: Plan, shape: str, start: int) -> dict[str, Any]:
  """From a step to the end that gives the plan's N_avg."""
  ends = range(start, plan.steps - 1)
  return _nearest(plan, shape, SPARSITY, [(start, end) for end in ends])


def _jump(plan: Plan, sparsity: float) -> dict[str, Any]:
  """At the one step that gives the plan's N_avg."""
  steps = range(plan.steps - 1)
  return _nearest(plan, 'one_shot', sparsity, [(step, step) for step in steps])


def _nearest(
  plan: Plan, shape: str, sparsity: float, ramps: list[tuple[int, int]]
) -> dict[str, Any]:
  def off(ramp: tuple[int, int]) -> float:
    schedule = PruningSchedule(shape, sparsity, *ramp, plan.schedule.every)
    return abs(schedule.compute(plan.steps) - plan.dense_steps)

  start, end = min(ramps, key=off)
  return {
    'pruning.schedule': shape,
    'pruning.sparsity': sparsity,
    'pruning.unit': 'steps',
    'pruning.start': start,
    'pruning.end': end,
  }
