"""Fits the scaling law to runs."""

import argparse
import json
from collections.abc import Iterator

import numpy as np

from jax_sparse_pretrain import text as tables
from jax_sparse_pretrain.analysis.fitting.fit import ScalingLawFit
from jax_sparse_pretrain.analysis.fitting.interaction import Interaction
from jax_sparse_pretrain.analysis.runs_table import Runs
from jax_sparse_pretrain.analysis.verbs import Answer, fitted
from jax_sparse_pretrain.analysis.verbs.arguments import read_runs
from jax_sparse_pretrain.text import Line

SUMMARY = 'fit L = E + A / N^alpha + B / D^beta to runs, with intervals'
EXAMPLE = 'fit runs.csv --out fit.json'
SUFFIXES = ('.json',)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  fitted.add_arguments(parser, paths='+')


def answer(arguments: argparse.Namespace) -> Answer:
  fitted.check(arguments)
  runs = read_runs(arguments)
  known = fitted.fit_with_intervals(arguments, runs)
  fit = known.fit
  interaction = fit.interaction(arguments.level)
  data = {
    **json.loads(fit.to_json()),
    'log_rmse': fit.log_rmse,
    'interaction': interaction and interaction._asdict(),
    'kind': arguments.parameters,
    'method': arguments.method,
    'level': arguments.level,
    'intervals': {
      kind: {name: tables.closed(ends) for name, ends in each.items()}
      for kind, each in known.intervals.items()
    },
    'resampling': known.resampling,
    'warnings': list(known.warnings),
    'run': runs.run,
    'residuals': fit.residuals,
    'fingerprint': runs.fingerprint,
  }
  text = _text(fit, runs, known.intervals, interaction, arguments)
  return Answer(data, text, known.warnings)


def _text(fit, runs: Runs, intervals, interaction, arguments) -> str:
  level = f'{arguments.level * 100:g} %'
  header = ['', 'value', *(f'{level} {kind}' for kind in intervals)]
  rows = [
    [
      name,
      _number(value),
      *(tables.interval(each[name], _number) for each in intervals.values()),
    ]
    for name, value in fit.law.as_dict().items()
  ]
  title = f'L = E + A / N^alpha + B / D^beta, of {len(runs)} runs'
  found = tables.table(title, header, rows)
  if tables.OPEN in found:
    found += f'\n{tables.ABOUT_OPEN}'
  about = tables.listing('Fit', list(_lines(fit, runs, interaction, arguments)))
  return f'{found}\n\n{about}'


def _lines(
  fit: ScalingLawFit, runs: Runs, interaction: Interaction | None, arguments
) -> Iterator[Line]:
  kind = f'{arguments.parameters} parameters'
  yield Line('N', tables.span(fit.parameters), kind)
  yield Line('D', tables.span(fit.tokens), 'tokens')
  yield Line('Loss', f'{fit.loss.min():.3f} to {fit.loss.max():.3f}', 'nats')
  objective = f'{fit.objective:.6e}'
  yield Line('Objective', objective, f'Huber losses, delta {fit.delta:g}')
  yield Line('RMSE', f'{fit.log_rmse:.4%}', 'of the loss')
  worst = int(np.abs(fit.residuals).argmax())
  off = f'{fit.residuals[worst]:+.2%}'
  yield Line('Farthest off', off, tables.cut(runs.run[worst], 40))
  if interaction:
    low, high = interaction.interval
    level = f'{arguments.level * 100:g} %'
    ends = f'{low:+.4f} to {high:+.4f}'
    yield Line(
      'N x D', f'{interaction.value:+.4f}', f'{ends}, {level}; 0 by the law'
    )


def _number(value: float) -> str:
  if value >= 1e4:
    return f'{value:.3e}'
  return f'{value:#.4g}'.rstrip('.') if value else '0'
