"""Several processes of one run: how they join, agree, stop and leave.

Each process looks after some of the devices. A cluster says which process is
which; where none does, the user says so (`Options`). The processes agree on
values, errors and stops through the key-value store of JAX's coordination
service: it needs no devices, compiles nothing, and waits as long as the slowest
process takes. When a process is lost, the others leave with a line that names
it, instead of waiting for it or ending in a stack trace.

JAX has no public name for the client of that service, nor for asking a cluster
how many processes there are. Only this module touches `jax._src`.
"""

import contextlib
import ctypes
import inspect
import itertools
import os
import pathlib
import pickle
import re
import signal
import socket
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, NoReturn, TypeVar

import jax
from jax._src import distributed as runtime
from jax._src.clusters import ClusterEnv
from jax.experimental import multihost_utils

from jax_sparse_pretrain import command_line, schema
from jax_sparse_pretrain.command_line import StopRequest
from jax_sparse_pretrain.schema import ConfigError, one_line

T = TypeVar('T')

_state = runtime.global_state
_numbers = itertools.count(1)
_leaving = threading.Lock()
# A lost process ends the wait; a slow one does not.
_DAY_MS = 24 * 3600 * 1000
_POLL_SECONDS = 1.0
# Outside of an indexed job, JAX takes any pod for one of several processes.
_NEEDED = {'K8sCluster': 'JOB_COMPLETION_INDEX'}


# Agreement.


def is_primary() -> bool:
  """Whether this process writes the files of the run."""
  return _state.process_id == 0


def is_alone() -> bool:
  """Whether the run has this process only."""
  return _state.client is None


def gather(value: T) -> list[T]:
  """The values of all processes, in their order. All of them have to call it.

  Args:
    value: anything that can be pickled.
  """
  client, process = _state.client, _state.process_id
  if client is None:
    return [value]
  number = next(_numbers)
  before, now = (f'jax_sparse_pretrain/{n}' for n in (number - 1, number))
  client.key_value_set_bytes(f'{now}/{process}', pickle.dumps(value))
  client.wait_at_barrier(now, _DAY_MS)
  # All have read the values of before, or they would not have come here.
  client.key_value_delete(f'{before}/{process}')
  pickled = {
    int(name.rsplit('/', 1)[1]): text
    for name, text in client.key_value_dir_get_bytes(f'{now}/')
  }
  return [pickle.loads(pickled[process]) for process in sorted(pickled)]


def together(function: Callable[[], T]) -> T:
  """What `function()` returns here, once it has returned in every process.

  Raises:
    Exception: the one that `function` raises here. If it fails in another
      process only, an exception of this package if it is one there, else a
      RuntimeError; both name the process.
  """
  result, error, failure = None, None, None
  try:
    result = function()
  except Exception as raised:
    error, failure = raised, (type(raised), str(raised))
    # The exceptions of this package can be made from a text; others need not.
    if not type(raised).__module__.startswith('jax_sparse_pretrain'):
      failure = RuntimeError, f'{type(raised).__name__}: {raised}'
  for process, failed in enumerate(gather(failure)):
    if failed and error is None:
      kind, text = failed
      error = kind(f'process {process}: {text}')
  if error is not None:
    error.is_agreed = True
    raise error
  return result


def on_primary(function: Callable[[], T]) -> T:
  """What `function()` returns in the primary process, in every process.

  Raises:
    Exception: as `together`.
  """
  return gather(together(lambda: function() if is_primary() else None))[0]


def check_alike(resolved: dict[str, Any]) -> None:
  """Refuses processes that are about to train different runs.

  Args:
    resolved: what `config.json` is to hold, and flags.

  Raises:
    ConfigError: names a process and the keys in which it differs from the
      first.
  """
  first, *others = (dict(schema.leaves(each)) for each in gather(resolved))

  def check() -> None:
    for process, other in enumerate(others, start=1):
      keys = [k for k in {**first, **other} if first.get(k) != other.get(k)]
      if keys:
        raise ConfigError(
          f'process {process}: {", ".join(keys)}: must be the same as in '
          'process 0'
        )

  together(check)


