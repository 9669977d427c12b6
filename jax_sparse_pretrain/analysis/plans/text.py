"""A plan for a person: tables and commands."""

import shlex
import textwrap
from collections.abc import Iterator, Sequence

from jax_sparse_pretrain import text as tables
from jax_sparse_pretrain.analysis.plans.planned_run import PlannedRun
from jax_sparse_pretrain.analysis.plans.results import RunPlans, fewer
from jax_sparse_pretrain.text import count, short

NOTES = (
  'Off: from what the law asks for, by whole layers, steps and mask updates.',
  'Twin: the dense run of the same N_avg, tokens and steps; --twins prints '
  'its command.',
  'Saved: linear parameters, and so the FLOPs of their products, 2 a parameter '
  'and token. Unstructured zeros save them only with kernels that skip zeros.',
  'All: with input embedding and norm scales, which stay dense.',
)
NO_INTERVALS = {
  False: 'No intervals: a law in numbers does not say how sure it is.',
  True: 'No intervals: the fit was made without a bootstrap.',
}


def plan_text(
  plans: RunPlans, is_fitted: bool, with_twins: bool = False
) -> str:
  """Sizes, steps, what inference saves, and a command for each run.

  Args:
    plans: what to train.
    is_fitted: whether the law comes from a fit.
    with_twins: whether to print the commands of the twins, too.
  """
  notes = NOTES if plans.level else (*NOTES, NO_INTERVALS[is_fitted])
  if any(tables.is_open(run.interval) for run in plans.runs):
    notes = (*notes, tables.ABOUT_OPEN)
  width = tables.terminal_width()
  return '\n\n'.join(
    [
      _sizes(plans),
      _steps(plans),
      _inference(plans),
      '\n'.join(textwrap.fill(note, width) for note in notes),
      *_commands(plans, width, with_twins),
    ]
  )


def _names(plans: RunPlans) -> list[str]:
  return ['dense', *(f'{x.run.sparsity * 100:g} %' for x in plans.sparse)]


def _named(plans: RunPlans) -> Iterator[tuple[str, PlannedRun]]:
  runs = (plans.dense, *(each.run for each in plans.sparse))
  return zip(_names(plans), runs, strict=True)


def _sizes(plans: RunPlans) -> str:
  header = ['', 'N', 'N_avg', 'N final', 'D', 'FLOPs', 'loss']
  if plans.level:
    header.append(f'{plans.level * 100:g} % of law')
  rows = []
  for name, run in _named(plans):
    sizes = (run.linear_parameters, run.average_parameters)
    row = [name, *map(short, (*sizes, run.final_parameters, run.tokens))]
    row += [f'{run.compute_flops:.3e}', f'{run.loss:.4f}']
    if run.interval:
      row.append(tables.interval(run.interval, '{:.4f}'.format))
    rows.append(row)
  return tables.table(f'Runs for {_aim(plans)}', header, rows)


def _aim(plans: RunPlans) -> str:
  words = {
    'compute': '{:.4g} FLOPs',
    'loss': 'a loss of {:.4g}',
    'final_parameters': '{:,.0f} parameters at the end',
  }
  return ', '.join(
    words[name].format(value) for name, value in plans.given.items()
  )


def _steps(plans: RunPlans) -> str:
  # Heads are in the commands.
  header = ['', 'layers', 'd_model', 'steps', 'prune from', 'to']
  header += ['N off', 'FLOPs off']
  rows = []
  for name, run in _named(plans):
    model, schedule = run.config.model, run.plan.schedule
    ramp = [count(schedule.start), count(schedule.end)]
    rows.append(
      [
        name,
        *map(str, (model.n_layers, model.d_model)),
        count(run.plan.steps),
        *(ramp if run.sparsity else ['', '']),
        f'{run.off_parameters:+z.2%}',
        f'{run.off_compute:+z.2%}',
      ]
    )
  tokens = plans.dense.config.tokens_per_step
  every = plans.sparse[0].run.plan.schedule.every
  title = f'Steps of {tokens:,} tokens, masks updated every {every}'
  return tables.table(title, header, rows)


def _inference(plans: RunPlans) -> str:
  header = ['', 'N final', 'all', 'FLOPs/token', 'twin N', 'twin loss']
  header.append('saved')
  # The dense run of a size to deploy has that size itself.
  has_optimum = set(plans.given) != {'final_parameters'}
  if has_optimum:
    header.append('v. dense')
  rows = []
  for name, each in zip(_names(plans)[1:], plans.sparse, strict=True):
    run, twin = each.run, each.twin
    sizes = (run.final_parameters, run.final_total_parameters)
    row = [name, *map(short, sizes), f'{run.inference_flops:.3e}']
    row += [short(twin.linear_parameters), f'{twin.loss:.4f}']
    row.append(f'{each.fewer_than_twin:.1%}')
    if has_optimum:
      row.append(f'{fewer(run, plans.dense):.1%}')
    rows.append(row)
  return tables.table('At inference, against dense runs', header, rows)


def _commands(plans: RunPlans, width: int, with_twins: bool) -> Iterator[str]:
  named = list(_named(plans))
  if with_twins:
    names = _names(plans)[1:]
    named += [
      (f'{name}, twin', each.twin)
      for name, each in zip(names, plans.sparse, strict=True)
    ]
  for name, run in named:
    lines = _folded(
      ['python', '-m', 'jax_sparse_pretrain.train', *run.command], width
    )
    yield '\n'.join([f'# {name}', *lines])


def _folded(words: Sequence[str], width: int) -> list[str]:
  """A command over lines that a shell joins."""
  lines = [words[0]]
  for word in map(shlex.quote, words[1:]):
    if len(lines[-1]) + len(word) + len(' ' + ' \\') > width:
      lines[-1] += ' \\'
      lines.append(f'  {word}')
    else:
      lines[-1] += f' {word}'
  return lines
