"""How fast a run steps."""

import contextlib
import time
from collections.abc import Iterator


class Clock:
  """Steps a second, without the first step of a start, which compiles.

  Args:
    timed_steps: measured by earlier starts of the run.
    timed_seconds: that they took.
  """

  def __init__(self, timed_steps: int = 0, timed_seconds: float = 0.0):
    self.timed_steps, self.timed_seconds = timed_steps, timed_seconds
    self._last: float | None = None
    self._lap = (0, 0.0)
    self._paused = 0.0

  def tick(self) -> None:
    """A step is finished."""
    now = time.monotonic() - self._paused
    if self._last is not None:
      seconds = now - self._last
      self.timed_steps += 1
      self.timed_seconds += seconds
      self._lap = (self._lap[0] + 1, self._lap[1] + seconds)
    self._last = now

  def lap(self) -> float | None:
    """Steps a second since the last lap; None if none was timed."""
    (steps, seconds), self._lap = self._lap, (0, 0.0)
    return _speed(steps, seconds)

  def mean(self) -> float | None:
    """Steps a second over all starts; None if no step was timed."""
    return _speed(self.timed_steps, self.timed_seconds)

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Time inside does not count."""
    began = time.monotonic()
    try:
      yield
    finally:
      self._paused += time.monotonic() - began


def _speed(steps: int, seconds: float) -> float | None:
  return steps / seconds if seconds > 0 else None
