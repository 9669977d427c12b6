"""Joins the processes of a run, by JAX's distributed runtime.

One process of a run looks after some of its devices. Where a cluster starts
several, JAX finds that out; where it does not, the user says which is which.
"""

import contextlib
import inspect
import os
import re
import select
import signal
import threading
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
from jax._src import distributed
from jax._src.clusters import ClusterEnv
from jax.experimental import multihost_utils

from jax_sparse_pretrain.config import ConfigError
from jax_sparse_pretrain.training import exit_status, watch
from jax_sparse_pretrain.training.signals import StopRequest

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
  return watch.Watch(options.heartbeat_timeout).run(
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
        f'{cluster.__name__} of JAX: {watch.brief(error)}. To start '
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
    if distributed.global_state.coordinator_address is None:
      raise ConfigError(
        f'the cluster does not tell its processes: {watch.brief(error)}'
      ) from error
    watch.leave(f'{_tried()}: {watch.brief(error)}')


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
    watch.leave(f'{name} before all had come', exit_status.STOPPED)


def _give_up(options: Options) -> None:
  address = distributed.global_state.coordinator_address
  if address is None:
    reason = 'its address is not known'
  elif watch.answers(address):
    reason = 'it answers, but some of the others have not come'
  else:
    reason = (
      'nothing answers there; process 0 must run there, and the port be open '
      '(--coordinator, --coordinator_port)'
    )
  watch.leave(
    f'{_tried()} in {options.connect_timeout} seconds (--connect_timeout): '
    f'{reason}'
  )


def _tried() -> str:
  state = distributed.global_state
  return (
    f'process {state.process_id} of {state.num_processes} has not joined the '
    f'others at the coordinator, {state.coordinator_address},'
  )
