"""Analyses runs: average parameters, the scaling law, and what follows.

Reads files that training wrote, or tables from elsewhere; needs no jax.
Arguments may come from a file: @FILE stands for its lines.
Exit status: 0 done, 1 failed, 2 bad input.
"""

import argparse
import contextlib
import importlib
import json
import os
import pathlib
import shlex
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from jax_sparse_pretrain.analysis.verbs import VERBS, Answer

PROGRAM = 'python -m jax_sparse_pretrain.analysis'
EXIT_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 1, 2, 130
# The path is the user's; a full disk is not.
BAD_PATHS = (
  FileNotFoundError,
  IsADirectoryError,
  NotADirectoryError,
  PermissionError,
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
  except (ValueError, *BAD_PATHS) as error:
    return _fail(error, EXIT_BAD_INPUT)
  except (ArithmeticError, OSError, RuntimeError) as error:
    return _fail(error, EXIT_FAILED)
  except KeyboardInterrupt:
    return EXIT_INTERRUPTED


def _run(argv: list[str]) -> int:
  is_verb = bool(argv) and argv[0] in VERBS
  parser = make_parser(argv[:1] if is_verb else list(VERBS))
  if not argv:
    parser.print_help()
    return 0
  arguments = parser.parse_args(argv)
  verb = importlib.import_module(VERBS[arguments.verb])
  out = _checked_out(arguments.out, verb.SUFFIXES)
  answer = verb.answer(arguments)
  for line in answer.warnings:
    warnings.warn(line, stacklevel=2)
  if out:
    _write(out, answer)
  print(_shown(answer, out, arguments.json), flush=True)
  return 0


def _shown(answer: Answer, out: pathlib.Path | None, as_json: bool) -> str:
  if as_json:
    return _json(answer.data)
  files = [f'File: {out}'] if out else []
  return '\n'.join([answer.text.removesuffix('\n'), *files])


class _Parser(argparse.ArgumentParser):
  def error(self, message: str) -> NoReturn:
    raise ValueError(f'{message}; see --help')

  def convert_arg_line_to_args(self, arg_line: str) -> list[str]:
    """Lines of a file of arguments are as on a command line."""
    return shlex.split(arg_line, comments=True)


def make_parser(names: Sequence[str]) -> argparse.ArgumentParser:
  """The parser of these verbs; only their modules are imported."""
  parser = _Parser(
    prog=PROGRAM,
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
    fromfile_prefix_chars='@',
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


def _checked_out(name: str | None, suffixes: Sequence[str]):
  """The path of --out, refused before anything is computed."""
  if name is None:
    return None
  out = pathlib.Path(name)
  if out.suffix not in suffixes:
    allowed = ' or '.join(suffixes)
    raise ValueError(f'--out = {out}: must end in {allowed}')
  if not out.parent.is_dir():
    raise ValueError(f'--out = {out}: no such directory: {out.parent}')
  if out.is_dir():
    raise ValueError(f'--out = {out}: is a directory')
  return out


def _write(out: pathlib.Path, answer: Answer) -> None:
  """Replaces the file in one step."""
  temporary = out.with_name(f'.{out.stem}.tmp{out.suffix}')
  try:
    if out.suffix in answer.writers:
      answer.writers[out.suffix](temporary)
    else:
      temporary.write_text(_json(answer.data) + '\n')
    temporary.replace(out)
  finally:
    temporary.unlink(missing_ok=True)


def _json(data: Any) -> str:
  # Numpy scalars and arrays are the only values that json does not know.
  return json.dumps(
    data, indent=2, allow_nan=False, default=lambda value: value.tolist()
  )


@contextlib.contextmanager
def _warnings_as_lines() -> Iterator[None]:
  with warnings.catch_warnings():
    warnings.simplefilter('always', UserWarning)
    warnings.showwarning = lambda message, *_, **__: print(
      f'warning: {_one_line(message)}', file=sys.stderr
    )
    yield


def _fail(error: Exception, status: int) -> int:
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
