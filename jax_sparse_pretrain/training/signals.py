"""Stopping on request: SIGTERM of a scheduler, Ctrl-C of a person."""

import signal
from types import FrameType


class StopRequest:
  """Turns the first SIGTERM or SIGINT into a flag that the loop polls.

  A second SIGINT interrupts at once. Use as a context manager; the handlers
  of before are put back at the end.
  """

  SIGNALS = (signal.SIGTERM, signal.SIGINT)

  def __init__(self):
    self.signal: signal.Signals | None = None

  @property
  def name(self) -> str:
    """Of what asked to stop."""
    return self.signal.name

  def is_due(self) -> bool:
    """Whether the run is to stop after the step that is finished."""
    return self.signal is not None

  def __enter__(self) -> 'StopRequest':
    self._before = {s: signal.signal(s, self._request) for s in self.SIGNALS}
    return self

  def __exit__(self, *exception) -> None:
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _request(self, number: int, frame: FrameType | None) -> None:
    del frame
    if self.signal is not None and number == signal.SIGINT:
      raise KeyboardInterrupt
    self.signal = signal.Signals(number)


class Stopped(Exception):
  """The run was asked to stop and has saved its state."""
