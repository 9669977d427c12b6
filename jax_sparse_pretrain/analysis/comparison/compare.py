"""Compares laws on the same runs: in sample and, above all, out of it.

Errors are log predicted less log measured loss: positive where a law expects
too high a loss. (They are the residuals of `ScalingLawFit`, negated, as is
usual for the bias of a prediction.) Every law is refitted to each set of
training runs with the same objective, the summed Huber loss.
"""

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from jax_sparse_pretrain.analysis.comparison.results import (
  Bias,
  ComparedLaw,
  Comparison,
)
from jax_sparse_pretrain.analysis.effective import EFFECTIVE
from jax_sparse_pretrain.analysis.fitting import design
from jax_sparse_pretrain.analysis.fitting.fit import (
  FormFit,
  ScalingLawFit,
  fit_form,
)
from jax_sparse_pretrain.analysis.fitting.forms import FORMS, Form
from jax_sparse_pretrain.analysis.fitting.law import ScalingLaw
from jax_sparse_pretrain.analysis.runs_table import Runs
from jax_sparse_pretrain.model.counts import training_flops

# Of the runs, by compute, at the upper end; all within this part of the
# lowest of them go along, since plans of equal compute end a little apart.
LARGEST, TIE = 0.25, 0.02
# It takes three values of N (or D) to know how the loss goes between and
# beyond them.
ENOUGH = 3


class Split(NamedTuple):
  """Runs to fit and runs to predict, once or several times.

  Attributes:
    name: of the test.
    folds: masks over the runs to fit and to predict, and a name of the two if
      it has one; none if there is no such test.
    about: which runs are predicted, or why there is no test.
  """

  name: str
  folds: tuple[tuple[np.ndarray, np.ndarray, str], ...]
  about: str


def levels(runs: Runs) -> np.ndarray:
  """Sparsity to three digits: counts of one setting differ by roundings."""
  return np.round(runs.sparsity, 3) + 0.0


def one_sparsity(runs: Runs) -> Split:
  """Each sparsity in turn is predicted from all others."""
  name, level = 'one sparsity out', levels(runs)
  if np.isnan(level).any():
    return Split(name, (), 'the sparsity is not known of all runs')
  values = np.unique(level)
  if len(values) < 2:
    return Split(name, (), f'all runs have sparsity {values[0]:g}')
  folds = tuple(
    (level != value, level == value, f'without {value:g}: ') for value in values
  )
  return Split(name, folds, 'each sparsity predicted from all others')


def largest_compute(runs: Runs) -> Split:
  """The quarter of the runs of largest 6 N_avg D, from the others."""
  name = 'largest compute out'
  compute = training_flops(runs.average_parameters, runs.tokens)
  if np.isnan(compute).any():
    return Split(name, (), 'average_parameters are not known of all runs')
  n = math.ceil(LARGEST * len(runs))
  lowest = np.sort(compute)[-n] * (1 - TIE)
  test = compute >= lowest
  if test.all():
    return Split(name, (), 'all runs have the same compute')
  about = (
    f'the {test.sum()} runs from {compute[test].min():.2e} FLOPs (6 N_avg D) '
    'on predicted from those below'
  )
  return Split(name, ((~test, test, ''),), about)


def dense_to_sparse(runs: Runs) -> Split:
  """Sparse runs from dense ones alone."""
  name, level = 'dense to sparse', levels(runs)
  if np.isnan(level).any():
    return Split(name, (), 'the sparsity is not known of all runs')
  dense = level == 0
  if dense.all() or not dense.any():
    which = 'sparse' if dense.all() else 'dense'
    return Split(name, (), f'there are no {which} runs')
  about = f'{(~dense).sum()} sparse runs predicted from {dense.sum()} dense'
  return Split(name, ((dense, ~dense, ''),), about)


def one_schedule(runs: Runs) -> Split:
  """Each schedule in turn from all other runs; dense ones are always known."""
  name, level = 'one schedule out', levels(runs)
  labels = schedules(runs)
  if labels is None:
    return Split(name, (), 'the table does not say how runs were pruned')
  sparse = level > 0
  values = sorted(set(labels[sparse]))
  if len(values) < 2:
    return Split(name, (), 'all sparse runs have one schedule')
  folds = tuple(
    (~(sparse & (labels == each)), sparse & (labels == each), f'{each}: ')
    for each in values
  )
  about = f'each of {len(values)} schedules predicted from the other runs'
  return Split(name, folds, about)


