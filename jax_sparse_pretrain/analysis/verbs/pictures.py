"""Arguments of `plot` -> a picture and warnings. Imports matplotlib."""

import argparse
import dataclasses

import numpy as np

from jax_sparse_pretrain.analysis.averages import Average, read_averages
from jax_sparse_pretrain.analysis.fitting.law import FLOPS
from jax_sparse_pretrain.analysis.plots.coefficients import plot_coefficients
from jax_sparse_pretrain.analysis.plots.contrasts import plot_contrasts
from jax_sparse_pretrain.analysis.plots.density import plot_density
from jax_sparse_pretrain.analysis.plots.isoflops import (
  plot_isoflops,
  round_budgets,
)
from jax_sparse_pretrain.analysis.plots.law import plot_law
from jax_sparse_pretrain.analysis.plots.predicted import plot_predicted
from jax_sparse_pretrain.analysis.plots.schedules import plot_schedules
from jax_sparse_pretrain.analysis.runs_table import KINDS, Runs
from jax_sparse_pretrain.analysis.verbs import (
  contrasts,
  fitted,
  scheduled,
  schedules,
)
from jax_sparse_pretrain.analysis.verbs.arguments import read_runs
from jax_sparse_pretrain.analysis.verbs.laws import GivenLaw, read_law


def _law(arguments):
  runs = _runs(arguments)
  given = _given_law(arguments, runs)
  return plot_law(runs, given.law, given.kind), _said(given)


def _predicted(arguments):
  runs = _runs(arguments)
  if arguments.law:
    given = _given_law(arguments, runs)
    return plot_predicted(runs, {given.kind: given.law}), _said(given)
  kinds = known_kinds(runs)
  laws = {kind: fitted.fit_runs(arguments, runs, kind) for kind in kinds}
  return plot_predicted(runs, laws), ()


def known_kinds(runs: Runs) -> list[str]:
  """Kinds of parameters that every run has, each once if they are equal."""
  different: dict[bytes, str] = {}
  for kind in KINDS:
    n = getattr(runs, f'{kind}_parameters')
    if not np.isnan(n).any():
      different.setdefault(n.tobytes(), kind)
  return list(different.values())


def _coefficients(arguments):
  runs = None if arguments.law else _runs(arguments)
  given = _given_law(arguments, runs)
  fit = given.fit
  if fit is None:
    raise ValueError('--law: coefficients need runs, or a file of fit')
  # A saved fit has its own resamples, drawn once more.
  asked = given.resampling or fitted.resampling(arguments, runs)
  if not asked:
    raise ValueError('--bootstrap = 0: the picture needs resamples')
  resamples = fit.bootstrap(**asked)
  profile = fit.intervals(arguments.level)
  figure = plot_coefficients(fit, resamples, profile, arguments.level)
  level = arguments.level
  said = (*fit.warnings_at(level), *resamples.warnings_at(level))
  return figure, said


def _isoflops(arguments):
  runs = _runs(arguments) if arguments.paths or not arguments.law else None
  given = _given_law(arguments, runs)
  compute = arguments.compute
  if not compute:
    if runs is None and given.fit is None:
      raise ValueError('--compute: must be given without runs')
    n, d = (
      (given.fit.parameters, given.fit.tokens)
      if runs is None
      else (runs.parameters(given.kind), runs.tokens)
    )
    compute = round_budgets(FLOPS * n * d)
  law = given.fit or given.law
  return plot_isoflops(law, compute, runs, given.kind), _said(given)


def _density(arguments):
  planned = _planned(arguments)
  if not planned and not arguments.paths:
    raise ValueError('PATH: must be given: a workdir, or a directory of them')
  return plot_density(planned or read_averages(arguments.paths)), ()


def _planned(arguments) -> list[Average]:
  is_asked = schedules.is_given(arguments) or arguments.sparsities
  if is_asked and arguments.paths:
    raise ValueError('density: give workdirs or a schedule, not both')
  if not arguments.sparsities:
    planned = schedules.read_schedule(arguments)
    return [planned] if planned else []
  plans = []
  for sparsity in arguments.sparsities:
    asked = argparse.Namespace(**{**vars(arguments), 'sparsity': sparsity})
    planned = schedules.read_schedule(asked)
    name = f'sparsity {100 * sparsity:g} %'
    plans.append(dataclasses.replace(planned, run=name))
  return plans


def _schedules(arguments):
  found, noise = scheduled.read(arguments)
  rankings = scheduled.rank(found, noise, level=arguments.level)
  cells = [
    (each.start, each.end, ranking.sparsity, each.loss, ranking.margin or 0)
    for ranking in rankings
    for each in ranking.schedules
  ]
  *columns, margin = zip(*cells, strict=True)
  return plot_schedules(*columns, margin=margin if noise else None), ()


def _contrasts(arguments):
  found = contrasts.read_contrasts(arguments, _runs(arguments))
  return plot_contrasts(found, arguments.level), ()


def _runs(arguments) -> Runs:
  if not arguments.paths:
    raise ValueError('PATH: must be given: a table of runs, or workdirs')
  return read_runs(arguments)


def _given_law(arguments, runs: Runs | None) -> GivenLaw:
  if not arguments.law:
    fit = fitted.fit_runs(arguments, runs)
    return GivenLaw(fit.law, arguments.parameters, fit)
  given = read_law(arguments.law)
  if given.fit is None:
    return dataclasses.replace(given, kind=arguments.parameters)
  return given


def _said(given: GivenLaw) -> tuple[str, ...]:
  return given.fit.warnings if given.fit else ()


DRAW = {
  'law': _law,
  'predicted': _predicted,
  'coefficients': _coefficients,
  'isoflops': _isoflops,
  'density': _density,
  'schedules': _schedules,
  'contrasts': _contrasts,
}
