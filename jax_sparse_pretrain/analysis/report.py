"""One page of HTML on a set of runs: data, law, comparison, pictures.

Values in, text out: nothing is computed here. The tables are below, the page
is `report.html.j2`.
"""

import base64
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import markupsafe
import numpy as np

from jax_sparse_pretrain import text
from jax_sparse_pretrain.analysis.averages import Average
from jax_sparse_pretrain.analysis.comparison import results
from jax_sparse_pretrain.analysis.comparison.results import ERRORS
from jax_sparse_pretrain.analysis.runs_table import Runs
from jax_sparse_pretrain.text import count, known, percent, power, short

# The SVG of many runs becomes a PNG.
LARGEST_SVG = 300_000  # bytes
MOST_ROWS = 1000
GREEK = {'alpha': 'α', 'beta': 'β'}


class Picture(NamedTuple):
  """A figure, its caption, and what one sees, for those who cannot."""

  figure: Any
  caption: str
  alt: str


class Report(NamedTuple):
  """What a page says.

  Attributes:
    title: the title of the page.
    command: the command that makes the page again.
    runs: all runs.
    kind: the kind of parameters that N counts.
    sources: the names of the files that the runs come from.
    fit: a `ScalingLawFit`; None if there are too few runs.
    intervals: 'profile' and 'bootstrap' -> coefficient -> interval.
    level: the level of the intervals.
    comparison: a `Comparison` of laws; None without sparse runs.
    averages: the averages of workdirs.
    warnings: sentences.
    pictures: 'law', 'compare' and 'average' -> the pictures of this section.
  """

  title: str
  command: str
  runs: Runs
  kind: str
  sources: Sequence[str]
  fit: Any = None
  intervals: Mapping[str, Mapping[str, tuple[float, float]]] = {}
  level: float = 0.95
  comparison: Any = None
  averages: Sequence[Average] = ()
  warnings: Sequence[str] = ()
  pictures: Mapping[str, Sequence[Picture]] = {}


def report_html(report: Report) -> str:
  """The page; equal reports give equal bytes."""
  import jinja2  # Only here, so that --help answers at once.

  environment = jinja2.Environment(
    loader=jinja2.PackageLoader('jax_sparse_pretrain.analysis', '.'),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    keep_trailing_newline=True,
  )
  environment.filters |= {
    'data_url': data_url,
    'percent': percent,
    'raised': raised,
    'span': text.span,
  }
  comparison, fit = report.comparison, report.fit
  values = {'report': report, 'runs': report.runs, 'fit': fit}
  tables = {'runs': runs_table(report), 'averages': averages(report.averages)}
  if fit:
    tables['coefficients'] = coefficients(report)
    E, A, B, alpha, beta = map(power, fit.law.as_dict().values())
    values['law_text'] = f'L = {E} + {A} / N^{alpha} + {B} / D^{beta}'
  if comparison:
    tables |= {'errors': errors(comparison), 'biases': biases(comparison)}
    values['verdict'] = results.verdict(comparison)
    values['notes'] = [
      *(f'{ERRORS[key]}: {about}' for key, about in comparison.tests.items()),
      *comparison.notes,
      *results.warnings(comparison),
    ]
  page = environment.get_template('report.html.j2')
  return page.render(**values, comparison=comparison, tables=tables)


def raised(words: str) -> markupsafe.Markup:
  """Escaped, with powers such as N^0.35 raised."""
  escaped = str(markupsafe.escape(words))
  return markupsafe.Markup(re.sub(r'\^([\w.]+)', r'<sup>\1</sup>', escaped))


def data_url(figure) -> str:
  """A picture in the page itself."""
  from jax_sparse_pretrain.analysis.plots import style

  kind, data = 'svg+xml', style.rendered(figure, 'svg')
  if len(data) > LARGEST_SVG:
    kind, data = 'png', style.rendered(figure, 'png')
  return f'data:image/{kind};base64,{base64.b64encode(data).decode()}'


