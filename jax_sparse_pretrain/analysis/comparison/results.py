"""What a comparison of laws finds, and the words for it.

The terminal and the report both use them. Errors are log predicted less log
measured loss: positive where a law expects too high a loss.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from jax_sparse_pretrain.text import listed

# A bias of less than a thousandth of the loss is none.
SMALL_BIAS = 1e-3


@dataclasses.dataclass(frozen=True)
class Bias:
  """The mean error of a law at one sparsity, in log loss.

  Attributes:
    sparsity: that of these runs.
    n_runs: how many.
    in_sample: the error of the law fitted to all runs.
    standard_error: of `in_sample`; None for fewer than three runs.
    one_sparsity_out: of the law fitted to all other sparsities, or None.
    dense_to_sparse: of the law fitted to dense runs; None for these.
  """

  sparsity: float
  n_runs: int
  in_sample: float
  standard_error: float | None
  one_sparsity_out: float | None
  dense_to_sparse: float | None

  @property
  def is_systematic(self) -> bool:
    """Whether it is more than two standard errors, and not small."""
    error = self.standard_error
    if error is None:
      return False
    return abs(self.in_sample) > max(2 * error, SMALL_BIAS)


@dataclasses.dataclass(frozen=True)
class ComparedLaw:
  """What one law makes of the runs; None where there is no answer.

  Errors are root mean squares, in log loss.

  Attributes:
    name: the name of its form.
    formula: the loss in words of the coefficients.
    n_coefficients: k.
    coefficients: fitted to all runs; of fits that are equally good, those of
      least squared error.
    objective: sum of Huber losses over all runs.
    in_sample: the error over all runs.
    one_sparsity_out: each run predicted from the other sparsities.
    largest_compute_out: runs of the largest compute, from the others.
    dense_to_sparse: sparse runs, predicted from dense ones.
    one_schedule_out: runs of each schedule, predicted from all others.
    aicc: Akaike's criterion, corrected for few runs.
    bic: Bayes' criterion. Both take log errors as independent and normal, at
      the coefficients fitted here, which minimise Huber losses instead: so
      they are upper ends. Their k includes the variance.
    bias: by sparsity, ascending; empty where sparsity is not known.
    warnings: on coefficients that mean little.
  """

  name: str
  formula: str
  n_coefficients: int
  coefficients: dict[str, float]
  objective: float
  in_sample: float
  one_sparsity_out: float | None
  largest_compute_out: float | None
  dense_to_sparse: float | None
  one_schedule_out: float | None
  aicc: float | None
  bic: float | None
  bias: tuple[Bias, ...]
  warnings: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Laws side by side.

  Attributes:
    laws: those that could be fitted, without an extra coefficient first.
    n_runs: how many there are.
    delta: that of the Huber loss.
    tests: name of each test out of sample -> which runs it predicts.
    notes: sentences on what is missing, and why.
  """

  laws: tuple[ComparedLaw, ...]
  n_runs: int
  delta: float
  tests: dict[str, str]
  notes: tuple[str, ...]

  def as_dict(self) -> dict[str, Any]:
    return dataclasses.asdict(self)


# Field of `ComparedLaw` -> the head of its column.
ERRORS = {
  'in_sample': 'in sample',
  'one_sparsity_out': 'sparsity',
  'largest_compute_out': 'compute',
  'dense_to_sparse': 'dense',
  'one_schedule_out': 'schedule',
}
# Laws coincide if their errors agree to this part of themselves.
SAME = 1e-6


def verdict(comparison) -> str:
  """Which law has the least error in each test, in one sentence.

  First of the laws without an extra coefficient, which can be compared at
  equal freedom, then of all laws if there are others.
  """
  laws = comparison.laws
  if len(laws) == 1:
    return f'{laws[0].name} is alone: there is no law to compare it with.'
  k = min(law.n_coefficients for law in laws)
  plain = [law for law in laws if law.n_coefficients == k]
  parts = [f'with {k} coefficients: {_winners(plain)}']
  if len(plain) < len(laws):
    parts.append(f'of all laws: {_winners(laws)}')
  return f'Least error {"; ".join(parts)}.'


def _winners(laws: Sequence) -> str:
  won: dict[str, list[str]] = {}
  for key, name in ERRORS.items():
    known = [law for law in laws if getattr(law, key) is not None]
    known.sort(key=lambda law: getattr(law, key))
    errors = [getattr(law, key) for law in known]
    if len(errors) > 1 and errors[1] > errors[0] * (1 + SAME):
      won.setdefault(known[0].name, []).append(name)
  parts = [f'{name} ({listed(tests)})' for name, tests in won.items()]
  return ', '.join(parts) or 'no test tells them apart'


def warnings(comparison) -> list[str]:
  """Each warning once, after the names of the laws that it is about."""
  names: dict[str, list[str]] = {}
  for law in comparison.laws:
    for sentence in law.warnings:
      names.setdefault(sentence, []).append(law.name)
  return [f'{", ".join(laws)}: {said}' for said, laws in names.items()]
