"""N_avg of runs, from their mask histories; or of a schedule, planned."""

from collections.abc import Iterator, Sequence
from typing import Annotated

from jax_sparse_pretrain import analysis, text
from jax_sparse_pretrain.analysis.averages import Average, read_averages
from jax_sparse_pretrain.analysis.command import Answer, Words, verb
from jax_sparse_pretrain.analysis.verbs.arguments import AskedSchedule
from jax_sparse_pretrain.text import Line, count, short

Workdirs = Annotated[Words, {'metavar': 'WORKDIR'}]
# docs/pruning.md lists what leaves the plan on purpose.
WHY_ANOTHER = (
  'as it may with blocks or channels of different sizes, or an updater that '
  'sets its own sparsity'
)


@verb('average WORKDIR', '.json', '.csv')
def average(
  workdirs: Workdirs,
  schedule: AskedSchedule,
  unfinished: bool = False,
  out: str | None = None,
) -> Answer:
  """Average parameters of runs, exactly, or of a schedule.

  Args:
    workdirs: workdirs, or directories of workdirs; --out FILE.csv writes a
      table of runs for the other verbs.
    unfinished: write unfinished runs to FILE.csv as they are.
  """
  if schedule.is_given == bool(workdirs):
    raise ValueError('give workdirs, or the flags of a schedule; see --help')
  planned = schedule.average()
  if planned:
    if out and out.endswith('.csv'):
      raise ValueError(f'--out = {out}: a plan has no loss; .json')
    return Answer({'runs': [planned.as_dict()]}, _one(planned))
  found = read_averages(workdirs)
  if not found:
    raise ValueError('no run has logged a step yet')

  def write_csv(path) -> None:
    # The verbs that read the table leave out what began from another model.
    runs = analysis.load_runs(
      *workdirs, unfinished=unfinished, include_continued=True
    )
    analysis.write_runs(path, runs)

  return Answer(
    {'runs': [each.as_dict() for each in found]},
    _one(found[0]) if len(found) == 1 else _many(found),
    list(_warnings(found)),
    {'.csv': write_csv},
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
  parts = [
    text.listing(f'{each.run}: {each.steps:,} steps', list(_lines(each)))
  ]
  header = ['phase', 'from step', 'to', 'mean density', 'of steps']
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
  if rows:
    parts.append(text.table('Phases', [*header, 'of compute'], rows))
  return '\n\n'.join(parts)


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
  if final < linear:
    yield from _mass_lines(each)
  if each.tokens:
    yield Line('Tokens', count(each.tokens), 'D')
    equivalent = count(each.dense_equivalent_tokens)
    yield Line('  equivalent', equivalent, 'of the dense model, equal compute')
    yield Line('Compute', f'{each.compute_flops:.3e}', 'FLOPs, 6 N_avg D')


def _mass_lines(each: Average) -> Iterator[Line]:
  found = {
    'Gaussian': each.l1_parameters,
    'measured': each.l1_measured_parameters,
  }
  for way, mass in found.items():
    if mass is not None:
      share = f'{mass / each.linear_parameters:.2%} of dense'
      yield Line(f'  L1 mass, {way}', count(mass), f'N_eff, {share}')


def _many(found: Sequence[Average]) -> str:
  tables = [_averages(found)]
  pruned = [e for e in found if e.final_parameters < e.linear_parameters]
  if any(e.l1_parameters or e.l1_measured_parameters for e in pruned):
    tables.append(_masses(found))
  return '\n\n'.join(tables)


def _name(each: Average) -> str:
  return each.run if each.completed else f'{each.run} (so far)'


def _masses(found: Sequence[Average]) -> str:
  header = [
    'run',
    'N',
    'exempt',
    'final',
    'Gaussian',
    'of N',
    'measured',
    'of N',
  ]
  rows = []
  for each in found:
    linear = each.linear_parameters
    cells = [linear, each.exempt_parameters, each.final_parameters]
    cells = [text.known(cell, short) for cell in cells]
    for mass in (each.l1_parameters, each.l1_measured_parameters):
      share = None if mass is None else mass / linear
      cells.append(text.known(mass, short))
      cells.append(text.known(share, '{:.2%}'.format))
    rows.append([_name(each), *cells])
  return text.table('L1 mass at the end, N_eff', header, rows)


def _averages(found: Sequence[Average]) -> str:
  header = ['run', 'steps', 'N', 'N_avg', 'N_avg/N', 'final', 'D', 'FLOPs']
  rows = [
    [
      _name(each),
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
  return text.table('Average parameters', header, rows)
