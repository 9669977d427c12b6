"""Fits the scaling law to runs."""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jax_sparse_pretrain.analysis import tables
from jax_sparse_pretrain.analysis.fitting.bootstrap import check_level
from jax_sparse_pretrain.analysis.fitting.fit import (
  METHODS,
  ScalingLawFit,
  fit_scaling_law,
)
from jax_sparse_pretrain.analysis.runs.table import Runs
from jax_sparse_pretrain.analysis.tables import Line, short
from jax_sparse_pretrain.analysis.verbs import Answer
from jax_sparse_pretrain.analysis.verbs.arguments import (
  add_parameters,
  add_runs,
  check_not_negative,
  read_runs,
)

SUMMARY = 'fit L = E + A / N^alpha + B / D^beta to runs, with intervals'
EXAMPLE = 'fit runs.csv --out fit.json'
SUFFIXES = ('.json',)

Intervals = Mapping[str, tuple[float, float]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
  add_runs(parser)
  add_parameters(parser)
  group = parser.add_argument_group('fit')
  group.add_argument(
    '--delta', type=float, default=1e-3, help='of the Huber loss (0.001)'
  )
  group.add_argument(
    '--method',
    choices=METHODS,
    default='global',
    help='grid is the published one, a check that takes minutes',
  )
  group.add_argument(
    '--bootstrap',
    type=int,
    default=4000,
    metavar='N',
    help='resamples (4000); 0 for profile intervals alone',
  )
  group.add_argument('--seed', type=int, default=0, help='of the resamples (0)')
  group.add_argument(
    '--group',
    metavar='COLUMN',
    help='resample runs with one value of it together, such as seeds of one '
    'configuration',
  )
  group.add_argument(
    '--level', type=float, default=0.95, help='of the intervals (0.95)'
  )


def answer(arguments: argparse.Namespace) -> Answer:
  check_level(arguments.level)
  check_not_negative(arguments, 'bootstrap', 'seed')
  runs = read_runs(arguments)
  fit = fit_scaling_law(
    runs.parameters(arguments.parameters),
    runs.tokens,
    runs.loss,
    delta=arguments.delta,
    method=arguments.method,
  )
  resampling = _resampling(arguments, runs)
  intervals = {'profile': fit.intervals(arguments.level)}
  warnings = list(fit.warnings)
  if resampling:
    resamples = fit.bootstrap(**resampling)
    intervals['bootstrap'] = resamples.intervals(arguments.level)
    warnings += resamples.warnings
  data = {
    **json.loads(fit.to_json()),
    'log_rmse': fit.log_rmse,
    'kind': arguments.parameters,
    'method': arguments.method,
    'level': arguments.level,
    'intervals': {name: _closed(each) for name, each in intervals.items()},
    'resampling': resampling,
    'warnings': warnings,
    'run': runs.run,
    'residuals': fit.residuals,
    'fingerprint': runs.fingerprint,
  }
  text = _text(fit, runs, intervals, arguments)
  return Answer(data, text, tuple(warnings))


def _resampling(arguments, runs: Runs) -> dict[str, Any] | None:
  groups = runs.labels(arguments.group) if arguments.group else None
  if not arguments.bootstrap:
    return None
  return {
    'n_resamples': arguments.bootstrap,
    'seed': arguments.seed,
    'groups': groups,
  }


def _closed(intervals: Intervals) -> dict[str, list[float | None]]:
  """JSON has no infinity: an open upper side is null."""
  return {
    name: [low, high if np.isfinite(high) else None]
    for name, (low, high) in intervals.items()
  }


def _text(fit: ScalingLawFit, runs: Runs, intervals, arguments) -> str:
  level = f'{arguments.level * 100:g} %'
  header = ['', 'value', *(f'{level} {kind}' for kind in intervals)]
  rows = [
    [name, _number(value), *(_range(each[name]) for each in intervals.values())]
    for name, value in fit.law.as_dict().items()
  ]
  title = f'L = E + A / N^alpha + B / D^beta, of {len(runs)} runs'
  about = tables.listing('Fit', list(_lines(fit, runs, arguments)))
  return '\n\n'.join([tables.grid(title, header, rows), about])


def _lines(fit: ScalingLawFit, runs: Runs, arguments) -> Iterator[Line]:
  yield Line('N', _span(fit.parameters), f'{arguments.parameters} parameters')
  yield Line('D', _span(fit.tokens), 'tokens')
  yield Line('Loss', f'{fit.loss.min():.3f} to {fit.loss.max():.3f}', 'nats')
  objective = f'{fit.objective:.6e}'
  yield Line('Objective', objective, f'Huber losses, delta {fit.delta:g}')
  yield Line('RMSE', f'{fit.log_rmse:.4%}', 'of the loss')
  worst = int(np.abs(fit.residuals).argmax())
  off = f'{fit.residuals[worst]:+.2%}'
  yield Line('Farthest off', off, tables.cut(runs.run[worst], 40))


def _span(values: Sequence[float]) -> str:
  return f'{short(min(values))} to {short(max(values))}'


def _range(interval: tuple[float, float]) -> str:
  low, high = interval
  if np.isinf(high):
    return 'open' if low == 0 else f'{_number(low)} to open'
  return f'{_number(low)} to {_number(high)}'


def _number(value: float) -> str:
  if value >= 1e4:
    return f'{value:.3e}'
  return f'{value:#.4g}'.rstrip('.') if value else '0'
