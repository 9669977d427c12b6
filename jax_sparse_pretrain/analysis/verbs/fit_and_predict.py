"""Fits the scaling law to runs, and predicts losses by it."""

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jax_sparse_pretrain import history, storage, text
from jax_sparse_pretrain.analysis.averages import exempt_parameters
from jax_sparse_pretrain.analysis.command import Answer, Level, verb
from jax_sparse_pretrain.analysis.effective import EFFECTIVE, Effective
from jax_sparse_pretrain.analysis.runs_table import Runs
from jax_sparse_pretrain.analysis.training_log import find_workdirs, read_json
from jax_sparse_pretrain.analysis.verbs.arguments import (
  AskedFit,
  AskedLaw,
  AskedResamples,
  AskedRuns,
  AskedSchedule,
  KnownLaw,
  check_level,
  fit_with_intervals,
)
from jax_sparse_pretrain.analysis.verbs.average_runs import Workdirs
from jax_sparse_pretrain.model.counts import training_flops
from jax_sparse_pretrain.planning import MAX_STEPS, Plan
from jax_sparse_pretrain.runs.workdir import Workdir
from jax_sparse_pretrain.schedule import PruningSchedule
from jax_sparse_pretrain.text import Line, short, significant


class Point(NamedTuple):
  """What to predict.

  Attributes:
    name: for the table.
    count: coefficient of the count, or None -> N of the law.
    tokens: D.
    average: N_avg, which compute goes by; None if not known.
  """

  name: str
  count: Callable[[float | None], float]
  tokens: float
  average: float | None


@verb('fit runs.csv --out fit.json', '.json')
def fit(
  runs: AskedRuns,
  law: AskedFit,
  resamples: AskedResamples,
  level: Level = 0.95,
) -> Answer:
  """Fit L = E + A / N^alpha + B / D^beta to runs, with intervals."""
  check_level(level)
  found = runs.load()
  known = fit_with_intervals(runs, found, law, resamples, level)
  interaction = known.fit.interaction(level)
  data = {
    **json.loads(known.fit.to_json()),
    'log_rmse': known.fit.log_rmse,
    'interaction': interaction and interaction._asdict(),
    'kind': law.parameters,
    'method': law.solver['method'],
    'level': level,
    'intervals': {
      kind: {name: text.closed(ends) for name, ends in each.items()}
      for kind, each in known.intervals.items()
    },
    'resampling': known.resampling,
    'warnings': list(known.warnings),
    'run': found.run,
    'residuals': known.fit.residuals,
    'fingerprint': found.fingerprint,
  }
  share = f'{level * 100:g} %'
  lines = list(_lines(known.fit, found, interaction, law.parameters, share))
  parts = [_coefficients(known, share), text.listing('Fit', lines)]
  return Answer(data, '\n\n'.join(parts), known.warnings)


def _coefficients(known: KnownLaw, share: str) -> str:
  header = ['', 'value', *(f'{share} {kind}' for kind in known.intervals)]
  rows = [
    [name, significant(value)]
    + [text.interval(x[name], significant) for x in known.intervals.values()]
    for name, value in known.fit.coefficients.items()
  ]
  title = f'L = E + A / N^alpha + B / D^beta, of {len(known.fit.loss)} runs'
  table = text.table(title, header, rows)
  return f'{table}\n{text.ABOUT_OPEN}' if text.OPEN in table else table


def _lines(
  fit, runs: Runs, interaction, kind: str, share: str
) -> Iterator[Line]:
  yield Line('N', text.span(fit.parameters), EFFECTIVE[kind].formula)
  yield Line('D', text.span(fit.tokens), 'tokens')
  yield Line('Loss', f'{fit.loss.min():.3f} to {fit.loss.max():.3f}', 'nats')
  objective = f'{fit.objective:.6e}'
  yield Line('Objective', objective, f'Huber losses, delta {fit.delta:g}')
  yield Line('RMSE', f'{fit.log_rmse:.4%}', 'of the loss')
  worst = int(np.abs(fit.residuals).argmax())
  off = f'{fit.residuals[worst]:+.2%}'
  yield Line('Farthest off', off, text.cut(runs.run[worst], 40))
  if interaction:
    ends = text.interval(interaction.interval, '{:+.4f}'.format)
    about = f'{ends}, {share}; 0 by the law'
    yield Line('N x D', f'{interaction.value:+.4f}', about)


