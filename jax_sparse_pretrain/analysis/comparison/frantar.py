"""Fits of the laws that give sparsity coefficients of its own."""

import numpy as np

from jax_sparse_pretrain.analysis.comparison.forms import (
  DENSITY_POWER,
  FRANTAR,
  DensityPowerLaw,
  FrantarLaw,
)
from jax_sparse_pretrain.analysis.fitting import design, power_terms


def fit_frantar_law(
  final_parameters, sparsity, tokens, loss, *, delta: float = 1e-3
) -> tuple[FrantarLaw, float]:
  """The law of least summed Huber loss of log loss, and that sum.

  Sizes are at least 0, b at most 10, d and f from 0.01 to 3.

  Args:
    final_parameters: nonzero at the end, (m,).
    sparsity: at the end, in [0, 1), (m,).
    tokens: (m,).
    loss: measured, in nats, (m,).
    delta: of the Huber loss.

  Raises:
    ValueError: for fewer runs than coefficients, columns of different
      lengths, and values out of range, naming the row.
  """
  x, q, y, loss = _checked(final_parameters, sparsity, tokens, loss, 7, delta)
  found = power_terms.fit(FRANTAR.factors(x, q, y), loss, delta, FRANTAR.bounds)
  return FRANTAR.law(found.log_sizes, found.exponents), found.objective


def fit_density_power_law(
  initial_parameters, sparsity, tokens, loss, *, delta: float = 1e-3
) -> tuple[DensityPowerLaw, float]:
  """The law of least summed Huber loss of log loss, and that sum.

  Sizes and c are at least 0, alpha and beta from 0.01 to 3.

  Args:
    initial_parameters: before pruning, (m,).
    sparsity: at the end, in [0, 1), (m,).
    tokens: (m,).
    loss: measured, in nats, (m,).
    delta: of the Huber loss.

  Raises:
    ValueError: as `fit_frantar_law`.
  """
  x, q, y, loss = _checked(initial_parameters, sparsity, tokens, loss, 6, delta)
  factors = DENSITY_POWER.factors(x, q, y)
  found = power_terms.fit(factors, loss, delta, DENSITY_POWER.bounds)
  return DENSITY_POWER.law(found.log_sizes, found.exponents), found.objective


def _checked(parameters, sparsity, tokens, loss, n_coefficients, delta):
  """log N, log (1 - s), log D and the loss."""
  columns = design.check(parameters, tokens, loss)
  n, d, loss = columns.values()
  sparsity = np.asarray(sparsity, np.float64)
  if sparsity.shape != loss.shape:
    raise ValueError(f'sparsity of shape {sparsity.shape}: not {loss.shape}')
  for row in np.flatnonzero(~((sparsity >= 0) & (sparsity < 1)))[:1]:
    raise ValueError(
      f'row {row + 1}: sparsity {sparsity[row]}: must be in [0, 1)'
    )
  if len(loss) < n_coefficients:
    raise ValueError(
      f'{len(loss)} rows: a law of {n_coefficients} coefficients needs at '
      f'least {n_coefficients}'
    )
  delta = design.check_delta(delta)
  return np.log(n), np.log1p(-sparsity), np.log(d), loss
