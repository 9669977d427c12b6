"""The law's coefficients from runs (N, D, loss).

The objective is that of Hoffmann et al. (arXiv 2203.15556, section 3.3): the
sum over runs of the Huber loss of log measured less log predicted loss, with
delta 1e-3. A sum: a mean makes optimizers stop early (Besiroglu et al., arXiv
2404.10102). Values in, values out; nothing here reads files or needs jax.
"""

import dataclasses
import functools
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from jax_sparse_pretrain.analysis.effective import EFFECTIVE
from jax_sparse_pretrain.analysis.fitting import coefficient as profiling
from jax_sparse_pretrain.analysis.fitting import design as designs
from jax_sparse_pretrain.analysis.fitting import grid, identification, search
from jax_sparse_pretrain.analysis.fitting.bootstrap import (
  Bootstrap,
  bootstrap,
  bootstrap_over,
)
from jax_sparse_pretrain.analysis.fitting.forms import Form
from jax_sparse_pretrain.analysis.fitting.intervals import (
  objective_threshold,
  profile_intervals,
)
from jax_sparse_pretrain.analysis.fitting.law import ScalingLaw
from jax_sparse_pretrain.analysis.fitting.objective import huber, objective
from jax_sparse_pretrain.analysis.fitting.solver import minimise
from jax_sparse_pretrain.analysis.runs_table import Runs

METHODS = ('global', 'grid')
# Part of the objective to which it is that of the law, and an optimum.
UNFINISHED = 1e-6
# Of a residual.
ROUNDING = 1e-13


