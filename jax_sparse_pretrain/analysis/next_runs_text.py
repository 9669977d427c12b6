"""A plan for a person: tables and commands."""

import shlex
import textwrap
from collections.abc import Sequence

from jax_sparse_pretrain import text
from jax_sparse_pretrain.analysis.next_runs import RunPlans, fewer
from jax_sparse_pretrain.analysis.train_command import NextRun
from jax_sparse_pretrain.text import count, short

NOTES = (
  'Off: by how much whole layers, steps and updates miss what the law wants.',
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
  if any(text.is_open(run.interval) for run in plans.runs):
    notes = (*notes, text.ABOUT_OPEN)
  width = text.terminal_width()
  runs = {'dense': plans.dense}
  twins = {}
  for each in plans.sparse:
    name = f'{each.run.sparsity * 100:g} %'
    runs[name] = each.run
    twins[f'{name}, twin'] = each.twin
  commanded = {**runs, **twins} if with_twins else runs
  return '\n\n'.join(
    [
      _sizes(plans, runs),
      _steps(plans, runs),
      _inference(plans, list(runs)[1:]),
      '\n'.join(textwrap.fill(note, width) for note in notes),
      *(f'# {name}\n{_command(run, width)}' for name, run in commanded.items()),
    ]
  )


def _sizes(plans: RunPlans, runs: dict[str, NextRun]) -> str:
  header = ['', 'N', 'N_avg', 'N final', 'D', 'FLOPs', 'loss']
  if plans.level:
    header.append(f'{plans.level * 100:g} % of law')
  rows = []
  for name, run in runs.items():
    sizes = (run.linear_parameters, run.average_parameters)
    row = [name, *map(short, (*sizes, run.final_parameters, run.tokens))]
    row += [f'{run.compute_flops:.3e}', f'{run.loss:.4f}']
    if run.interval:
      row.append(text.interval(run.interval, '{:.4f}'.format))
    rows.append(row)
  words = {
    'compute': '{:.4g} FLOPs',
    'loss': 'a loss of {:.4g}',
    'final_parameters': '{:,.0f} parameters at the end',
  }
  aim = ', '.join(words[name].format(x) for name, x in plans.given.items())
  return text.table(f'Runs for {aim}', header, rows)


def _steps(plans: RunPlans, runs: dict[str, NextRun]) -> str:
  # Heads are in the commands.
  header = ['', 'layers', 'd_model', 'steps', 'prune from', 'to']
  header += ['N off', 'FLOPs off']
  rows = []
  for name, run in runs.items():
    model, schedule = run.config.model, run.plan.schedule
    row = [name, str(model.n_layers), str(model.d_model), count(run.plan.steps)]
    ramp = (schedule.start, schedule.end) if run.sparsity else ()
    row += [*map(count, ramp)] or ['', '']
    row += [f'{run.off_parameters:+z.2%}', f'{run.off_compute:+z.2%}']
    rows.append(row)
  tokens = plans.dense.config.tokens_per_step
  every = plans.sparse[0].run.plan.schedule.every
  title = f'Steps of {tokens:,} tokens, masks updated every {every}'
  return text.table(title, header, rows)


def _inference(plans: RunPlans, names: Sequence[str]) -> str:
  header = ['', 'N final', 'all', 'FLOPs/token', 'twin N', 'twin loss']
  header.append('saved')
  # The dense run of a size to deploy has that size itself.
  has_optimum = set(plans.given) != {'final_parameters'}
  if has_optimum:
    header.append('v. dense')
  rows = []
  for name, each in zip(names, plans.sparse, strict=True):
    run, twin = each.run, each.twin
    sizes = (run.final_parameters, run.final_total_parameters)
    row = [name, *map(short, sizes), f'{run.inference_flops:.3e}']
    row += [short(twin.linear_parameters), f'{twin.loss:.4f}']
    row.append(f'{each.fewer_than_twin:.1%}')
    if has_optimum:
      row.append(f'{fewer(run, plans.dense):.1%}')
    rows.append(row)
  return text.table('At inference, against dense runs', header, rows)


def _command(run: NextRun, width: int) -> str:
  """The command over lines that a shell joins."""
  lines = ['python -m jax_sparse_pretrain.train']
  for word in map(shlex.quote, run.command):
    if len(lines[-1]) + len(word) + len(' ' + ' \\') > width:
      lines[-1] += ' \\'
      lines.append(f'  {word}')
    else:
      lines[-1] += f' {word}'
  return '\n'.join(lines)
