"""Compares laws on the same runs: in sample and, above all, out of it.

Errors are log predicted less log measured loss: positive where a law expects
too high a loss. (They are the residuals of `ScalingLawFit`, negated, as is
usual for the bias of a prediction.) Every law is refitted to each set of
training runs with the same objective, the summed Huber loss.
"""

import dataclasses

import numpy as np

from jax_sparse_pretrain.analysis.comparison.candidates import (
  CANDIDATES,
  Candidate,
)
from jax_sparse_pretrain.analysis.comparison.results import (
  Bias,
  ComparedLaw,
  Comparison,
)
from jax_sparse_pretrain.analysis.comparison.splits import (
  SPLITS,
  Split,
  levels,
  why_not,
)
from jax_sparse_pretrain.analysis.runs_table import Runs

# Of log loss: equally good fits may differ by this.
SMALL_SPREAD = 1e-4
# Errors of less are of rounding, and have no likelihood.
ROUNDING = 1e-9

# Of what is missing: (law or test, where, why).
Note = tuple[str, str, str]


def compare_laws(runs: Runs, *, delta: float = 1e-3) -> Comparison:
  """Fits every law in `CANDIDATES` to the runs and to parts of them.

  Args:
    runs: dense and sparse ones. Sparsity, initial and final parameters follow
      from each other where one is not known.
    delta: of the Huber loss, in log loss.

  Raises:
    ValueError: if no law can be fitted, saying why, and for a delta that is
      not positive and finite.
  """
  runs = _completed(runs)
  splits = {key: make(runs) for key, make in SPLITS.items()}
  notes: list[Note] = [
    ('', split.name, split.about)
    for split in splits.values()
    if not split.folds
  ]
  laws = []
  for candidate in CANDIDATES:
    reason = _cannot(candidate, runs)
    if reason:
      notes.append((candidate.name, 'left out', reason))
    else:
      laws.append(_compared(candidate, runs, splits, notes, delta))
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


def _completed(runs: Runs) -> Runs:
  """NaN stays where nothing follows."""
  for row in np.flatnonzero(runs.final_parameters > runs.initial_parameters):
    raise ValueError(
      f'run {runs.run[row]!r}: final_parameters '
      f'{runs.final_parameters[row]:.10g}: must be at most '
      f'initial_parameters {runs.initial_parameters[row]:.10g}'
    )
  s, initial, final = (
    runs.sparsity,
    runs.initial_parameters,
    runs.final_parameters,
  )
  s = np.where(np.isnan(s), 1 - final / initial, s)
  initial = np.where(np.isnan(initial), final / (1 - s), initial)
  final = np.where(np.isnan(final), initial * (1 - s), final)
  return dataclasses.replace(
    runs, sparsity=s, initial_parameters=initial, final_parameters=final
  )


def _cannot(candidate: Candidate, runs: Runs) -> str | None:
  """Why a candidate cannot be fitted to all runs."""
  needs = [f'{candidate.kind}_parameters']
  needs += ['sparsity'] if candidate.n_sparsities > 1 else []
  for name in needs:
    n = np.isnan(getattr(runs, name)).sum()
    if n:
      return f'{name} not known of {n} of {len(runs)} runs'
  return why_not(candidate, runs, runs)


def _compared(
  candidate: Candidate,
  runs: Runs,
  splits: dict[str, Split],
  notes: list[Note],
  delta: float,
) -> ComparedLaw:
  fitted = candidate.fit(runs, delta)
  notes += _plateau(candidate, 'in sample', fitted.spread(runs))
  errors = fitted.log_loss(runs) - np.log(runs.loss)
  outside = {
    key: _errors_outside(candidate, runs, split, notes, delta)
    for key, split in splits.items()
  }
  aicc, bic = _criteria(errors, candidate.n_coefficients)
  return ComparedLaw(
    candidate.name,
    candidate.formula,
    candidate.n_coefficients,
    fitted.law.as_dict(),
    fitted.objective,
    _rms(errors),
    **{key: _rms(each) for key, each in outside.items()},
    aicc=aicc,
    bic=bic,
    bias=_biases(runs, errors, outside),
    warnings=fitted.warnings(),
  )


def _errors_outside(candidate, runs, split, notes, delta):
  """(n,), NaN for runs that are not predicted."""
  errors = np.full(len(runs), np.nan)
  for fold in split.folds:
    reason = why_not(candidate, runs.select(fold.train), runs.select(fold.test))
    if reason:
      notes.append((candidate.name, split.name, fold.name + reason))
      return errors
  spread = 0.0
  for fold in split.folds:
    fitted = candidate.fit(runs.select(fold.train), delta)
    test = runs.select(fold.test)
    errors[fold.test] = fitted.log_loss(test) - np.log(test.loss)
    spread = max(spread, fitted.spread(test))
  notes += _plateau(candidate, split.name, spread)
  return errors


def _plateau(candidate: Candidate, where: str, spread: float) -> list[Note]:
  if spread < SMALL_SPREAD:
    return []
  why = (
    'many laws fit equally well; that of least squared error is taken, and '
    f'others differ from it by {spread:.2%} of the loss or more'
  )
  return [(candidate.name, where, why)]


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


def _biases(runs, errors, outside) -> tuple[Bias, ...]:
  level = levels(runs)
  values = [] if np.isnan(level).any() else np.unique(level)
  return tuple(
    _bias(value, level == value, errors, outside) for value in values
  )


def _bias(value, where, errors, outside) -> Bias:
  inside = errors[where]
  n = len(inside)
  return Bias(
    float(value),
    n,
    float(inside.mean()),
    float(inside.std(ddof=1) / np.sqrt(n)) if n > 2 else None,
    **{
      key: _mean(outside[key][where])
      for key in ('one_sparsity_out', 'dense_to_sparse')
    },
  )


def _mean(errors: np.ndarray) -> float | None:
  mean = float(errors.mean())
  return None if np.isnan(mean) else mean
