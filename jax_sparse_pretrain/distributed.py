"""What the processes of a run tell each other, beside the arrays.

Goes through the key-value store of JAX's coordination service, so that it
needs no devices, compiles nothing and waits as long as the slowest process
takes. JAX has no public name for its client; Orbax uses it in the same way.

Notices that a process of the run is gone, and leaves with a line on it.

Who is alive, JAX's coordination service knows from heartbeats. By itself the
runtime then ends every process with a stack trace, and a collective fails
without telling whose fault it is, or waits.

Joins the processes of a run, by JAX's distributed runtime.

One process of a run looks after some of its devices. Where a cluster starts
several, JAX finds that out; where it does not, the user says which is which.
"""

import contextlib
import ctypes
import inspect
import itertools
import os
import pathlib
import pickle
import re
import select
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

# A process that is lost ends the wait; one that is slow does not.
_DAY_MS = 24 * 3600 * 1000
_numbers = itertools.count(1)
_state = runtime.global_state


def is_primary() -> bool:
  """Whether this process writes the files of the run."""
  return _state.process_id == 0


def is_alone() -> bool:
  """Whether there are no other processes."""
  return _state.client is None


def gather(value: T) -> list[T]:
  """The values of all processes, in their order. All of them have to call it.

  Args:
    value: can be pickled.
  """
  client, process = _state.client, _state.process_id
  if client is None:
    return [value]
  number = next(_numbers)
  before, now = _key(number - 1), _key(number)
  client.key_value_set_bytes(f'{now}/{process}', pickle.dumps(value))
  client.wait_at_barrier(now, _DAY_MS)
  # All have read what was there before, or they would not have come here.
  client.key_value_delete(f'{before}/{process}')
  pickled = {
    int(name.rsplit('/', 1)[1]): text
    for name, text in client.key_value_dir_get_bytes(f'{now}/')
  }
  return [pickle.loads(pickled[process]) for process in sorted(pickled)]


def together(function: Callable[[], T]) -> T:
  """What `function()` returns here, once it has returned in every process.

  Raises:
    Exception: what it raises here; else, if it fails in another process, a
      one of ours or a RuntimeError that names the process.
  """
  result, error = None, None
  try:
    result = function()
  except Exception as raised:
    error = raised
  for process, failure in enumerate(gather(error and _described(error))):
    if failure is not None and error is None:
      kind, text = failure
      error = kind(f'process {process}: {text}')
  if error is not None:
    error.is_agreed = True
    raise error
  return result


