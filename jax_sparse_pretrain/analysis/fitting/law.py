"""Chinchilla's law of the loss in parameters and tokens.

L(N, D) = E + A / N^alpha + B / D^beta, in nats per token (Hoffmann et al.,
arXiv 2203.15556, equation 2). N may be the average parameter count over
pre-training, which holds sparse and dense runs together (arXiv 2501.12486).
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from jax_sparse_pretrain.model.counts import training_flops

# FLOPs a parameter and a token.
FLOPS = training_flops(1.0, 1.0)  # of one weight and one token
# Of logarithms of numbers that a float can hold.
LARGEST = 700.0


@dataclasses.dataclass(frozen=True)
class ScalingLaw:
  """The five coefficients.

  Attributes:
    E: loss of infinite parameters and tokens, in nats.
    A: size of the term of parameters, in nats.
    B: size of the term of tokens, in nats.
    alpha: exponent of parameters.
    beta: exponent of tokens.
  """

  E: float
  A: float
  B: float
  alpha: float
  beta: float

  def __post_init__(self):
    for name, value in self.as_dict().items():
      if not (np.isfinite(value) and value >= 0):
        raise ValueError(f'{name} = {value}: must be finite and at least 0')

  def loss(self, parameters, tokens) -> np.ndarray | float:
    """Predicted loss in nats; arguments broadcast, scalars give a float.

    Raises:
      ValueError: for parameters or tokens that are not positive.
    """
    parameters = _positive('parameters', parameters)
    tokens = _positive('tokens', tokens)
    loss = (
      self.E + self.A * parameters**-self.alpha + self.B * tokens**-self.beta
    )
    return loss if loss.ndim else float(loss)

  def optimal(self, compute) -> tuple[np.ndarray | float, np.ndarray | float]:
    """(parameters, tokens) of least loss at 6 N D = compute FLOPs.

    With G = (alpha A / (beta B))^(1 / (alpha + beta)) these are
    N = G (C / 6)^(beta / (alpha + beta)) and D = C / (6 N), equation 4 of
    Hoffmann et al.

    Raises:
      ValueError: for compute that is not positive, and for a law without
        such an optimum, since one of its terms is constant, or nearly so.
    """
    self._check_trade('an optimum')
    budget = np.log(_positive('compute', compute) / FLOPS)
    share = self.beta / (self.alpha + self.beta)
    parameters = self._balance() + share * budget
    return (
      self._finite('parameters', parameters),
      self._finite('tokens', budget - parameters),
    )

  def compute_for(self, loss) -> np.ndarray | float:
    """Least FLOPs that reach each loss; a scalar gives a float.

    Along the optimum both terms fall as C^-gamma with gamma = alpha beta /
    (alpha + beta), so that the answer is in closed form.

    Raises:
      ValueError: if a loss is not above E, which no compute reaches, or not
        finite, and if a term is so flat that no finite compute reaches it.
    """
    above = np.asarray(loss, dtype=np.float64) - self.E
    if not np.all((above > 0) & np.isfinite(above)):
      raise ValueError(
        f'loss {loss}: must be above E = {self.E} and finite; no compute '
        'reaches it'
      )
    self._check_trade('a compute for each loss')
    G = self._balance()
    terms = np.logaddexp(
      np.log(self.A) - self.alpha * G, np.log(self.B) + self.beta * G
    )
    with np.errstate(over='ignore', invalid='ignore'):
      steepness = np.divide(1, self.alpha) + np.divide(1, self.beta)
      budget = (terms - np.log(above)) * steepness
    return self._finite('compute', np.log(FLOPS) + budget)

  def as_dict(self) -> dict[str, float]:
    return dataclasses.asdict(self)

  @classmethod
  def from_dict(cls, values: Mapping[str, float]) -> 'ScalingLaw':
    """The inverse of `as_dict`; a ValueError for other names."""
    names = {field.name for field in dataclasses.fields(cls)}
    if set(values) != names:
      raise ValueError(
        f'keys {sorted(values)}: must be {", ".join(sorted(names))}'
      )
    return cls(**{name: float(values[name]) for name in names})

  def _balance(self) -> float:
    """log G."""
    logs = np.log([self.alpha, self.A, self.beta, self.B])
    return float(logs @ [1, 1, -1, -1]) / (self.alpha + self.beta)

  def _finite(self, what: str, logs: np.ndarray) -> np.ndarray | float:
    """exp, where that is a positive and finite number."""
    if not np.all(np.abs(logs) < LARGEST):
      name = min('alpha', 'beta', key=lambda name: getattr(self, name))
      raise ValueError(
        f'{name} = {getattr(self, name):g} is too flat: no finite {what}'
      )
    values = np.exp(logs)
    return values if values.ndim else float(values)

  def _check_trade(self, what: str) -> None:
    for name in ('A', 'B', 'alpha', 'beta'):
      if getattr(self, name) == 0:
        raise ValueError(f'{name} = 0: {what} needs both terms to fall')


def _positive(name: str, values) -> np.ndarray:
  values = np.asarray(values, dtype=np.float64)
  if not np.all((values > 0) & np.isfinite(values)):
    raise ValueError(f'{name} must be positive and finite')
  return values


def simulate_runs(
  law: ScalingLaw, parameters, tokens, *, noise: float, seed: int
) -> np.ndarray:
  """Losses of runs drawn from a known law: it times log-normal noise.

  Args:
    law: the truth.
    parameters: N of each run; broadcasts with tokens.
    tokens: D of each run.
    noise: standard deviation of log loss; 0 for the law itself.
    seed: the seed of the noise.

  Returns:
    Losses in nats, of the shape of the runs.

  Raises:
    ValueError: for noise that is negative or not finite, and for sizes that
      are not positive.
  """
  if not (np.isfinite(noise) and noise >= 0):
    raise ValueError(f'noise {noise}: must be finite and at least 0')
  exact = np.asarray(law.loss(parameters, tokens))
  errors = np.random.default_rng(seed).normal(0.0, noise, exact.shape)
  return exact * np.exp(errors)
