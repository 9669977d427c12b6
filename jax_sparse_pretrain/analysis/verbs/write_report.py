"""Writes one page of HTML on a set of runs."""

from collections.abc import Iterator, Sequence

from jax_sparse_pretrain import analysis, storage
from jax_sparse_pretrain.analysis.averages import Average, read_averages
from jax_sparse_pretrain.analysis.command import Answer, Level, verb
from jax_sparse_pretrain.analysis.report import Picture, Report, report_html
from jax_sparse_pretrain.analysis.runs_table import Runs
from jax_sparse_pretrain.analysis.verbs.arguments import (
  FEWEST_RUNS,
  AskedFit,
  AskedResamples,
  AskedRuns,
  KnownLaw,
  check_level,
  fit_with_intervals,
)
from jax_sparse_pretrain.analysis.verbs.draw import known_kinds
from jax_sparse_pretrain.model.counts import training_flops


@verb('report runs.csv --out report.html', '.html')
def report(
  runs: AskedRuns,
  law: AskedFit,
  resamples: AskedResamples,
  out: str,
  command: str,
  level: Level = 0.95,
  title: str = 'Report on pre-training runs',
) -> Answer:
  """One page of HTML on runs: law, intervals, comparison, pictures.

  Args:
    title: the title of the page.
  """
  page = make_report(runs, law, resamples, level, title, command)
  text = report_html(page)
  data = {
    'title': title,
    'runs': len(page.runs),
    'fingerprint': page.runs.fingerprint,
    'law': page.fit and page.fit.law.as_dict(),
    'warnings': page.warnings,
  }
  said = f'{title}: {len(page.runs)} runs, {len(text):,} bytes'
  write = {'.html': lambda path: path.write_text(text, encoding='utf-8')}
  return Answer(data, said, page.warnings, write)


def make_report(
  asked: AskedRuns, law: AskedFit, resamples, level: float, title, command
) -> Report:
  """Fits, compares and draws."""
  # Only here, so that --help answers at once.
  from jax_sparse_pretrain.analysis.plots import style

  check_level(level)
  runs = asked.load()
  folders = [path for path in asked.paths if storage.as_path(path).is_dir()]
  averages = read_averages(folders)
  known, comparison, said = None, None, []
  if len(runs) >= FEWEST_RUNS:
    known = fit_with_intervals(asked, runs, law, resamples, level)
    said += known.warnings
  if known and style.varies(runs.sparsity):
    try:
      comparison = analysis.compare_laws(runs, delta=law.solver['delta'])
    except ValueError as error:
      said.append(f'laws are not compared: {error}')
  return Report(
    title=title,
    command=command,
    runs=runs,
    kind=law.parameters,
    sources=[storage.as_path(path).name or path for path in asked.paths],
    fit=known and known.fit,
    intervals=known.intervals if known else {},
    level=level,
    comparison=comparison,
    averages=averages,
    warnings=said,
    pictures={
      'law': list(_of_law(runs, known, law.parameters, level)),
      'compare': list(_of_kinds(runs, comparison)),
      'average': list(_of_averages(averages)),
    },
  )


def _of_law(
  runs: Runs, known: KnownLaw | None, kind: str, level: float
) -> Iterator[Picture]:
  if known is None:
    return
  from jax_sparse_pretrain.analysis.plots.law_picture import round_budgets

  fit, resamples = known.fit, known.resamples
  yield Picture(
    analysis.plot_law(runs, fit, kind),
    'Loss over parameters and over tokens. Lines are the law, at the values '
    'beside them; the band is the root mean square of the residuals.',
    f'Loss of {len(runs)} runs over parameters and over tokens with the '
    f'fitted law, and residuals of {100 * fit.log_rmse:.2f} % on average.',
  )
  if resamples:
    profile = known.intervals['profile']
    yield Picture(
      analysis.plot_coefficients(fit, resamples, profile, level),
      'Resamples (grey), estimates and intervals; right, how the '
      f'coefficients move together over {len(resamples.laws)} resamples.',
      'Histograms and intervals of E, A, B, alpha and beta, and the matrix '
      'of their correlations.',
    )
  # Without one of its terms a law has no optimum.
  if all(fit.law.as_dict()[name] for name in ('A', 'B', 'alpha', 'beta')):
    budgets = round_budgets(training_flops(fit.parameters, fit.tokens))
    yield Picture(
      analysis.plot_isoflops(fit, budgets, runs, kind),
      'Loss over model size at equal compute C = 6 N D. Points '
      'have the colour of their own compute.',
      f'Curves of loss over model size for {len(budgets)} budgets of compute.',
    )


def _of_kinds(runs: Runs, comparison) -> Iterator[Picture]:
  """The laws of the comparison: other laws that fit as well differ."""
  found = {law.name: law for law in comparison.laws} if comparison else {}
  laws = {
    kind: analysis.ScalingLaw.from_dict(found[kind].coefficients)
    for kind in known_kinds(runs)
    if kind in found
  }
  if laws:
    yield Picture(
      analysis.plot_predicted(runs, laws),
      'Each law is fitted to all runs; its residuals, measured above '
      'predicted, below. Where the right parameters are counted, no sparsity '
      'is off to one side.',
      f'Predicted over measured loss for the laws of {", ".join(laws)} '
      'parameters, coloured by sparsity.',
    )


def _of_averages(averages: Sequence[Average]) -> Iterator[Picture]:
  if averages:
    figure = analysis.plot_density(averages)
    about = 'Nonzero share of the linear parameters; beside it the average.'
    alt = f'Density of {len(averages)} runs over tokens and over compute.'
    yield Picture(figure, about, alt)
