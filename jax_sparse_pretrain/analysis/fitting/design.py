"""The data of a fit: checked, in a canonical order, in units of its own.

Order and units are taken from the values alone. So the order of the rows of a
table changes no bit of a fit, and neither does it matter in which units
parameters and tokens are counted.
"""

import dataclasses
import functools

import numpy as np

from jax_sparse_pretrain.analysis.fitting.objective import NAMES, Rows

N_COEFFICIENTS = len(NAMES)
# In logarithms: counts of one setting differ by roundings.
SAME_COUNT = 1e-3


@dataclasses.dataclass(frozen=True)
class Design:
  """Rows to fit, and the way back.

  Attributes:
    rows: logarithms less their means, in canonical order.
    order: which given row each of them is, (m,).
    pivots: the means of log N, log D and log loss.
    groups: index of the group of each of `rows`, (m,); None without groups.
  """

  rows: Rows
  order: np.ndarray
  pivots: tuple[float, float, float]
  groups: np.ndarray | None = None

  @functools.cached_property
  def levels(self) -> np.ndarray:
    """Which of the different N, and of the D, each row has: (m, 2)."""
    return np.stack([levels(self.rows.x), levels(self.rows.y)], axis=1)

  @property
  def distinct(self) -> tuple[int, int]:
    """Numbers of different N and of different D."""
    x, y = self.levels.max(axis=0) + 1
    return int(x), int(y)

  @property
  def n_places(self) -> int:
    """Number of different (N, D)."""
    return len(np.unique(self.levels, axis=0))

  def coefficients(self, theta: np.ndarray) -> np.ndarray:
    """(..., 5) of the solver -> E, A, B, alpha, beta in nats."""
    at_x, at_y, at_z = self.pivots
    E, A, B, alpha, beta = np.moveaxis(theta, -1, 0)
    scale = np.exp(at_z)
    return np.stack(
      [
        E * scale,
        A * scale * np.exp(alpha * at_x),
        B * scale * np.exp(beta * at_y),
        alpha,
        beta,
      ],
      axis=-1,
    )

  def theta(self, coefficients: np.ndarray) -> np.ndarray:
    """The inverse of `coefficients`, for one law."""
    at_x, at_y, at_z = self.pivots
    E, A, B, alpha, beta = coefficients
    shrunk = [E, A * np.exp(-alpha * at_x), B * np.exp(-beta * at_y)]
    return np.array([*(np.array(shrunk) / np.exp(at_z)), alpha, beta])


def levels(logs: np.ndarray) -> np.ndarray:
  """Index of the level of each of some logarithms of counts, from below.

  A level begins at the lowest value that is in none yet, and holds all that
  are within a thousandth of it.
  """
  index, level, begin = np.empty(len(logs), int), -1, -np.inf
  for i in np.argsort(logs, kind='stable'):
    if logs[i] > begin + SAME_COUNT:
      level, begin = level + 1, logs[i]
    index[i] = level
  return index


def check_delta(delta) -> float:
  """Delta of the Huber loss as a float.

  Raises:
    ValueError: for a delta that is not a positive, finite number.
  """
  try:
    number = float(delta)
  except (TypeError, ValueError):
    number = np.nan
  if not (np.isfinite(number) and number > 0):
    raise ValueError(f'delta {delta!r}: must be positive and finite')
  return number


def check(parameters, tokens, loss) -> dict[str, np.ndarray]:
  """The three columns as float64 arrays.

  Raises:
    ValueError: for columns that are not of one length, for fewer rows than
      coefficients, and for a value that is not positive and finite, naming
      the data row, counted from 1.
  """
  columns = {
    name: np.array(values, dtype=np.float64)
    for name, values in (
      ('parameters', parameters),
      ('tokens', tokens),
      ('loss', loss),
    )
  }
  shapes = {name: values.shape for name, values in columns.items()}
  if len(set(shapes.values())) > 1 or len(shapes['loss']) != 1:
    raise ValueError(f'shapes {shapes}: must be of one length')
  for name, values in columns.items():
    for row in np.flatnonzero(~(np.isfinite(values) & (values > 0))):
      raise ValueError(
        f'row {row + 1}: {name} {values[row]}: must be positive and finite'
      )
  if len(columns['loss']) < N_COEFFICIENTS:
    raise ValueError(
      f'{len(columns["loss"])} rows: a law of {N_COEFFICIENTS} coefficients '
      f'needs at least {N_COEFFICIENTS}'
    )
  return columns


def make(parameters, tokens, loss, groups=None) -> Design:
  """Sorts and centres columns that passed `check`.

  Args:
    groups: index of the group of each row; breaks ties in the order.
  """
  keys = (loss, tokens, parameters)
  order = np.lexsort(keys if groups is None else (groups, *keys))
  logs = [np.log(values[order]) for values in (parameters, tokens, loss)]
  pivots = tuple(float(values.mean()) for values in logs)
  rows = Rows(
    *(values - pivot for values, pivot in zip(logs, pivots, strict=True))
  )
  return Design(
    rows, order, pivots, None if groups is None else np.asarray(groups)[order]
  )
