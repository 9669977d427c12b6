"""One of several processes that have no devices and no run, only each other.

  agree_worker.py PROCESS PROCESSES COORDINATOR DIRECTORY END

END says how this process ends: '' at the end of the script, or by a signal, or
by an error of its own, or `early`, while the others wait for it at the end.
"""

import os
import pathlib
import signal
import sys
import time

from jax_sparse_pretrain import distributed
from jax_sparse_pretrain.command_line import StopRequest
from jax_sparse_pretrain.config import ConfigError

HEARTBEAT_TIMEOUT = 6  # seconds
ERRORS = {'error': ArithmeticError, 'ConfigError': ConfigError}


def main(
  process: int, processes: int, coordinator: str, directory: str, end: str
) -> int:
  options = distributed.Options(
    coordinator, process, processes, heartbeat_timeout=HEARTBEAT_TIMEOUT
  )

  def work(stop) -> int:
    check_agreement(process, processes, pathlib.Path(directory))
    print('stopped at', steps_until_stopped(stop, process), flush=True)
    leave(end)
    distributed.gather('the end')
    if end == 'early':
      time.sleep(1)  # The others have to hear of the end first.
      os._exit(9)
    return 75

  with StopRequest() as stop:
    return distributed.run_joined(options, stop, work)


def check_agreement(process, processes, directory):
  for number in range(3):
    everyone = [(each, number) for each in range(processes)]
    assert distributed.gather((process, number)) == everyone
  assert distributed.on_primary(lambda: process) == 0
  say_refusal(lambda: distributed.together(lambda: only_in(0, process)))
  say_refusal(lambda: distributed.together(lambda: only_in(1, process)))
  say_refusal(
    lambda: distributed.check_alike({'plan': 1, 'config': {'a': process}})
  )
  distributed.check_shared(directory)
  say_refusal(lambda: distributed.check_shared(directory / str(process)))


def leave(end):
  if end.startswith('SIG'):
    os.kill(os.getpid(), signal.Signals[end])
  if end in ERRORS:
    raise ERRORS[end]('mine alone')


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
    distributed.gather(step)  # Keeps them close, as the collectives do.
    time.sleep(0.01 * process)
  raise AssertionError('nobody was told to stop')


if __name__ == '__main__':
  number, count, *rest = sys.argv[1:]
  sys.exit(main(int(number), int(count), *rest))
