"""One of two processes that have no devices and no run, only each other.

  agree_worker.py PROCESS COORDINATOR DIRECTORY END

END is how this process goes: by the end of the script, or `SIGKILL`, or by an
error of its own.
"""

import os
import pathlib
import signal
import sys
import time

from jax_sparse_pretrain.config import ConfigError
from jax_sparse_pretrain.training import agree, cluster
from jax_sparse_pretrain.training.signals import StopRequest

HEARTBEAT_TIMEOUT = 10  # seconds


def main(process: int, coordinator: str, directory: pathlib.Path, end: str):
  options = cluster.Options(
    coordinator, process, 2, heartbeat_timeout=HEARTBEAT_TIMEOUT
  )
  with StopRequest() as stop, cluster.joined(options, stop) as stop:
    for number in range(3):
      assert agree.gather((process, number)) == [(0, number), (1, number)]
    assert agree.on_primary(lambda: process) == 0
    say_refusal(lambda: agree.together(lambda: only_in(0, process)))
    say_refusal(lambda: agree.together(lambda: only_in(1, process)))
    say_refusal(lambda: agree.check_alike({'plan': 1, 'config': process}))
    agree.check_shared(directory)
    say_refusal(lambda: agree.check_shared(directory / str(process)))
    print('stopped at', steps_until_stopped(stop, process), flush=True)
    if end == 'SIGKILL':
      print(time.time(), flush=True)
      os.kill(os.getpid(), signal.SIGKILL)
    if end == 'error':
      raise ArithmeticError('mine alone')
    agree.gather('the end')


def say_refusal(function):
  try:
    function()
  except (ConfigError, RuntimeError) as error:
    print(f'{type(error).__name__}: {error}', flush=True)


def only_in(failing: int, process: int) -> None:
  if process == failing:
    kind = ConfigError if failing else RuntimeError
    raise kind(f'fails in {failing}')


def steps_until_stopped(stop, process: int) -> int:
  """Of steps at different speeds; process 1 gets the signal."""
  for step in range(10_000):
    if process and step == 3:
      os.kill(os.getpid(), signal.SIGTERM)
    if stop.is_due():
      return step
    agree.gather(step)  # As the collectives of a step do, it keeps them close.
    time.sleep(0.01 * process)
  raise AssertionError('nobody was told to stop')


if __name__ == '__main__':
  number, address, path, how = sys.argv[1:]
  main(int(number), address, pathlib.Path(path), how)
