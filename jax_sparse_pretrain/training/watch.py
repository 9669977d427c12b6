"""Notices that a process of the run is gone, and leaves with a line on it.

Who is alive, JAX's coordination service knows from heartbeats. By itself the
runtime then ends every process with a stack trace, and a collective fails
without telling whose fault it is, or waits.
"""

import contextlib
import ctypes
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

import jax
from jax._src import distributed

from jax_sparse_pretrain.schema import ConfigError, one_line
from jax_sparse_pretrain.training import agree, exit_status

_POLL_SECONDS = 1.0
_GO_ON = 'the same command on all processes goes on from the newest checkpoint'


_leaving = threading.Lock()


class Watch:
  """Watches the other processes of a run.

  Args:
    heartbeat_timeout: seconds without a sign of life after which the
      coordination service takes a process for dead.
  """

  def __init__(self, heartbeat_timeout: int):
    self._state = distributed.global_state
    self._patience = heartbeat_timeout + 10  # It looks every few seconds.
    self._begun = self._passed = 0  # Polls; that found all alive.
    self._is_blind = False  # Polls are no longer answered.
    self._error: BaseException | None = None
    # How this process would end by itself: what it says, and its status.
    self._end: tuple[str, int] | None = None
    # An attribute, because the C library keeps only its address.
    self._handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(self._aborted)

  def run(self, function: Callable[[], int]) -> int:
    """What `function()` returns, an exit status, unless others are lost.

    Ends this process when another one is lost, and when it fails alone. Only
    errors on which all processes agree are raised.
    """
    with self._hearing_aborts():
      threading.Thread(target=self._poll, daemon=True).start()
      try:
        status = function()
        self._end = '', status
        return status
      except BaseException as error:
        if not agree.is_agreed(error):
          self._fail(error)
        self._end = _as_text(error), _status(error)
        raise
      finally:
        jax.distributed.shutdown()  # Waits for the others.

  @contextlib.contextmanager
  def _hearing_aborts(self) -> Iterator[None]:
    # In C: a handler of Python's would run after abort() has come back. Does
    # nothing with jax 0.8, which ends a process without a signal.
    libc = ctypes.CDLL(None)
    libc.signal.restype = ctypes.c_void_p
    libc.signal(signal.SIGABRT, self._handler)
    try:
      yield
    finally:
      libc.signal(signal.SIGABRT, signal.SIG_DFL)

  def _poll(self) -> None:
    everyone = set(range(self._state.num_processes))
    while self._end is None:
      self._begun += 1
      try:
        # Returns when all that live have called it.
        live = self._state.client.get_live_nodes(sorted(everyone))
      except Exception:
        self._is_blind = True
        return  # Without the coordinator, which ends us too; or all is over.
      missing = sorted(everyone - set(live))
      if missing and self._end is None:
        self._lost(missing)
      self._passed = self._begun
      time.sleep(_POLL_SECONDS)

  def _lost(self, missing: list[int], why: str = '') -> NoReturn:
    """Ends this process, with a line on the others."""
    here = '' if self._error is None else f' (here: {brief(self._error)})'
    leave(
      f'{_named(missing)} of {self._state.num_processes} missing: '
      f'{why or "no sign of life"}{here}; {_GO_ON}'
    )

  def _fail(self, error: BaseException) -> NoReturn:
    """Ends this process, which fails, perhaps because another one is lost.

    A collective fails at once, long before the heartbeats tell. Only who
    lives can take part in a second poll from now on.
    """
    self._error = error
    target, deadline = self._begun + 2, time.monotonic() + self._patience
    while self._passed < target and time.monotonic() < deadline:
      if self._is_blind:
        self._lost_to_the_runtime()
      time.sleep(_POLL_SECONDS / 10)
    _leave(_as_text(error), _status(error))

  def _aborted(self, number: int) -> None:
    """The runtime has printed why, and is about to end this process."""
    del number
    if self._end is not None:  # Others were lost when all was done.
      _leave(*self._end)
    time.sleep(2 * _POLL_SECONDS)  # The poll may be about to tell more.
    if self._is_blind or not answers(self._state.coordinator_address):
      self._lost_to_the_runtime()

  def _lost_to_the_runtime(self) -> NoReturn:
    """Ends this process when the service is no longer there to be asked."""
    address = self._state.coordinator_address
    if not answers(address):
      self._lost([0], f'nothing answers at {address}, where it coordinates')
    self._lost([], 'the runtime names them above')


def leave(reason: str, status: int = exit_status.LOST) -> NoReturn:
  """Ends this process because of the others, with a line that says why."""
  _leave(f'error: {reason}\n', status)


def _leave(text: str, status: int) -> NoReturn:
  """At once: at exit, the runtime would wait for those that are lost."""
  _leaving.acquire()  # Never released: the first to come is heard.
  sys.stdout.flush()
  print(text, end='', file=sys.stderr, flush=True)
  os._exit(status)


def _named(processes: Sequence[int]) -> str:
  if not processes:
    return 'others'
  numbers = ', '.join(map(str, processes))
  return f'{"processes" if len(processes) > 1 else "process"} {numbers}'


def _as_text(error: BaseException) -> str:
  if isinstance(error, ConfigError):
    return f'error: {error}\n'
  return ''.join(traceback.format_exception(error))


def _status(error: BaseException) -> int:
  is_users = isinstance(error, ConfigError)
  return exit_status.BAD_INPUT if is_users else exit_status.FAILED_ALONE


def answers(address: str) -> bool:
  """Whether something accepts connections at `host:port`."""
  host, port = address.rsplit(':', 1)
  try:
    with socket.create_connection((host.strip('[]'), int(port)), timeout=2):
      return True
  except OSError:
    return False


def brief(error: BaseException) -> str:
  """Its kind, and the beginning of what it says."""
  return f'{type(error).__name__}: {one_line(error)}'[:300]
