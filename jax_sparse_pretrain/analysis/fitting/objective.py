"""The objective of the fit and its exact derivatives, for many laws at once.

A law has the coefficients theta = (E, A, B, alpha, beta) and predicts

  m_i = log s_i,    s_i = E + A exp(-alpha x_i) + B exp(-beta y_i),

with x and y the logarithms of N and D less a pivot near their means. So A and
B are parts of the loss at the pivot, and a step in one coefficient does not
have to be undone by another. The objective is

  f = sum_i w_i huber_delta(z_i - m_i),    z = log loss.

E, A and B are linear in s, not logarithms: zero is a value they can reach.
Laws of a batch share x, y and z and differ in their weights w. Sums over rows
are matrix products. NumPy only.
"""

import dataclasses
import functools

import numpy as np

NAMES = ('E', 'A', 'B', 'alpha', 'beta')
# Across a factor of ten in size, an exponent of 3 leaves a thousandth of the
# term. A steeper one says only that the smallest size stands apart.
MAX_EXPONENT = 3.0


@dataclasses.dataclass(frozen=True)
class Rows:
  """The data of a fit, each of shape (m,)."""

  x: np.ndarray
  y: np.ndarray
  z: np.ndarray

  @functools.cached_property
  def basis(self) -> np.ndarray:
    """(m, 6): what sums over rows are taken against."""
    x, y = self.x, self.y
    return np.stack([np.ones_like(x), x, x * x, y, y * y, x * y], axis=-1)


def residuals(theta: np.ndarray, rows: Rows) -> np.ndarray:
  """z - m for theta (..., 5): (..., m)."""
  E, A, B, alpha, beta = np.moveaxis(theta[..., None], -2, 0)
  s = E + A * np.exp(-alpha * rows.x) + B * np.exp(-beta * rows.y)
  return rows.z - np.log(s)


def huber(r: np.ndarray, delta: float) -> np.ndarray:
  """r^2 / 2 up to delta, then delta (|r| - delta / 2)."""
  psi = np.clip(r, -delta, delta)
  return psi * (r - psi / 2)


def derivatives(theta, rows, delta, weights, with_metric):
  """f, its gradient, its Hessian and the metric.

  With h the gradient of s, r the residuals and psi = huber'(r):
    gradient = -sum w psi h / s
    Hessian = sum w (psi' + psi) h h^T / s^2 - sum w psi s'' / s
    metric = sum w min(1, delta / |r|) h h^T / s^2.
  """
  E, A, B, alpha, beta = theta.T[..., None]
  X, Y = np.exp(-alpha * rows.x), np.exp(-beta * rows.y)
  s = A * X
  s += B * Y
  s += E
  # No law has a loss of zero: such a trial counts as infinitely bad.
  s[s <= 0] = np.nan
  inverse = 1 / s
  r = np.subtract(rows.z, np.log(s, out=s), out=s)
  psi = np.clip(r, -delta, delta)
  pull = weights * psi
  f = np.einsum('nm,nm->n', pull, r - psi / 2)
  bend = weights * (psi == r)
  bend += pull
  pull *= inverse
  inverse *= inverse
  bend *= inverse
  A, B = A[:, 0], B[:, 0]
  hessian = _squares(bend, X, Y, A, B, rows.basis)
  gradient = _slopes(pull, X, Y, A, B, rows.basis, hessian)
  if not with_metric:
    return f, gradient, hessian, None
  mild = delta / np.maximum(np.abs(r), delta)
  mild *= weights
  mild *= inverse
  return f, gradient, hessian, _squares(mild, X, Y, A, B, rows.basis)


def derivatives_of_one(theta, rows, delta, weights):
  """The same at one theta (5,) for weights (n, m), with the metric."""
  E, A, B, alpha, beta = theta
  x, y = rows.x, rows.y
  X, Y = np.exp(-alpha * x), np.exp(-beta * y)
  s = E + A * X + B * Y
  s[s <= 0] = np.nan
  r = rows.z - np.log(s)
  psi = np.clip(r, -delta, delta)
  h = (
    np.stack([np.ones_like(x), X, Y, -A * x * X, -B * y * Y], axis=-1)
    / s[:, None]
  )
  second = np.zeros((len(x), 5, 5))
  second[:, 1, 3] = second[:, 3, 1] = -x * X
  second[:, 2, 4] = second[:, 4, 2] = -y * Y
  second[:, 3, 3], second[:, 4, 4] = A * x * x * X, B * y * y * Y
  squares = h[:, :, None] * h[:, None, :]
  bend, pull, mild = (
    each[:, None, None]
    for each in (
      (psi == r) + psi,
      psi / s,
      delta / np.maximum(np.abs(r), delta),
    )
  )
  terms = (
    psi * (r - psi / 2),
    -psi[:, None] * h,
    bend * squares - pull * second,
    mild * squares,
  )
  flat = np.concatenate([each.reshape(len(x), -1) for each in terms], axis=1)
  f, gradient, hessian, metric = np.split(weights @ flat, [1, 6, 31], axis=1)
  n = len(weights)
  return f[:, 0], gradient, hessian.reshape(n, 5, 5), metric.reshape(n, 5, 5)


def _slopes(k, X, Y, A, B, basis, hessian):
  """-sum_i k_i h_i: (n, 5); takes sum_i k_i s'' from the Hessian."""
  products = np.empty((3, *k.shape))
  products[0] = k
  np.multiply(k, X, out=products[1])
  np.multiply(k, Y, out=products[2])
  o, a, b = np.moveaxis(products @ basis, -1, 1)
  for i, j, amount in ((1, 3, a[1]), (2, 4, b[3])):
    hessian[:, i, j] += amount
    hessian[:, j, i] += amount
  hessian[:, 3, 3] -= A * a[2]
  hessian[:, 4, 4] -= B * b[4]
  return np.stack([-o[0], -a[0], -b[0], A * a[1], B * b[3]], axis=-1)


def _squares(c, X, Y, A, B, basis):
  """sum_i c_i h_i h_i^T with h = (1, X, Y, -A x X, -B y Y): (n, 5, 5)."""
  products = np.empty((6, *c.shape))
  products[0] = c
  for i, j, factor in ((1, 0, X), (2, 0, Y), (3, 1, X), (4, 2, Y), (5, 1, Y)):
    np.multiply(products[j], factor, out=products[i])
  o, a, b, aa, bb, ab = np.moveaxis(products @ basis, -1, 1)
  upper = (
    (o[0], a[0], b[0], -A * a[1], -B * b[3]),
    (aa[0], ab[0], -A * aa[1], -B * ab[3]),
    (bb[0], -A * ab[1], -B * bb[3]),
    (A * A * aa[2], A * B * ab[5]),
    (B * B * bb[4],),
  )
  out = np.empty((len(A), 5, 5))
  for i, entries in enumerate(upper):
    for j, entry in enumerate(entries, start=i):
      out[:, i, j] = out[:, j, i] = entry
  return out
