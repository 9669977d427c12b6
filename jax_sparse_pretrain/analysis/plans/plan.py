"""Runs to train, from a law and a budget, a loss, or a size to deploy.

Values in, values out: which dense run is optimal, and which sparse runs reach
the same by the law and end smaller (arXiv 2501.12486).
"""

import dataclasses
from collections.abc import Sequence

from jax_sparse_pretrain.analysis.fitting.bootstrap import (
  Bootstrap,
  check_level,
)
from jax_sparse_pretrain.analysis.fitting.fit import ScalingLawFit
from jax_sparse_pretrain.analysis.fitting.law import ScalingLaw
from jax_sparse_pretrain.analysis.plans.aims import Aim, make_aim
from jax_sparse_pretrain.analysis.plans.caveats import caveats
from jax_sparse_pretrain.analysis.plans.planner import Planner
from jax_sparse_pretrain.analysis.plans.results import RunPlans, SparsePlan
from jax_sparse_pretrain.config import Config

SPARSITIES = (0.2, 0.4, 0.5, 0.6, 0.8, 0.9)
# Of the runs, where nothing else is said: those of the project's C4 configs.
DEFAULTS = Config()


def plan_run(
  law_or_fit: ScalingLaw | ScalingLawFit,
  *,
  compute: float | None = None,
  loss: float | None = None,
  final_parameters: float | None = None,
  sparsities: Sequence[float] = SPARSITIES,
  tokens_per_step: int = DEFAULTS.tokens_per_step,
  every: int = DEFAULTS.pruning.every,
  start: float = DEFAULTS.pruning.start,
  end: float = DEFAULTS.pruning.end,
  schedule: str = DEFAULTS.pruning.schedule,
  power: float = DEFAULTS.pruning.power,
  vocab_size: int = DEFAULTS.model.vocab_size,
  context_length: int = DEFAULTS.model.context_length,
  base: str | None = None,
  n_resamples: int = 0,
  seed: int = 0,
  groups=None,
  level: float = 0.95,
) -> RunPlans:
  """Plans the dense run and the sparse runs that meet an aim.

  With `compute`, or the least that reaches `loss`, all runs have the optimal
  N_avg and D. With `final_parameters`, the dense size of each follows from
  its sparsity, and its tokens from the compute, the loss, or, if neither is
  given, from the compute at which its N_avg is the optimal one. Then sizes
  are rounded to models that can be built, and steps to whole mask updates.

  Args:
    law_or_fit: of average parameters. Intervals need a fit.
    compute: FLOPs, 6 N_avg D.
    loss: to reach, in nats per token.
    final_parameters: nonzero linear parameters at the end.
    sparsities: final, each in [0, 1).
    tokens_per_step: predicted tokens in a batch, whole rows.
    every: steps between mask updates.
    start: of the ramp, as a fraction of compute.
    end: of the ramp, likewise.
    schedule: a key of `SHAPES`.
    power: of the schedule 'polynomial'.
    vocab_size: of the models.
    context_length: of the models, in tokens.
    base: config file that the commands start from; by default the one of the
      project's whose model is nearest in size.
    n_resamples: of the bootstrap for intervals; 0 for none.
    seed: of the resamples.
    groups: of the resamples, as in `ScalingLawFit.bootstrap`.
    level: of the intervals.

  Raises:
    ValueError: for arguments that do not go together or are out of range,
      naming them, for an aim that the law cannot reach, and if no sparsity
      can be met.
  """
  fit = law_or_fit if isinstance(law_or_fit, ScalingLawFit) else None
  law = fit.law if fit else law_or_fit
  check_level(level)
  if n_resamples and fit is None:
    raise ValueError(f'n_resamples {n_resamples}: intervals need a fit')
  planner = Planner(
    law,
    {
      'shape': schedule,
      'start': start,
      'end': end,
      'every': every,
      'power': power,
    },
    tokens_per_step,
    vocab_size,
    context_length,
    base,
  )
  planner.check(sparsities)
  aim = make_aim(law, compute, loss, final_parameters)
  try:
    dense = planner.run(aim.of_dense or aim, 0.0)
    sparse, left_out = _sparse_plans(planner, aim, sparsities)
  except ValueError as error:
    asked = ', '.join(
      f'{name} {value:.10g}' for name, value in aim.given.items()
    )
    raise ValueError(f'{asked}: {error}') from None
  plans = RunPlans(law, aim.given, dense, sparse, None, left_out)
  if fit is None:
    return plans
  resamples = fit.bootstrap(n_resamples, seed, groups) if n_resamples else None
  return _as_known(plans, fit, resamples, level)


def _sparse_plans(
  planner: Planner, aim: Aim, sparsities: Sequence[float]
) -> tuple[tuple[SparsePlan, ...], tuple[str, ...]]:
  """Those that there are, and why the others are not."""
  plans, left_out = [], []
  for sparsity in dict.fromkeys(sparsities):
    try:
      run = planner.run(aim, sparsity)
      plans.append(SparsePlan(run, planner.twin(run)))
    except ValueError as error:
      left_out.append(f'sparsity {sparsity:g}: {error}')
  if not plans:
    raise ValueError(left_out[0] if left_out else 'sparsities: none is given')
  return tuple(plans), tuple(f'left out: {each}' for each in left_out)


def _as_known(
  plans: RunPlans,
  fit: ScalingLawFit,
  resamples: Bootstrap | None,
  level: float,
) -> RunPlans:
  """The plans with what the fit says of their losses."""
  n = [run.average_parameters for run in plans.runs]
  d = [run.tokens for run in plans.runs]
  said = (*plans.warnings, *caveats(fit, resamples, n, d, level))
  plans = dataclasses.replace(plans, warnings=said)
  if resamples is None:
    return plans
  return _with_intervals(plans, resamples.loss_intervals(n, d, level), level)


def _with_intervals(plans: RunPlans, intervals, level: float) -> RunPlans:
  low, high = intervals
  pairs = zip(low.tolist(), high.tolist(), strict=True)
  dense, *rest = (
    dataclasses.replace(run, interval=interval)
    for run, interval in zip(plans.runs, pairs, strict=True)
  )
  sparse = tuple(map(SparsePlan, rest[::2], rest[1::2]))
  return dataclasses.replace(plans, dense=dense, sparse=sparse, level=level)
