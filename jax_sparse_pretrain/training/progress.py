"""A run for a person: its progress, and a table at its end.

Progress is a bar on a terminal, and plain lines in a pipe:

  step   200/1,370  loss  2.413  density 0.830  41.2K tok/s  eta 1m12s

It goes to standard error, so that standard output holds only results.
"""

import contextlib
import os
import sys
import time
from collections.abc import Iterator, Mapping
from typing import TextIO

import tqdm

from jax_sparse_pretrain.text import Line, duration, listing, short

# From this share of the time on, the data hold up the run.
_SLOW_DATA = 0.05


class Progress:
  """Shows how far a run is. A context manager; fits into 80 columns.

  Args:
    total_steps: steps of the whole run.
    start_step: steps finished before this start.
    stream: where to show it, by default standard error. A terminal gets a
      bar, anything else one line for each `show`.
  """

  def __init__(
    self,
    total_steps: int,
    start_step: int = 0,
    stream: TextIO | None = None,
  ):
    self._stream = sys.stderr if stream is None else stream
    self._total = total_steps
    self._step = start_step
    self._scalars = ''
    # (steps, seconds) after the first step, from where the pace is measured:
    # the first step compiles.
    self._origin: tuple[int, float] | None = None
    self._bar = self._open_bar() if self._stream.isatty() else None

  @property
  def is_bar(self) -> bool:
    return self._bar is not None

  def advance(self, step: int) -> None:
    """Says that `step` steps are finished."""
    if self._origin is None:
      self._origin = (step, time.monotonic())
    self._step = step
    if self._bar is not None:
      self._bar.bar_format = self._bar_format()
      self._bar.update(step - self._bar.n)

  def show(self, step: int, scalars: Mapping[str, float]) -> None:
    """Shows metrics that were measured at `step`, perhaps a few steps ago.

    Args:
      step: finished steps.
      scalars: `train_loss` in nats, `density` in [0, 1] and
        `tokens_per_second`; others are ignored. Several runs at once have no
        loss and no density.
    """
    tokens_per_second = scalars.get('tokens_per_second')
    speed = '?' if tokens_per_second is None else short(tokens_per_second, 3)
    losses = ''
    if 'train_loss' in scalars:
      losses = (
        f'loss {scalars["train_loss"]:6.3f}  density {scalars["density"]:.3f}  '
      )
    self._scalars = f'{losses}{speed:>5} tok/s  '
    if self._bar is None:
      self._print(f'{self._place(step)}  {self._scalars}{self._time_left()}')
    else:
      self._bar.bar_format = self._bar_format()
      self._bar.refresh()

  def note(self, text: str) -> None:
    """Prints a line, above the bar if there is one."""
    if self._bar is None:
      self._print(text)
    else:
      self._bar.write(text, file=self._stream)

  def close(self) -> None:
    if self._bar is not None:
      self._bar.close()

  def __enter__(self) -> 'Progress':
    return self

  def __exit__(self, *exception) -> None:
    self.close()

  def _open_bar(self) -> tqdm.tqdm:
    return tqdm.tqdm(
      total=self._total,
      initial=self._step,
      file=self._stream,
      dynamic_ncols=True,
      miniters=1,  # tqdm would guess, from steps of the past
      bar_format=self._bar_format(),
    )

  def _bar_format(self) -> str:
    place = self._place(self._step)
    return f'{place} |{{bar}}| {self._scalars}{self._time_left()}'

  def _place(self, step: int) -> str:
    total = f'{self._total:,}'
    return f'step {step:>{len(total)},}/{total}'

  def _time_left(self) -> str:
    if self._origin is None or self._step == self._origin[0]:
      return 'eta ?'
    first_step, first_time = self._origin
    pace = (time.monotonic() - first_time) / (self._step - first_step)
    return f'eta {duration(pace * (self._total - self._step))}'

  def _print(self, text: str) -> None:
    print(text, file=self._stream, flush=True)