def is_agreed(error: BaseException) -> bool:
  """Whether all processes raise it, or one like it, in the same place."""
  return getattr(error, 'is_agreed', False)


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
    ConfigError: naming a process and in what it differs from the first.
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
    ConfigError: naming a process that does not see what the primary writes.
  """
  if is_alone():
    return
  # A name that no process can have looked up before, and cached as missing.
  mark = workdir / on_primary(lambda: f'.shared-{uuid.uuid4().hex}')
  on_primary(mark.touch)
  try:
    together(lambda: _check_seen(mark))
  finally:
    if is_primary():
      mark.unlink(missing_ok=True)


def _check_seen(mark: pathlib.Path) -> None:
  if not mark.exists():
    raise ConfigError(
      f'--workdir = {mark.parent}: must be a directory that all processes '
      'share, and holds nothing of process 0'
    )


def _key(number: int) -> str:
  return f'jax_sparse_pretrain/{number}'


def _described(error: Exception) -> tuple[type[Exception], str]:
  """Ours are raised from a text."""
  if type(error).__module__.startswith('jax_sparse_pretrain'):
    return type(error), str(error)
  return RuntimeError, f'{type(error).__name__}: {error}'


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
    self._state = runtime.global_state
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
        if not is_agreed(error):
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


def leave(reason: str, status: int = command_line.LOST) -> NoReturn:
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
  return command_line.BAD_INPUT if is_users else command_line.FAILED_ALONE


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


# Without it a pod is not one of several, and asking Kubernetes would fail.
_NEEDED = {'K8sCluster': 'JOB_COMPLETION_INDEX'}


class Options(NamedTuple):
  """Attributes:

  coordinator: host:port of process 0; None: as a cluster has it.
  process: number of this process.
  processes: how many there are.
  coordinator_port: in place of the usual one of a cluster.
  connect_timeout: seconds in which all have to come.
  heartbeat_timeout: seconds after which a silent one is taken for dead.
  """

  coordinator: str | None = None
  process: int | None = None
  processes: int | None = None
  coordinator_port: int | None = None
  connect_timeout: int = 300
  heartbeat_timeout: int = 100


class AgreedStop:
  """Lets all processes stop after the same step, whichever was asked to.

  The runtime has taken over SIGTERM, which is also how Cloud TPU announces
  that it takes a machine away. It passes the news on beside the steps, which
  therefore have nothing to wait for.

  Args:
    own: requests to this process that the runtime does not see.
  """

  name = 'SIGTERM'

  def __init__(self, own: StopRequest):
    self._own, self._passed_on = own, False
    self._asked = 0

  def is_due(self) -> bool:
    """Has to be asked once a step, in every process.

    The runtime lets all stop at a number that none has asked for. It is not
    that of the step, or one that goes on from step 100 might be told 1.
    """
    if self._own.signal is not None and not self._passed_on:
      self._passed_on = True
      signal.raise_signal(signal.SIGTERM)
    self._asked += 1
    return multihost_utils.reached_preemption_sync_point(self._asked)


def run_joined(
  options: Options,
  stop: StopRequest,
  function: Callable[[StopRequest | AgreedStop], int],
) -> int:
  """Joins the other processes of the run, if there are any, and runs.

  To be called before JAX touches a device.

  Args:
    options: of the command line.
    stop: requests to this process.
    function: what to ask whether to stop -> exit status, which is returned.

  Raises:
    ConfigError: for options that do not fit together, or to the cluster.
    Exception: of `function`, if all processes agree on it; an error of this
      process alone ends it, and a line in the others tells.
  """
  _check(options)
  if not _are_several(options):
    return function(stop)
  _connect(options)
  return Watch(options.heartbeat_timeout).run(
    lambda: function(AgreedStop(stop))
  )


def _are_several(options: Options) -> bool:
  if options.processes is not None:
    return options.processes > 1
  for cluster in ClusterEnv._cluster_types:
    try:
      if _is_here(cluster):
        return cluster.get_process_count() > 1
    except Exception as error:  # Of whatever a cluster is asked by.
      raise ConfigError(
        f'{cluster.__name__} of JAX: {brief(error)}. To start '
        'without it, give --coordinator, --process and --processes'
      ) from error
  return False


def _is_here(cluster: type[ClusterEnv]) -> bool:
  needed = _NEEDED.get(cluster.__name__)
  if cluster.opt_in_only_method or (needed and needed not in os.environ):
    return False
  return cluster.is_env_present()


def _check(options: Options) -> None:
  _check_seconds('--connect_timeout', options.connect_timeout)
  _check_seconds('--heartbeat_timeout', options.heartbeat_timeout)
  if options.coordinator_port is not None:
    _check_port('--coordinator_port', options.coordinator_port)
  given = (options.coordinator, options.process, options.processes)
  if all(value is None for value in given):
    return
  if None in given:
    raise ConfigError(
      '--coordinator, --process and --processes: must be given together'
    )
  if options.coordinator_port is not None:
    raise ConfigError('--coordinator_port: --coordinator has a port already')
  _check_address(options.coordinator)
  if options.processes < 1:
    raise ConfigError(f'--processes = {options.processes}: must be at least 1')
  if not 0 <= options.process < options.processes:
    raise ConfigError(
      f'--process = {options.process}: must be from 0 to '
      f'{options.processes - 1}, below --processes'
    )


def _check_address(coordinator: str) -> None:
  # Of IPv6 in brackets.
  matched = re.fullmatch(r'([^\s/:]+|\[[^\s/]+\]):(\d+)', coordinator)
  if not matched:
    raise ConfigError(f'--coordinator = {coordinator}: must be HOST:PORT')
  _check_port(f'--coordinator = {coordinator}: its port', int(matched[2]))


def _check_port(name: str, port: int) -> None:
  if not 1 <= port <= 65_535:
    raise ConfigError(f'{name} = {port}: must be from 1 to 65535')


def _check_seconds(name: str, seconds: int) -> None:
  if seconds < 1:
    raise ConfigError(f'{name} = {seconds}: must be at least 1')


def _set_port(port: int) -> None:
  asked = inspect.signature(ClusterEnv.get_coordinator_address).parameters
  if 'override_coordinator_port' not in asked:
    raise ConfigError(
      f'--coordinator_port = {port}: needs a newer jax than {jax.__version__}'
    )
  os.environ['JAX_COORDINATOR_PORT'] = str(port)


def _connect(options: Options) -> None:
  if options.coordinator_port is not None:
    _set_port(options.coordinator_port)
  try:
    with _impatient(options):
      jax.distributed.initialize(
        options.coordinator,
        options.processes,
        options.process,
        cluster_detection_method='deactivate' if options.coordinator else None,
        # By itself it would end the process by a stack trace.
        initialization_timeout=options.connect_timeout + 60,
        heartbeat_timeout_seconds=options.heartbeat_timeout,
      )
  except Exception as error:  # Of sockets, names, clusters.
    if runtime.global_state.coordinator_address is None:
      raise ConfigError(
        f'the cluster does not tell its processes: {brief(error)}'
      ) from error
    leave(f'{_tried()}: {brief(error)}')


@contextlib.contextmanager
def _impatient(options: Options) -> Iterator[None]:
  """Leaves if the others do not come in time, or at a signal.

  The main thread waits in the runtime, where no handler of Python's is run.
  """
  reader, writer = os.pipe()
  os.set_blocking(writer, False)
  before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
  thread = threading.Thread(target=_wait, args=(options, reader), daemon=True)
  thread.start()
  try:
    yield
  finally:
    signal.set_wakeup_fd(before)
    os.close(writer)
    thread.join()
    os.close(reader)


def _wait(options: Options, reader: int) -> None:
  """Until there is a signal to read, or nobody to write one."""
  readable, _, _ = select.select([reader], [], [], options.connect_timeout)
  if not readable:
    _give_up(options)
  elif number := os.read(reader, 1):
    name = signal.Signals(number[0]).name
    leave(f'{name} before all had come', command_line.STOPPED)


def _give_up(options: Options) -> None:
  address = runtime.global_state.coordinator_address
  if address is None:
    reason = 'its address is not known'
  elif answers(address):
    reason = 'it answers, but some of the others have not come'
  else:
    reason = (
      'nothing answers there; process 0 must run there, and the port be open '
      '(--coordinator, --coordinator_port)'
    )
  leave(
    f'{_tried()} in {options.connect_timeout} seconds (--connect_timeout): '
    f'{reason}'
  )


def _tried() -> str:
  state = runtime.global_state
  return (
    f'process {state.process_id} of {state.num_processes} has not joined the '
    f'others at the coordinator, {state.coordinator_address},'
  )
