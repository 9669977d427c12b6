"""Predicts the loss of runs that there are not."""

import argparse
import itertools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jax_sparse_pretrain import history
from jax_sparse_pretrain.analysis import tables
from jax_sparse_pretrain.analysis.runs.average import Average, read_json
from jax_sparse_pretrain.analysis.runs.sources import find_workdirs
from jax_sparse_pretrain.analysis.tables import short
from jax_sparse_pretrain.analysis.verbs import Answer, schedules
from jax_sparse_pretrain.analysis.verbs.laws import (
  GivenLaw,
  add_law,
  read_law,
)

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
  given = read_law(arguments.law)
  points = list(_points(arguments, given.kind))
  if not points:
    raise ValueError(
      'nothing to predict: give --average_parameters and --tokens, workdirs, '
      'or a schedule'
    )
  n, d = (np.array([float(point[i]) for point in points]) for i in (1, 2))
  loss, resamples = given.law.loss(n, d), given.bootstrap()
  intervals = None
  if resamples:
    low, high = resamples.loss_intervals(n, d, arguments.level)
    intervals = list(zip(low.tolist(), high.tolist(), strict=True))
  rows = [
    {
      **point._asdict(),
      'loss': loss[i],
      'interval': intervals and intervals[i],
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
  text = _text(rows, given.kind, arguments.level if intervals else None)
  return Answer(data, text, tuple(_beyond(given, n, d)))


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
  for path in map(pathlib.Path, arguments.workdirs):
    for workdir in find_workdirs(path):
      yield _planned_run(workdir, kind)


def _size(average: Average, kind: str) -> float:
  sizes = {
    'average': average.average_parameters,
    'final': average.final_parameters,
    'initial': average.linear_parameters,
  }
  return sizes[kind]


def _planned_run(workdir: pathlib.Path, kind: str) -> Point:
  """N and D that the run's plan says, whether or not it has ended."""
  header = history.read(workdir / 'mask_history.jsonl').header
  path = workdir / 'config.json'
  config = read_json(path)
  try:
    density = _PLANNED_DENSITY[kind](config)
    tokens = config['plan']['steps'] * header.tokens_per_step
    parameters = density * header.linear_parameters
  except (KeyError, TypeError):
    raise ValueError(f'{path}: has no plan of a run') from None
  return Point(workdir.resolve().name, parameters, tokens)


def _final_density(config: Mapping) -> float:
  asked = config['config']['pruning']
  if asked.get('exempt') or asked.get('sparsities'):
    raise ValueError(
      'the law counts final parameters, which a plan with pruning.exempt or '
      'pruning.sparsities does not say; fit with --parameters average'
    )
  return 1 - asked['sparsity']


_PLANNED_DENSITY = {
  'average': lambda config: config['plan']['mean_density'],
  'final': _final_density,
  'initial': lambda config: 1.0,
}


def _text(rows: Sequence[dict], kind: str, level: float | None) -> str:
  n = {'average': 'N_avg', 'final': 'N final', 'initial': 'N initial'}[kind]
  header = ['', n, 'D', 'FLOPs', 'loss']
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
  if level is not None:
    header.append(f'{level * 100:g} % of the law')
    for row, line in zip(rows, cells, strict=True):
      line.append(' to '.join(map(_loss, row['interval'])))
  return tables.grid('Predicted loss, nats per token', header, cells)


def _loss(value: float) -> str:
  return f'{value:.4f}' if value < 100 else f'{value:.2e}'


def _beyond(given: GivenLaw, n: np.ndarray, d: np.ndarray) -> Iterator[str]:
  """A law is known where its runs are."""
  if given.fit is None:
    return
  for name, asked, known in (
    ('parameters', n, given.fit.parameters),
    ('tokens', d, given.fit.tokens),
  ):
    low, high = known.min(), known.max()
    if asked.max() > high or asked.min() < low:
      yield (
        f'{name} from {short(asked.min())} to {short(asked.max())}: the law '
        f'was fitted from {short(low)} to {short(high)}'
      )