@verb('predict --law fit.json --average_parameters 4e8 --tokens 1e10', '.json')
def predict(
  workdirs: Workdirs,
  schedule: AskedSchedule,
  law: AskedLaw,
  average_parameters: Sequence[int] = (),
  tokens: Sequence[int] = (),
  level: Level = 0.95,
) -> Answer:
  """Predict the loss of sizes and tokens, schedules, plans.

  Args:
    workdirs: predict these runs as they are planned.
    average_parameters: N, as the law counts it.
    tokens: D; each is predicted with each N.
  """
  from jax_sparse_pretrain.analysis.next_runs import caveats

  check_level(level)
  given = law.read()
  if bool(average_parameters) != bool(tokens):
    raise ValueError('--average_parameters, --tokens: give both or neither')
  is_average = given.kind == 'average'
  points = [
    Point('given', lambda q, n=n: n, d, n if is_average else None)
    for n, d in itertools.product(average_parameters, tokens)
  ]
  points += _planned_points(workdirs, schedule, EFFECTIVE[given.kind])
  if not points:
    raise ValueError(
      'nothing to predict: give --average_parameters and --tokens, workdirs, '
      'or a schedule'
    )

  def counted(q: float | None) -> np.ndarray:
    return np.array([float(point.count(q)) for point in points])

  n, d = counted(given.q), np.array([float(each.tokens) for each in points])
  loss, resamples = given.law.loss(n, d), given.bootstrap()
  if not np.isfinite(loss).all():
    raise ValueError(f'--law = {law.law}: has no finite loss there')
  intervals = None
  if resamples:
    each = resamples.counted(counted, given.fit)
    low, high = resamples.loss_intervals(each, d, level)
    intervals = list(zip(low.tolist(), high.tolist(), strict=True))
  rows = [
    {
      'name': point.name,
      'parameters': float(n[i]),
      'tokens': point.tokens,
      'loss': loss[i],
      'interval': intervals and text.closed(intervals[i]),
      'compute_flops': point.average
      and training_flops(point.average, point.tokens),
    }
    for i, point in enumerate(points)
  ]
  data = {
    'law': given.law.as_dict(),
    'kind': given.kind,
    'level': level if intervals else None,
    'predictions': rows,
  }
  said = ()
  if given.fit:
    said = caveats(given.fit, resamples, n, d, level, given.kind)
  return Answer(data, _predictions(rows, given.kind, intervals, level), said)


def _planned_points(
  workdirs: Sequence[str], schedule: AskedSchedule, effective: Effective
) -> Iterator[Point]:
  planned = schedule.average()
  if planned:
    if planned.tokens is None:
      raise ValueError('--tokens_per_step: must be given to predict')
    plan, linear = schedule.plan(), planned.linear_parameters
    whole = {
      'average': planned.average_parameters,
      'initial': linear,
      'final': planned.final_parameters,
    }
    yield Point(
      'schedule',
      lambda q: (
        whole.get(effective.name) or linear * effective.of_plan(plan, q)
      ),
      planned.tokens,
      planned.average_parameters,
    )
  for path in map(storage.as_path, workdirs):
    for name, workdir in find_workdirs(path):
      yield _planned_run(Workdir(workdir), name, effective)


def _planned_run(files: Workdir, name: str, effective: Effective) -> Point:
  """N and D that the plan of a run says, whether or not it has ended."""
  header = history.read(files.history).header
  config = read_json(files.config)
  try:
    steps = config['plan']['steps']
    density = config['plan']['mean_density']
  except (KeyError, TypeError):
    raise ValueError(f'{files.config}: has no plan of a run') from None
  if type(density) not in (int, float) or not 0 < density <= 1:
    raise ValueError(
      f'{files.config}: plan.mean_density = {density!r}: no density follows'
    )
  if type(steps) is not int or not 0 < steps <= MAX_STEPS:
    raise ValueError(
      f'{files.config}: plan.steps = {steps!r}: must be from 1 to {MAX_STEPS:,}'
    )
  linear, tokens = header.linear_parameters, steps * header.tokens_per_step
  average = density * linear
  if effective.name == 'average':
    return Point(name, lambda q: average, tokens, average)
  try:
    plan = planned_of(config, header)
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(f'{files.config}: no density follows: {error}') from None
  return Point(
    name, lambda q: effective.of_plan(plan, q) * linear, tokens, average
  )


def planned_of(config: Mapping, header: history.Header) -> Plan:
  """The plan in the `config.json` of a run.

  Raises:
    ValueError: if kernels have sparsities of their own, which it does not say.
  """
  asked, planned = config['config']['pruning'], config['plan']
  if asked.get('sparsities'):
    raise ValueError(
      'a plan with pruning.sparsities does not say the density at the end; '
      'fit with --parameters average'
    )
  exempt = exempt_parameters(header, config) or 0
  schedule = PruningSchedule(
    asked['schedule'],
    asked['sparsity'],
    planned['start'],
    planned['end'],
    planned['every'],
    asked['power'],
    share=1 - exempt / header.linear_parameters,
  )
  return Plan(schedule, planned['steps'])


def _predictions(
  rows: Sequence[dict], kind: str, intervals, level: float
) -> str:
  header = ['', EFFECTIVE[kind].symbol, 'D', 'FLOPs', 'loss']
  cells = [
    [
      row['name'],
      short(row['parameters']),
      short(row['tokens']),
      text.known(row['compute_flops'], '{:.2e}'.format),
      _loss(row['loss']),
    ]
    for row in rows
  ]
  if intervals:
    header.append(f'{level * 100:g} % of the law')
    for ends, line in zip(intervals, cells, strict=True):
      line.append(text.interval(ends, _loss))
  table = text.table('Predicted loss, nats per token', header, cells)
  is_open = any(map(text.is_open, intervals or ()))
  return f'{table}\n{text.ABOUT_OPEN}' if is_open else table


def _loss(value: float) -> str:
  return f'{value:.4f}' if value < 100 else f'{value:.2e}'
