"""Ranks pruning schedules of equal compute, for each sparsity."""

import argparse
import dataclasses
from collections.abc import Sequence

from jax_sparse_pretrain import text as tables
from jax_sparse_pretrain.analysis.fitting.design import check_level
from jax_sparse_pretrain.analysis.ranking import Noise, Ranking, Schedule
from jax_sparse_pretrain.analysis.verbs import Answer, scheduled
from jax_sparse_pretrain.analysis.verbs.arguments import add_runs

SUMMARY = 'rank of a pruning schedule among others, against the noise floor'
EXAMPLE = 'rank runs.csv --start 0.25 --end 0.75'
SUFFIXES = ('.json',)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  add_runs(parser)
  group = parser.add_argument_group('schedules')
  group.add_argument(
    '--start', type=float, default=0.25, help='of the one to rank (0.25)'
  )
  group.add_argument(
    '--end', type=float, default=0.75, help='of the one to rank (0.75)'
  )
  scheduled.add_noise(group)
  group.add_argument(
    '--level',
    type=float,
    default=0.95,
    help='at which a schedule is told from the best (0.95)',
  )


def answer(arguments: argparse.Namespace) -> Answer:
  check_level(arguments.level)
  found, noise = scheduled.read(arguments)
  rankings = scheduled.rank(
    found, noise, (arguments.start, arguments.end), arguments.level
  )
  if not any(ranking.asked for ranking in rankings):
    there = ', '.join(
      sorted({_percents(each) for r in rankings for each in r.schedules})
    )
    raise ValueError(
      f'--start = {arguments.start:g}, --end = {arguments.end:g}: no such '
      f'schedule, in fractions of compute; there are, in %, {there}'
    )
  data = {
    'asked': [arguments.start, arguments.end],
    'level': arguments.level,
    'noise': _known(noise),
    'rankings': [
      {
        **dataclasses.asdict(ranking),
        'rank': ranking.rank,
        'gap': ranking.gap,
        'not_told_apart': ranking.n_not_told_apart,
      }
      for ranking in rankings
    ],
  }
  warnings = () if noise else ('no seeds and no --noise: gaps may be chance',)
  return Answer(data, _text(rankings, noise, arguments), warnings)


def _text(rankings: Sequence[Ranking], noise: Noise | None, arguments) -> str:
  asked = _percents(Schedule(arguments.start, arguments.end, 0.0))
  header = [
    'sparsity',
    'best',
    'loss',
    'worst',
    f'{asked} ranks',
    'gap',
    'margin',
    'not told apart',
  ]
  rows = [
    [
      f'{100 * ranking.sparsity:g} %',
      _percents(ranking.best),
      f'{ranking.best.loss:.4f}',
      f'+{ranking.schedules[-1].loss - ranking.best.loss:.4f}',
      f'{ranking.rank or "-"} of {len(ranking.schedules)}',
      '-' if ranking.gap is None else f'{ranking.gap:.4f}',
      '-' if ranking.margin is None else f'{ranking.margin:.4f}',
      '-'
      if ranking.n_not_told_apart is None
      else str(ranking.n_not_told_apart),
    ]
    for ranking in rankings
  ]
  title = 'Schedules of equal compute: start-end in % of it, losses in nats'
  table = tables.table(title, header, rows)
  return table if noise is None else f'{table}\n{_about(noise, arguments)}'


def _percents(schedule: Schedule) -> str:
  return f'{100 * schedule.start:g}-{100 * schedule.end:g}'


def _known(noise: Noise | None):
  """For JSON, which has no infinity: of a noise that was given."""
  if noise is None:
    return None
  dof = noise.dof if noise.groups else None
  return {'sd': noise.sd, 'dof': dof, 'groups': noise.groups}


def _about(noise: Noise, arguments) -> str:
  source = (
    f'groups of seeds: {noise.groups}; degrees of freedom: {noise.dof:g}'
    if noise.groups
    else 'as given'
  )
  return (
    f'Noise of one run: {noise.sd:.4f} nats ({source}).\n'
    f'Not told apart: with {100 * arguments.level:g} % confidence the truly '
    'best schedule is among\nthese (Hsu, 1981), if losses of schedules are as '
    'independent as those of seeds.'
  )
