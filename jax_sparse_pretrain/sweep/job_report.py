"""What a job of a sweep tells the process that started it.

Each message is a line of JSON: `step`, perhaps with `tokens_per_second`; a
`note` for a person; and at the end `failures` and the last `step`.
"""

import contextlib
import json
import os
import signal
import time
from collections.abc import Mapping
from typing import Any

# Seconds between two messages of steps: steps of small models take less.
_EVERY = 0.1


class JobReport(contextlib.AbstractContextManager):
  """Progress of a job, which another process shows.

  If nobody reads any more, the job asks itself to stop: whoever started it has
  died, and the next start of the sweep would find it in its way.

  Args:
    fd: the end of a pipe to write to.
  """

  is_bar = True  # The reader decides what is shown.

  def __init__(self, fd: int):
    self._fd = fd
    self._is_read = True
    self._step, self._time = 0, 0.0

  def advance(self, step: int) -> None:
    self._step = step
    if time.monotonic() - self._time >= _EVERY:
      self._send(step=step)

  def show(self, step: int, scalars: Mapping[str, float]) -> None:
    speed = scalars.get('tokens_per_second')
    self._send(step=step, tokens_per_second=speed)

  def note(self, text: str) -> None:
    self._send(note=text)

  def end(self, failures: Mapping[str, str]) -> None:
    """Says that the job has tried all its runs, and which of them failed."""
    self._send(step=self._step, failures=dict(failures))

  def __exit__(self, *exception) -> None:
    pass

  def _send(self, **message: Any) -> None:
    if not self._is_read:
      return
    self._time = time.monotonic()
    line = f'{json.dumps(message)}\n'.encode()
    try:
      while line:
        line = line[os.write(self._fd, line) :]
    except BrokenPipeError:
      self._is_read = False
      signal.raise_signal(signal.SIGTERM)