def schedules(runs: Runs) -> np.ndarray | None:
  """How each run was pruned, in words, (n,); None if the table does not say.

  Its shape, start and end in hundredths of the steps, and which weights.
  """
  if not {'schedule', 'start', 'end', 'steps'} <= runs.others.keys():
    return None
  steps = runs.optional('steps', np.nan)
  shares = [
    np.round(100 * runs.optional(name, np.nan) / steps)
    for name in ('start', 'end')
  ]
  algorithm = runs.others.get('pruning.algorithm', ('',) * len(runs))
  return np.array(
    [
      f'{shape} {start:g}-{end:g} % {which}'.strip()
      for shape, start, end, which in zip(
        runs.others['schedule'], *shares, algorithm, strict=True
      )
    ]
  )


SPLITS = {
  'one_sparsity_out': one_sparsity,
  'largest_compute_out': largest_compute,
  'dense_to_sparse': dense_to_sparse,
  'one_schedule_out': one_schedule,
}


def why_not(
  form: Form, train: Runs, test: Runs, q: float | None = None
) -> str | None:
  """Why a law fitted to `train` says nothing about `test`; None if it does."""
  n, k = len(train), form.n_coefficients - (q is not None)
  if n < k:
    return f'{n} runs are too few for {k} coefficients'
  if form.n_sparsities > 1:
    there = len(np.unique(levels(train)))
    if there < form.n_sparsities:
      return f'it takes {form.n_sparsities} sparsities to fit, not {there}'
  n_different = []
  if form.coefficient and q is None:
    if (levels(train) == 0).all():
      name = form.coefficient.name
      return f'dense runs do not tell {name}: --carried {form.kind}=VALUE'
    q = (form.coefficient.low + form.coefficient.high) / 2
  for what, known, asked in (
    ('parameter', *(each.parameters(form.kind, q) for each in (train, test))),
    ('token', train.tokens, test.tokens),
  ):
    level = design.levels(np.log(np.concatenate([known, asked])))
    values, others = np.unique(level[:n]), np.unique(level[n:])
    n_different.append(len(values))
    if len(values) < ENOUGH and not np.isin(others, values).all():
      one = f'one {what} count to fit does'
      some = f'{len(values)} {what} counts to fit do'
      return f'{one if len(values) == 1 else some} not tell of others'
  if max(n_different) == 1:
    return 'all runs to fit are at one (N, D)'
  return None


# Of log loss: equally good fits may differ by this.
SMALL_SPREAD = 1e-4
# Errors of less are of rounding, and have no likelihood.
ROUNDING = 1e-9

# Of what is missing: (law or test, where, why).
Note = tuple[str, str, str]


def compare_laws(
  runs: Runs,
  *,
  delta: float = 1e-3,
  carried: Mapping[str, float] | None = None,
) -> Comparison:
  """Fits every law in `forms.FORMS` to the runs and to parts of them.

  Args:
    runs: dense and sparse ones. Sparsity, initial and final parameters follow
      from each other where one is not known.
    delta: where the Huber loss turns from a parabola to a line, in log loss.
    carried: coefficients of counts, by the name of the count, that were found
      on other runs: with these, dense runs predict sparse ones.

  Raises:
    ValueError: if no law can be fitted, saying why, and for a delta that is
      not positive and finite.
  """
  runs, carried = runs.completed(), carried or {}
  for name, q in carried.items():
    _check_carried(name, q)
  splits = {key: make(runs) for key, make in SPLITS.items()}
  notes: list[Note] = [
    ('', each.name, each.about) for each in splits.values() if not each.folds
  ]
  laws = []
  for form in FORMS:
    reason = _cannot(form, runs)
    if reason:
      notes.append((form.name, 'left out', reason))
    else:
      q = carried.get(form.kind)
      laws.append(_compared(form, runs, splits, notes, delta, q))
  if not laws:
    raise ValueError('no law can be fitted: ' + '; '.join(_sentences(notes)))
  tests = {
    key: split.about
    for key, split in splits.items()
    if any(getattr(law, key) is not None for law in laws)
  }
  return Comparison(
    tuple(laws), len(runs), float(delta), tests, _sentences(notes)
  )


def _sentences(notes: list[Note]) -> tuple[str, ...]:
  """One for all laws of which the same is to be said."""
  names: dict[tuple[str, str], list[str]] = {}
  for name, where, why in notes:
    names.setdefault((where, why), []).append(name)
  return tuple(
    ': '.join(part for part in (', '.join(laws), where, why) if part)
    for (where, why), laws in names.items()
  )


