"""The end of a run for a person, from what `summary.json` holds."""

import os
from collections.abc import Iterator, Mapping

from jax_sparse_pretrain.text import Line, duration, listing


def end_of_run_table(
  summary: Mapping, workdir: os.PathLike | str | None = None
) -> str:
  """What a person wants to see when a run ends.

  Args:
    summary: the contents of `summary.json`: losses in nats per token, counts
      of linear parameters, and `unigram_loss` where it is known.
    workdir: the run's directory, to be named below the table.
  """
  lines = [
    *_loss_lines(summary),
    Line(),
    *_parameter_lines(summary),
    Line(),
    *_compute_lines(summary),
  ]
  # From the counts, which say what is; the config says what was asked for.
  density = summary['final_parameters'] / summary['linear_parameters']
  kind = 'dense' if _is_dense(summary) else f'{1 - density:.1%} sparse'
  how = 'Finished' if summary['completed'] else 'Stopped before the end'
  elapsed = duration(summary['wall_seconds'])
  title = f'{how}: {summary["steps"]:,} steps in {elapsed}, {kind}'
  text = listing(title, lines)
  # Never folded: a folded path cannot be copied.
  return text if workdir is None else f'{text}\nFiles: {workdir}'


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
