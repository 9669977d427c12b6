"""The global optimum of one fit: where to begin, and when to stop.

Given its exponents a law is linear in its sizes, and for small residuals
log L - log s is 1 - s / L. So the best nonnegative sizes for each point of a
grid of exponents are a linear least-squares problem in relative errors. Only
the exponents are left to search, and the grid covers them.

Where the law fits, every start ends in the same optimum, and a batch of them
shows it. With residuals of many deltas, or a coefficient which the data hardly
identify, there are several. Then the search goes on around the best so far,
until two rounds find nothing better.

The optimum may also be a plateau. Far from zero Huber's loss is linear. If
each place (N, D) has as many runs above the law as below it, the law can move
between them at no cost, and a solver stops anywhere on it, by units and
rounding. Of the laws on a plateau the answer is that of least squared error.
"""

import itertools

import numpy as np

from jax_sparse_pretrain.analysis.fitting.objective import (
  Problem,
  objective,
  residuals,
)
from jax_sparse_pretrain.analysis.fitting.solver import descend, minimise

# A grid has so many points an axis, for laws of one exponent, two, and more.
AXIS = (30, 10, 6)
COARSE_AXIS = (12, 6, 4)


def grid(problem: Problem) -> np.ndarray:
  """Exponents of laws from nearly flat ones to the bound: (g, p)."""
  n = AXIS[min(len(problem.bounds), len(AXIS)) - 1]
  return _product(_axes(problem, 0.01, 1.0, n))


def coarse_axes(problem: Problem) -> list[np.ndarray]:
  """Enough for resamples, which have another start as well."""
  n = COARSE_AXIS[min(len(problem.bounds), len(COARSE_AXIS)) - 1]
  return _axes(problem, 0.02, 0.6, n)


def moderate(problem: Problem, delta: float) -> np.ndarray:
  """The best grid point of exponents as laws of language models have."""
  points = grid(problem)
  usual = (points > 0.1) & (points < 1)
  return ranked(problem, delta, points[usual.all(axis=1)])[0]


def ranked(
  problem: Problem, delta: float, exponents: np.ndarray | None = None
) -> np.ndarray:
  """Points of a grid of exponents (g, p) with their best sizes: (g, k).

  The point of least objective comes first.
  """
  exponents = grid(problem) if exponents is None else exponents
  moments, targets = _moments(problem, exponents, np.ones((1, len(problem.z))))
  sizes = _nonnegative(moments[0], targets[0])
  theta = np.concatenate([sizes, exponents], axis=1)
  f = objective(theta, problem, delta)
  return theta[np.argsort(f, kind='stable')]


def projected(
  problem: Problem, weights: np.ndarray, otherwise: np.ndarray
) -> np.ndarray:
  """The best grid point in least squares of each problem: (n, k).

  Only points whose sizes come out positive unconstrained are looked at, which
  is a formula instead of a search. Next to an optimum on a bound there are
  such points too; a problem that has none gets `otherwise`, (k,). Rows have
  weights (n, m).
  """
  exponents = _product(coarse_axes(problem))
  moments, targets = _moments(problem, exponents, weights)
  sizes = _eliminated(moments, targets)
  gain = np.einsum('ngj,ngj->ng', sizes, targets)
  gain = np.where((sizes > 0).all(axis=-1), gain, -np.inf)
  best = gain.argmax(axis=1)
  index = np.arange(len(weights))
  theta = np.concatenate([sizes[index, best], exponents[best]], axis=1)
  return np.where(np.isfinite(gain[index, best])[:, None], theta, otherwise)


def _axes(problem, first: float, last: float, n: int) -> list[np.ndarray]:
  """Geometric steps between two parts of the bounds of each exponent."""
  return [
    np.geomspace(max(low, first * high), last * high, n)
    for low, high in problem.bounds
  ]


def _product(axes: list[np.ndarray]) -> np.ndarray:
  return np.array(list(itertools.product(*axes)))


