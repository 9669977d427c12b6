"""What the commands share: exit statuses, refusals, signals, config files."""

import argparse
import contextlib
import functools
import os
import pathlib
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any, NoReturn

from jax_sparse_pretrain import config as config_lib
from jax_sparse_pretrain import schema, shipped
from jax_sparse_pretrain.runs.workdir import CheckpointError

# Exit statuses, which schedulers and the scripts in `launch/` read.
FAILED = 1  # The run failed, in every process.
BAD_INPUT = 2
LOST = 69  # Other processes are missing: start again. EX_UNAVAILABLE.
FAILED_ALONE = 70  # This process of several failed. EX_SOFTWARE.
STOPPED = 75  # Stopped on request, the state saved: start again. EX_TEMPFAIL.


class Parser(argparse.ArgumentParser):
  """A parser that refuses with a ConfigError."""

  def error(self, message: str) -> NoReturn:
    raise config_lib.ConfigError(f'{message}; see --help')


def make_parser(name: str, about: str | None, epilog: str = '') -> Parser:
  """The parser of a command.

  Args:
    name: of the module that is run.
    about: its docstring.
    epilog: what stands below the arguments.
  """
  return Parser(
    prog=f'python -m jax_sparse_pretrain.{name}',
    description=about,
    epilog=epilog,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )


def status_of(work: Callable[[], None]) -> int:
  """Does the work of a command; an error becomes a line and a status."""
  try:
    work()
    sys.stdout.flush()  # What cannot be written is an error here, not later.
  except config_lib.ConfigError as error:
    print(f'error: {error}', file=sys.stderr)
    return BAD_INPUT
  except BrokenPipeError:  # Whoever reads has seen enough.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
  except (CheckpointError, OSError) as error:
    print(f'error: {schema.one_line(error)}', file=sys.stderr)
    return FAILED
  except KeyboardInterrupt:
    print('interrupted', file=sys.stderr)
    return FAILED
  return 0


def add_model(parser: argparse.ArgumentParser, computes: bool = True) -> None:
  """Adds the arguments that name a model to load, and perhaps to run."""
  parser.add_argument(
    'model',
    metavar='MODEL',
    help='the workdir of a run, or a directory of Hugging Face, such as export '
    'writes; also gs://',
  )
  parser.add_argument(
    '--step',
    type=int,
    help='the checkpoint of a workdir; default: the newest',
  )
  if computes:
    parser.add_argument(
      '--compute_dtype',
      choices=('float32', 'bfloat16'),
      help='of activations; default: as in training, or as weights are stored',
    )


def run_and_exit(main: Callable[[], int]) -> NoReturn:
  """Runs a command as a process: a warning is one line, `main` the status."""
  warnings.formatwarning = lambda message, *_, **__: f'warning: {message}\n'
  sys.exit(main())


def load_config(
  name: str | os.PathLike,
  overrides: Sequence[str] | Mapping[str, Any] = (),
) -> config_lib.Config:
  """A config file with overrides -> checked config.

  Args:
    name: a path, or the name of a shipped config; `NAME:ARGUMENT` passes an
      argument to its `get_config`.
    overrides: words `--config.SECTION.KEY=VALUE`, or a mapping
      {'section.key': value}.

  Raises:
    ConfigError: for anything that is not a valid config.
  """
  from ml_collections import config_flags

  path = find_config(os.fspath(name))
  are_words = not isinstance(overrides, Mapping)
  argv = ['train', f'--config={path}', *(overrides if are_words else ())]
  define = functools.partial(config_flags.DEFINE_config_file, 'config')
  values = read_flags(path, define, argv)
  if not are_words:
    values = schema.altered(values, overrides)
  return config_lib.from_dict(values)


def find_config(name: str) -> str:
  """The path of a config file, with the argument that may follow a colon.

  Args:
    name: a path, which comes first, or the name of a shipped config, such as
      `smoke` or `configs/smoke.py`.

  Raises:
    ConfigError: if there is neither; lists the shipped names.
  """
  path, colon, argument = name.partition(':')
  if pathlib.Path(path).is_file():
    return name
  known = {file.stem: file for file in shipped.folder('configs').glob('*.py')}
  found = known.get(path.removeprefix('configs/').removesuffix('.py'))
  if found is None:
    raise config_lib.ConfigError(
      f'--config = {path}: must be a file, or one of the configs that come '
      f'with the package: {", ".join(sorted(known))}'
    )
  return f'{found}{colon}{argument}'


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
  """A context for a config file, which may import files beside it.

  The file is the user's and may do anything, so its errors are ConfigErrors.
  """
  folder = str(pathlib.Path(path.split(':')[0]).parent.resolve())
  sys.path.insert(0, folder)
  try:
    yield
  except (Exception, SystemExit) as error:
    # ml_collections puts the whole trace of an error into its message.
    said = schema.one_line(error).rsplit('ConfigError: ', 1)[-1]
    raise config_lib.ConfigError(f'--config = {path}: {said}') from error
  finally:
    sys.path.remove(folder)


class StopRequest:
  """Turns the first SIGTERM or SIGINT into a flag that the loop polls.

  A second SIGINT interrupts at once. A context manager, which restores the
  earlier handlers at its end. Outside the main thread, where Python can
  install no handlers, it hears nothing.
  """

  SIGNALS = (signal.SIGTERM, signal.SIGINT)

  def __init__(self):
    self.signal: signal.Signals | None = None
    self._before: dict[int, Any] = {}

  @property
  def name(self) -> str:
    """The name of the signal that asked to stop."""
    return self.signal.name if self.signal else 'nothing'

  def is_due(self) -> bool:
    """Whether the run is to stop after the step just finished."""
    return self.signal is not None

  def __enter__(self) -> 'StopRequest':
    if threading.current_thread() is threading.main_thread():
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
