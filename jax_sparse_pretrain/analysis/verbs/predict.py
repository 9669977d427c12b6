"""Predicts the loss of runs that there are not."""

import argparse
import itertools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from jax_sparse_pretrain import history, storage
from jax_sparse_pretrain import text as tables
from jax_sparse_pretrain.analysis.averages import Average
from jax_sparse_pretrain.analysis.discovery import find_workdirs
from jax_sparse_pretrain.analysis.fitting.bootstrap import check_level
from jax_sparse_pretrain.analysis.plans.caveats import caveats
from jax_sparse_pretrain.analysis.runs_table import NAMES
from jax_sparse_pretrain.analysis.training_log import read_json
from jax_sparse_pretrain.analysis.verbs import Answer, schedules
from jax_sparse_pretrain.analysis.verbs.laws import add_law, read_law
from jax_sparse_pretrain.planning import MAX_STEPS
from jax_sparse_pretrain.text import short

SUMMARY = 'predict the loss of sizes and tokens, schedules, plans'
EXAMPLE = 'predict --law fit.json --average_parameters 4e8 --tokens 1e10'
SUFFIXES = ('.json',)


class Point(NamedTuple):
  """Where to predict."""

  name: str
  parameters: float
  tokens: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    'workdirs', nargs='*', metavar='WORKDIR', help='runs: as they are planned'
  )
  add_law(parser)
  sizes = {'nargs': '+', 'default': [], 'metavar': 'N', 'type': schedules.count}
  parser.add_argument(
    '--average_parameters', help='N, as the law counts it', **sizes
  )
  parser.add_argument('--tokens', help='D; each with each N', **sizes)
  parser.add_argument(
    '--level', type=float, default=0.95, help='of the intervals (0.95)'
  )
  schedules.add_schedule(parser)


def answer(arguments: argparse.Namespace) -> Answer:
  check_level(arguments.level)
  given = read_law(arguments.law)
  points = list(_points(arguments, given.kind))
  if not points:
    raise ValueError(
      'nothing to predict: give --average_parameters and --tokens, workdirs, '
      'or a schedule'
    )
  n, d = (np.array([float(point[i]) for point in points]) for i in (1, 2))
  loss, resamples = given.law.loss(n, d), given.bootstrap()
  if not np.isfinite(loss).all():
    raise ValueError(f'--law = {arguments.law}: has no finite loss there')
  intervals = None
  if resamples:
    low, high = resamples.loss_intervals(n, d, arguments.level)
    intervals = list(zip(low.tolist(), high.tolist(), strict=True))
  rows = [
    {
      **point._asdict(),
      'loss': loss[i],
      'interval': intervals and tables.closed(intervals[i]),
      'compute_flops': 6 * n[i] * d[i],
    }
    for i, point in enumerate(points)
  ]
  data = {
    'law': given.law.as_dict(),
    'kind': given.kind,
    'level': arguments.level if intervals else None,
    'predictions': rows,
  }
  text = _text(rows, given.kind, intervals, arguments.level)
  said = ()
  if given.fit:
    said = caveats(given.fit, resamples, n, d, arguments.level, given.kind)
  return Answer(data, text, said)


def _points(arguments: argparse.Namespace, kind: str) -> Iterator[Point]:
  sizes, tokens = arguments.average_parameters, arguments.tokens
  if bool(sizes) != bool(tokens):
    raise ValueError('--average_parameters, --tokens: give both or neither')
  for n, d in itertools.product(sizes, tokens):
    yield Point('given', n, d)
  planned = schedules.read_schedule(arguments)
  if planned:
    if planned.tokens is None:
      raise ValueError('--tokens_per_step: must be given to predict')
    yield Point('schedule', _size(planned, kind), planned.tokens)
  for path in map(storage.as_path, arguments.workdirs):
    for name, workdir in find_workdirs(path):
      yield _planned_run(workdir, name, kind)


def _size(average: Average, kind: str) -> float:
  sizes = {
    'average': average.average_parameters,
    'final': average.final_parameters,
    'initial': average.linear_parameters,
  }
  return sizes[kind]


def _planned_run(workdir: pathlib.Path, name: str, kind: str) -> Point:
  """N and D that the run's plan says, whether or not it has ended."""
  header = history.read(workdir / 'mask_history.jsonl').header
  path = workdir / 'config.json'
  config = read_json(path)
  try:
    key, density = _planned_density(config, kind)
    steps = config['plan']['steps']
  except (KeyError, TypeError):
    raise ValueError(f'{path}: has no plan of a run') from None
  if type(density) not in (int, float) or not 0 < density <= 1:
    raise ValueError(f'{path}: {key} = {density!r}: no density follows')
  if type(steps) is not int or not 0 < steps <= MAX_STEPS:
    raise ValueError(
      f'{path}: plan.steps = {steps!r}: must be from 1 to {MAX_STEPS:,}'
    )
  parameters = density * header.linear_parameters
  return Point(name, parameters, steps * header.tokens_per_step)


def _planned_density(config: Mapping, kind: str) -> tuple[str, Any]:
  """The key that says it, and what it says."""
  if kind == 'initial':
    return '', 1.0
  if kind == 'average':
    return 'plan.mean_density', config['plan']['mean_density']
  asked = config['config']['pruning']
  if asked.get('exempt') or asked.get('sparsities'):
    raise ValueError(
      'the law counts final parameters, which a plan with pruning.exempt or '
      'pruning.sparsities does not say; fit with --parameters average'
    )
  return 'pruning.sparsity', 1 - asked['sparsity']


def _text(rows: Sequence[dict], kind: str, intervals, level: float) -> str:
  header = ['', NAMES[kind], 'D', 'FLOPs', 'loss']
  cells = [
    [
      row['name'],
      short(row['parameters']),
      short(row['tokens']),
      f'{row["compute_flops"]:.2e}',
      _loss(row['loss']),
    ]
    for row in rows
  ]
  if intervals:
    header.append(f'{level * 100:g} % of the law')
    for ends, line in zip(intervals, cells, strict=True):
      line.append(tables.interval(ends, _loss))
  text = tables.table('Predicted loss, nats per token', header, cells)
  if any(map(tables.is_open, intervals or ())):
    text += f'\n{tables.ABOUT_OPEN}'
  return text


def _loss(value: float) -> str:
  return f'{value:.4f}' if value < 100 else f'{value:.2e}'
