"""Whether N and D act on their own, as the law has it, or also together."""

from typing import NamedTuple

import numpy as np
from scipy import stats

from jax_sparse_pretrain.analysis.fitting.law import ScalingLaw


class Interaction(NamedTuple):
  """Coefficient of (ln N - mean) (ln D - mean) in log loss.

  Attributes:
    value: 0 where the law holds; below it, tokens help large models more than
      the law says.
    interval: by Student's t.
  """

  value: float
  interval: tuple[float, float]


def interaction(
  law: ScalingLaw, parameters, tokens, residuals, level: float = 0.95
) -> Interaction | None:
  """Least squares of the residuals on the product, the law free to follow.

  Not robust, as the fit is: a run far off its law moves it.

  To first order: what the five coefficients could take up is projected out
  (a score test, as Tukey's one degree of freedom for non-additivity).

  Args:
    law: the fitted one.
    parameters: N of each run, (m,).
    tokens: D of each run, (m,).
    residuals: log measured less log predicted loss, (m,).
    level: of the interval.

  Returns:
    None where runs are too few, or the law could take all of the product up,
    as it does where N and D move together.
  """
  columns = _derivatives(law, parameters, tokens)
  x, y = np.log(parameters), np.log(tokens)
  product = (x - x.mean()) * (y - y.mean())
  basis, singular, _ = np.linalg.svd(
    columns / np.maximum(np.linalg.norm(columns, axis=0), 1e-300),
    full_matrices=False,
  )
  basis = basis[:, singular > 1e-10 * singular[0]]
  dof = len(residuals) - basis.shape[1] - 1
  if dof < 1:
    return None
  rest = product - basis @ (basis.T @ product)
  left = residuals - basis @ (basis.T @ residuals)
  squares = rest @ rest
  if squares <= 1e-12 * (product @ product) or squares == 0:
    return None
  value = float(rest @ left / squares)
  unexplained = left - value * rest
  error = np.sqrt(unexplained @ unexplained / dof / squares)
  half = float(stats.t.ppf((1 + level) / 2, dof) * error)
  return Interaction(value, (value - half, value + half))


def _derivatives(law: ScalingLaw, parameters, tokens) -> np.ndarray:
  """Of log loss by E, log A, alpha, log B and beta, (m, 5)."""
  loss = law.loss(parameters, tokens)
  of_n = law.A / parameters**law.alpha / loss
  of_d = law.B / tokens**law.beta / loss
  return np.stack(
    [
      1 / loss,
      of_n,
      -of_n * np.log(parameters),
      of_d,
      -of_d * np.log(tokens),
    ],
    axis=1,
  )
