"""The objective of a fit and its exact derivatives, for many laws at once.

Every law we fit is a sum of terms, each a size times powers of counts:

  s_i = sum_j c_j exp(-sum_p q_p F_jpi),    c >= 0, q within bounds,

where a factor F_jp is the logarithm of a count, centred on its mean. So the
sizes c are parts of the loss at the centre of the data, and a step in one
coefficient does not have to be undone by another. The objective is

  f = sum_i w_i huber_delta(z_i - log s_i),    z = log loss.

Sizes enter as they are, not as logarithms: zero is a value they can reach.
theta holds the sizes and then the exponents. Laws of a batch share the factors
and z, and differ in their weights w. Sums over rows are matrix products.
NumPy only.
"""

import dataclasses
import functools
import itertools

import numpy as np


@dataclasses.dataclass(frozen=True)
class Problem:
  """The data of a fit: what the terms of the law are made of, and the loss.

  Attributes:
    factors: F, (j, p, m); zero where term j does not depend on exponent p.
    z: log loss, (m,).
    bounds: lowest and highest value of each exponent, (p, 2).
  """

  factors: np.ndarray
  z: np.ndarray
  bounds: np.ndarray

  @property
  def n_sizes(self) -> int:
    return len(self.factors)

  @functools.cached_property
  def lower(self) -> np.ndarray:
    return np.concatenate([np.zeros(self.n_sizes), self.bounds[:, 0]])

  @functools.cached_property
  def upper(self) -> np.ndarray:
    return np.concatenate([np.full(self.n_sizes, np.inf), self.bounds[:, 1]])

  @functools.cached_property
  def active(self) -> list[list[int]]:
    """The exponents that each term depends on, by the data."""
    return [np.flatnonzero(row.any(axis=1)).tolist() for row in self.factors]

  @functools.cached_property
  def sums(self) -> '_Sums':
    return _Sums(self)

  def powers(self, theta: np.ndarray) -> list[np.ndarray | None]:
    """The terms without their sizes, each (n, m); None where constant, 1."""
    exponents = theta[:, self.n_sizes :, None]
    found = []
    for factors, active in zip(self.factors, self.active, strict=True):
      logs = None
      for p in active:
        part = -exponents[:, p] * factors[p]
        logs = part if logs is None else logs + part
      found.append(None if logs is None else np.exp(logs, out=logs))
    return found

  def predicted(self, theta: np.ndarray, powers=None) -> np.ndarray:
    """s, (n, m), for theta (n, k)."""
    powers = self.powers(theta) if powers is None else powers
    s = np.zeros((len(theta), len(self.z)))
    constant = 0.0
    for size, power in zip(theta[:, : self.n_sizes].T, powers, strict=False):
      if power is None:
        constant = constant + size[:, None]
      else:
        s += size[:, None] * power
    s += constant
    return s

  def slopes(self, theta: np.ndarray) -> np.ndarray:
    """d log s / d theta, (m, k), at one theta (k,)."""
    powers, terms = self._terms(theta)
    exponents = -np.einsum('jpm,jm->pm', self.factors, terms)
    return (np.concatenate([powers, exponents]) / terms.sum(axis=0)).T

  def _terms(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The terms without and with their sizes, (j, m), at one theta (k,)."""
    sizes, exponents = np.split(theta, [self.n_sizes])
    powers = np.exp(-np.einsum('jpm,p->jm', self.factors, exponents))
    return powers, sizes[:, None] * powers


def residuals(theta: np.ndarray, problem: Problem) -> np.ndarray:
  """z - log s for theta (..., k): (..., m)."""
  flat = theta.reshape(-1, theta.shape[-1])
  r = problem.z - np.log(problem.predicted(flat))
  return r.reshape(*theta.shape[:-1], -1)


def huber(r: np.ndarray, delta: float) -> np.ndarray:
  """r^2 / 2 up to delta, then delta (|r| - delta / 2)."""
  psi = np.clip(r, -delta, delta)
  return psi * (r - psi / 2)


def objective(theta: np.ndarray, problem: Problem, delta: float) -> np.ndarray:
  """The summed Huber loss of laws (..., k): (...)."""
  return huber(residuals(theta, problem), delta).sum(axis=-1)


def derivatives(theta, problem, delta, weights, with_metric, squares=0.0):
  """f, its gradient, its Hessian and the metric, or None in its place.

  With h the gradient of s, r the residuals and psi = huber'(r):
    gradient = -sum w psi h / s
    Hessian = sum w (psi' + psi) h h^T / s^2 - sum w psi s'' / s
    metric = sum w min(1, delta / |r|) h h^T / s^2.
  `squares` is a weight of r^2 / 2, which is added to the Huber loss.

  Args:
    theta: the laws, (n, k).
    problem: the data, m rows.
    weights: the weight of each row, (n, m).
  """
  powers = problem.powers(theta)
  s = problem.predicted(theta, powers)
  # No law has a loss of zero: such a trial counts as infinitely bad.
  s[s <= 0] = np.nan
  inverse = 1 / s
  r = np.subtract(problem.z, np.log(s, out=s), out=s)
  psi = np.clip(r, -delta, delta)
  pull = weights * psi
  f = np.einsum('nm,nm->n', pull, r - psi / 2)
  bend = weights * (psi == r)
  if squares:
    pull += squares * weights * r
    f += squares / 2 * np.einsum('nm,nm,nm->n', weights, r, r)
    bend += squares * weights
  bend += pull
  pull *= inverse
  inverse *= inverse
  bend *= inverse
  sums = problem.sums
  slopes, bends = sums.of_slopes(pull, theta, powers)
  gradient, hessian = -slopes, sums.of_squares(bend, theta, powers) - bends
  if not with_metric:
    return f, gradient, hessian, None
  mild = delta / np.maximum(np.abs(r), delta)
  mild += squares
  mild *= weights
  mild *= inverse
  return f, gradient, hessian, sums.of_squares(mild, theta, powers)


def derivatives_of_one(theta, problem, delta, weights, squares=0.0):
  """The same at one theta (k,) for weights (n, m), with the metric."""
  powers, terms = problem._terms(theta)
  s = terms.sum(axis=0)
  s[s <= 0] = np.nan
  r = problem.z - np.log(s)
  psi = np.clip(r, -delta, delta)
  near, rho = psi == r, psi * (r - psi / 2) + squares / 2 * r * r
  psi = psi + squares * r
  j, k, m = problem.n_sizes, len(theta), len(s)
  factors = problem.factors
  h = np.concatenate([powers, -np.einsum('jpm,jm->pm', factors, terms)]) / s
  second = np.zeros((k, k, m))
  second[:j, j:] = -factors * powers[:, None]
  second[j:, :j] = second[:j, j:].transpose(1, 0, 2)
  second[j:, j:] = np.einsum('jpm,jqm,jm->pqm', factors, factors, terms)
  squared = h[:, None] * h
  mild = delta / np.maximum(np.abs(r), delta) + squares
  flat = np.concatenate(
    [
      rho[None],
      -psi * h,
      ((near + squares + psi) * squared - psi / s * second).reshape(-1, m),
      (mild * squared).reshape(-1, m),
    ]
  )
  f, gradient, hessian, metric = np.split(
    weights @ flat.T, np.cumsum([1, k, k * k]), axis=1
  )
  n = len(weights)
  return f[:, 0], gradient, hessian.reshape(n, k, k), metric.reshape(n, k, k)


class _Sums:
  """Sums over rows of products of the law's derivatives.

  The gradient h of s has the entries X_j and -sum_j c_j F_jp X_j, with X_j the
  term j without its size. So all that Newton's method needs are sums of
  k_i X_ji X_li, times at most two factors F. Terms are multiplied with each
  other once for all laws; one matrix product with the products of factors then
  gives a table of all sums, and `_Entries` say where each belongs.
  """

  def __init__(self, problem: Problem):
    self.active = problem.active
    self._name_rows_and_columns(problem)
    n_sizes, n_exponents, _ = problem.factors.shape
    self.n = n_sizes + n_exponents
    # Of each entry of h: its terms, with their factor and their size, if any.
    parts = [[(j, None, None)] for j in range(n_sizes)]
    for p in range(n_exponents):
      holders = [j for j in range(n_sizes) if p in self.active[j]]
      parts.append([(j, self.names[j, p], j) for j in holders])
    self.slopes = _Entries(
      self.n,
      [
        (a, *self._place((part,)), part[2], None)
        for a, entry in enumerate(parts)
        for part in entry
      ],
    )
    self.squares = _Entries(
      self.n**2,
      [
        (a * self.n + b, *self._place((one, two)), one[2], two[2])
        for a, first in enumerate(parts)
        for b, second in enumerate(parts)
        for one in first
        for two in second
      ],
    )
    self.bends = _Entries(self.n**2, list(self._second(n_sizes)))

  def of_squares(self, k, theta, powers) -> np.ndarray:
    """sum_i k_i h_i h_i^T for k (n, m): (n, t, t)."""
    products = np.empty((len(self.rows), *k.shape))
    self._multiply_once(products, k, powers)
    for key, row in self.rows.items():
      if len(key) == 2:
        first = products[self.rows[key[:1]]]
        np.multiply(first, powers[key[1]], out=products[row])
    found = self.squares.of(products @ self.basis, theta)
    return found.reshape(-1, self.n, self.n)

  def of_slopes(self, k, theta, powers) -> tuple[np.ndarray, np.ndarray]:
    """sum_i k_i h_i, (n, t), and sum_i k_i s'', (n, t, t)."""
    products = np.empty((self.n_single, *k.shape))
    self._multiply_once(products, k, powers)
    table = products @ self.basis
    bends = self.bends.of(table, theta).reshape(-1, self.n, self.n)
    return self.slopes.of(table, theta), bends

  def _name_rows_and_columns(self, problem: Problem) -> None:
    """Rows are of no term, one and two; columns likewise of factors."""
    varying = [j for j, active in enumerate(self.active) if active]
    pairs = itertools.combinations_with_replacement
    keys = [(), *((j,) for j in varying), *pairs(varying, 2)]
    self.rows = {key: row for row, key in enumerate(keys)}
    self.n_single = 1 + len(varying)
    # Several terms may share a factor.
    factors, self.names = [], {}
    for j in varying:
      for p in self.active[j]:
        factor = problem.factors[j, p]
        same = [a for a, f in enumerate(factors) if np.array_equal(f, factor)]
        self.names[j, p] = same[0] if same else len(factors)
        factors += [] if same else [factor]
    names = range(len(factors))
    keys = [(), *((a,) for a in names), *pairs(names, 2)]
    self.columns = {key: column for column, key in enumerate(keys)}
    one = np.ones(len(problem.z))
    self.basis = np.stack(
      [np.prod([one, *(factors[a] for a in key)], axis=0) for key in keys],
      axis=-1,
    )

  def _place(self, parts) -> tuple[int, int]:
    """Row and column of a product of parts."""
    terms = sorted(j for j, _, _ in parts if self.active[j])
    factors = sorted(a for _, a, _ in parts if a is not None)
    return self.rows[tuple(terms)], self.columns[tuple(factors)]

  def _second(self, n_sizes: int):
    """Entries of s'': of one term, by its size and by its exponents."""
    for j, active in enumerate(self.active):
      for p in active:
        a, name = n_sizes + p, self.names[j, p]
        row, column = self._place([(j, name, j)])
        for place in (j * self.n + a, a * self.n + j):
          yield place, row, column, NEGATIVE, None
        for q in active:
          both = tuple(sorted((name, self.names[j, q])))
          place = a * self.n + n_sizes + q
          yield place, row, self.columns[both], j, NEGATIVE

  def _multiply_once(self, products, k, powers) -> None:
    products[0] = k
    for key, row in self.rows.items():
      if len(key) == 1:
        np.multiply(k, powers[key[0]], out=products[row])


# In place of the index of a size: a multiplication by -1.
NEGATIVE = -1


class _Entries:
  """Entries of a vector or matrix as sums of entries of a table.

  Each item is (entry, row, column, size, size): the sum at a row and a column
  of the table, times minus the sizes of these indices, None for no size, is a
  part of an entry.
  """

  def __init__(self, n_entries: int, items: list[tuple]):
    entries, self.rows, self.columns, *sizes = map(
      list, zip(*items, strict=True)
    )
    # The scales are -1, then 1, then minus each of the sizes.
    self.scales = [
      [1 if j is None else 0 if j == NEGATIVE else j + 2 for j in each]
      for each in sizes
    ]
    self.sums = np.zeros((n_entries, len(entries)))
    self.sums[entries, range(len(entries))] = 1.0

  def of(self, table: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """The entries of each law: (n, n_entries)."""
    n, k = theta.shape
    scales = np.empty((2 + k, n))
    scales[0], scales[1] = -1.0, 1.0
    np.negative(theta.T, out=scales[2:])
    first, second = self.scales
    parts = table[self.rows, :, self.columns]
    parts *= scales[first] * scales[second]
    return (self.sums @ parts).T