class Part:
  """One run's part of the progress of a sweep.

  Args:
    whole: progress over the steps of all runs, or what stands in for it.
    finished: steps of the runs before this one.
    start: the step of this run from which on its steps count.
  """

  def __init__(self, whole: Progress, finished: int, start: int):
    self._whole, self._finished, self._start = whole, finished, start

  def advance(self, step: int) -> None:
    self._whole.advance(self._place(step))

  def show(self, step: int, scalars: Mapping[str, float]) -> None:
    if self._whole.is_bar:  # In a pipe, each run of a sweep has one line.
      self._whole.show(self._place(step), scalars)

  def note(self, text: str) -> None:
    """Says nothing: notes of one run would bury those about the runs."""

  def _place(self, step: int) -> int:
    return self._finished + max(step - self._start, 0)


class Silent(contextlib.AbstractContextManager):
  """Progress of a process that leaves it to another one to show."""

  def advance(self, step: int) -> None:
    pass

  def show(self, step: int, scalars: Mapping[str, float]) -> None:
    pass

  def note(self, text: str) -> None:
    pass

  def __exit__(self, *exception) -> None:
    pass


def end_of_run_table(
  summary: Mapping, workdir: os.PathLike | str | None = None
) -> str:
  """What a person wants to see when a run ends.

  Args:
    summary: the contents of `summary.json`: losses in nats per token, counts
      of linear parameters, and `unigram_loss` where it is known.
    workdir: the run's directory, to be named below the table.
  """
  # From the counts, which say what is; the config says what was asked for.
  density = summary['final_parameters'] / summary['linear_parameters']
  kind = 'dense' if density == 1 else f'{1 - density:.1%} sparse'
  how = 'Finished' if summary['completed'] else 'Stopped before the end'
  elapsed = duration(summary['wall_seconds'])
  title = f'{how}: {summary["steps"]:,} steps in {elapsed}, {kind}'
  lines = [
    *_loss_lines(summary),
    Line(),
    *_parameter_lines(summary),
    Line(),
    *_compute_lines(summary),
  ]
  text = listing(title, lines)
  # Never folded: a folded path cannot be copied.
  return text if workdir is None else f'{text}\nFiles: {workdir}'


def _loss_lines(summary: Mapping) -> Iterator[Line]:
  evaluation, unigram = summary['eval_loss'], summary.get('unigram_loss')
  yield Line('Evaluation loss', _loss(evaluation), 'nats per token')
  if unigram is not None:
    gap = ''
    if evaluation is not None:
      side = 'below' if evaluation <= unigram else 'ABOVE'
      gap = f'the model is {abs(unigram - evaluation):.4f} nats {side} it'
    yield Line('  unigram baseline', _loss(unigram), gap)
  yield Line('Training loss', _loss(summary['train_loss']))


def _loss(value: float | None) -> str:
  return 'not measured' if value is None else f'{value:.4f}'


def _parameter_lines(summary: Mapping) -> Iterator[Line]:
  linear, total = summary['linear_parameters'], summary['total_parameters']
  average, final = summary['average_parameters'], summary['final_parameters']
  is_dense = final == linear
  how = 'dense throughout' if is_dense else 'at the start, dense'
  yield Line('Linear parameters', f'{linear:,}', how)
  if not is_dense:
    for label, count in (('  average', average), ('  at the end', final)):
      yield Line(label, f'{round(count):,}', f'{count / linear:.1%} of dense')
  yield Line('All parameters', f'{total:,}', 'with embedding and norms')
  if not is_dense:
    yield Line('  at the end', f'{total - linear + final:,}')


def _compute_lines(summary: Mapping) -> Iterator[Line]:
  yield Line('Tokens', f'{summary["tokens"]:,}')
  if summary['final_parameters'] != summary['linear_parameters']:
    equivalent = round(summary['dense_equivalent_tokens'])
    remark = 'of the dense model, at equal compute'
    yield Line('  equivalent', f'{equivalent:,}', remark)
  yield Line('Compute', f'{summary["compute_flops"]:.3e}', 'FLOPs, 6 N_avg D')
  speed = summary['tokens_per_second']
  if speed is not None:
    yield Line('Speed', f'{speed:,.0f}', 'tokens per second')
  if 'data_seconds' in summary:
    share = summary['data_seconds'] / max(summary['wall_seconds'], 1e-9)
    hint = 'of the time; more data.prefetch may help'
    yield Line(
      'Waiting for data', f'{share:.1%}', hint if share > _SLOW_DATA else ''
    )
