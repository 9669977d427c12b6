"""Which coefficients the data identify, and sentences on those they do not.

A term A / N^alpha is a level, a size and a bend. Two different N show no bend,
and three leave nothing to check it with. If N and D move together, the two
terms share one curve. A term that does not fall has no exponent, and one at
the bound of the exponents has that of the bound. All else is for the profile
to say: an interval that is open on a side.
"""

from collections.abc import Mapping

import numpy as np

from jax_sparse_pretrain.analysis.fitting.design import N_COEFFICIENTS, Design
from jax_sparse_pretrain.analysis.fitting.law import ScalingLaw
from jax_sparse_pretrain.analysis.fitting.objective import MAX_EXPONENT

# Part of the loss below which a term does not show.
NEGLIGIBLE = 1e-9
# Correlation of log N and log D above which they are one variable.
TOGETHER = 0.9999
TERMS = (
  ('A', 'alpha', 'parameters', 'parameter counts'),
  ('B', 'beta', 'tokens', 'token counts'),
)


def design_warnings(design: Design) -> list[str]:
  """On how many different N and D there are, and whether they are tied."""
  sentences = []
  for count, (size, exponent, _, what) in zip(
    design.distinct, TERMS, strict=True
  ):
    names = f'E, {size} and {exponent}'
    if count < 3:
      sentences.append(
        f'{count} different {what} do not identify {names}: it takes three'
      )
    elif count == 3:
      sentences.append(
        f'three different {what} only just identify {names}: any three losses '
        'lie on such a curve'
      )
  x, y = design.rows.x, design.rows.y
  tied = min(design.distinct) > 1 and abs(np.corrcoef(x, y)[0, 1]) > TOGETHER
  if tied:
    sentences.append(
      'parameters and tokens move together: A and alpha cannot be told from '
      'B and beta'
    )
  return sentences


def bound_warnings(design: Design, law: ScalingLaw) -> list[str]:
  """On coefficients at a bound."""
  sentences, values = [], law.as_dict()
  if law.E == 0:
    sentences.append('E is at its bound of 0: nothing shows a floor')
  theta = design.theta(np.array(list(values.values())))
  for fall, (size, exponent, what, _) in zip(
    falls(design, theta), TERMS, strict=True
  ):
    if fall < NEGLIGIBLE:
      sentences.append(
        f'the loss does not fall with {what}: {size} and {exponent} mean '
        'nothing'
      )
    elif values[exponent] >= MAX_EXPONENT:
      sentences.append(
        f'{exponent} is at its bound of {MAX_EXPONENT:g}: {size} and '
        f'{exponent} are those of the bound, not of the data'
      )
  return sentences


def interval_warnings(
  intervals: Mapping[str, tuple[float, float]], level: float
) -> list[str]:
  """On open sides of profile intervals."""
  sentences = []
  for name, (low, high) in intervals.items():
    sides = ['below'] * (low == 0) + ['above'] * bool(np.isinf(high))
    if sides:
      sentences.append(
        f'the data do not bound {name} from {" or ".join(sides)} '
        f'({level:.0%} profile)'
      )
  return sentences


def falls(design: Design, theta: np.ndarray) -> np.ndarray:
  """How far the terms of N and D fall over the data: (..., 2).

  In parts of the typical loss.
  """
  pairs = ((design.rows.x, 1, 3), (design.rows.y, 2, 4))
  ends = [
    theta[..., size]
    * (
      np.exp(-theta[..., exponent] * values.min())
      - np.exp(-theta[..., exponent] * values.max())
    )
    for values, size, exponent in pairs
  ]
  return np.stack(ends, axis=-1)


def unidentified(design: Design, weights: np.ndarray, theta) -> np.ndarray:
  """Which coefficients each fit of a batch leaves open: (n, 5), bool.

  A term of N takes three different N to tell level, size and exponent apart
  (likewise D), and says nothing where it does not fall or its exponent is at
  the bound. E is open with either term, and all are where the rows are at
  fewer places (N, D) than there are coefficients.

  Args:
    weights: of the rows, (n, m); zero where a row takes no part.
    theta: the fits, (n, 5).
  """
  x, y = design.rows.x, design.rows.y
  few = _places(np.stack([x, y], axis=1), weights) < N_COEFFICIENTS
  open_ = np.repeat(few[:, None], N_COEFFICIENTS, axis=1)
  fall = falls(design, theta)
  for term, values in enumerate((x, y)):
    bad = _places(values[:, None], weights) < 3
    bad |= fall[:, term] < NEGLIGIBLE
    bad |= theta[:, 3 + term] >= MAX_EXPONENT
    open_[bad, 0] = open_[bad, 1 + term] = open_[bad, 3 + term] = True
  return open_


def _places(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """How many different rows of values (m, k) have weight: (n,)."""
  _, index = np.unique(values, axis=0, return_inverse=True)
  order = np.argsort(index, kind='stable')
  starts = np.flatnonzero(np.diff(index[order], prepend=-1))
  return (np.add.reduceat(weights[:, order], starts, axis=1) > 0).sum(axis=1)
