"""What the data say of a law: what they identify, and what speaks against it.

Which coefficients do the data identify? A term A / N^alpha is a level, a size
and a bend. Two different N show no bend, and three leave nothing to check it
with. If N and D move together, the two terms share one curve. A term that does
not fall has no exponent, and one at the bound of the exponents has that of the
bound. The rest is for the profile to say: an interval that is open on a side.

An interaction speaks against the law: N and D then do not act on their own.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from scipy import special

from jax_sparse_pretrain.analysis.fitting.design import N_COEFFICIENTS, Design
from jax_sparse_pretrain.analysis.fitting.forms import MAX_EXPONENT
from jax_sparse_pretrain.analysis.fitting.law import ScalingLaw
from jax_sparse_pretrain.text import listed, percent

# Part of the loss below which a term does not show.
NEGLIGIBLE = 1e-9
# Correlation of log N and log D above which they are one variable.
TOGETHER = 0.9999
# Fewer runs, or groups of them, do not show their own scatter.
FEW = 10
# It takes a level, a size and a bend.
ENOUGH = 3
# Of Chinchilla's law.
TERMS = (
  ('A', 'alpha', 'parameters', 'parameter count'),
  ('B', 'beta', 'tokens', 'token count'),
)


def design_warnings(design: Design) -> list[str]:
  """On how many runs, N and D there are, and whether N and D are tied."""
  m, places = len(design.order), design.n_places
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
    if count < ENOUGH:
      who = f'{count} different {what}s do' if count > 1 else f'one {what} does'
      sentences.append(f'{who} not identify {names}: it takes three')
    elif count == ENOUGH:
      sentences.append(
        f'three different {what}s only just identify {names}: any three '
        'losses lie on such a curve'
      )
  varies = min(design.distinct) > 1
  if varies and abs(np.corrcoef(design.counts)[0, 1]) > TOGETHER:
    sentences.append(
      'parameters and tokens move together: A and alpha cannot be told from '
      'B and beta'
    )
  return sentences


def bound_warnings(design: Design, law: ScalingLaw) -> list[str]:
  """On coefficients at a bound, where the design could tell that."""
  sentences, values = [], law.as_dict()
  if law.E == 0 and min(design.distinct) >= ENOUGH:
    sentences.append('E is at its bound of 0: nothing shows a floor')
  fall = falls(design, design.theta(list(values.values()))[None])[0]
  for count, part, (size, exponent, what, _) in zip(
    design.distinct, fall, TERMS, strict=True
  ):
    if count > 1 and part < NEGLIGIBLE:
      sentences.append(
        f'the loss does not fall with {what}: {size} and {exponent} mean '
        'nothing'
      )
    elif count >= ENOUGH and values[exponent] >= MAX_EXPONENT:
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
    f'the data do not bound {", nor ".join(parts)} ({percent(level, "g")} '
    'profile)'
  ]


def falls(design: Design, theta: np.ndarray) -> np.ndarray:
  """How far the terms of each exponent fall over the data: (n, p).

  In parts of the typical loss, for laws theta (n, k).
  """
  sizes, exponents = np.split(theta, [design.problem.n_sizes], axis=1)
  largest = np.where(design.holders, sizes[:, :, None], 0.0).max(axis=1)
  ends = design.counts.min(axis=1), design.counts.max(axis=1)
  least, most = (np.exp(-exponents * end) for end in ends)
  return largest * (least - most)


def unidentified(
  design: Design, weights: np.ndarray, theta: np.ndarray
) -> np.ndarray:
  """Which coefficients each fit of a batch leaves open: (n, k), bool.

  A term of N takes three different N to tell level, size and exponent apart
  (likewise D), and says nothing where it does not fall or its exponent is at
  the bound. E is open with either term, and all are where the rows are at
  fewer places (N, D) than there are coefficients. Rows of weight (n, m) zero
  take no part.
  """
  n_sizes, k = design.problem.n_sizes, theta.shape[1]
  few = _places(design.levels, weights) < k
  is_open = np.repeat(few[:, None], k, axis=1)
  fall, bounds = falls(design, theta), design.problem.bounds
  for p in range(len(bounds)):
    bad = _places(design.levels[:, [p]], weights) < ENOUGH
    bad |= fall[:, p] < NEGLIGIBLE
    bad |= theta[:, n_sizes + p] >= bounds[p, 1]
    is_open[np.ix_(bad, design.tied([p]))] = True
  return is_open


def _places(levels: np.ndarray, weights: np.ndarray) -> np.ndarray:
  """How many different rows of levels (m, p) have weight: (n,)."""
  _, index = np.unique(levels, axis=0, return_inverse=True)
  order = np.argsort(index, kind='stable')
  starts = np.flatnonzero(np.diff(index[order], prepend=-1))
  return (np.add.reduceat(weights[:, order], starts, axis=1) > 0).sum(axis=1)


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

  To first order: what the five coefficients could take up is projected out
  (a score test, as Tukey's one degree of freedom for non-additivity). It is
  not robust, as the fit is: a run far off its law moves it. None where runs
  are too few, or the law could take all of the product up, as it does where
  N and D move together.
  """
  x, y = np.log(parameters), np.log(tokens)
  loss = law.loss(parameters, tokens)
  of_n = law.A / parameters**law.alpha / loss
  of_d = law.B / tokens**law.beta / loss
  # Derivatives of log loss by E, log A, alpha, log B and beta.
  columns = np.stack([1 / loss, of_n, -of_n * x, of_d, -of_d * y], axis=1)
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
  half = float(special.stdtrit(dof, (1 + level) / 2) * error)
  return Interaction(value, (value - half, value + half))