def _moments(problem, exponents, weights):
  """Normal equations of relative errors: (n, g, j, j) and (n, g, j)."""
  loss, n_sizes = np.exp(problem.z), problem.n_sizes
  nothing = np.zeros((len(exponents), n_sizes))
  powers = problem.powers(np.concatenate([nothing, exponents], axis=1))
  flat = np.ones((len(exponents), len(loss)))
  columns = np.stack([flat if each is None else each for each in powers])
  columns /= loss
  pairs = np.einsum('jgm,kgm->gjkm', columns, columns)
  n, g = len(weights), len(exponents)
  moments = weights @ pairs.reshape(g * n_sizes**2, -1).T
  targets = weights @ columns.transpose(1, 0, 2).reshape(g * n_sizes, -1).T
  shape = (n, g, n_sizes)
  return moments.reshape(*shape, n_sizes), targets.reshape(shape)


def _nonnegative(moments, targets):
  """min |1 - F c|^2 over c >= 0 for (g, j, j), (g, j): (g, j).

  The optimum is at zero for some of the sizes: each subset is tried.
  """
  n_sizes = targets.shape[1]
  best, best_gain = np.zeros_like(targets), np.full(len(targets), -np.inf)
  for kept in itertools.product((False, True), repeat=n_sizes):
    subset = np.flatnonzero(kept)
    if not len(subset):
      continue
    inside = np.ix_(range(len(targets)), subset, subset)
    c = np.zeros_like(targets)
    c[:, subset] = _solve(moments[inside], targets[:, subset])
    gain = (c * targets).sum(axis=1)
    better = (c >= 0).all(axis=1) & (gain > best_gain)
    best[better], best_gain[better] = c[better], gain[better]
  return best


def _solve(moments, targets):
  """Solutions of small systems, with a ridge where columns are equal."""
  ridge = 1e-12 * np.einsum('gjj->gj', moments)
  moments = moments + ridge[:, :, None] * np.eye(moments.shape[-1])
  return np.linalg.solve(moments, targets[..., None])[..., 0]


def _eliminated(moments, targets):
  """Gauss's elimination for (..., j, j) and (..., j); -1 if singular.

  All systems at once, which for many small ones is faster than LAPACK.
  """
  n = targets.shape[-1]
  a = [[moments[..., i, k] for k in range(n)] for i in range(n)]
  b = [targets[..., i] for i in range(n)]
  usable = np.ones(targets.shape[:-1], bool)
  for i in range(n):
    # Columns that rounding cannot tell apart solve nothing.
    usable &= a[i][i] > 1e-10 * moments[..., i, i]
    inverse = 1 / np.where(usable, a[i][i], 1.0)
    for k in range(i + 1, n):
      factor = a[i][k] * inverse
      for column in range(k, n):
        a[k][column] = a[k][column] - factor * a[i][column]
      b[k] = b[k] - factor * b[i]
  for i in reversed(range(n)):
    rest = sum(a[i][k] * b[k] for k in range(i + 1, n))
    b[i] = (b[i] - rest) / np.where(usable, a[i][i], 1.0)
  return np.where(usable[..., None], np.stack(b, axis=-1), -1.0)


# The best grid points, and a spread over the rest.
N_BEST, EVERY = 12, 11
# Starts that must find the optimum of a law of three exponents or more.
N_AGREE = 3
# Two optima are one if their objectives agree to this part, or are both of
# rounding alone.
SAME, NOTHING = 1e-9, 1e-24
# How far a round looks in logarithms of the coefficients; and of exponents
# whose sizes are then found anew.
SPREADS, EXPONENT_SPREADS = (0.03, 0.15, 0.5), (0.1, 0.4)
N_ROUND, PATIENCE = 12, 2
# Weights of squared errors: of a few steps, as far as shows that there is a
# plateau; and of the way to its end, where larger ones go first, since a small
# weight takes hundreds of steps. The end costs a millionth part of the
# objective at most, or there was no plateau.
TRACE, TRACE_STEPS = 1e-6, 60
SQUARES = (1e-2, 1e-3, 1e-4)
LEVEL = 1e-6
# Squares of that weight are a small part of the objective.
FLAT_TOLERANCE = 1e-16
# Of log loss: predictions that differ by less are the same.
NOTICED = 1e-4


