"""What the commands share: exit statuses, refusals, signals, config files."""

import argparse
import contextlib
import functools
import pathlib
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any, NoReturn

from jax_sparse_pretrain import config as config_lib
from jax_sparse_pretrain import schema, shipped

# How a process ends; schedulers and the scripts in `launch/` read it.
FAILED = 1  # In every process of the run.
BAD_INPUT = 2
LOST = 69  # Others are missing: start again. EX_UNAVAILABLE of sysexits.
FAILED_ALONE = 70  # In this process of several. EX_SOFTWARE.
STOPPED = 75  # On request, the state saved: start again. EX_TEMPFAIL.


class Parser(argparse.ArgumentParser):
  """Refuses with a ConfigError."""

  def error(self, message: str) -> NoReturn:
    raise config_lib.ConfigError(f'{message}; see --help')


def load_config(path: str, overrides: Sequence[str]) -> config_lib.Config:
  """Config file and `--config.KEY=VALUE` overrides -> checked config.

  Raises:
    ConfigError: for anything that is not a valid config.
  """
  from ml_collections import config_flags

  path = find_config(path)
  if not pathlib.Path(path.split(':')[0]).is_file():
    raise config_lib.ConfigError(f'--config = {path}: must be a file')
  argv = ['train', f'--config={path}', *overrides]
  define = functools.partial(config_flags.DEFINE_config_file, 'config')
  return config_lib.from_dict(read_flags(path, define, argv))


def find_config(name: str) -> str:
  """'smoke' and 'configs/smoke.py' -> the file; other paths stay as given."""
  if pathlib.Path(name).exists():
    return name
  is_bare = name.replace('_', '').isalnum()
  return shipped.shipped(f'configs/{name}.py' if is_bare else name)


def read_flags(path: str, define: Callable, argv: list[str]) -> dict[str, Any]:
  """The config that `define` declares, with what `argv` overrides.

  Raises:
    ConfigError: naming the path.
  """
  from absl import flags

  values = flags.FlagValues()
  with running_file(path):
    define(flag_values=values, sys_argv=argv)
    rest = values(argv)[1:]
    loaded = values.config.to_dict()
  if rest:
    raise config_lib.ConfigError(f'{rest[0]}: is not an argument; see --help')
  return loaded


@contextlib.contextmanager
def running_file(path: str) -> Iterator[None]:
  """A config file may import those beside it, as a script may.

  Its errors are ConfigErrors: the file is the user's, and may do anything.
  """
  folder = str(pathlib.Path(path.split(':')[0]).parent.resolve())
  sys.path.insert(0, folder)
  try:
    yield
  except (Exception, SystemExit) as error:
    raise config_lib.ConfigError(
      f'--config = {path}: {schema.one_line(error)}'
    ) from error
  finally:
    sys.path.remove(folder)


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
