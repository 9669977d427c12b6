"""Runs to train, from a law and a budget, a loss, or a size to deploy.

Values in, values out: which dense run is optimal, and which sparse runs reach
the same by the law and end smaller (arXiv 2501.12486). `caveats` says what to
keep in mind beside a prediction.
"""

import dataclasses
import typing
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jax_sparse_pretrain import config as config_lib
from jax_sparse_pretrain.analysis.effective import EFFECTIVE
from jax_sparse_pretrain.analysis.fitting.bootstrap import Bootstrap
from jax_sparse_pretrain.analysis.fitting.design import check_level
from jax_sparse_pretrain.analysis.fitting.fit import ScalingLawFit
from jax_sparse_pretrain.analysis.fitting.law import ScalingLaw
from jax_sparse_pretrain.analysis.rounding import Aim, Terms, make_aim
from jax_sparse_pretrain.analysis.train_command import NextRun
from jax_sparse_pretrain.text import short, span

FAR = 3.0  # times the largest fitted N or D, or below the smallest


def caveats(
  fit: ScalingLawFit,
  resamples: Bootstrap | None,
  parameters: Sequence[float],
  tokens: Sequence[float],
  level: float,
  kind: str = 'average',
) -> tuple[str, ...]:
  """What a fit does not know of predictions at these N and D, in sentences."""
  return (
    *fit.warnings_at(level),
    *(resamples.warnings_at(level) if resamples else ()),
    *_beyond(EFFECTIVE[kind].symbol, parameters, fit.parameters),
    *_beyond('D', tokens, fit.tokens),
  )


def _beyond(
  name: str, asked: Sequence[float], known: np.ndarray
) -> Iterator[str]:
  """A law is known where its runs are."""
  for way, value, factor in (
    ('up', max(asked), max(asked) / known.max()),
    ('down', min(asked), known.min() / min(asked)),
  ):
    if factor > 1:
      far = 'far beyond' if factor > FAR else 'beyond'
      yield (
        f'{name} {way} to {short(value)} is {far} the fitted runs, '
        f'{span(known)}, by a factor of {factor:.3g}'
      )


SPARSITIES = (0.2, 0.4, 0.5, 0.6, 0.8, 0.9)
# Of the runs, where nothing else is said: those of the project's C4 configs.
DEFAULTS = config_lib.Config()
Shape = typing.get_type_hints(config_lib.Pruning)['schedule']


class TwinRuns(NamedTuple):
  """A sparse run, and the dense run of its N, as the law counts, and tokens.

  By the law the two reach the same loss, but for the layers that the twin is
  rounded to.
  """

  run: NextRun
  twin: NextRun

  @property
  def fewer_than_twin(self) -> float:
    """Share of the twin's linear parameters that are saved at inference."""
    return self.run.fewer_than(self.twin)


@dataclasses.dataclass(frozen=True)
class RunPlans:
  """What to train.

  Attributes:
    law: the law that predicts the losses.
    kind: what its N counts.
    given: the budget, loss or size asked for.
    dense: the compute-optimal dense run; of a final size alone, the dense run
      of that size.
    sparse: one for each sparsity that can be met.
    level: of the intervals; None if there are none.
    warnings: sentences on what is extrapolated, open or left out.
  """

  law: ScalingLaw
  kind: str
  given: dict[str, float]
  dense: NextRun
  sparse: tuple[TwinRuns, ...]
  level: float | None
  warnings: tuple[str, ...]

  @property
  def runs(self) -> tuple[NextRun, ...]:
    """Dense, then each sparse run and its twin."""
    return (self.dense, *(run for pair in self.sparse for run in pair))

  def as_dict(self) -> dict[str, Any]:
    """All of it in plain values, for JSON."""
    return {
      'law': self.law.as_dict(),
      'kind': self.kind,
      'given': self.given,
      'level': self.level,
      'dense': self.dense.as_dict(),
      'sparse': [
        {
          **each.run.as_dict(),
          'twin': each.twin.as_dict(),
          'fewer_than_twin': each.fewer_than_twin,
          'fewer_than_dense': each.run.fewer_than(self.dense),
        }
        for each in self.sparse
      ],
      'warnings': list(self.warnings),
    }