def lowest(problem: Problem, delta: float) -> tuple[np.ndarray, float]:
  """The best optimum found, (k,), and its objective.

  Random numbers of a fixed seed place the starts of later rounds: the same
  data give the same answer to the bit.
  """
  starts = ranked(problem, delta)
  begin, n_agree = starts[:N_BEST], N_AGREE
  # With more exponents the spread takes ten times the time of the best.
  if len(problem.bounds) < 3:
    begin = np.concatenate([begin, starts[N_BEST::EVERY]])
    n_agree = len(begin)
  theta, f = minimise(begin, problem, delta)
  best, low = theta[f.argmin()], f.min()
  if (f <= low * (1 + SAME) + NOTHING).sum() >= n_agree:
    return best, float(low)
  rng, fruitless = np.random.default_rng(0), 0
  while fruitless < PATIENCE:
    theta, f = minimise(_around(best, problem, delta, rng), problem, delta)
    fruitless += 1
    if f.min() < low * (1 - SAME) - NOTHING:
      fruitless = 0
      best, low = theta[f.argmin()], f.min()
  return best, float(low)


def settled(
  problem: Problem, delta: float, theta: np.ndarray
) -> np.ndarray | None:
  """Of fits as good as this optimum (k,), that of least squared error.

  None if there is no other fit as good.
  """
  if _is_pinned(problem, delta, theta):
    return None
  flat = {'tolerance': FLAT_TOLERANCE}
  trace = {**flat, 'squares': TRACE, 'steps': TRACE_STEPS}
  traced, _ = descend(theta[None], problem, delta, **trace)
  before, after = residuals(np.stack([theta, traced[0]]), problem)
  if np.abs(after - before).max() < NOTICED:
    return None
  found = theta[None]
  for squares in SQUARES:
    found, _ = descend(found, problem, delta, **flat, squares=squares)
  costs = objective(np.stack([theta, found[0]]), problem, delta)
  return found[0] if costs[1] <= costs[0] * (1 + LEVEL) else None


def scattered(
  theta: np.ndarray, spread: float, problem: Problem, rng: np.random.Generator
) -> np.ndarray:
  """Each coefficient times a log-normal factor, within the bounds."""
  theta = theta * np.exp(spread * rng.normal(size=theta.shape))
  return np.clip(theta, problem.lower, problem.upper)


def _around(best, problem, delta, rng):
  copies = np.tile(best, (N_ROUND, 1))
  moved = [scattered(copies, spread, problem, rng) for spread in SPREADS]
  # An exponent of zero would stay there.
  gentlest, steepest = grid(problem).min(axis=0), problem.bounds[:, 1]
  exponents = np.maximum(copies[:, problem.n_sizes :], gentlest)
  for spread in EXPONENT_SPREADS:
    points = exponents * np.exp(spread * rng.normal(size=exponents.shape))
    points = np.clip(points, problem.bounds[:, 0], steepest)
    moved.append(ranked(problem, delta, points))
  return np.concatenate(moved)


def _is_pinned(problem: Problem, delta: float, theta: np.ndarray) -> bool:
  """Whether runs within delta of the law hold every free coefficient."""
  free = (theta > problem.lower) & (theta < problem.upper)
  near = np.abs(residuals(theta, problem)) < delta
  columns = problem.slopes(theta)[near][:, free]
  return len(columns) > 0 and np.linalg.matrix_rank(columns) == free.sum()
