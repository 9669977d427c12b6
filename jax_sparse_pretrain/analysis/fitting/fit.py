"""The law's coefficients from runs (N, D, loss).

The objective is that of Hoffmann et al. (arXiv 2203.15556, section 3.3): the
sum over runs of the Huber loss of log measured less log predicted loss, with
delta 1e-3. A sum: a mean makes optimizers stop early (Besiroglu et al., arXiv
2404.10102). Values in, values out; nothing here reads files or needs jax.
"""

import dataclasses
import functools
import json

import numpy as np

from jax_sparse_pretrain.analysis.fitting import design as designs
from jax_sparse_pretrain.analysis.fitting import grid, identification, search
from jax_sparse_pretrain.analysis.fitting.bootstrap import (
  Bootstrap,
  bootstrap,
  check_level,
)
from jax_sparse_pretrain.analysis.fitting.law import ScalingLaw
from jax_sparse_pretrain.analysis.fitting.profile import profile_intervals

METHODS = ('global', 'grid')


@dataclasses.dataclass(frozen=True, eq=False)
class ScalingLawFit:
  """A fitted law and the data it was fitted to, in the given order.

  Attributes:
    law: the coefficients.
    objective: sum of Huber losses of the residuals.
    delta: of the Huber loss, in log loss.
    parameters: N of each run, (m,).
    tokens: D of each run, (m,).
    loss: measured, in nats, (m,).
  """

  law: ScalingLaw
  objective: float
  delta: float
  parameters: np.ndarray
  tokens: np.ndarray
  loss: np.ndarray

  @property
  def residuals(self) -> np.ndarray:
    """log measured - log predicted loss, (m,)."""
    return np.log(self.loss) - np.log(
      self.law.loss(self.parameters, self.tokens)
    )

  @property
  def log_rmse(self) -> float:
    """Root mean square of the residuals."""
    return float(np.sqrt(np.mean(np.sort(self.residuals**2))))

  @functools.cached_property
  def warnings(self) -> tuple[str, ...]:
    """Sentences on coefficients which the data do not identify.

    From the design (how many N and D there are, and whether they move
    together), from bounds, and from open 95 % profile intervals.
    """
    return (
      *identification.design_warnings(self._design),
      *identification.bound_warnings(self._design, self.law),
      *identification.interval_warnings(self.intervals(), 0.95),
    )

  def bootstrap(
    self, n_resamples: int = 4000, seed: int = 0, groups=None
  ) -> Bootstrap:
    """Refits resampled runs, or resampled groups of runs.

    Args:
      n_resamples: how many.
      seed: of the draws.
      groups: label of each run, (m,). Runs of one label, such as seeds of one
        configuration, are drawn together; by default each is its own group.

    Raises:
      ValueError: for labels that are not one a run, or that are all equal.
    """
    design = self._design
    if groups is not None:
      design = self._make(_group_indices(groups, len(self.loss)))
    theta = design.theta(self._coefficients)
    return bootstrap(design, theta, self.delta, n_resamples, seed)

  def intervals(self, level: float = 0.95) -> dict[str, tuple[float, float]]:
    """Profile interval of each coefficient; an open side is 0 or inf.

    Raises:
      ValueError: for a level outside (0, 1).
    """
    check_level(level)
    theta = self._design.theta(self._coefficients)
    return profile_intervals(self._design, theta, self.delta, level)

  def to_json(self) -> str:
    """All of it as JSON, floats to the last bit."""
    values = {
      'law': self.law.as_dict(),
      'objective': self.objective,
      'delta': self.delta,
    }
    for name in ('parameters', 'tokens', 'loss'):
      values[name] = getattr(self, name).tolist()
    return json.dumps(values)

  @classmethod
  def from_json(cls, text: str) -> 'ScalingLawFit':
    """The inverse of `to_json`.

    Raises:
      ValueError: for text that `to_json` did not write.
    """
    try:
      values = json.loads(text)
      data = [values[name] for name in ('parameters', 'tokens', 'loss')]
      law = ScalingLaw.from_dict(values['law'])
      numbers = float(values['objective']), float(values['delta'])
    except (KeyError, TypeError, AttributeError) as error:
      raise ValueError(f'not a fit: {error!r}') from None
    return cls(law, *numbers, **designs.check(*data))

  @functools.cached_property
  def _design(self) -> designs.Design:
    return self._make()

  @property
  def _coefficients(self) -> np.ndarray:
    return np.array(list(self.law.as_dict().values()))

  def _make(self, groups=None) -> designs.Design:
    return designs.make(self.parameters, self.tokens, self.loss, groups)


def fit_scaling_law(
  parameters, tokens, loss, *, delta: float = 1e-3, method: str = 'global'
) -> ScalingLawFit:
  """Fits L(N, D) = E + A / N^alpha + B / D^beta.

  Every coefficient is at least 0, and exponents at most 3.

  Args:
    parameters: N of each run, (m,); the average over pre-training for runs
      that prune.
    tokens: D of each run, (m,).
    loss: final loss of each run in nats, (m,).
    delta: of the Huber loss, in log loss.
    method: 'global' starts Newton's method from the best points of a grid of
      exponents. 'grid' is a check that shares no code with it: the 4,500
      starts of Hoffmann et al. with SciPy's L-BFGS-B. It takes minutes.

  Returns:
    The fit; the same to the bit for any order of the rows.

  Raises:
    ValueError: for fewer runs than coefficients, columns of different
      lengths, values or a delta that are not positive and finite, naming the
      row, and for an unknown method.
  """
  columns = designs.check(parameters, tokens, loss)
  if not (np.isfinite(delta) and delta > 0):
    raise ValueError(f'delta {delta}: must be positive and finite')
  if method not in METHODS:
    raise ValueError(f'method {method!r}: must be one of {METHODS}')
  design = designs.make(**columns)
  if method == 'grid':
    law, objective = grid.search(design.rows, design.pivots, delta)
  else:
    theta, objective = search.lowest(design.rows, delta)
    law = ScalingLaw(*map(float, design.coefficients(theta)))
  return ScalingLawFit(law, objective, float(delta), **columns)


def _group_indices(groups, m: int) -> np.ndarray:
  labels = np.asarray(groups)
  if labels.shape != (m,):
    raise ValueError(f'groups of shape {labels.shape}: must be ({m},)')
  names, indices = np.unique(labels, return_inverse=True)
  if len(names) < 2:
    raise ValueError(
      f'one group, {names[0]!r}: resampling groups needs at least two'
    )
  return indices
