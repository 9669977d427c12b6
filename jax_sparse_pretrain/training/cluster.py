"""Joins the processes of a run, by JAX's distributed runtime.

One process of a run looks after some of its devices. Where a cluster starts
several, JAX finds that out; where it does not, the user says which is which.
"""

import contextlib
import inspect
import os
import re
import signal
import threading
from collections.abc import Iterator
from typing import NamedTuple

import jax
from jax._src import distributed
from jax._src.clusters import ClusterEnv
from jax.experimental import multihost_utils

from jax_sparse_pretrain.config import ConfigError
from jax_sparse_pretrain.training import watch
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


@contextlib.contextmanager
def joined(
  options: Options, stop: StopRequest
) -> Iterator[StopRequest | AgreedStop]:
  """Joins the other processes of the run, if there are any.

  To be entered before JAX touches a device. Yields what to ask whether to
  stop. A ConfigError may leave the context; all processes have to raise it.

  Raises:
    ConfigError: for options that do not fit together, or to the cluster.
  """
  if not _are_several(options):
    yield stop
    return
  _connect(options)
  with watch.Watch(options.heartbeat_timeout).watching(unless=ConfigError):
    yield AgreedStop(stop)


def _are_several(options: Options) -> bool:
  given = (options.coordinator, options.process, options.processes)
  if any(value is not None for value in given):
    _check(options)
    return options.processes > 1
  for cluster in ClusterEnv._cluster_types:
    try:
      if _is_here(cluster):
        return cluster.get_process_count() > 1
    except Exception as error:  # Of whatever a cluster is asked by.
      raise ConfigError(
        f'{cluster.__name__} of JAX: {watch.one_line(error)}. To start '
        'without it, give --coordinator, --process and --processes'
      ) from error
  return False


def _is_here(cluster: type[ClusterEnv]) -> bool:
  needed = _NEEDED.get(cluster.__name__)
  if cluster.opt_in_only_method or (needed and needed not in os.environ):
    return False
  return cluster.is_env_present()


def _check(options: Options) -> None:
  if None in (options.coordinator, options.process, options.processes):
    raise ConfigError(
      '--coordinator, --process and --processes: must be given together'
    )
  if not re.fullmatch(r'\S+:\d+', options.coordinator):
    raise ConfigError(
      f'--coordinator = {options.coordinator}: must be HOST:PORT'
    )
  if not 0 <= options.process < options.processes:
    raise ConfigError(
      f'--process = {options.process}: must be from 0 to '
      f'{options.processes - 1}, below --processes'
    )


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
  # JAX itself would end the process by a stack trace, so it is given longer.
  timer = threading.Timer(options.connect_timeout, _give_up, [options])
  timer.daemon = True
  timer.start()
  try:
    jax.distributed.initialize(
      options.coordinator,
      options.processes,
      options.process,
      cluster_detection_method='deactivate' if options.coordinator else None,
      initialization_timeout=options.connect_timeout + 60,
      heartbeat_timeout_seconds=options.heartbeat_timeout,
    )
  except Exception as error:  # Of sockets, names, clusters.
    watch.leave(f'{_tried()}: {watch.one_line(error)}')
  finally:
    timer.cancel()


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
