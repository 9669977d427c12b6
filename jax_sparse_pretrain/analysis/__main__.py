"""Analyses runs: average parameters, the scaling law, and what follows.

Reads files that training wrote, or tables from elsewhere; needs no jax.
Arguments may come from a file: @FILE stands for the words in it.
Exit status: 0 done, 1 failed, 2 bad input.
"""

import argparse
import contextlib
import errno
import importlib
import os
import pathlib
import shlex
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from jax_sparse_pretrain.analysis.verbs import VERBS, Answer, output
from jax_sparse_pretrain.shipped import shipped

PROGRAM = 'python -m jax_sparse_pretrain.analysis'
EXIT_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 1, 2, 130
# The path is the user's; a full disk is not.
BAD_PATHS = (
  *(errno.ENOENT, errno.EISDIR, errno.ENOTDIR, errno.EACCES, errno.EPERM),
  *(errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP),
)


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command and returns its exit status."""
  argv = sys.argv[1:] if argv is None else list(argv)
  try:
    with _warnings_as_lines():
      return _run(argv)
  except SystemExit as done:  # Of --help.
    return int(done.code or 0)
  except BrokenPipeError:
    raise
  except ValueError as error:
    return _fail(error, EXIT_BAD_INPUT)
  except OSError as error:
    is_bad_path = error.errno in BAD_PATHS
    return _fail(_said(error), EXIT_BAD_INPUT if is_bad_path else EXIT_FAILED)
  except (ArithmeticError, ImportError, MemoryError, RuntimeError) as error:
    return _fail(str(error) or repr(error), EXIT_FAILED)
  except KeyboardInterrupt:
    return EXIT_INTERRUPTED


def _run(argv: list[str]) -> int:
  argv = [word for each in argv for word in _expanded(each)]
  is_verb = bool(argv) and argv[0] in VERBS
  parser = make_parser(argv[:1] if is_verb else list(VERBS))
  if not argv:
    parser.print_help()
    return 0
  arguments = parser.parse_args(argv)
  verb = importlib.import_module(VERBS[arguments.verb])
  out = output.checked_out(arguments.out, verb.SUFFIXES)
  with output.replacing(out) as temporary:
    answer = verb.answer(arguments)
    for line in answer.warnings:
      warnings.warn(line, stacklevel=2)
    if temporary:
      output.write(temporary, answer)
  print(_shown(answer, out, arguments.json), flush=True)
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


def _shown(answer: Answer, out: pathlib.Path | None, as_json: bool) -> str:
  if as_json:
    return output.as_json(answer.data)
  files = [f'File: {out}'] if out else []
  return '\n'.join([answer.text.removesuffix('\n'), *files])


class _Parser(argparse.ArgumentParser):
  def error(self, message: str) -> NoReturn:
    raise ValueError(f'{message}; see --help')


def make_parser(names: Sequence[str]) -> argparse.ArgumentParser:
  """The parser of these verbs; only their modules are imported."""
  parser = _Parser(
    prog=PROGRAM,
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  subparsers = parser.add_subparsers(
    title='verbs', metavar='VERB', dest='verb', required=True
  )
  examples = []
  for name in names:
    verb = importlib.import_module(VERBS[name])
    _add_verb(subparsers, name, verb)
    examples.append(verb.EXAMPLE)
  parser.epilog = _examples(examples)
  return parser


def _add_verb(subparsers, name: str, verb: Any) -> None:
  parser = subparsers.add_parser(
    name,
    usage=f'{PROGRAM} {name} [arguments]',
    help=verb.SUMMARY,
    description=verb.SUMMARY,
    epilog=_examples([verb.EXAMPLE]),
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  verb.add_arguments(parser)
  group = parser.add_argument_group('output')
  group.add_argument(
    '--json', action='store_true', help='print JSON instead of tables'
  )
  group.add_argument(
    '--out', metavar='FILE', help=f'write {" or ".join(verb.SUFFIXES)}'
  )


def _examples(lines: Sequence[str]) -> str:
  head = f'examples, each after {PROGRAM}:'
  return '\n'.join([head, *(f'  {line}' for line in lines)])


@contextlib.contextmanager
def _warnings_as_lines() -> Iterator[None]:
  with warnings.catch_warnings():
    warnings.simplefilter('always', UserWarning)
    # NumPy's are no words for a user. What is not finite is refused by name.
    warnings.simplefilter('ignore', RuntimeWarning)
    warnings.showwarning = lambda message, *_, **__: print(
      f'warning: {_one_line(message)}', file=sys.stderr
    )
    yield


def _said(error: OSError) -> str:
  """Without the number."""
  if error.filename is None:
    return str(error)
  return f'{error.filename}: {error.strerror}'


def _fail(error: object, status: int) -> int:
  print(f'error: {_one_line(error)}', file=sys.stderr)
  return status


def _one_line(text: object) -> str:
  return ' '.join(str(text).split())


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
