"""Ranks pruning schedules of equal compute, for each sparsity."""

import argparse
import dataclasses
from collections.abc import Sequence

from jax_sparse_pretrain.analysis import tables
from jax_sparse_pretrain.analysis.contrasts.noise import Noise
from jax_sparse_pretrain.analysis.contrasts.ranking import (
  Ranking,
  Schedule,
  rank_schedules,
)
from jax_sparse_pretrain.analysis.fitting.bootstrap import check_level
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
  rankings = rank_schedules(
    found.start,
    found.end,
    found.sparsity,
    found.loss,
    found.seed,
    (arguments.start, arguments.end),
    noise,
    arguments.level,
  )
  if not any(ranking.asked for ranking in rankings):
    raise ValueError(
      f'--start = {arguments.start:g}, --end = {arguments.end:g}: no such run'
    )
  data = {
    'asked': [arguments.start, arguments.end],
    'level': arguments.level,
    'noise': noise and {'sd': noise.sd, 'groups': noise.groups},
    'rankings': [
      {
        **dataclasses.asdict(ranking),
        'rank': ranking.rank,
        'gap': ranking.gap,
        'as_good': ranking.n_as_good,
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
    'its loss',
    'worst',
    f'{asked} ranks',
    'above the best',
    'margin',
    'as good',
  ]
  rows = [
    [
      f'{ranking.sparsity:.0%}',
      _percents(ranking.schedules[0]),
      f'{ranking.schedules[0].loss:.4f}',
      f'+{ranking.schedules[-1].loss - ranking.schedules[0].loss:.4f}',
      f'{ranking.rank or "-"} of {len(ranking.schedules)}',
      '-' if ranking.gap is None else f'{ranking.gap:.4f}',
      '-' if ranking.margin is None else f'{ranking.margin:.4f}',
      '-' if ranking.n_as_good is None else str(ranking.n_as_good),
    ]
    for ranking in rankings
  ]
  title = 'Schedules of equal compute: start-end in % of it, losses in nats'
  table = tables.grid(title, header, rows)
  return table if noise is None else f'{table}\n{_about(noise, arguments)}'


def _percents(schedule: Schedule) -> str:
  return f'{100 * schedule.start:g}-{100 * schedule.end:g}'


def _about(noise: Noise, arguments) -> str:
  source = (
    f'from {noise.groups} groups of seeds, {noise.dof:g} degrees of freedom'
    if noise.groups
    else 'as given'
  )
  return (
    f'Noise of one run: {noise.sd:.4f} nats, {source}.\n'
    f'As good: within the margin of the best, which {arguments.level:.0%} of '
    'the time\nholds any schedule that is as good as the best (Hsu, 1981).'
  )
