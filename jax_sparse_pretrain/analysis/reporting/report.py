"""One page on a set of runs: data, law, comparison, pictures.

Values in, text out; what is shown was computed before.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from matplotlib.figure import Figure

from jax_sparse_pretrain.analysis.averages import Average
from jax_sparse_pretrain.analysis.comparison.results import Comparison
from jax_sparse_pretrain.analysis.fitting.fit import ScalingLawFit
from jax_sparse_pretrain.analysis.plots import numerals, style
from jax_sparse_pretrain.analysis.reporting import page as html
from jax_sparse_pretrain.analysis.reporting import tables
from jax_sparse_pretrain.analysis.reporting.tables import Intervals
from jax_sparse_pretrain.analysis.runs_table import Runs
from jax_sparse_pretrain.text import span

# Above this an SVG, of many runs, becomes a PNG.
LARGEST_SVG = 300_000  # bytes
NAMES = {
  'average': 'average parameters',
  'final': 'final parameters',
  'initial': 'initial parameters',
}


@dataclasses.dataclass(frozen=True)
class Picture:
  """A figure, what it shows, and what one sees, for those who cannot."""

  figure: Figure
  caption: str
  alt: str


@dataclasses.dataclass(frozen=True)
class Report:
  """What a page says.

  Attributes:
    title: of the page.
    command: that makes it again.
    runs: all of them.
    kind: of parameters that N counts.
    sources: where the runs come from.
    fit: None if there are too few runs.
    intervals: of the coefficients, by how they were found.
    level: of the intervals.
    comparison: of laws; None without sparse runs.
    averages: of workdirs.
    warnings: sentences.
    pictures: in order, by the section that they belong to: 'law',
      'compare', 'average'.
  """

  title: str
  command: str
  runs: Runs
  kind: str
  sources: Sequence[str]
  fit: ScalingLawFit | None = None
  intervals: Mapping[str, Intervals] = dataclasses.field(default_factory=dict)
  level: float = 0.95
  comparison: Comparison | None = None
  averages: Sequence[Average] = ()
  warnings: Sequence[str] = ()
  pictures: Mapping[str, Sequence[Picture]] = dataclasses.field(
    default_factory=dict
  )


def report_html(report: Report) -> str:
  """The page: no scripts, nothing from elsewhere; the same for the same."""
  return html.page(report.title, _parts(report))


def _parts(report: Report) -> Iterator[str]:
  yield html.heading(report.title)
  yield html.paragraph(_lead(report), 'lead')
  if report.warnings:
    yield html.section('Warnings', [html.items(report.warnings, 'warnings')])
  if report.fit:
    yield html.section('Law', [_law(report), *_shown(report, 'law')])
  if report.comparison:
    parts = [*tables.compared(report.comparison), *_shown(report, 'compare')]
    yield html.section('Which parameters count', parts)
  if report.averages:
    parts = [tables.averages(report.averages), *_shown(report, 'average')]
    yield html.section('Average parameters', parts)
  yield html.section('Data', list(_data(report)))


def _lead(report: Report) -> str:
  runs, fit = report.runs, report.fit
  n = f'{len(runs)} runs' if len(runs) > 1 else 'One run'
  if fit is None:
    return f'{n}; too few to fit a law to.'
  E, A, B, alpha, beta = map(numerals.power, fit.law.as_dict().values())
  return (
    f'{n} and the law L = {E} + {A} / N^{alpha} + {B} / D^{beta}, with N the '
    f'{NAMES[report.kind]}. It is off by {tables.percent(fit.log_rmse)}, as a '
    'root mean square.'
  )


def _law(report: Report) -> str:
  return tables.coefficients(report.fit, report.intervals, report.level)


def _data(report: Report) -> Iterator[str]:
  runs = report.runs
  n = runs.parameters(report.kind)
  rows = [
    ('Runs', f'{len(runs)}, of {", ".join(report.sources)}'),
    ('N', f'{span(n)}, {NAMES[report.kind]}'),
    ('D', f'{span(runs.tokens)} tokens'),
    ('Loss', f'{runs.loss.min():.3f} to {runs.loss.max():.3f} nats per token'),
    ('SHA-256', runs.fingerprint),
  ]
  yield html.pairs(rows)
  yield html.command(report.command)
  yield html.folded('Every run', tables.runs(runs, n, report.fit))


def _shown(report: Report, where: str) -> Iterator[str]:
  for picture in report.pictures.get(where, ()):
    kind, data = 'svg', style.rendered(picture.figure, 'svg')
    if len(data) > LARGEST_SVG:
      kind, data = 'png', style.rendered(picture.figure, 'png')
    yield html.figure(data, kind, picture.alt, picture.caption)