def plan_run(
  law_or_fit: ScalingLaw | ScalingLawFit,
  *,
  kind: str = 'average',
  compute: float | None = None,
  loss: float | None = None,
  final_parameters: int | float | None = None,
  sparsities: Sequence[float] = SPARSITIES,
  tokens_per_step: int = DEFAULTS.tokens_per_step,
  every: int = DEFAULTS.pruning.every,
  start: float = DEFAULTS.pruning.start,
  end: float = DEFAULTS.pruning.end,
  schedule: Shape = DEFAULTS.pruning.schedule,
  power: float = DEFAULTS.pruning.power,
  vocab_size: int = DEFAULTS.model.vocab_size,
  context_length: int = DEFAULTS.model.context_length,
  base: str | None = None,
  n_resamples: int = 0,
  seed: int = 0,
  groups: Sequence | None = None,
  level: float = 0.95,
) -> RunPlans:
  """Plans the dense run and the sparse runs that meet an aim.

  With `compute`, or the least that reaches `loss`, all runs have the optimal
  N_avg and D. With `final_parameters`, the dense size of each follows from
  its sparsity, and its tokens from the compute, the loss, or, if neither is
  given, from the compute at which its N_avg is the optimal one. Then sizes
  are rounded to models that can be built, and steps to whole mask updates.

  Args:
    law_or_fit: the law. Intervals need a fit.
    kind: what N of the law counts, of `EFFECTIVE`.
    compute: the budget in FLOPs, 6 N_avg D.
    loss: the loss to reach, in nats per token.
    final_parameters: nonzero linear parameters at the end; alone, each run has
      the compute at which its N_avg is optimal. It goes with either of the
      other two.
    sparsities: the final sparsities, each in [0, 1).
    tokens_per_step: predicted tokens in a batch, a multiple of
      `context_length`.
    every: steps between mask updates.
    start: the first mask update, as a fraction of compute.
    end: the last mask update, as a fraction of compute.
    schedule: the shape of the ramp.
    power: the exponent of the shape 'polynomial'.
    vocab_size: the vocabulary of the models, in tokens.
    context_length: the context of the models, in tokens.
    base: FILE.py, the config that the commands start from, for what a plan
      does not set (data, mesh, memory); by default the C4 config nearest in
      size.
    n_resamples: bootstrap resamples for the intervals; 0 for no intervals.
    seed: the seed of the resamples.
    groups: the group of each run of the fit; runs of a group are resampled
      together, as in `ScalingLawFit.bootstrap`.
    level: the level of the intervals.

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
  ramp = {'start': start, 'end': end, 'every': every, 'power': power}
  ramp['shape'] = schedule
  effective, q = EFFECTIVE[kind], fit and fit.count and fit.count.value
  terms = Terms(
    law, effective, q, ramp, tokens_per_step, vocab_size, context_length, base
  )
  terms.check(sparsities)
  aim = make_aim(
    law, compute=compute, loss=loss, final_parameters=final_parameters
  )
  try:
    dense = terms.run(aim.of_dense, 0.0)
    sparse, left_out = _sparse_runs(terms, aim, sparsities)
  except ValueError as error:
    asked = (f'{name} {value:.10g}' for name, value in aim.given.items())
    raise ValueError(f'{", ".join(asked)}: {error}') from None
  plans = RunPlans(law, kind, aim.given, dense, sparse, None, left_out)
  if fit is None:
    return plans

  def counted(q: float | None) -> np.ndarray:
    return np.array(
      [
        effective.of_plan(run.plan, q) * run.linear_parameters
        for run in plans.runs
      ]
    )

  n, d = counted(q), [run.tokens for run in plans.runs]
  resamples = fit.bootstrap(n_resamples, seed, groups) if n_resamples else None
  warnings = (*left_out, *caveats(fit, resamples, n, d, level, kind))
  plans = dataclasses.replace(plans, warnings=warnings)
  if resamples is None:
    return plans
  each = resamples.counted(counted, fit)
  intervals = np.column_stack(resamples.loss_intervals(each, d, level)).tolist()
  dense, *rest = (
    dataclasses.replace(run, interval=tuple(ends))
    for run, ends in zip(plans.runs, intervals, strict=True)
  )
  sparse = tuple(map(TwinRuns, rest[::2], rest[1::2]))
  return dataclasses.replace(plans, dense=dense, sparse=sparse, level=level)


def _sparse_runs(
  terms: Terms, aim: Aim, sparsities: Sequence[float]
) -> tuple[tuple[TwinRuns, ...], tuple[str, ...]]:
  """Those that there are, and why the others are not."""
  found, left_out = [], []
  for sparsity in dict.fromkeys(sparsities):
    try:
      run = terms.run(aim, sparsity)
      found.append(TwinRuns(run, terms.twin(run)))
    except ValueError as error:
      left_out.append(f'sparsity {sparsity:g}: {error}')
  if not found:
    raise ValueError(left_out[0] if left_out else 'sparsities: none is given')
  return tuple(found), tuple(f'left out: {each}' for each in left_out)
