"""Tables of the report."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from jax_sparse_pretrain.analysis.averages import Average
from jax_sparse_pretrain.analysis.comparison.results import Comparison
from jax_sparse_pretrain.analysis.comparison.verdict import verdict
from jax_sparse_pretrain.analysis.fitting.fit import ScalingLawFit
from jax_sparse_pretrain.analysis.plots import numerals
from jax_sparse_pretrain.analysis.reporting import page as html
from jax_sparse_pretrain.analysis.reporting.compared import ERRORS, warnings
from jax_sparse_pretrain.analysis.runs_table import Runs
from jax_sparse_pretrain.text import (
  ABOUT_OPEN,
  OPEN,
  count,
  interval,
  short,
)

Intervals = Mapping[str, tuple[float, float]]
MOST_ROWS = 1000
UNKNOWN = '–'
GREEK = {'alpha': 'α', 'beta': 'β'}


def coefficients(
  fit: ScalingLawFit, intervals: Mapping[str, Intervals], level: float
) -> str:
  """Values and intervals."""
  share = numerals.percent(level)
  header = ['', 'value', *(f'{share} {kind}' for kind in intervals)]
  rows = [
    [
      GREEK.get(name, name),
      numerals.power(value),
      *(interval(each[name], numerals.power) for each in intervals.values()),
    ]
    for name, value in fit.law.as_dict().items()
  ]
  caption = (
    f'L = E + A / N^α + B / D^β, of {len(fit.loss)} runs. Least sum '
    f'of Huber losses of log loss, {fit.objective:.6e}, delta '
    f'{fit.delta:g}.'
  )
  if any(OPEN in cell for row in rows for cell in row):
    caption = f'{caption} {ABOUT_OPEN[0].upper()}{ABOUT_OPEN[1:]}'
  return html.table(header, rows, caption)


def compared(comparison: Comparison) -> Iterator[str]:
  """Errors of each law, in words and numbers, and its bias by sparsity."""
  yield from map(html.paragraph, verdict(comparison))
  header = ['law', 'k', *ERRORS.values(), 'AICc', 'BIC']
  rows = [
    [
      law.name,
      str(law.n_coefficients),
      *(_known(getattr(law, key), percent) for key in ERRORS),
      *(_known(value, _plain) for value in (law.aicc, law.bic)),
    ]
    for law in comparison.laws
  ]
  caption = 'Root mean square error of the loss, k coefficients each.'
  yield html.table(header, rows, caption)
  notes = [f'{ERRORS[key]}: {about}' for key, about in comparison.tests.items()]
  said = warnings(comparison)
  yield html.items([*notes, *comparison.notes, *said], 'quiet')
  if comparison.laws[0].bias:
    yield _biases(comparison)


def _biases(comparison: Comparison) -> str:
  rows = [
    [
      numerals.percent(biases[0].sparsity),
      str(biases[0].n_runs),
      *(_signed_percent(-each.in_sample) for each in biases),
    ]
    for biases in zip(*(law.bias for law in comparison.laws), strict=True)
  ]
  header = ['sparsity', 'runs', *(law.name for law in comparison.laws)]
  caption = (
    'Mean residual over sparsity. As everywhere on this page a residual is '
    'measured above predicted loss, in logarithms: negative where a law '
    'expects too high a loss.'
  )
  return html.table(header, rows, caption)


def averages(found: Sequence[Average]) -> str:
  """What each run had on average."""
  header = ['run', 'steps', 'N', 'N_avg', 'N_avg / N', 'final', 'D', 'FLOPs']
  rows = [
    [
      each.run if each.completed else f'{each.run} (so far)',
      count(each.steps),
      short(each.linear_parameters),
      count(each.average_parameters),
      percent(each.density),
      short(each.final_parameters),
      short(each.tokens),
      numerals.power(each.compute_flops),
    ]
    for each in found
  ]
  return html.table(header, rows, 'Counted in the mask histories.')


def runs(found: Runs, n: np.ndarray, fit: ScalingLawFit | None) -> str:
  """Every run, up to a thousand."""
  residuals = fit.residuals if fit else np.full(len(found), np.nan)
  header = ['run', 'N', 'D', 'sparsity', 'loss', 'residual']
  columns = (n, found.tokens, found.sparsity, found.loss, residuals)
  rows = [
    [
      name,
      short(size),
      short(tokens),
      _known(sparsity, numerals.percent),
      f'{loss:.4f}',
      _known(residual, _signed_percent),
    ]
    for name, size, tokens, sparsity, loss, residual in zip(
      found.run[:MOST_ROWS],
      *(each[:MOST_ROWS].tolist() for each in columns),
      strict=True,
    )
  ]
  shown = f'The first {len(rows)} of ' if len(rows) < len(found) else ''
  about = 'residual: measured above predicted loss, in logarithms.'
  return html.table(header, rows, f'{shown}{len(found)} runs; {about}')


def _known(value: float | None, write: Callable[[float], str]) -> str:
  is_known = value is not None and not np.isnan(value)
  return write(value) if is_known else UNKNOWN


def _plain(value: float) -> str:
  return numerals.signed(value, '.1f')


def percent(value: float) -> str:
  """Of the loss, or of the parameters: 2.74 %."""
  return f'{100 * value:.2f} %'


def _signed_percent(value: float) -> str:
  return numerals.signed(100 * value, '+.2f') + ' %'