def _cannot(form: Form, runs: Runs) -> str | None:
  """Why a form cannot be fitted to all runs."""
  middle = form.coefficient
  try:
    runs.parameters(form.kind, middle and (middle.low + middle.high) / 2)
  except ValueError as error:
    return str(error)
  n = np.isnan(runs.sparsity).sum() if form.n_sparsities > 1 else 0
  if n:
    return f'sparsity: not known of {n} of {len(runs)} runs'
  return why_not(form, runs, runs)


def _check_carried(name: str, q: float) -> None:
  own = EFFECTIVE[name].coefficient if name in EFFECTIVE else None
  if own is None:
    has = [key for key, each in EFFECTIVE.items() if each.coefficient]
    raise ValueError(f'carried {name!r}: must be one of {has}')
  if not own.low <= q <= own.high:
    raise ValueError(
      f'carried {name} = {q}: must be from {own.low:g} to {own.high:g}'
    )


def _compared(
  form: Form, runs: Runs, splits, notes, delta, carried
) -> ComparedLaw:
  fitted = fit_form(form, runs, delta=delta)
  notes += _plateau(form, 'in sample', fitted.spread(runs))
  errors = fitted.log_loss(runs) - np.log(runs.loss)
  outside = {
    key: _errors_outside(
      form,
      runs,
      split,
      notes,
      delta,
      carried if key == 'dense_to_sparse' else None,
    )
    for key, split in splits.items()
  }
  aicc, bic = _criteria(errors, form.n_coefficients)
  return ComparedLaw(
    form.name,
    form.formula,
    form.n_coefficients,
    fitted.as_dict(),
    fitted.objective,
    _rms(errors),
    **{key: _rms(each) for key, each in outside.items()},
    aicc=aicc,
    bic=bic,
    bias=tuple(_biases(runs, errors, outside)),
    warnings=_warnings(fitted, runs, delta),
  )


def _errors_outside(form, runs, split, notes, delta, q):
  """(n,), NaN for runs that are not predicted."""
  errors = np.full(len(runs), np.nan)
  for train, test, name in split.folds:
    reason = why_not(form, runs.select(train), runs.select(test), q)
    if reason:
      notes.append((form.name, split.name, name + reason))
      return errors
  spread = 0.0
  for *fold, _ in split.folds:
    train, test = map(runs.select, fold)
    fitted = fit_form(form, train, delta=delta, q=q)
    errors[fold[1]] = fitted.log_loss(test) - np.log(test.loss)
    spread = max(spread, fitted.spread(test))
  notes += _plateau(form, split.name, spread)
  return errors


def _plateau(form: Form, where: str, spread: float) -> list[Note]:
  why = (
    'many laws fit equally well; that of least squared error is taken, and '
    f'others differ from it by {spread:.2%} of the loss or more'
  )
  return [(form.name, where, why)] if spread >= SMALL_SPREAD else []


def _warnings(fitted: FormFit, runs: Runs, delta: float) -> tuple[str, ...]:
  """On coefficients that mean little."""
  law = fitted.law
  if not isinstance(law, ScalingLaw):
    return tuple(fitted.form.at_bounds(law))
  data = runs.parameters(fitted.form.kind, fitted.q), runs.tokens, runs.loss
  fit = ScalingLawFit(law, fitted.objective, delta, *data, fitted.other)
  return fit.warnings


def _rms(errors: np.ndarray) -> float | None:
  """Of those that are there; sorted, so that row order changes no bit."""
  squares = np.sort(errors[~np.isnan(errors)] ** 2)
  return float(np.sqrt(squares.mean())) if len(squares) else None


def _criteria(errors: np.ndarray, k: int) -> tuple[float | None, float | None]:
  """AICc and BIC; None where the runs or the errors do not suffice."""
  n, k = len(errors), k + 1
  variance = _rms(errors) ** 2
  if variance < ROUNDING**2 or n <= k + 1:
    return None, None
  deviance = n * (np.log(2 * np.pi * variance) + 1)
  aicc = deviance + 2 * k + 2 * k * (k + 1) / (n - k - 1)
  return float(aicc), float(deviance + k * np.log(n))


def _biases(runs, errors, outside) -> Iterator[Bias]:
  level = levels(runs)
  for value in [] if np.isnan(level).any() else np.unique(level):
    inside = errors[level == value]
    n = len(inside)
    error = float(inside.std(ddof=1) / np.sqrt(n)) if n > 2 else None
    means = [
      float(outside[key][level == value].mean())
      for key in ('one_sparsity_out', 'dense_to_sparse')
    ]
    known = (None if np.isnan(mean) else mean for mean in means)
    yield Bias(float(value), n, float(inside.mean()), error, *known)
