"""Draws runs, laws and schedules."""

import argparse

from jax_sparse_pretrain.analysis.verbs import (
  Answer,
  contrasts,
  fitted,
  scheduled,
  schedules,
)
from jax_sparse_pretrain.analysis.verbs.arguments import OF_RUNS, given_names

SUMMARY = 'draw runs with their law, coefficients, schedules'
EXAMPLE = 'plot law runs.csv --out law.png'
SUFFIXES = ('.png', '.svg')
ABOUT = {
  'law': 'loss over N and D, with the law and what it leaves',
  'predicted': 'predicted over measured loss, by each kind of parameters',
  'coefficients': 'intervals and correlations of the coefficients',
  'isoflops': 'loss over N at equal compute, and the optimum',
  'density': 'of workdirs, or of a schedule, over tokens and compute',
  'schedules': 'heat map of a sweep, or of start, end, sparsity, loss',
  'contrasts': 'arms of an experiment against a reference, with intervals',
}

COMMON = {'verb', 'picture', 'paths', 'json', 'out'}
OF_FIT = {'parameters', 'delta', 'method', 'law'}
# What each picture reads besides.
READS = {
  'law': {*OF_RUNS} | OF_FIT,
  'predicted': {*OF_RUNS} | OF_FIT,
  'coefficients': {*OF_RUNS} | OF_FIT | {'bootstrap', 'seed', 'group', 'level'},
  'isoflops': {*OF_RUNS} | OF_FIT | {'compute'},
  'density': {*schedules.FLAGS, 'sparsities'},
  'schedules': {*OF_RUNS} | {'noise', 'level'},
  'contrasts': {*OF_RUNS} | {'names', 'reference', 'level'},
}
# What a given law leaves nothing to do for.
FITTING = {'delta', 'method', 'bootstrap', 'seed', 'group'}


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    'picture',
    metavar='KIND',
    choices=list(ABOUT),
    help='; '.join(f'{name}: {about}' for name, about in ABOUT.items()),
  )
  fitted.add_arguments(parser)
  group = parser.add_argument_group('pictures')
  group.add_argument(
    '--law',
    metavar='LAW',
    help='draw this one instead of a fit: a file of fit, or numbers as '
    'predict takes them; coefficients and isoflops need no runs then',
  )
  group.add_argument(
    '--compute',
    nargs='+',
    type=float,
    metavar='FLOPS',
    help='budgets of isoflops; by default round ones of the runs',
  )
  scheduled.add_noise(group)
  group.add_argument(
    '--sparsities',
    nargs='+',
    type=float,
    metavar='X',
    help='for density: one schedule each, in place of --sparsity',
  )
  contrasts.add_arguments(parser)
  schedules.add_schedule(parser)


def answer(arguments: argparse.Namespace) -> Answer:
  if not arguments.out:
    raise ValueError('--out: must be given, FILE.png or FILE.svg')
  fitted.check(arguments)
  _check_read(arguments)
  # Only here, so that --help answers at once.
  from jax_sparse_pretrain.analysis.plots import style
  from jax_sparse_pretrain.analysis.verbs import pictures

  figure, warnings = pictures.DRAW[arguments.picture](arguments)
  return Answer(
    data={'picture': arguments.picture, 'out': arguments.out},
    text=f'{arguments.picture}: {ABOUT[arguments.picture]}',
    warnings=tuple(warnings),
    writers={
      suffix: lambda path: style.save(figure, path) for suffix in SUFFIXES
    },
  )


def _check_read(arguments: argparse.Namespace) -> None:
  """Refuses what this picture would not look at."""
  parser = argparse.ArgumentParser()
  add_arguments(parser)
  given = given_names(parser, arguments)
  reads = COMMON | READS[arguments.picture]
  for name in given:
    if name not in reads:
      raise ValueError(f'--{name}: {arguments.picture} does not read it')
    if arguments.law and name in FITTING:
      raise ValueError(f'--{name}: nothing is fitted with --law')