def check_shared(workdir: pathlib.Path) -> None:
  """Refuses a workdir that is another directory in another process.

  Raises:
    ConfigError: names a process that does not see what the primary writes.
  """
  if is_alone():
    return
  # A new name: no process can have looked it up and cached it as missing.
  mark = workdir / on_primary(lambda: f'.shared-{uuid.uuid4().hex}')

  def check() -> None:
    if not mark.exists():
      raise ConfigError(
        f'--workdir = {workdir}: must be a directory that all processes '
        'share, and holds nothing of process 0'
      )

  on_primary(mark.touch)
  try:
    together(check)
  finally:
    if is_primary():
      mark.unlink(missing_ok=True)


class AgreedStop:
  """Lets all processes stop after the same step, whichever was asked to.

  The runtime has taken over SIGTERM, with which Cloud TPU also announces that
  it takes a machine away. It passes the news on beside the steps, so that no
  step has to wait for it.

  Args:
    own: the requests to this process that the runtime does not see.
  """

  name = 'SIGTERM'

  def __init__(self, own: StopRequest):
    self._own, self._passed_on = own, False
    self._asked = 0

  def is_due(self) -> bool:
    """To be asked once a step, in every process.

    The runtime lets all stop at a number for which none has asked yet. The
    number counts the questions of this start, not the steps of the run: a run
    that goes on from step 100 might else be told to stop at 1.
    """
    if self._own.signal is not None and not self._passed_on:
      self._passed_on = True
      signal.raise_signal(signal.SIGTERM)
    self._asked += 1
    return multihost_utils.reached_preemption_sync_point(self._asked)


# Joining.


class Options(NamedTuple):
  """How to join, from the command line.

  Attributes:
    coordinator: host:port of process 0; None: as the cluster says.
    process: number of this process.
    processes: how many there are.
    coordinator_port: replaces the usual one of a cluster.
    connect_timeout: seconds in which all processes have to come.
    heartbeat_timeout: seconds after which a silent process counts as dead.
  """

  coordinator: str | None = None
  process: int | None = None
  processes: int | None = None
  coordinator_port: int | None = None
  connect_timeout: int = 300
  heartbeat_timeout: int = 100


def run_joined(
  options: Options,
  stop: StopRequest,
  function: Callable[[StopRequest | AgreedStop], int],
) -> int:
  """Joins the other processes of the run, if there are any, and runs.

  To be called before JAX touches a device.

  Args:
    options: how to join.
    stop: the requests to this process.
    function: takes what to ask whether to stop, returns an exit status.

  Returns:
    The exit status of `function`.

  Raises:
    ConfigError: if options do not fit together or do not fit the cluster.
    Exception: that of `function`, if all processes agree on it. An error of
      this process alone ends it, and the others leave with a line.
  """
  _check(options)
  if not _are_several(options):
    return function(stop)
  _connect(options, stop)
  watch = _Watch(options.heartbeat_timeout)
  return watch.run(lambda: function(AgreedStop(stop)))


def _check(options: Options) -> None:
  address, process, processes, port, *seconds = options
  for name, value in zip(('connect', 'heartbeat'), seconds, strict=True):
    if value < 1:
      raise ConfigError(f'--{name}_timeout = {value}: must be at least 1')
  if port is not None:
    _check_port('--coordinator_port', port)
  if address is None and process is None and processes is None:
    return
  if None in (address, process, processes):
    raise ConfigError(
      '--coordinator, --process and --processes: must be given together'
    )
  if port is not None:
    raise ConfigError('--coordinator_port: --coordinator has a port already')
  # An IPv6 address is in brackets.
  matched = re.fullmatch(r'([^\s/:]+|\[[^\s/]+\]):(\d+)', address)
  if not matched:
    raise ConfigError(f'--coordinator = {address}: must be HOST:PORT')
  _check_port(f'--coordinator = {address}: its port', int(matched[2]))
  if processes < 1:
    raise ConfigError(f'--processes = {processes}: must be at least 1')
  if not 0 <= process < processes:
    raise ConfigError(
      f'--process = {process}: must be from 0 to {processes - 1}, below '
      '--processes'
    )