@dataclasses.dataclass(frozen=True, eq=False)
class ScalingLawFit:
  """A fitted law and the data it was fitted to, in the given order.

  Attributes:
    law: the coefficients.
    objective: sum of Huber losses of the residuals.
    delta: where the Huber loss turns from a parabola to a line, in log loss.
    parameters: N of each run, (m,).
    tokens: D of each run, (m,).
    loss: measured, in nats, (m,).
    other: a law that fits as well and predicts otherwise, where there are
      many; of these, `law` has the least squared error. None if it is alone.
    count: the coefficient of the effective count that N is; None if it has
      none, or if N was given.
  """

  law: ScalingLaw
  objective: float
  delta: float
  parameters: np.ndarray
  tokens: np.ndarray
  loss: np.ndarray
  other: ScalingLaw | None = None
  count: 'FittedCount | None' = None

  @property
  def coefficients(self) -> dict[str, float]:
    """Those of the law, and that of the count, by name."""
    own = {self.count.name: self.count.value} if self.count else {}
    return self.law.as_dict() | own

  @property
  def residuals(self) -> np.ndarray:
    """log measured - log predicted loss, (m,)."""
    return np.log(self.loss) - np.log(
      self.law.loss(self.parameters, self.tokens)
    )

  @property
  def log_rmse(self) -> float:
    """Root mean square of the residuals."""
    return float(np.sqrt(np.mean(np.sort(self.residuals**2))))

  @property
  def warnings(self) -> tuple[str, ...]:
    """`warnings_at` the level of 95 %."""
    return self.warnings_at(0.95)

  def warnings_at(self, level: float) -> tuple[str, ...]:
    """Sentences on coefficients which the data do not identify.

    From the design (how many N and D there are, and whether they move
    together), from other laws that fit as well, from bounds, and from
    profile intervals of the level that are open.
    """
    said = (
      *identification.design_warnings(self._design),
      *self._optimum_warnings(),
      *identification.bound_warnings(self._design, self.law),
      *identification.interval_warnings(self.intervals(level), level),
    )
    return (*said, *self.count.warnings) if self.count else said

  def _optimum_warnings(self) -> Iterator[str]:
    if self.other:
      ours, theirs = (
        np.log(law.loss(self.parameters, self.tokens))
        for law in (self.law, self.other)
      )
      yield (
        'many laws fit equally well; that of least squared error is given; '
        f'others differ from it by {np.abs(ours - theirs).max():.2%} of '
        'the loss or more'
      )
      return
    start = self._design.theta(self._coefficients)
    _, (lower,) = minimise(start[None], self._design.problem, self.delta)
    if lower < self.objective * (1 - UNFINISHED) - search.NOTHING:
      yield (
        f'the objective is {1 - lower / self.objective:.1%} above an optimum: '
        'the search for it did not end'
      )

  def bootstrap(
    self, n_resamples: int = 4000, seed: int = 0, groups=None
  ) -> Bootstrap:
    """Refits resampled runs, or resampled groups of runs.

    Args:
      n_resamples: how many.
      seed: the seed of the draws.
      groups: label of each run, (m,). Runs of one label, such as seeds of one
        configuration, are drawn together; by default each is its own group.

    Raises:
      ValueError: for labels that are not one a run, or that are all equal.
    """
    if groups is not None:
      groups = _group_indices(groups, len(self.loss))
    options = (self.delta, n_resamples, seed)
    counted = []
    for parameters, law in self._counted:
      design = designs.make(parameters, self.tokens, self.loss, groups)
      counted.append((design, design.theta(list(law.as_dict().values()))))
    if self.count is None:
      return bootstrap(*counted[0], *options)
    values = self.count.values
    tried = [(values[i], *counted[i]) for i in range(0, N_TABLE, EVERY)]
    return bootstrap_over(tried, *options, self.count.name)

  @property
  def _counted(self) -> list[tuple[np.ndarray, ScalingLaw]]:
    """N and the best law, of each value of the coefficient of the count."""
    if self.count is None:
      return [(self.parameters, self.law)]
    laws = (ScalingLaw(*each) for each in self.count.laws)
    return list(zip(self.count.parameters, laws, strict=True))

  def intervals(self, level: float = 0.95) -> dict[str, tuple[float, float]]:
    """Profile interval of each coefficient; an open side is 0 or inf.

    Raises:
      ValueError: for a level outside (0, 1).
    """
    designs.check_level(level)
    if level not in self._profiles:
      self._profiles[level] = self._profile(level)
    return dict(self._profiles[level])

  def _profile(self, level: float) -> dict[str, tuple[float, float]]:
    """Of a coefficient of the count, too: that of the others is over it."""
    theta = self._design.theta(self._coefficients)
    ends = profile_intervals(self._design, theta, self.delta, level)
    if self.count is None:
      return ends
    design, k = self._design, len(theta) + 1
    threshold = objective_threshold(design, theta, self.delta, level, k)
    risen = np.maximum(self.count.objectives - self.objective, 0.0)
    every = [ends]
    inside = np.flatnonzero(risen < threshold)
    for i in inside[:: -(-len(inside) // N_JOINT)]:
      parameters, law = self._counted[i]
      other = self._make(None, parameters)
      theta = other.theta(list(law.as_dict().values()))
      left = threshold - risen[i]
      every.append(
        profile_intervals(other, theta, self.delta, level, threshold=left)
      )
    lows, highs = zip(
      *(zip(*each.values(), strict=True) for each in every), strict=True
    )
    joint = zip(np.min(lows, axis=0), np.max(highs, axis=0), strict=True)
    ends = dict(
      zip(ends, [(float(a), float(b)) for a, b in joint], strict=True)
    )
    return {**ends, self.count.name: self.count.interval(risen, threshold)}

  def interaction(self, level: float = 0.95):
    """Of N and D beyond the law; 0 where it holds, None if not to be told."""
    designs.check_level(level)
    return identification.interaction(
      self.law, self.parameters, self.tokens, self.residuals, level
    )

  def to_json(self) -> str:
    """All of it as JSON, floats to the last bit."""
    values = {
      'law': self.law.as_dict(),
      'objective': self.objective,
      'delta': self.delta,
      'other': self.other and self.other.as_dict(),
      'count': self.count and self.count.as_dict(),
    }
    for name in ('parameters', 'tokens', 'loss'):
      values[name] = getattr(self, name).tolist()
    return json.dumps(values)

  @classmethod
  def from_json(cls, text: str) -> 'ScalingLawFit':
    """The inverse of `to_json`.

    Raises:
      ValueError: for text that `to_json` did not write, and for an objective
        that is not that of the law.
    """
    try:
      values = json.loads(text)
      data = [values[name] for name in ('parameters', 'tokens', 'loss')]
      law = ScalingLaw.from_dict(values['law'])
      objective, other = float(values['objective']), values['other']
      delta = designs.check_delta(values['delta'])
      other = other and ScalingLaw.from_dict(other)
      count = values.get('count')  # Files of earlier versions have none.
      count = count and FittedCount.from_dict(count, len(data[0]))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
      raise ValueError(f'not a fit: {error!r}') from None
    columns = designs.check(*data)
    fit = cls(law, objective, delta, **columns, other=other, count=count)
    total = float(huber(fit.residuals, delta).sum())
    rounding = ROUNDING * delta * len(fit.loss)
    if not abs(objective - total) <= UNFINISHED * total + rounding:
      raise ValueError(
        f'not a fit: objective {objective}: the law and the runs have {total}'
      )
    return fit

  @functools.cached_property
  def _profiles(self) -> dict[float, dict[str, tuple[float, float]]]:
    return {}

  @functools.cached_property
  def _design(self) -> designs.Design:
    return self._make()

  @property
  def _coefficients(self) -> np.ndarray:
    return np.array(list(self.law.as_dict().values()))

  def _make(self, groups=None, parameters=None) -> designs.Design:
    parameters = self.parameters if parameters is None else parameters
    return designs.make(parameters, self.tokens, self.loss, groups)


# Values of the coefficient of a count over which the intervals of the others
# are joined.
N_JOINT = 7


@dataclasses.dataclass(frozen=True, eq=False)
class FittedCount:
  """The coefficient of an effective count, with values around it.

  Attributes:
    kind: the name of the count.
    name: of the coefficient.
    value: at the optimum.
    values: of a table around it, increasing, (v,).
    parameters: N of each run by each value, (v, m).
    laws: the five coefficients of the best law of each, (v, 5).
    objectives: of these, (v,).
  """

  kind: str
  name: str
  value: float
  values: np.ndarray
  parameters: np.ndarray
  laws: np.ndarray
  objectives: np.ndarray

  @property
  def warnings(self) -> tuple[str, ...]:
    """Sentences on a coefficient that means nothing, or is at its bound."""
    if np.ptp(np.log(self.parameters), axis=0).max() < designs.SAME_COUNT:
      return (f'{self.name} does not matter to N of these runs',)
    ends = EFFECTIVE[self.kind].coefficient
    return tuple(
      f'{self.name} is at its bound of {end:g}'
      for end in (ends.low, ends.high)
      if abs(self.value - end) <= BOUND * (ends.high - ends.low)
    )

  def interval(self, risen: np.ndarray, threshold: float):
    """The values whose objective has risen by less; infinite sides are open."""
    # Nearly linear in the distance on each side.
    height = np.sqrt(risen / threshold) if threshold > 0 else 0 * risen
    ends = []
    for side, none in ((-1, -np.inf), (1, np.inf)):
      away = side * (self.values - self.value) >= 0
      x = np.append(self.value, self.values[away][::side])
      y = np.append(0.0, height[away][::side])
      out = np.flatnonzero(y >= 1)
      if not len(out):
        ends.append(none)
        continue
      j, i = out[0], max(out[0] - 1, 0)
      ends.append(float(np.interp(1.0, [y[i], y[j]], [x[i], x[j]])))
    return tuple(ends)

  def as_dict(self) -> dict[str, Any]:
    return {
      name: each.tolist() if isinstance(each, np.ndarray) else each
      for name, each in vars(self).items()
    }

  @classmethod
  def from_dict(cls, values, m: int) -> 'FittedCount':
    """The inverse of `as_dict`, for m runs; a ValueError if it is not."""
    made = cls(
      **{
        name: np.asarray(each, float) if isinstance(each, list) else each
        for name, each in values.items()
      }
    )
    v = len(made.values)
    shapes = [made.parameters.shape, made.laws.shape, made.objectives.shape]
    is_right = made.kind in EFFECTIVE and isinstance(made.value, float)
    if not is_right or shapes != [(v, m), (v, 5), (v,)] or not v:
      raise ValueError('count: is not what fit has written')
    return made


# Part of the range of a coefficient within which it is at its bound.
BOUND = 1e-4
# Values of the table around a coefficient, and how far it goes: where the
# objective has risen by so many thresholds of a 95 % interval.
N_TABLE, TABLE_REACH = 25, 6.0
# Of these a resample tries every second.
EVERY = 2


def fit_runs(
  runs: Runs, kind: str = 'average', *, delta: float = 1e-3, method='global'
) -> ScalingLawFit:
  """Fits the law of an effective count to runs, its coefficient too.

  Args:
    runs: the runs; what the count reads must be known of each.
    kind: the name of the count, of `effective.EFFECTIVE`.
    delta: as of `fit_scaling_law`.
    method: as of `fit_scaling_law`; 'grid' is for counts without a coefficient.

  Raises:
    ValueError: as `fit_scaling_law` and `Runs.parameters` do.
  """
  coefficient = EFFECTIVE[kind].coefficient if kind in EFFECTIVE else None
  options = {'delta': delta, 'method': method}
  if coefficient is None:
    n = runs.parameters(kind)
    return fit_scaling_law(n, runs.tokens, runs.loss, **options)
  if method != 'global':
    raise ValueError(
      f'method {method!r}: {kind} has a coefficient: only global'
    )
  delta = designs.check_delta(delta)
  middle = (coefficient.low + coefficient.high) / 2
  designs.check(runs.parameters(kind, middle), runs.tokens, runs.loss)

  def make(q: float) -> designs.Design:
    return designs.make(runs.parameters(kind, q), runs.tokens, runs.loss)

  found = profiling.best(make, coefficient, delta)
  q = float(found.q)
  fit = fit_scaling_law(
    runs.parameters(kind, q), runs.tokens, runs.loss, **options
  )
  return dataclasses.replace(
    fit, count=_table(runs, kind, coefficient, found, make, delta)
  )


def _table(runs, kind, coefficient, found, make, delta) -> FittedCount:
  """Values around the best, as far as the data could want them."""
  k = len(found.theta) + 1
  far = found.objective + TABLE_REACH * objective_threshold(
    found.design, found.theta, delta, 0.95, k
  )

  def rises(q: float) -> bool:
    each = profiling.candidate(q, make(q), delta, found)
    return each.objective > far

  ends = []
  for bound in (coefficient.low, coefficient.high):
    inner, outer = found.q, bound
    if rises(outer):
      for _ in range(12):
        middle = (inner + outer) / 2
        inner, outer = (inner, middle) if rises(middle) else (middle, outer)
    ends.append(outer)
  values = np.linspace(*ends, N_TABLE)
  each = [profiling.candidate(q, make(q), delta, found) for q in values]
  return FittedCount(
    kind,
    coefficient.name,
    float(found.q),
    values,
    np.stack([runs.parameters(kind, q) for q in values]),
    np.stack([c.design.coefficients(c.theta) for c in each]),
    np.array([c.objective for c in each]),
  )


def fit_scaling_law(
  parameters, tokens, loss, *, delta: float = 1e-3, method: str = 'global'
) -> ScalingLawFit:
  """Fits L(N, D) = E + A / N^alpha + B / D^beta.

  Every coefficient is at least 0, and exponents at most 3.

  Args:
    parameters: N of each run, (m,); the average over pre-training for runs
      that prune.
    tokens: D of each run, (m,).
    loss: the final loss of each run in nats, (m,).
    delta: where the Huber loss turns from a parabola to a line, in log loss.
    method: 'global' starts Newton's method from the best points of a grid of
      exponents. 'grid' is a check that shares no code with it: the 4,500
      starts of Hoffmann et al. with SciPy's L-BFGS-B. It takes minutes.

  Returns:
    The fit; the same to the bit for any order of the rows.

  Raises:
    ValueError: for fewer runs than coefficients, columns of different
      lengths, values or a delta that are not positive and finite, naming the
      row, for runs that are all at one (N, D), and for an unknown method.
  """
  columns = designs.check(parameters, tokens, loss)
  delta = designs.check_delta(delta)
  if method not in METHODS:
    raise ValueError(f'method {method!r}: must be one of {METHODS}')
  design = designs.make(**columns)
  if design.n_places == 1:
    raise ValueError(
      f'all {len(design.order)} runs are at one (N, D): they hold no law'
    )
  theta = None
  if method == 'grid':
    rows = (values[design.order] for values in columns.values())
    law, _ = grid.search(*rows, delta)
    theta = design.theta(list(law.as_dict().values()))
  found = optimum(design, delta, theta)
  return ScalingLawFit(
    found.law, found.objective, delta, **columns, other=found.other
  )


def fit_form(
  form: Form, runs: Runs, *, delta: float = 1e-3, q: float | None = None
) -> 'FormFit':
  """Fits any form of the law, with the coefficient of its count.

  Args:
    form: the law.
    runs: the runs; what the form reads must be known of each.
    delta: of the Huber loss.
    q: the coefficient of the count, if it has one and is not to be fitted.

  Raises:
    ValueError: for fewer runs than coefficients, and values out of range,
      naming the row.
  """
  delta = designs.check_delta(delta)

  def make(q: float | None) -> designs.Design:
    n, sparsity, tokens = form.columns(runs, q)
    columns = designs.check(n, tokens, runs.loss, len(form.names))
    sparsity = designs.check_sparsity(sparsity, columns['loss'].shape)
    return designs.make(**columns, form=form, sparsity=sparsity)

  if form.coefficient is None or q is not None:
    return optimum(make(q), delta)._replace(q=q)
  found = profiling.best(make, form.coefficient, delta)
  return optimum(found.design, delta, found.theta)._replace(q=float(found.q))


class FormFit(NamedTuple):
  """A law of some form at the optimum of its data.

  Attributes:
    form: of the law.
    law: the law; of laws that fit equally well, that of least squared error.
    objective: sum of Huber losses.
    coefficients: its sizes and exponents, as the form names them, (k,).
    others: those of a law that fits as well; the same if there is none.
    theta: the coefficients in the units of the design, (k,).
    q: the coefficient of its count; None if that has none.
  """

  form: Form
  law: Any
  objective: float
  coefficients: np.ndarray
  others: np.ndarray
  theta: np.ndarray
  q: float | None = None

  @property
  def other(self):
    """A law that fits as well and predicts otherwise."""
    is_alone = self.others is self.coefficients
    return None if is_alone else self.form.law(*map(float, self.others))

  def as_dict(self) -> dict[str, float]:
    """The coefficients of the law and of its count, by name."""
    mine = self.form.coefficient
    return self.law.as_dict() | ({mine.name: self.q} if mine else {})

  def log_loss(self, runs: Runs) -> np.ndarray:
    """Predicted log loss, (n,)."""
    columns = self.form.columns(runs, self.q)
    return self.form.log_loss(self.coefficients, *columns)

  def spread(self, runs: Runs) -> float:
    """How far a law that fits as well differs in log loss, at most."""
    theirs = self.form.log_loss(self.others, *self.form.columns(runs, self.q))
    return float(np.abs(self.log_loss(runs) - theirs).max())


def optimum(
  design: designs.Design, delta: float, theta: np.ndarray | None = None
) -> FormFit:
  """The law of least objective; `theta` is an optimum found otherwise."""
  if theta is None:
    theta, least = search.lowest(design.problem, delta)
  else:
    least = float(objective(theta, design.problem, delta))
  others = coefficients = design.coefficients(theta)
  settled = search.settled(design.problem, delta, theta)
  if settled is not None:
    theta, coefficients = settled, design.coefficients(settled)
    least = float(objective(settled, design.problem, delta))
  law = design.form.law(*map(float, coefficients))
  return FormFit(design.form, law, least, coefficients, others, theta)


def _group_indices(groups, m: int) -> np.ndarray:
  labels = np.asarray(groups)
  if labels.shape != (m,):
    raise ValueError(f'groups of shape {labels.shape}: must be ({m},)')
  for row, label in enumerate(labels):
    if label is None or label != label:
      raise ValueError(f'row {row + 1}: group {label}: must be a label')
  names, indices = np.unique(labels, return_inverse=True)
  if len(names) < 2:
    raise ValueError(
      f'one group, {names[0]!r}: resampling groups needs at least two'
    )
  return indices
