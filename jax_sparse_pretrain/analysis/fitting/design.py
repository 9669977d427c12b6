"""The data of a fit: checked, in a canonical order, in units of its own.

Order and units are taken from the values alone. So the order of the rows of a
table changes no bit of a fit, and neither does it matter in which units
parameters and tokens are counted.
"""

import dataclasses
import functools

import numpy as np

from jax_sparse_pretrain.analysis.fitting.forms import CHINCHILLA, Form
from jax_sparse_pretrain.analysis.fitting.objective import Problem

# Of Chinchilla's law.
NAMES = CHINCHILLA.names
N_COEFFICIENTS = len(NAMES)
# In logarithms: counts of one setting differ by roundings.
SAME_COUNT = 1e-3


@dataclasses.dataclass(frozen=True)
class Design:
  """Runs to fit a form of the law to, and the way back.

  Attributes:
    form: the form.
    problem: for the solver: centred factors and log loss, in canonical order.
    order: which given row each of its rows is, (m,).
    pivots: the means of the factors, (j, p).
    loss_pivot: the mean of log loss.
    groups: index of the group of each row, (m,); each its own by default.
  """

  form: Form
  problem: Problem
  order: np.ndarray
  pivots: np.ndarray
  loss_pivot: float
  groups: np.ndarray

  @functools.cached_property
  def holders(self) -> np.ndarray:
    """Which terms depend on which exponents by the form: (j, p), bool."""
    terms = self.form.terms(1.0, 0.0, 1.0).values()
    return np.array([[p in each for p in self.form.bounds] for each in terms])

  @functools.cached_property
  def counts(self) -> np.ndarray:
    """Centred logarithm of the count of each exponent, (p, m)."""
    first = self.holders.argmax(axis=0)
    return self.problem.factors[first, range(len(first))]

  @functools.cached_property
  def levels(self) -> np.ndarray:
    """Which of the different counts of each exponent a row has: (m, p)."""
    return np.stack([levels(each) for each in self.counts], axis=1)

  @property
  def distinct(self) -> tuple[int, ...]:
    """Number of different counts of each exponent: of N and of D."""
    return tuple(int(n) + 1 for n in self.levels.max(axis=0))

  @property
  def n_places(self) -> int:
    """Number of different combinations of counts: of (N, D)."""
    return len(np.unique(self.levels, axis=0))

  def tied(self, exponents: list[int]) -> list[int]:
    """Coefficients which cannot be told while these exponents cannot.

    The exponents themselves, the sizes of their terms and constant terms.
    """
    if not exponents:
      return []
    held = self.holders[:, exponents].any(axis=1) | ~self.holders.any(axis=1)
    n_sizes = self.problem.n_sizes
    return [*np.flatnonzero(held), *(n_sizes + p for p in exponents)]

  def coefficients(self, theta: np.ndarray) -> np.ndarray:
    """(..., k) of the solver -> sizes in nats, and exponents."""
    sizes, exponents = np.split(theta, [self.problem.n_sizes], axis=-1)
    scale = np.exp(np.einsum('...p,jp->...j', exponents, self.pivots))
    sizes = sizes * np.exp(self.loss_pivot) * scale
    return np.concatenate([sizes, exponents], axis=-1)

  def theta(self, coefficients: np.ndarray) -> np.ndarray:
    """The inverse of `coefficients`."""
    sizes, exponents = np.split(
      np.asarray(coefficients), [self.problem.n_sizes], axis=-1
    )
    scale = np.exp(-np.einsum('...p,jp->...j', exponents, self.pivots))
    sizes = sizes * scale / np.exp(self.loss_pivot)
    return np.concatenate([sizes, exponents], axis=-1)


def make(
  parameters, tokens, loss, groups=None, *, form: Form = CHINCHILLA, sparsity=0
) -> Design:
  """Sorts and centres columns that passed `check`.

  `groups` are indices, of each row, and break ties in the order. Forms that
  do not read the sparsity at the end need none.
  """
  sparsity = np.broadcast_to(np.float64(sparsity), loss.shape)
  groups = None if groups is None else np.asarray(groups)
  keys = (sparsity, loss, tokens, parameters)
  order = np.lexsort(keys if groups is None else (groups, *keys))
  factors = form.factors(parameters[order], sparsity[order], tokens[order])
  log_loss = np.log(loss[order])
  pivots, loss_pivot = factors.mean(axis=2), float(log_loss.mean())
  problem = Problem(
    factors - pivots[:, :, None],
    log_loss - loss_pivot,
    np.array(list(form.bounds.values())),
  )
  own = np.arange(len(loss))
  return Design(
    form,
    problem,
    order,
    pivots,
    loss_pivot,
    own if groups is None else groups[order],
  )


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


def check_level(level: float) -> None:
  """Raises ValueError for a level of confidence outside (0, 1)."""
  if not 0 < level < 1:
    raise ValueError(f'level {level}: must be between 0 and 1')


def check(
  parameters, tokens, loss, n_coefficients: int = N_COEFFICIENTS
) -> dict[str, np.ndarray]:
  """Three columns as float64; a ValueError names the row that is wrong."""
  given = {'parameters': parameters, 'tokens': tokens, 'loss': loss}
  columns = {k: np.array(v, dtype=np.float64) for k, v in given.items()}
  shapes = {name: values.shape for name, values in columns.items()}
  if len(set(shapes.values())) > 1 or len(shapes['loss']) != 1:
    raise ValueError(f'shapes {shapes}: must be of one length')
  for name, values in columns.items():
    for row in np.flatnonzero(~(np.isfinite(values) & (values > 0))):
      raise ValueError(
        f'row {row + 1}: {name} {values[row]}: must be positive and finite'
      )
  if len(columns['loss']) < n_coefficients:
    raise ValueError(
      f'{len(columns["loss"])} rows: a law of {n_coefficients} coefficients '
      f'needs at least {n_coefficients}'
    )
  return columns


def check_sparsity(sparsity, shape: tuple[int, ...]) -> np.ndarray:
  """Sparsities as float64; a ValueError names the row that is wrong."""
  sparsity = np.asarray(sparsity, np.float64)
  if sparsity.shape != shape:
    raise ValueError(f'sparsity of shape {sparsity.shape}: not {shape}')
  for row in np.flatnonzero(~((sparsity >= 0) & (sparsity < 1))):
    raise ValueError(
      f'row {row + 1}: sparsity {sparsity[row]}: must be in [0, 1)'
    )
  return sparsity
