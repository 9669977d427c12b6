"""Tables for a person: the plan of a run and its outcome."""

import os
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from jax_sparse_pretrain import config as config_lib
from jax_sparse_pretrain import hardware
from jax_sparse_pretrain.model import counts
from jax_sparse_pretrain.planning import Plan
from jax_sparse_pretrain.training import progress

WIDTH = 80  # columns


class Line(NamedTuple):
  label: str = ''
  value: str = ''
  remark: str = ''


def end_of_run_table(
  summary: Mapping, workdir: os.PathLike | str | None = None
) -> str:
  """What a person wants to see when a run ends, at most 80 columns wide.

  Args:
    summary: the contents of `summary.json`; losses in nats per token, counts
      of linear parameters, and `unigram_loss` where it is known.
    workdir: where the run's files are, to be named below the table.
  """
  lines = [
    *_loss_lines(summary),
    Line(),
    *_parameter_lines(summary),
    Line(),
    *_compute_lines(summary),
  ]
  files = [] if workdir is None else folded(f'Files: {workdir}')
  return '\n'.join([table(_title(summary), lines), *files])


def plan_table(config: config_lib.Config, plan: Plan) -> str:
  """What a run will be and cost, from its config alone.

  Hours are those of one H100 at 40 % of its dense bfloat16 peak. Hardware
  computes the pruned weights too, so they are those of a dense model.
  """
  return table('Plan', list(_plan_lines(config, plan)))


def _plan_lines(config, plan) -> Iterator[Line]:
  model, schedule = config.model, plan.schedule
  linear = counts.linear_parameters(model)
  tokens = plan.steps * config.tokens_per_step
  average = plan.mean_density * linear
  yield Line('Linear parameters', f'{linear:,}', 'N of the dense model')
  if schedule.sparsity:
    share = f'{plan.mean_density:.1%} of dense'
    yield Line('  average', f'{average:,.0f}', f'N_avg, {share}')
    end = linear * float(schedule.density(plan.steps - 1))
    yield Line('  at the end', f'{end:,.0f}', f'{end / linear:.1%} of dense')
  yield Line('All parameters', f'{counts.total_parameters(model):,}')
  yield Line()
  yield Line('Steps', f'{plan.steps:,}')
  if schedule.sparsity:
    start, end = plan.compute_fractions
    yield Line(
      '  pruned from', f'{schedule.start:,}', f'{start:.1%} of compute'
    )
    yield Line('  to', f'{schedule.end:,}', f'{end:.1%} of compute')
  yield Line('Tokens', f'{tokens:,}', f'D, {config.tokens_per_step:,} a step')
  yield Line('Compute', f'{6 * average * tokens:.3e}', 'FLOPs, 6 N_avg D')
  executed = tokens * counts.flops_per_token(model, linear)
  hours = executed / (0.4 * hardware.CHIPS['H100'].peak_flops) / 3600
  text = 'below 0.1' if hours < 0.1 else f'{hours:,.1f}'
  yield Line('H100 hours', text, 'at 40 % of its peak')


def table(title: str, lines: list[Line]) -> str:
  """Lines in columns between two rules."""
  rows = [_laid_out(line, lines) for line in lines]
  rule = '-' * max(map(len, [title, *rows]))
  return '\n'.join([title, rule, *rows, rule])


def _title(summary: Mapping) -> str:
  how = 'Finished' if summary['completed'] else 'Stopped before the end'
  elapsed = progress.duration(summary['wall_seconds'])
  return f'{how}: {summary["steps"]:,} steps in {elapsed}, {_kind(summary)}'


def _kind(summary: Mapping) -> str:
  # From the counts: they say what is, a setting says what was asked for.
  density = summary['final_parameters'] / summary['linear_parameters']
  return 'dense' if _is_dense(summary) else f'{1 - density:.1%} sparse'


def _is_dense(summary: Mapping) -> bool:
  return summary['final_parameters'] == summary['linear_parameters']


def _loss_lines(summary: Mapping) -> Iterator[Line]:
  evaluation, unigram = summary['eval_loss'], summary.get('unigram_loss')
  yield Line('Evaluation loss', _loss(evaluation), 'nats per token')
  if unigram is not None:
    yield Line('  unigram baseline', _loss(unigram), _gap(evaluation, unigram))
  yield Line('Training loss', _loss(summary['train_loss']))


def _loss(value: float | None) -> str:
  return 'not measured' if value is None else f'{value:.4f}'


def _gap(evaluation: float | None, unigram: float) -> str:
  if evaluation is None:
    return ''
  side = 'below' if evaluation <= unigram else 'ABOVE'
  return f'the model is {abs(unigram - evaluation):.4f} nats {side} it'


def _parameter_lines(summary: Mapping) -> Iterator[Line]:
  linear, total = summary['linear_parameters'], summary['total_parameters']
  if _is_dense(summary):
    yield Line('Linear parameters', f'{linear:,}', 'dense throughout')
    yield Line('All parameters', f'{total:,}', 'with embedding and norms')
    return
  average, final = summary['average_parameters'], summary['final_parameters']
  yield Line('Linear parameters', f'{linear:,}', 'at the start, dense')
  for label, count in (('  average', average), ('  at the end', final)):
    yield Line(label, f'{round(count):,}', f'{count / linear:.1%} of dense')
  yield Line('All parameters', f'{total:,}', 'with embedding and norms')
  yield Line('  at the end', f'{total - linear + final:,}')


def _compute_lines(summary: Mapping) -> Iterator[Line]:
  yield Line('Tokens', f'{summary["tokens"]:,}')
  if not _is_dense(summary):
    equivalent = round(summary['dense_equivalent_tokens'])
    remark = 'of the dense model, at equal compute'
    yield Line('  equivalent', f'{equivalent:,}', remark)
  yield Line('Compute', f'{summary["compute_flops"]:.3e}', 'FLOPs, 6 N_avg D')
  speed = summary['tokens_per_second']
  if speed is not None:
    yield Line('Speed', f'{speed:,.0f}', 'tokens per second')


def _laid_out(line: Line, lines: list[Line]) -> str:
  label_width = max(len(each.label) for each in lines)
  value_width = max(len(each.value) for each in lines)
  columns = f'{line.label:<{label_width}}  {line.value:>{value_width}}'
  return f'{columns}  {line.remark}'.rstrip()


def folded(text: str) -> list[str]:
  """Cut, not shortened: a long path must stay whole."""
  return [text[i : i + WIDTH] for i in range(0, len(text), WIDTH)]
