"""Progress for a person: a bar on a terminal, plain lines in a pipe.

  step   200/1,370  loss  2.413  density 0.830  41.2K tok/s  eta 1m12s

It goes to standard error, so that standard output holds only results.
"""

import contextlib
import sys
import time
from collections.abc import Mapping
from typing import TextIO

import tqdm

from jax_sparse_pretrain.text import duration, short


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
        `tokens_per_second`; others are ignored.
    """
    tokens_per_second = scalars.get('tokens_per_second')
    speed = '?' if tokens_per_second is None else short(tokens_per_second, 3)
    self._scalars = (
      f'loss {scalars["train_loss"]:6.3f}  '
      f'density {scalars["density"]:.3f}  '
      f'{speed:>5} tok/s  '
    )
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
    whole: progress over the steps of all runs.
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
