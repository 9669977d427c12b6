"""Holds arms of an experiment against a reference, paired by seed."""

import argparse
import dataclasses
import math
from collections.abc import Sequence

from jax_sparse_pretrain import text as tables
from jax_sparse_pretrain.analysis.contrasts import Contrast
from jax_sparse_pretrain.analysis.fitting.design import check_level
from jax_sparse_pretrain.analysis.verbs import Answer, contrasts
from jax_sparse_pretrain.analysis.verbs.arguments import add_runs, read_runs

SUMMARY = 'differences of loss between arms of an experiment, over seeds'
EXAMPLE = "contrast runs.csv --names '(?P<arm>.+)_(?P<seed>\\d+)' --reference x"
SUFFIXES = ('.json',)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  add_runs(parser)
  contrasts.add_arguments(parser)
  parser.add_argument(
    '--level', type=float, default=0.95, help='of the intervals (0.95)'
  )


def answer(arguments: argparse.Namespace) -> Answer:
  check_level(arguments.level)
  found = contrasts.read_contrasts(arguments, read_runs(arguments))
  data = [
    {
      **{k: _known(v) for k, v in dataclasses.asdict(each).items()},
      'difference': each.difference,
      'interval': [_known(end) for end in each.interval(arguments.level)],
    }
    for each in found
  ]
  return Answer(
    {'level': arguments.level, 'contrasts': data},
    _text(found, arguments.level),
    tuple(_warnings(found)),
  )


def _known(value):
  is_open = isinstance(value, float) and not math.isfinite(value)
  return None if is_open else value


def _warnings(found: Sequence[Contrast]):
  for each in found:
    if len(each.seeds) < 2:
      name = f'{each.block} {each.arm}'.strip()
      yield f'{name}: one seed, so that nothing is known of its noise'


def _text(found: Sequence[Contrast], level: float) -> str:
  header = [
    'arm',
    'seeds',
    'N_avg off',
    'final N',
    f'of {found[0].reference}',
    'loss',
    f'{level * 100:g} %',
  ]
  rows = [
    [
      f'{each.block} {each.arm}'.strip(),
      str(len(each.seeds)),
      f'{each.average_off:+.2%}',
      _count(each.final_parameters),
      _count(each.reference_final_parameters),
      f'{each.difference:+.4f}',
      _ends(each.interval(level)),
    ]
    for each in found
  ]
  title = f'Loss less that of {found[0].reference}, in nats, paired by seed'
  return (
    f'{tables.table(title, header, rows)}\n'
    "Each interval on its own, by Student's t."
  )


def _count(value: float) -> str:
  return '-' if math.isnan(value) else tables.short(value)


def _ends(ends: tuple[float, float]) -> str:
  if math.isinf(ends[1]):
    return tables.OPEN
  return f'{ends[0]:+.4f} to {ends[1]:+.4f}'
