"""From a wanted size and compute to whole layers, steps and mask updates."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from jax_sparse_pretrain import config as config_lib
from jax_sparse_pretrain import planning
from jax_sparse_pretrain.analysis.fitting.law import FLOPS, ScalingLaw
from jax_sparse_pretrain.analysis.plans.aims import Aim
from jax_sparse_pretrain.analysis.plans.architecture import choose_architecture
from jax_sparse_pretrain.analysis.plans.command import nearest_base, run_config
from jax_sparse_pretrain.analysis.plans.planned_run import PlannedRun
from jax_sparse_pretrain.model import counts
from jax_sparse_pretrain.schedule import PruningSchedule


@dataclasses.dataclass(frozen=True)
class Planner:
  """What the runs of one plan share.

  Attributes:
    law: of the loss.
    ramp: shape, start, end, every and power of a `PruningSchedule`.
    tokens_per_step: predicted tokens in a batch.
    vocab_size: of the models.
    context_length: of the models.
    base: config file of the commands; None for the nearest in size.
  """

  law: ScalingLaw
  ramp: Mapping[str, Any]
  tokens_per_step: int
  vocab_size: int
  context_length: int
  base: str | None

  def check(self, sparsities: Iterable[float]) -> None:
    """Raises a ValueError for what no run could have, naming it."""
    for sparsity in sparsities:
      if not 0 <= sparsity < 1:
        raise ValueError(f'sparsity {sparsity}: must be in [0, 1)')
    tokens, length = self.tokens_per_step, self.context_length
    if tokens < 1 or length < 1 or tokens % length:
      raise ValueError(
        f'tokens_per_step {tokens}: must be a multiple of context_length, '
        f'{length}'
      )
    ramp = {k: v for k, v in self.ramp.items() if k != 'shape'}
    ramp.update(start=float(ramp['start']), end=float(ramp['end']))
    asked = {'schedule': self.ramp['shape'], **ramp}
    model = {'vocab_size': self.vocab_size, 'context_length': length}
    try:
      config_lib.from_dict({'model': model, 'pruning': asked})
    except config_lib.ConfigError as error:
      words = str(error).replace('pruning.', '').replace('model.', '')
      raise ValueError(words) from None
    check_one_shot(**asked)

  def run(self, aim: Aim, sparsity: float) -> PlannedRun:
    """The run of this sparsity that meets the aim.

    Raises:
      ValueError: if there is none, saying why.
    """
    density = self._continuous_density(sparsity)
    # Whole layers and updates move the mean density a little, and with it the
    # size that is wanted. It is known to a step or so after one round.
    for _ in range(3):
      wanted = aim.initial_parameters(density, sparsity)
      model = choose_architecture(wanted, self.vocab_size, self.context_length)
      size = counts.linear_parameters(model)
      plan = self._plan(aim, sparsity, size, density)
      density = plan.mean_density
    return self._planned(model, plan, wanted, aim.compute(density * size))

  def twin(self, run: PlannedRun) -> PlannedRun:
    """The dense run of the same N_avg, as near as models come, and tokens."""
    average = run.average_parameters
    model = choose_architecture(average, self.vocab_size, self.context_length)
    plan = self._dense_plan(steps=run.plan.steps)
    return self._planned(model, plan, average, run.compute_flops)

  def _continuous_density(self, sparsity: float) -> float:
    """Mean over the steps, before there are whole ones."""
    asked = PruningSchedule(sparsity=sparsity, **self.ramp)
    return 1 / planning.stretch(asked)

  def _plan(
    self, aim: Aim, sparsity: float, size: int, density: float
  ) -> planning.Plan:
    a_step = FLOPS * size * self.tokens_per_step
    dense_steps = round(aim.compute(density * size) / a_step)
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
    return planning.plan(
      sparsity=sparsity,
      unit='compute_fraction',
      dense_steps=dense_steps,
      **self.ramp,
    )

  def _dense_plan(self, **length: int) -> planning.Plan:
    ramp = {**self.ramp, 'start': 0.0, 'end': 0.0}
    return planning.plan(sparsity=0.0, unit='steps', **ramp, **length)

  def _planned(
    self,
    model: config_lib.Model,
    plan: planning.Plan,
    wanted: float,
    compute: float,
  ) -> PlannedRun:
    size = counts.linear_parameters(model)
    tokens = plan.steps * self.tokens_per_step
    return PlannedRun(
      config=run_config(model, plan, self.tokens_per_step, compute),
      plan=plan,
      base=self.base or nearest_base(size),
      wanted_parameters=wanted,
      wanted_compute=compute,
      loss=self.law.loss(plan.mean_density * size, tokens),
    )


def check_one_shot(schedule: str, start: float, end: float, **_) -> None:
  """One shot has no ramp.

  Raises:
    ValueError: if there is one.
  """
  if schedule == 'one_shot' and start != end:
    raise ValueError(
      f'start = {start}, end = {end}: must be equal for one_shot'
    )