def _check_port(name: str, port: int) -> None:
  if not 1 <= port <= 65_535:
    raise ConfigError(f'{name} = {port}: must be from 1 to 65535')


def _are_several(options: Options) -> bool:
  if options.processes is not None:
    return options.processes > 1
  for cluster in ClusterEnv._cluster_types:
    needed = _NEEDED.get(cluster.__name__)
    if cluster.opt_in_only_method or (needed and needed not in os.environ):
      continue
    try:
      if cluster.is_env_present():
        return cluster.get_process_count() > 1
    except Exception as error:  # Each cluster is asked in a way of its own.
      raise ConfigError(
        f'{cluster.__name__} of JAX: {_brief(error)}. To start '
        'without it, give --coordinator, --process and --processes'
      ) from error
  return False


def _connect(options: Options, stop: StopRequest) -> None:
  """Leaves if not all come in time, at a signal, and if JAX cannot join."""
  if port := options.coordinator_port:
    asked = inspect.signature(ClusterEnv.get_coordinator_address).parameters
    if 'override_coordinator_port' not in asked:
      raise ConfigError(
        f'--coordinator_port = {port}: needs a newer jax than {jax.__version__}'
      )
    os.environ['JAX_COORDINATOR_PORT'] = str(port)
  failures = []

  def join() -> None:
    try:
      jax.distributed.initialize(
        options.coordinator,
        options.processes,
        options.process,
        cluster_detection_method='deactivate' if options.coordinator else None,
        # When this time is over, JAX ends the process with a stack trace.
        initialization_timeout=options.connect_timeout + 60,
        heartbeat_timeout_seconds=options.heartbeat_timeout,
      )
    except Exception as error:  # Sockets, names, clusters.
      failures.append(error)

  # In a thread, because only an idle main thread hears signals.
  joining = threading.Thread(target=join, daemon=True)
  joining.start()
  deadline = time.monotonic() + options.connect_timeout
  while joining.is_alive():
    if stop.is_due():
      _leave_early(f'{stop.name} before all had come', command_line.STOPPED)
    if time.monotonic() > deadline:
      patience = f' in {options.connect_timeout} seconds (--connect_timeout)'
      _not_joined(patience, _why_nobody_came())
    joining.join(0.05)
  if failures:
    reason = _brief(failures[0])
    if _state.coordinator_address is None:
      raise ConfigError(
        f'the cluster does not tell its processes: {reason}'
      ) from failures[0]
    _not_joined('', reason)


def _not_joined(patience: str, reason: str) -> NoReturn:
  _leave_early(
    f'process {_state.process_id} of {_state.num_processes} has not joined the '
    f'others at the coordinator, {_state.coordinator_address},{patience}: '
    f'{reason}'
  )


def _why_nobody_came() -> str:
  if _state.coordinator_address is None:
    return 'its address is not known'
  if answers(_state.coordinator_address):
    return 'it answers, but some of the others have not come'
  return (
    'nothing answers there; process 0 must run there, and the port be open '
    '(--coordinator, --coordinator_port)'
  )


def answers(address: str) -> bool:
  """Whether something accepts connections at `host:port`."""
  host, port = address.rsplit(':', 1)
  try:
    with socket.create_connection((host.strip('[]'), int(port)), timeout=2):
      return True
  except OSError:
    return False


def _brief(error: BaseException) -> str:
  return f'{type(error).__name__}: {one_line(error)}'[:300]


# Leaving.


