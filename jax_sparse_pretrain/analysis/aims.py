"""What a plan is for: a budget, a loss, or a size to deploy.

At a fixed compute the law depends on (N_avg, D) only. So its optimum is that
of dense runs whatever the sparsity, and a sparse run meets it with a larger
model that ends smaller (arXiv 2501.12486).
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from jax_sparse_pretrain.analysis.fitting.law import ScalingLaw
from jax_sparse_pretrain.model.counts import training_flops

ALLOWED = (
  'compute, loss, final_parameters: give one of them, or final_parameters '
  'and one of the others'
)


@dataclasses.dataclass(frozen=True)
class Aim:
  """Which size and which compute a run should have.

  Attributes:
    law: the law of the loss.
    given: name -> value, as the caller asked.
    budget: FLOPs, where they do not depend on the size of the run.
  """

  law: ScalingLaw
  given: dict[str, float]
  budget: float | None

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
    if self.budget is None:
      return _compute_of_optimum(self.law, average_parameters)
    return self.budget

  @property
  def of_dense(self) -> 'Aim':
    """The aim of the dense run to compare with: the best for the budget."""
    if self.budget is None:
      return self
    given = {k: v for k, v in self.given.items() if k != 'final_parameters'}
    return dataclasses.replace(self, given=given)


def make_aim(law: ScalingLaw, **asked: float | None) -> Aim:
  """The aim that the arguments of `plan_run` name.

  Args:
    law: the law of the loss.
    **asked: compute, loss and final_parameters; None for those not given.

  Raises:
    ValueError: for arguments that do not go together or are not positive,
      and for a loss that the law does not reach.
  """
  given = {k: float(value) for k, value in asked.items() if value is not None}
  if len(given.keys() - {'final_parameters'}) > 1 or not given:
    raise ValueError(ALLOWED)
  for name, value in given.items():
    if not (np.isfinite(value) and value > 0):
      raise ValueError(f'{name} {value}: must be positive and finite')
  budget = given.get('compute')
  if 'loss' in given:
    budget = law.compute_for(given['loss'])
  return Aim(law, given, budget)


def _compute_of_optimum(law: ScalingLaw, parameters: float) -> float:
  """FLOPs at which this N is the optimal one.

  The inverse of N = G (C / 6)^(beta / (alpha + beta)).
  """
  at_one, _ = law.optimal(1.0)
  exponent = (law.alpha + law.beta) / law.beta
  return _in_range(lambda: (parameters / at_one) ** exponent)


def _compute_to_reach(law: ScalingLaw, loss: float, parameters: float) -> float:
  """FLOPs with which this N reaches the loss.

  Raises:
    ValueError: if no number of tokens is enough.
  """
  floor = law.E + law.A * parameters**-law.alpha
  if not loss > floor:
    raise ValueError(
      f'loss {loss}: must be above {floor:.4f}, that of N_avg = '
      f'{parameters:,.0f} and infinite tokens'
    )
  tokens = _in_range(lambda: (law.B / (loss - floor)) ** (1 / law.beta))
  return training_flops(parameters, tokens)


def _in_range(compute: Callable[[], float]) -> float:
  try:
    return compute()
  except OverflowError:
    raise ValueError(
      'the law asks for more compute than a number can hold'
    ) from None
