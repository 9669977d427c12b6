"""What a comparison of laws finds: values, and nothing that computes them.

Errors are log predicted less log measured loss: positive where a law expects
too high a loss.
"""

import dataclasses
from typing import Any

# A bias of less than a thousandth of the loss is none.
SMALL_BIAS = 1e-3


@dataclasses.dataclass(frozen=True)
class Bias:
  """The mean error of a law at one sparsity, in log loss.

  Attributes:
    sparsity: that of these runs.
    n_runs: how many.
    in_sample: the error of the law fitted to all runs.
    standard_error: that of `in_sample`, from the scatter; None for fewer than
      three runs.
    one_sparsity_out: the error of the law fitted to all other sparsities; None
      where that is not possible.
    dense_to_sparse: the error of the law fitted to dense runs; None where that
      is not possible, and for dense runs.
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

  Attributes:
    name: the name of its form.
    formula: the loss in words of the coefficients.
    n_coefficients: k.
    coefficients: fitted to all runs; of fits that are equally good, those of
      least squared error.
    objective: sum of Huber losses over all runs.
    in_sample: root mean square error over all runs, in log loss.
    one_sparsity_out: the same, each run predicted from the other sparsities.
    largest_compute_out: the same over the runs with the largest compute,
      predicted from the others.
    dense_to_sparse: the same over sparse runs, predicted from dense ones.
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