# Tables: a caption, the header, and rows whose first cell is text.
Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]


def coefficients(report: Report) -> Table:
  """The values of the coefficients, and their intervals."""
  fit, intervals = report.fit, report.intervals
  share = percent(report.level)
  rows = [
    [GREEK.get(name, name), power(value)]
    + [text.interval(each[name], power) for each in intervals.values()]
    for name, value in fit.law.as_dict().items()
  ]
  caption = (
    f'L = E + A / N^α + B / D^β, of {len(fit.loss)} runs. Least sum '
    f'of Huber losses of log loss, {fit.objective:.6e}, delta '
    f'{fit.delta:g}.'
  )
  if any(text.OPEN in cell for row in rows for cell in row):
    caption += f' {text.ABOUT_OPEN[0].upper()}{text.ABOUT_OPEN[1:]}'
  return caption, ['', 'value', *(f'{share} {x}' for x in intervals)], rows


def errors(comparison) -> Table:
  """The errors of each law."""
  rows = [
    [
      law.name,
      str(law.n_coefficients),
      *(known(getattr(law, key), _share) for key in ERRORS),
      *(known(value, _tenths) for value in (law.aicc, law.bic)),
    ]
    for law in comparison.laws
  ]
  caption = 'Root mean square error of the loss, k coefficients each.'
  return caption, ['law', 'k', *ERRORS.values(), 'AICc', 'BIC'], rows


def biases(comparison) -> Table | None:
  """The mean residual of each law at each sparsity."""
  rows = [
    [percent(each[0].sparsity), str(each[0].n_runs)]
    + [_signed_share(-bias.in_sample) for bias in each]
    for each in zip(*(law.bias for law in comparison.laws), strict=True)
  ]
  caption = (
    'Mean residual over sparsity. As everywhere on this page a residual is '
    'measured above predicted loss, in logarithms: negative where a law '
    'expects too high a loss.'
  )
  header = ['sparsity', 'runs', *(law.name for law in comparison.laws)]
  return (caption, header, rows) if rows else None


def averages(found: Sequence[Average]) -> Table:
  """What each run had on average."""
  header = ['run', 'steps', 'N', 'N_avg', 'N_avg / N', 'final', 'D', 'FLOPs']
  rows = [
    [
      each.run if each.completed else f'{each.run} (so far)',
      count(each.steps),
      short(each.linear_parameters),
      count(each.average_parameters),
      _share(each.density),
      short(each.final_parameters),
      short(each.tokens),
      power(each.compute_flops),
    ]
    for each in found
  ]
  return 'Counted in the mask histories.', header, rows


def runs_table(report: Report) -> Table:
  """Every run, up to a thousand."""
  runs, fit = report.runs, report.fit
  residuals = fit.residuals if fit else np.full(len(runs), np.nan)
  columns = (runs.parameters(report.kind), runs.tokens, runs.sparsity)
  rows = [
    [
      name,
      short(n),
      short(tokens),
      known(sparsity, percent),
      f'{loss:.4f}',
      known(residual, _signed_share),
    ]
    for name, n, tokens, sparsity, loss, residual in zip(
      runs.run[:MOST_ROWS],
      *(each[:MOST_ROWS].tolist() for each in (*columns, runs.loss, residuals)),
      strict=True,
    )
  ]
  shown = f'The first {len(rows)} of ' if len(rows) < len(runs) else ''
  about = 'residual: measured above predicted loss, in logarithms.'
  header = ['run', 'N', 'D', 'sparsity', 'loss', 'residual']
  return f'{shown}{len(runs)} runs; {about}', header, rows


def _share(value: float) -> str:
  """A share of the loss, or of the parameters: 2.74 %."""
  return percent(value, '.2f')


def _tenths(value: float) -> str:
  return text.signed(value, '.1f')


def _signed_share(value: float) -> str:
  return f'{text.signed(100 * value, "+.2f")} %'
