"""Which coefficients the data identify, and sentences on those they do not.

A term A / N^alpha is a level, a size and a bend. Two different N show no bend,
and three leave nothing to check it with. If N and D move together, the two
terms share one curve. A term that does not fall has no exponent, and one at
the bound of the exponents has that of the bound. All else is for the profile
to say: an interval that is open on a side.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from jax_sparse_pretrain.analysis.fitting.design import N_COEFFICIENTS, Design
from jax_sparse_pretrain.analysis.fitting.law import ScalingLaw
from jax_sparse_pretrain.analysis.fitting.objective import MAX_EXPONENT

# Part of the loss below which a term does not show.
NEGLIGIBLE = 1e-9
# Correlation of log N and log D above which they are one variable.
TOGETHER = 0.9999
# Fewer runs, or groups of them, do not show their own scatter.
FEW = 10
TERMS = (
  ('A', 'alpha', 'parameters', 'parameter count'),
  ('B', 'beta', 'tokens', 'token count'),
)


def design_warnings(design: Design) -> list[str]:
  """On how many runs, N and D there are, and whether N and D are tied."""
  m, places = len(design.rows.x), design.n_places
  sentences = []
  if places < N_COEFFICIENTS:
    sentences.append(
      f'runs at {places} places (N, D) do not identify '
      f'{N_COEFFICIENTS} coefficients'
    )
  elif m < FEW:
    sentences.append(
      f'{m} runs are few for {N_COEFFICIENTS} coefficients: intervals are rough'
    )
  for count, (size, exponent, _, what) in zip(
    design.distinct, TERMS, strict=True
  ):
    names = f'E, {size} and {exponent}'
    if count < 3:
      who = f'{count} different {what}s do' if count > 1 else f'one {what} does'
      sentences.append(f'{who} not identify {names}: it takes three')
    elif count == 3:
      sentences.append(
        f'three different {what}s only just identify {names}: any three '
        'losses lie on such a curve'
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
  """On coefficients at a bound, where the design could tell that."""
  sentences, values = [], law.as_dict()
  counts = design.distinct
  if law.E == 0 and min(counts) > 2:
    sentences.append('E is at its bound of 0: nothing shows a floor')
  theta = design.theta(np.array(list(values.values())))
  for count, fall, (size, exponent, what, _) in zip(
    counts, falls(design, theta), TERMS, strict=True
  ):
    if count > 1 and fall < NEGLIGIBLE:
      sentences.append(
        f'the loss does not fall with {what}: {size} and {exponent} mean '
        'nothing'
      )
    elif count > 2 and values[exponent] >= MAX_EXPONENT:
      sentences.append(
        f'{exponent} is at its bound of {MAX_EXPONENT:g}: {size} and '
        f'{exponent} are those of the bound, not of the data'
      )
  return sentences


def interval_warnings(
  intervals: Mapping[str, tuple[float, float]], level: float
) -> list[str]:
  """On open sides of profile intervals, in one sentence."""
  by_sides: dict[str, list[str]] = {}
  for name, (low, high) in intervals.items():
    sides = ['below'] * (low == 0) + ['above'] * bool(np.isinf(high))
    if sides:
      by_sides.setdefault(' or '.join(sides), []).append(name)
  if not by_sides:
    return []
  parts = [f'{listed(names)} from {side}' for side, names in by_sides.items()]
  return [
    f'the data do not bound {", nor ".join(parts)} ({shown(level)} profile)'
  ]


def shown(level: float) -> str:
  return f'{level * 100:g} %'


def listed(names: Sequence[str]) -> str:
  """'E, B and beta'."""
  *most, last = names
  return f'{", ".join(most)} and {last}' if most else last


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
  few = _places(design.levels, weights) < N_COEFFICIENTS
  open_ = np.repeat(few[:, None], N_COEFFICIENTS, axis=1)
  fall = falls(design, theta)
  for term in range(2):
    bad = _places(design.levels[:, [term]], weights) < 3
    bad |= fall[:, term] < NEGLIGIBLE
    bad |= theta[:, 3 + term] >= MAX_EXPONENT
    open_[bad, 0] = open_[bad, 1 + term] = open_[bad, 3 + term] = True
  return open_


def _places(levels: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """How many different rows of levels (m, k) have weight: (n,)."""
  _, index = np.unique(levels, axis=0, return_inverse=True)
  order = np.argsort(index, kind='stable')
  starts = np.flatnonzero(np.diff(index[order], prepend=-1))
  return (np.add.reduceat(weights[:, order], starts, axis=1) > 0).sum(axis=1)
