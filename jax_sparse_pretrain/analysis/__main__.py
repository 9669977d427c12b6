"""Analyses runs: average parameters, the scaling law, and what follows.

Reads files that training wrote, or tables from elsewhere; needs no jax.
Arguments may come from a file: @FILE stands for the words in it.
Exit status: 0 done, 1 failed, 2 bad input.
"""

import contextlib
import errno
import os
import pathlib
import shlex
import sys
import warnings
from collections.abc import Iterator, Sequence

from jax_sparse_pretrain.analysis import command, verbs
from jax_sparse_pretrain.command_line import BAD_INPUT, FAILED
from jax_sparse_pretrain.schema import one_line
from jax_sparse_pretrain.shipped import shipped

INTERRUPTED = 130
# Errors of a path that the user gave; a full disk is none.
BAD_PATHS = (
  *(errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.EACCES, errno.EPERM),
  *(errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP),
)


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command and returns its exit status."""
  argv = sys.argv[1:] if argv is None else list(argv)
  try:
    with _warnings_as_lines():
      return _run([word for each in argv for word in _expanded(each)])
  except SystemExit as done:  # --help ends like this.
    return int(done.code or 0)
  except BrokenPipeError:
    raise
  except ValueError as error:
    return _fail(error, BAD_INPUT)
  except OSError as error:
    is_bad_path = error.errno in BAD_PATHS
    return _fail(error, BAD_INPUT if is_bad_path else FAILED)
  except (ArithmeticError, ImportError, MemoryError, RuntimeError) as error:
    return _fail(error, FAILED)
  except KeyboardInterrupt:
    return INTERRUPTED


def _run(argv: Sequence[str]) -> int:
  # One verb has its own modules imported alone.
  names = argv[:1] if argv and argv[0] in verbs.VERBS else verbs.VERBS
  parser = command.make_parser(__doc__, {x: verbs.load(x) for x in names})
  if argv:
    print(command.answer(argv, parser.parse_args(argv)), flush=True)
  else:
    parser.print_help()
  return 0


def _expanded(word: str) -> list[str]:
  """@FILE stands for the words in it, as on a command line."""
  if not word.startswith('@'):
    return [word]
  try:
    text = pathlib.Path(shipped(word[1:])).read_text()
    return shlex.split(text, comments=True)
  except ValueError as error:  # No text, or an open quote.
    raise ValueError(f'{word}: no file of arguments: {error}') from None


@contextlib.contextmanager
def _warnings_as_lines() -> Iterator[None]:
  with warnings.catch_warnings():
    warnings.simplefilter('always', UserWarning)
    # NumPy's mean nothing to a user. Values that are not finite are refused.
    warnings.simplefilter('ignore', RuntimeWarning)
    warnings.showwarning = lambda message, *_, **__: print(
      f'warning: {one_line(message)}', file=sys.stderr
    )
    yield


def _fail(error: Exception, status: int) -> int:
  text = one_line(error)
  if isinstance(error, OSError) and error.filename is not None:
    text = f'{error.filename}: {error.strerror}'  # Without the number.
  print(f'error: {text}', file=sys.stderr)
  return status


def _command() -> int:
  """`main`, for a reader that may go away, as `head` does."""
  try:
    status = main()
    sys.stdout.flush()
    return status
  except BrokenPipeError:
    # The interpreter flushes once more at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


if __name__ == '__main__':
  sys.exit(_command())
