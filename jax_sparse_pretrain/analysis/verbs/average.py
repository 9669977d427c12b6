"""N_avg of runs, from their mask histories; or of a schedule, planned."""

import argparse
from collections.abc import Iterator, Sequence

from jax_sparse_pretrain import text as tables
from jax_sparse_pretrain.analysis import load_runs, write_runs
from jax_sparse_pretrain.analysis.averages import Average, read_averages
from jax_sparse_pretrain.analysis.verbs import Answer, schedules
from jax_sparse_pretrain.text import Line, count, short

SUMMARY = 'average parameters of runs, exactly, or of a schedule'
EXAMPLE = 'average WORKDIR'
SUFFIXES = ('.json', '.csv')

# docs/pruning.md lists what leaves the plan on purpose.
WHY_ANOTHER = (
  'as it may with blocks or channels of different sizes, or an updater that '
  'sets its own sparsity'
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    'workdirs',
    nargs='*',
    metavar='WORKDIR',
    help='of a run, or a directory of workdirs; --out FILE.csv writes a '
    'table of runs for the other verbs',
  )
  parser.add_argument(
    '--unfinished',
    action='store_true',
    help='write unfinished runs to FILE.csv as they are',
  )
  schedules.add_schedule(parser)


def answer(arguments: argparse.Namespace) -> Answer:
  if schedules.is_given(arguments) == bool(arguments.workdirs):
    raise ValueError('give workdirs, or the flags of a schedule; see --help')
  planned = schedules.read_schedule(arguments)
  if planned:
    if arguments.out and arguments.out.endswith('.csv'):
      raise ValueError(f'--out = {arguments.out}: a plan has no loss; .json')
    return Answer({'runs': [planned.as_dict()]}, _one(planned))
  found = read_averages(arguments.workdirs)
  if not found:
    raise ValueError('no run has logged a step yet')
  text = _one(found[0]) if len(found) == 1 else _many(found)
  return Answer(
    data={'runs': [each.as_dict() for each in found]},
    text=text,
    warnings=tuple(_warnings(found)),
    writers={
      '.csv': lambda path: write_runs(
        path,
        load_runs(*arguments.workdirs, unfinished=arguments.unfinished),
      )
    },
  )


def _warnings(found: Sequence[Average]) -> Iterator[str]:
  for each in found:
    if not each.completed:
      yield f'{each.run}: not finished; its first {each.steps:,} steps'
    if each.departs_from_plan:
      yield (
        f'{each.run}: mean density {each.density:.4f}, planned '
        f'{each.planned_density:.4f}, {WHY_ANOTHER}; the history counts'
      )


def _one(each: Average) -> str:
  title = f'{each.run}: {each.steps:,} steps'
  return '\n\n'.join(
    [tables.listing(title, list(_lines(each))), *_phases(each)]
  )


def _lines(each: Average) -> Iterator[Line]:
  linear, final = each.linear_parameters, each.final_parameters
  yield Line('Linear parameters', count(linear), 'N, dense')
  share = f'N_avg, {each.density:.2%} of dense'
  yield Line('  average', count(each.average_parameters), share)
  yield Line('  at the end', count(final), f'{final / linear:.2%} of dense')
  if each.planned_density is not None:
    planned = each.planned_density * linear
    share = f'{each.planned_density:.2%} of dense'
    yield Line('  average, planned', count(planned), share)
  if each.tokens:
    yield Line('Tokens', count(each.tokens), 'D')
    equivalent = count(each.dense_equivalent_tokens)
    yield Line('  equivalent', equivalent, 'of the dense model, equal compute')
    yield Line('Compute', f'{each.compute_flops:.3e}', 'FLOPs, 6 N_avg D')


def _phases(each: Average) -> list[str]:
  header = [
    'phase',
    'from step',
    'to',
    'mean density',
    'of steps',
    'of compute',
  ]
  rows = [
    [
      phase.name,
      count(phase.start),
      count(phase.end),
      f'{phase.density:.2%}',
      f'{(phase.end - phase.start) / each.steps:.1%}',
      f'{phase.compute_fraction:.1%}',
    ]
    for phase in each.phases
  ]
  return [tables.table('Phases', header, rows)] if rows else []


def _many(found: Sequence[Average]) -> str:
  header = ['run', 'steps', 'N', 'N_avg', 'N_avg/N', 'final', 'D', 'FLOPs']
  rows = [
    [
      each.run if each.completed else f'{each.run} (so far)',
      count(each.steps),
      short(each.linear_parameters),
      short(each.average_parameters),
      f'{each.density:.2%}',
      short(each.final_parameters),
      short(each.tokens),
      f'{each.compute_flops:.2e}',
    ]
    for each in found
  ]
  return tables.table('Average parameters', header, rows)
