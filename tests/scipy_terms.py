"""The oracle of the solver: SciPy on any law that is a sum of terms.

It shares the definition of the objective with the solver, and no code.
"""

import itertools

import numpy as np
from scipy import optimize, special


def fit(form, parameters, sparsity, tokens, loss, delta, n_starts=3):
  """Sizes and exponents in the units of the data, and their objective."""
  factors = form.factors(parameters, sparsity, tokens)
  bounds = np.array(list(form.bounds.values()))
  pivots, z = factors.mean(axis=2), np.log(loss)
  factors = factors - pivots[:, :, None]
  centre = z.mean()
  problem = _Problem(factors, z - centre, delta, bounds)
  axes = [np.geomspace(max(a, b / 60), 0.9 * b, 6) for a, b in bounds]
  starts = map(problem.with_sizes, itertools.product(*axes))
  best = sorted(starts, key=problem.objective)[:n_starts]
  theta = min(map(problem.refine, best), key=problem.objective)
  sizes, exponents = np.split(theta, [len(factors)])
  sizes = sizes * np.exp(centre + pivots @ exponents)
  return np.concatenate([sizes, exponents]), problem.objective(theta)


class _Problem:
  def __init__(self, factors, z, delta, bounds):
    self.factors, self.z, self.delta, self.bounds = factors, z, delta, bounds

  def powers(self, exponents):
    return np.exp(-np.einsum('jpm,p->jm', self.factors, exponents))

  def residuals(self, theta):
    sizes, exponents = np.split(theta, [len(self.factors)])
    return self.z - np.log(sizes @ self.powers(exponents))

  def jacobian(self, theta):
    sizes, exponents = np.split(theta, [len(self.factors)])
    powers = self.powers(exponents)
    terms = sizes[:, None] * powers
    slopes = np.einsum('jm,jpm->pm', terms, self.factors)
    return (np.concatenate([-powers, slopes]) / terms.sum(axis=0)).T

  def objective(self, theta):
    return special.huber(self.delta, self.residuals(theta)).sum()

  def with_sizes(self, exponents):
    """Sizes of least squared relative error."""
    columns = self.powers(np.array(exponents)) / np.exp(self.z)
    sizes, _ = optimize.nnls(columns.T, np.ones(len(self.z)))
    return np.concatenate([sizes, exponents])

  def refine(self, theta):
    """Delta is approached from above: far off, it leaves only signs."""
    widest = max(np.abs(self.residuals(theta)).max() / self.delta, 1.0)
    sizes = [(0.0, np.inf)] * len(self.factors)
    low, high = np.array([*sizes, *self.bounds]).T
    for factor in 10.0 ** np.arange(np.ceil(np.log10(widest)), -1, -1):
      tolerance = 1e-6 if factor > 1 else 1e-14
      theta = optimize.least_squares(
        self.residuals,
        np.clip(theta, low + 1e-9, high - 1e-9),
        self.jacobian,
        bounds=(low, high),
        loss='huber',
        f_scale=self.delta * factor,
        x_scale='jac',
        ftol=tolerance,
        xtol=tolerance,
        gtol=tolerance,
        max_nfev=2000,
      ).x
    return theta
