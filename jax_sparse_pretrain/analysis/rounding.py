"""From a wanted size and compute to whole layers, steps and mask updates."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jax_sparse_pretrain import config as config_lib
from jax_sparse_pretrain import planning
from jax_sparse_pretrain.analysis.aims import Aim
from jax_sparse_pretrain.analysis.architecture import choose_architecture
from jax_sparse_pretrain.analysis.fitting.law import ScalingLaw
from jax_sparse_pretrain.analysis.train_command import (
  NextRun,
  make_config,
  make_settings,
  nearest_base,
)
from jax_sparse_pretrain.model import counts
from jax_sparse_pretrain.schedule import PruningSchedule


@dataclasses.dataclass(frozen=True)
class Terms:
  """What all runs of a plan have in common.

  Attributes:
    law: the law of the loss.
    ramp: shape, start, end, every and power, as `planning.plan` takes them.
    tokens_per_step: predicted tokens in a batch.
    vocab_size: the vocabulary of the models.
    context_length: the context of the models, in tokens.
    base: config file of the commands; None for the nearest in size.
  """

  law: ScalingLaw
  ramp: Mapping[str, Any]
  tokens_per_step: int
  vocab_size: int
  context_length: int
  base: str | None

  def check(self, sparsities: Sequence[float]) -> None:
    """Refuses what no run could have.

    Raises:
      ValueError: naming it.
    """
    for sparsity in sparsities:
      if not 0 <= sparsity < 1:
        raise ValueError(f'sparsity {sparsity}: must be in [0, 1)')
    tokens, length = self.tokens_per_step, self.context_length
    if tokens < 1 or length < 1 or tokens % length:
      raise ValueError(
        f'tokens_per_step {tokens}: must be a multiple of context_length, '
        f'{length}'
      )
    pruning = {k: v for k, v in self.ramp.items() if k != 'shape'}
    pruning.update(
      schedule=self.ramp['shape'],
      start=float(self.ramp['start']),
      end=float(self.ramp['end']),
    )
    model = {'vocab_size': self.vocab_size, 'context_length': length}
    try:
      config_lib.from_dict({'model': model, 'pruning': pruning})
    except config_lib.ConfigError as error:
      words = str(error).replace('pruning.', '').replace('model.', '')
      raise ValueError(words) from None
    check_one_shot(pruning['schedule'], pruning['start'], pruning['end'])

  def run(self, aim: Aim, sparsity: float) -> NextRun:
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
      plan = self._plan(aim.compute(density * size), sparsity, size)
      density = plan.mean_density
    return self._made(model, plan, wanted, aim.compute(density * size))

  def twin(self, run: NextRun) -> NextRun:
    """The dense run of the same N_avg, as near as models come, and tokens."""
    average = run.average_parameters
    model = choose_architecture(average, self.vocab_size, self.context_length)
    plan = self._dense_plan(steps=run.plan.steps)
    return self._made(model, plan, average, run.compute_flops)

  def _continuous_density(self, sparsity: float) -> float:
    """Mean over the steps, before there are whole ones."""
    asked = PruningSchedule(sparsity=sparsity, **self.ramp)
    return 1 / planning.stretch(asked)

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
    return planning.plan(
      sparsity=sparsity,
      unit='compute_fraction',
      dense_steps=dense_steps,
      **self.ramp,
    )

  def _dense_plan(self, **length: int) -> planning.Plan:
    ramp = {**self.ramp, 'start': 0.0, 'end': 0.0}
    return planning.plan(sparsity=0.0, unit='steps', **ramp, **length)

  def _made(
    self,
    model: config_lib.Model,
    plan: planning.Plan,
    wanted: float,
    compute: float,
  ) -> NextRun:
    size = counts.linear_parameters(model)
    tokens = plan.steps * self.tokens_per_step
    settings = make_settings(model, plan, self.tokens_per_step, compute)
    return NextRun(
      config=make_config(settings),
      plan=plan,
      base=self.base or nearest_base(size),
      settings=settings,
      wanted_parameters=wanted,
      wanted_compute=compute,
      loss=self.law.loss(plan.mean_density * size, tokens),
    )


def check_one_shot(schedule: str, start: float, end: float) -> None:
  """One shot has no ramp.

  Raises:
    ValueError: if there is one.
  """
  if schedule == 'one_shot' and start != end:
    raise ValueError(
      f'start = {start}, end = {end}: must be equal for one_shot'
    )
