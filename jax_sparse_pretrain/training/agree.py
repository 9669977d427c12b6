"""What the processes of a run tell each other, beside the arrays.

Goes through the key-value store of JAX's coordination service, so that it
needs no devices, compiles nothing and waits as long as the slowest process
takes. JAX has no public name for its client; Orbax uses it in the same way.
"""

import itertools
import pathlib
import pickle
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

from jax._src import distributed

from jax_sparse_pretrain import schema
from jax_sparse_pretrain.config import ConfigError

T = TypeVar('T')

# A process that is lost ends the wait; one that is slow does not.
_DAY_MS = 24 * 3600 * 1000
_numbers = itertools.count(1)
_state = distributed.global_state


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
