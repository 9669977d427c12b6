"""What a plan is for: a budget, a loss, or a size to deploy.

At a fixed compute the law depends on (N_avg, D) only. So its optimum is that
of dense runs whatever the sparsity, and a sparse run meets it with a larger
model that ends smaller (arXiv 2501.12486).
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from jax_sparse_pretrain.analysis.fitting.law import FLOPS, ScalingLaw

ALLOWED = (
  'compute, loss, final_parameters: give one of them, or final_parameters '
  'and one of the others'
)


@dataclasses.dataclass(frozen=True)
class Aim:
  """Which size and which compute a run should have.

  Attributes:
    given: name -> value, as the caller asked.
    initial_parameters: (mean density, sparsity) -> dense N.
    compute: N_avg -> FLOPs.
    of_dense: the aim of the dense run to compare with; None for this one.
  """

  given: dict[str, float]
  initial_parameters: Callable[[float, float], float]
  compute: Callable[[float], float]
  of_dense: 'Aim | None' = None


def make_aim(
  law: ScalingLaw,
  compute: float | None = None,
  loss: float | None = None,
  final_parameters: float | None = None,
) -> Aim:
  """The aim that the arguments of `plan_run` name.

  Raises:
    ValueError: for arguments that do not go together or are not positive,
      and for a loss that the law does not reach.
  """
  asked = {
    'compute': compute,
    'loss': loss,
    'final_parameters': final_parameters,
  }
  given = {k: float(value) for k, value in asked.items() if value is not None}
  others = given.keys() - {'final_parameters'}
  if not given or len(others) > 1:
    raise ValueError(ALLOWED)
  for name, value in given.items():
    if not (np.isfinite(value) and value > 0):
      raise ValueError(f'{name} {value}: must be positive and finite')
  budget = given.get('compute')
  if loss is not None:
    budget = law.compute_for(loss)
  if final_parameters is None:
    return _of_budget(law, given, budget)
  return _of_size(law, given, budget)


def _of_budget(law: ScalingLaw, given: dict, budget: float) -> Aim:
  n_average, _ = law.optimal(budget)
  return Aim(
    given,
    initial_parameters=lambda density, sparsity: n_average / density,
    compute=_always(budget),
  )


def _of_size(law: ScalingLaw, given: dict, budget: float | None) -> Aim:
  final = given['final_parameters']
  if 'loss' in given:
    compute = functools.partial(compute_to_reach, law, given['loss'])
  elif budget is None:
    compute = functools.partial(compute_of_optimum, law)
  else:
    compute = _always(budget)
  return Aim(
    given,
    initial_parameters=lambda density, sparsity: final / (1 - sparsity),
    compute=compute,
    of_dense=None if budget is None else _of_budget(law, given, budget),
  )


def _always(value: float) -> Callable[[float], float]:
  return lambda _: value


def compute_of_optimum(law: ScalingLaw, parameters: float) -> float:
  """FLOPs at which this N is the optimal one.

  The inverse of N = G (C / 6)^(beta / (alpha + beta)).
  """
  at_one, _ = law.optimal(1.0)
  exponent = (law.alpha + law.beta) / law.beta
  return _in_range(lambda: (parameters / at_one) ** exponent)


def compute_to_reach(law: ScalingLaw, loss: float, parameters: float) -> float:
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
  return FLOPS * parameters * tokens


def _in_range(compute: Callable[[], float]) -> float:
  try:
    return compute()
  except OverflowError:
    raise ValueError(
      'the law asks for more compute than a number can hold'
    ) from None
