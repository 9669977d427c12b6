"""From a budget, a loss or a size to deploy, to whole layers and steps.

Compute is 6 N_avg D, whatever N of the law counts. Where that is N_avg itself,
the optimum is that of dense runs whatever the sparsity, and a sparse run meets
it with a larger model that ends smaller (arXiv 2501.12486). Another count is a
multiple of N_avg, by the schedule: A / (r N_avg)^alpha is a law of N_avg, too.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jax_sparse_pretrain import config as config_lib
from jax_sparse_pretrain import planning
from jax_sparse_pretrain.analysis.effective import Effective
from jax_sparse_pretrain.analysis.fitting.law import ScalingLaw
from jax_sparse_pretrain.analysis.train_command import (
  NextRun,
  choose_architecture,
  make_config,
  make_settings,
  nearest_base,
)
from jax_sparse_pretrain.model import counts
from jax_sparse_pretrain.schedule import PruningSchedule

# Of a run whose whole steps are not known yet.
TYPICAL_STEPS = 2000


@dataclasses.dataclass(frozen=True)
class Aim:
  """Which size and which compute a run should have, by a law.

  What the caller asked is `given`; the budget, in FLOPs, is None where it
  depends on the size of the run.
  """

  law: ScalingLaw
  given: dict[str, float]
  budget: float | None

  def worth(self, ratio: float) -> 'Aim':
    """The same aim for runs whose N of the law is so many times N_avg."""
    law = dataclasses.replace(self.law, A=self.law.A * ratio**-self.law.alpha)
    budget = self.budget
    if 'loss' in self.given:
      budget = law.compute_for(self.given['loss'])
    return dataclasses.replace(self, law=law, budget=budget)

  def initial_parameters(self, density: float, sparsity: float) -> float:
    """Dense N of a run with this mean density and final sparsity."""
    if 'final_parameters' in self.given:
      return self.given['final_parameters'] / (1 - sparsity)
    n_average, _ = self.law.optimal(self.budget)
    return n_average / density

  def compute(self, average_parameters: float) -> float:
    """FLOPs of a run with this N_avg."""
    if {'final_parameters', 'loss'} <= self.given.keys():
      return _compute_to_reach(self.law, self.given['loss'], average_parameters)
    if self.budget is not None:
      return self.budget
    # Where this N is the optimal one, N = G (C / 6)^(beta / (alpha + beta)).
    at_one, _ = self.law.optimal(1.0)
    exponent = (self.law.alpha + self.law.beta) / self.law.beta
    return _in_range(lambda: (average_parameters / at_one) ** exponent)

  @property
  def of_dense(self) -> 'Aim':
    """The aim of the dense run to compare with: the best for the budget."""
    if self.budget is None:
      return self
    given = {k: v for k, v in self.given.items() if k != 'final_parameters'}
    return dataclasses.replace(self, given=given)


def make_aim(law: ScalingLaw, **asked: float | None) -> Aim:
  """The aim that compute, loss and final_parameters name; None: not given.

  Raises:
    ValueError: for arguments that do not go together or are not positive,
      and for a loss that the law does not reach.
  """
  given = {k: float(value) for k, value in asked.items() if value is not None}
  if len(given.keys() - {'final_parameters'}) > 1 or not given:
    raise ValueError(
      'compute, loss, final_parameters: give one of them, or final_parameters '
      'and one of the others'
    )
  for name, value in given.items():
    if not (np.isfinite(value) and value > 0):
      raise ValueError(f'{name} {value}: must be positive and finite')
  budget = given.get('compute')
  if 'loss' in given:
    budget = law.compute_for(given['loss'])
  return Aim(law, given, budget)


def _compute_to_reach(law: ScalingLaw, loss: float, parameters: float) -> float:
  """FLOPs with which this N reaches the loss, if any do."""
  floor = law.E + law.A * parameters**-law.alpha
  if not loss > floor:
    raise ValueError(
      f'loss {loss}: must be above {floor:.4f}, that of N_avg = '
      f'{parameters:,.0f} and infinite tokens'
    )
  tokens = _in_range(lambda: (law.B / (loss - floor)) ** (1 / law.beta))
  return counts.training_flops(parameters, tokens)


def _in_range(compute: Callable[[], float]) -> float:
  try:
    return compute()
  except OverflowError:
    raise ValueError(
      'the law asks for more compute than a number can hold'
    ) from None


@dataclasses.dataclass(frozen=True)
class Terms:
  """What all runs of a plan have in common.

  Attributes:
    law: the law of the loss.
    effective: what N of the law counts.
    q: the coefficient of the count; None if it has none.
    ramp: shape, start, end, every and power, as `planning.plan` takes them.
    tokens_per_step: predicted tokens in a batch.
    vocab_size: the vocabulary of the models.
    context_length: the context of the models, in tokens.
    base: config file of the commands; None for the nearest in size.
  """

  law: ScalingLaw
  effective: Effective
  q: float | None
  ramp: Mapping[str, Any]
  tokens_per_step: int
  vocab_size: int
  context_length: int
  base: str | None

  def check(self, sparsities: Sequence[float]) -> None:
    """Refuses, with a ValueError that names it, what no run could have."""
    for sparsity in sparsities:
      if not 0 <= sparsity < 1:
        raise ValueError(f'sparsity {sparsity}: must be in [0, 1)')
    tokens, length = self.tokens_per_step, self.context_length
    if tokens < 1 or length < 1 or tokens % length:
      raise ValueError(
        f'tokens_per_step {tokens}: must be a multiple of context_length, '
        f'{length}'
      )
    ramp = {**self.ramp, 'schedule': self.ramp['shape']}
    ramp |= {name: float(ramp[name]) for name in ('start', 'end')}
    del ramp['shape']
    model = {'vocab_size': self.vocab_size, 'context_length': length}
    try:
      config_lib.from_dict({'model': model, 'pruning': ramp})
    except config_lib.ConfigError as error:
      words = str(error).replace('pruning.', '').replace('model.', '')
      raise ValueError(words) from None
    check_one_shot(ramp['schedule'], ramp['start'], ramp['end'])

  def run(self, aim: Aim, sparsity: float) -> NextRun:
    """The run of this sparsity that meets the aim; an error says why not."""
    # The mean over the steps, before there are whole ones.
    asked = PruningSchedule(sparsity=sparsity, **self.ramp)
    density = 1 / planning.stretch(asked)
    plan = self._typical(sparsity)
    # Whole layers and updates move the mean density a little, and with it the
    # size that is wanted. It is known to a step or so after one round.
    for _ in range(3):
      ratio = self.effective.of_plan(plan, self.q) / plan.mean_density
      scaled = aim.worth(ratio)
      wanted = scaled.initial_parameters(density, sparsity)
      model = choose_architecture(wanted, self.vocab_size, self.context_length)
      size = counts.linear_parameters(model)
      plan = self._plan(scaled.compute(density * size), sparsity, size)
      density = plan.mean_density
    return self._made(model, plan, wanted, scaled.compute(density * size))

  def _typical(self, sparsity: float) -> planning.Plan:
    """A run of many steps, by the ramp."""
    if sparsity == 0:
      return self._dense_plan(steps=TYPICAL_STEPS)
    length = {'unit': 'compute_fraction', 'dense_steps': TYPICAL_STEPS}
    ramp = {**self.ramp, 'every': 1}
    return planning.plan(sparsity=sparsity, **length, **ramp)

  def twin(self, run: NextRun) -> NextRun:
    """The dense run of the same N, as near as models come, and tokens."""
    n = run.effective_parameters
    model = choose_architecture(n, self.vocab_size, self.context_length)
    plan = self._dense_plan(steps=run.plan.steps)
    compute = counts.training_flops(n, run.tokens)
    return self._made(model, plan, n, compute)

  def _made(self, model, plan, wanted: float, compute: float) -> NextRun:
    settings = make_settings(model, plan, self.tokens_per_step, compute)
    size = counts.linear_parameters(model)
    tokens = plan.steps * self.tokens_per_step
    effective = self.effective.of_plan(plan, self.q) * size
    loss = self.law.loss(effective, tokens)
    base = self.base or nearest_base(size)
    config = make_config(settings)
    return NextRun(
      config, plan, base, settings, wanted, compute, effective, loss
    )

  def _plan(self, compute: float, sparsity: float, size: int) -> planning.Plan:
    a_step = counts.training_flops(size, self.tokens_per_step)
    dense_steps = round(compute / a_step)
    if dense_steps < 1:
      raise ValueError(
        f'a step of {self.tokens_per_step:,} tokens with {size:,} '
        f'parameters takes {a_step:.2e} FLOPs, more than the run; make '
        'tokens_per_step smaller'
      )
    if dense_steps > planning.MAX_STEPS:
      raise ValueError(
        f'{dense_steps:.3g} steps of {self.tokens_per_step:,} tokens: must be '
        f'at most {planning.MAX_STEPS:,}; make tokens_per_step larger'
      )
    if sparsity == 0:
      return self._dense_plan(dense_steps=dense_steps)
    unit = 'compute_fraction'
    return planning.plan(
      sparsity=sparsity, unit=unit, dense_steps=dense_steps, **self.ramp
    )

  def _dense_plan(self, **length: int) -> planning.Plan:
    ramp = {**self.ramp, 'start': 0.0, 'end': 0.0}
    return planning.plan(sparsity=0.0, unit='steps', **ramp, **length)


def check_one_shot(schedule: str, start: float, end: float) -> None:
  """Raises a ValueError for one shot with a ramp."""
  if schedule == 'one_shot' and start != end:
    raise ValueError(
      f'start = {start}, end = {end}: must be equal for one_shot'
    )