class _Watch:
  """Ends this process when another one is lost, and when it fails alone.

  Args:
    heartbeat_timeout: seconds without a sign of life after which the
      coordination service takes a process for dead.
  """

  def __init__(self, heartbeat_timeout: int):
    self._patience = heartbeat_timeout + 10  # It looks every few seconds.
    self._error: BaseException | None = None  # Raised in this process alone.
    # What this process says, and its status, once its work is done.
    self._end: tuple[str, int] | None = None

  def run(self, function: Callable[[], int]) -> int:
    """What `function()` returns, unless this process has to leave.

    Raises:
      Exception: that of `function`, if all processes agree on it.
    """
    # By then, the runtime has said why, and is about to end this process.
    named = 'the runtime names them above'
    with _hearing_aborts(lambda _: self._disconnected(named)):
      threading.Thread(target=self._poll, daemon=True).start()
      try:
        status = function()
        self._end = '', status
        return status
      except BaseException as error:
        if not getattr(error, 'is_agreed', False):
          self._error = error
          time.sleep(self._patience)  # The poll finds out whose fault it is.
          _leave(*_end_of(error))
        self._end = _end_of(error)
        raise
      finally:
        jax.distributed.shutdown()  # Waits for the others.

  def _poll(self) -> None:
    """Asks again and again who is alive."""
    everyone = list(range(_state.num_processes))
    polls_since_error = 0
    while self._end is None:
      polls_since_error += self._error is not None
      try:
        # Returns when all that live have asked.
        live = _state.client.get_live_nodes(everyone)
      except Exception as error:
        if self._end is None:
          self._disconnected(_brief(error))
        return
      if self._end is not None:
        return
      if missing := sorted(set(everyone) - set(live)):
        self._lost(missing, 'no sign of life')
      # A collective fails long before the heartbeats tell. A process that is
      # gone may have asked once more before; it does not ask twice.
      if polls_since_error == 2:
        _leave(*_end_of(self._error))
      time.sleep(_POLL_SECONDS)

  def _disconnected(self, reason: str) -> NoReturn:
    """Ends this process, which can no longer ask who is alive."""
    if self._end is None:
      # The poll may tell more, and who is being killed may answer for a while.
      time.sleep(2 * _POLL_SECONDS)
    if self._end is not None:  # Others were lost when all was done.
      _leave(*self._end)
    address = _state.coordinator_address
    if answers(address):
      self._lost([], reason)
    self._lost([0], f'nothing answers at {address}, where it coordinates')

  def _lost(self, missing: Sequence[int], reason: str) -> NoReturn:
    numbers = ', '.join(map(str, missing))
    who = f'process{"es"[: 2 * (len(missing) > 1)]} {numbers}'
    here = f' (here: {_brief(self._error)})' if self._error else ''
    _leave_early(
      f'{who if missing else "others"} of {_state.num_processes} missing: '
      f'{reason}{here}; the same command on all processes goes on from the '
      'newest checkpoint'
    )


@contextlib.contextmanager
def _hearing_aborts(handler: Callable[[int], None]) -> Iterator[None]:
  """Calls `handler` when the runtime aborts.

  It does so in the moment in which process 0 is gone: in half of the cases
  before the poll has heard of it. A handler of Python's own would be called
  after abort() has come back, which is never. (jax 0.8 ends the process without
  a signal, with status 1.)
  """
  libc = ctypes.CDLL(None)
  libc.signal.restype = ctypes.c_void_p
  in_c = ctypes.CFUNCTYPE(None, ctypes.c_int)(handler)
  libc.signal(signal.SIGABRT, in_c)
  try:
    yield
  finally:
    libc.signal(signal.SIGABRT, signal.SIG_DFL)


def _end_of(error: BaseException) -> tuple[str, int]:
  """What a process says that ends with an error, and its status."""
  if isinstance(error, ConfigError):
    return f'error: {error}\n', command_line.BAD_INPUT
  text = ''.join(traceback.format_exception(error))
  return text, command_line.FAILED_ALONE


def _leave_early(reason: str, status: int = command_line.LOST) -> NoReturn:
  _leave(f'error: {reason}\n', status)


def _leave(text: str, status: int) -> NoReturn:
  """At once: at a usual exit, the runtime would wait for lost processes."""
  _leaving.acquire()  # Never released: the first thread to come is heard.
  sys.stdout.flush()
  print(text, end='', file=sys.stderr, flush=True)
  os._exit(status)
