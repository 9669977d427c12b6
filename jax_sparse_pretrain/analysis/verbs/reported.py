"""Arguments of `report` -> what the page says. Imports matplotlib."""

import argparse
from collections.abc import Iterator, Sequence

from jax_sparse_pretrain import storage
from jax_sparse_pretrain.analysis.averages import Average, read_averages
from jax_sparse_pretrain.analysis.comparison.compare import compare_laws
from jax_sparse_pretrain.analysis.comparison.results import Comparison
from jax_sparse_pretrain.analysis.fitting.law import FLOPS, ScalingLaw
from jax_sparse_pretrain.analysis.plots import sparsity
from jax_sparse_pretrain.analysis.plots.coefficients import plot_coefficients
from jax_sparse_pretrain.analysis.plots.density import plot_density
from jax_sparse_pretrain.analysis.plots.isoflops import (
  plot_isoflops,
  round_budgets,
)
from jax_sparse_pretrain.analysis.plots.law import plot_law
from jax_sparse_pretrain.analysis.plots.predicted import plot_predicted
from jax_sparse_pretrain.analysis.reporting.report import Picture, Report
from jax_sparse_pretrain.analysis.runs_table import Runs
from jax_sparse_pretrain.analysis.verbs import fitted
from jax_sparse_pretrain.analysis.verbs.arguments import read_runs
from jax_sparse_pretrain.analysis.verbs.pictures import known_kinds

FEWEST_RUNS = 5  # as many as coefficients


def make_report(arguments: argparse.Namespace, command: str) -> Report:
  """Fits, compares and draws."""
  runs, kind = read_runs(arguments), arguments.parameters
  folders = [path for path in arguments.paths if storage.as_path(path).is_dir()]
  averages = read_averages(folders) if folders else []
  known, comparison, said = None, None, []
  if len(runs) >= FEWEST_RUNS:
    known = fitted.fit_with_intervals(arguments, runs)
    said += known.warnings
  if known and sparsity.varies(runs.sparsity):
    comparison, why_not = _compared(runs, arguments.delta)
    said += why_not
  return Report(
    title=arguments.title,
    command=command,
    runs=runs,
    kind=kind,
    sources=[storage.as_path(path).name or path for path in arguments.paths],
    fit=known and known.fit,
    intervals=known.intervals if known else {},
    level=arguments.level,
    comparison=comparison,
    averages=averages,
    warnings=said,
    pictures={
      'law': list(_of_law(runs, known, kind, arguments.level)),
      'compare': list(_of_kinds(runs, comparison)),
      'average': list(_of_averages(averages)),
    },
  )


def _compared(runs: Runs, delta: float) -> tuple[Comparison | None, list[str]]:
  try:
    return compare_laws(runs, delta=delta), []
  except ValueError as error:
    return None, [f'laws are not compared: {error}']


def _of_law(
  runs: Runs, known: fitted.Fitted | None, kind: str, level: float
) -> Iterator[Picture]:
  if known is None:
    return
  fit, resamples = known.fit, known.resamples
  yield Picture(
    plot_law(runs, fit, kind),
    'Loss over parameters and over tokens. Lines are the law, at the values '
    'beside them; the band is the root mean square of the residuals.',
    f'Loss of {len(runs)} runs over parameters and over tokens with the '
    f'fitted law, and residuals of {100 * fit.log_rmse:.2f} % on average.',
  )
  if resamples:
    yield Picture(
      plot_coefficients(fit, resamples, known.intervals['profile'], level),
      'Resamples (grey), estimates and intervals; right, how the '
      f'coefficients move together over {len(resamples.laws)} resamples.',
      'Histograms and intervals of E, A, B, alpha and beta, and the matrix '
      'of their correlations.',
    )
  # Without one of its terms a law has no optimum.
  if all(fit.law.as_dict()[name] for name in ('A', 'B', 'alpha', 'beta')):
    budgets = round_budgets(FLOPS * fit.parameters * fit.tokens)
    yield Picture(
      plot_isoflops(fit, budgets, runs, kind),
      'Loss over model size at equal compute C = 6 N D. Points '
      'have the colour of their own compute.',
      f'Curves of loss over model size for {len(budgets)} budgets of compute.',
    )


def _of_kinds(runs: Runs, comparison: Comparison | None) -> Iterator[Picture]:
  """The compared laws themselves: where others fit as well, those differ."""
  found = {law.name: law for law in comparison.laws} if comparison else {}
  laws = {
    kind: ScalingLaw.from_dict(found[f'{kind} N'].coefficients)
    for kind in known_kinds(runs)
    if f'{kind} N' in found
  }
  if laws:
    yield Picture(
      plot_predicted(runs, laws),
      'Each law is fitted to all runs; its residuals, measured above '
      'predicted, below. Where the right parameters are counted, no sparsity '
      'is off to one side.',
      f'Predicted over measured loss for the laws of {", ".join(laws)} '
      'parameters, coloured by sparsity.',
    )


def _of_averages(averages: Sequence[Average]) -> Iterator[Picture]:
  if averages:
    yield Picture(
      plot_density(averages),
      'Nonzero share of the linear parameters; beside it the average.',
      f'Density of {len(averages)} runs over tokens and over compute.',
    )
