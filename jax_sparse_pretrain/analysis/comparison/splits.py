"""Which runs a law is fitted to, and which it then predicts."""

import math
from typing import NamedTuple

import numpy as np

from jax_sparse_pretrain.analysis.fitting import design
from jax_sparse_pretrain.analysis.fitting.forms import Form
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


SPLITS = {
  'one_sparsity_out': one_sparsity,
  'largest_compute_out': largest_compute,
  'dense_to_sparse': dense_to_sparse,
}


def why_not(form: Form, train: Runs, test: Runs) -> str | None:
  """Why a law fitted to `train` says nothing about `test`; None if it does."""
  n, k = len(train), len(form.names)
  if n < k:
    return f'{n} runs are too few for {k} coefficients'
  if form.n_sparsities > 1:
    there = len(np.unique(levels(train)))
    if there < form.n_sparsities:
      return f'it takes {form.n_sparsities} sparsities to fit, not {there}'
  n_different = []
  for what, known, asked in (
    ('parameter', train.parameters(form.kind), test.parameters(form.kind)),
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
