"""One page of HTML on a set of runs: data, law, comparison, pictures.

Values in, text out: nothing is computed here. `report.html.j2` lays them out.
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
from jax_sparse_pretrain.analysis.runs_table import Runs

# The SVG of many runs becomes a PNG.
LARGEST_SVG = 300_000  # bytes
MOST_ROWS = 1000


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
  functions = (data_url, raised, text.percent, text.power, text.short)
  environment.filters |= {each.__name__: each for each in functions}
  runs, fit, comparison = report.runs, report.fit, report.comparison
  residuals = fit.residuals if fit else np.full(len(runs), np.nan)
  n = fit.parameters if fit else runs.parameters()
  counts = (n, runs.tokens, runs.sparsity)
  columns = [each[:MOST_ROWS].tolist() for each in (*counts, runs.loss)]
  shown = zip(runs.run, *columns, residuals.tolist(), strict=False)
  return environment.get_template('report.html.j2').render(
    report=report,
    runs=runs,
    rows=list(shown),
    fit=fit,
    comparison=comparison,
    biases=biases(comparison) if comparison else None,
    results=results,
    text=text,
    share=lambda value: text.percent(value, '.2f'),
    signed_share=signed_share,
    tenths=lambda value: text.signed(value, '.1f'),
  )


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


def biases(comparison) -> list[list[str]]:
  """The mean residual of each law, in a row, at each sparsity."""
  n_runs = [str(each.n_runs) for each in comparison.laws[0].bias]
  rows = [
    [law.name, *(signed_share(-each.in_sample) for each in law.bias)]
    for law in comparison.laws
  ]
  return [['runs', *n_runs], *rows] if n_runs else []


def signed_share(value: float) -> str:
  """A share of the loss with its sign: +2.74 %."""
  return f'{text.signed(100 * value, "+.2f")} %'
