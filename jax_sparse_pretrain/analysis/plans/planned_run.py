"""A run to train: its model, its whole steps, and the command for them."""

import dataclasses
from typing import Any

from jax_sparse_pretrain.analysis.fitting.law import FLOPS
from jax_sparse_pretrain.analysis.plans.command import overrides
from jax_sparse_pretrain.config import Config
from jax_sparse_pretrain.model import counts
from jax_sparse_pretrain.planning import Plan
from jax_sparse_pretrain.text import closed


@dataclasses.dataclass(frozen=True)
class PlannedRun:
  """A run in whole layers, steps and mask updates.

  Attributes:
    config: of the run, checked; its ramp and length are in steps.
    plan: the same ramp and length.
    base: config file that the command starts from.
    wanted_parameters: dense linear parameters, before there was a model.
    wanted_compute: FLOPs, before there were whole steps.
    loss: predicted, in nats per token.
    interval: of the law at this point, (low, high), where an open side is 0
      or infinite; None if not known.
  """

  config: Config
  plan: Plan
  base: str
  wanted_parameters: float
  wanted_compute: float
  loss: float
  interval: tuple[float, float] | None = None

  @property
  def sparsity(self) -> float:
    return self.plan.schedule.sparsity

  @property
  def linear_parameters(self) -> int:
    """Of the model before it is pruned; exact."""
    return counts.linear_parameters(self.config.model)

  @property
  def average_parameters(self) -> float:
    """N_avg over the planned steps."""
    return self.plan.mean_density * self.linear_parameters

  @property
  def final_parameters(self) -> int:
    """Nonzero linear parameters at the end."""
    return round((1 - self.sparsity) * self.linear_parameters)

  @property
  def final_total_parameters(self) -> int:
    """The same with input embedding and norm scales, which stay dense."""
    total = counts.total_parameters(self.config.model)
    return total - self.linear_parameters + self.final_parameters

  @property
  def tokens(self) -> int:
    return self.plan.steps * self.config.tokens_per_step

  @property
  def compute_flops(self) -> float:
    """C = 6 N_avg D."""
    return FLOPS * self.average_parameters * self.tokens

  @property
  def inference_flops(self) -> int:
    """FLOPs a token of a forward pass: 2 for each nonzero linear parameter.

    Without attention, and only where kernels skip zeros.
    """
    return 2 * self.final_parameters

  @property
  def off_parameters(self) -> float:
    """By how much the model differs from the wanted size, as a share."""
    return self.linear_parameters / self.wanted_parameters - 1

  @property
  def off_compute(self) -> float:
    """By how much 6 N_avg D differs from the wanted compute, as a share."""
    return self.compute_flops / self.wanted_compute - 1

  @property
  def command(self) -> tuple[str, ...]:
    """Arguments of `python -m jax_sparse_pretrain.train`.

    The peak learning rate is that of the project's configs, 0.3118 C^-0.125.
    """
    return (f'--config={self.base}', *overrides(self.config))

  def as_dict(self) -> dict[str, Any]:
    """All of it in plain values, for JSON."""
    model, schedule = self.config.model, self.plan.schedule
    names = ('n_layers', 'd_model', 'n_heads', 'head_dim', 'd_ff')
    ramp = {
      'start': schedule.start,
      'end': schedule.end,
      'every': schedule.every,
      'updates': len(schedule.update_steps),
      'compute_fractions': self.plan.compute_fractions,
    }
    counted = (
      *('linear_parameters', 'wanted_parameters', 'off_parameters'),
      *('average_parameters', 'final_parameters', 'final_total_parameters'),
      *('tokens', 'compute_flops', 'wanted_compute', 'off_compute'),
      *('inference_flops', 'loss'),
    )
    return {
      'sparsity': self.sparsity,
      'model': {name: getattr(model, name) for name in names},
      'steps': self.plan.steps,
      'tokens_per_step': self.config.tokens_per_step,
      'ramp': ramp if self.sparsity else None,
      'mean_density': self.plan.mean_density,
      **{name: getattr(self, name) for name in counted},
      'interval': self.interval and closed(self.interval),
      'command': ' '.join(
        ['python -m jax_sparse_pretrain.train', *self.command]
      ),
    }
