"""The command line of a verb, made from the signature of its function.

Each parameter of the function is a flag. Its name, type and default are those
of the signature, and its help is the first sentence of its entry in `Args:`:

  x: float, x: str               --x VALUE; required if it has no default
  x: int                         --x N: a whole number above 0, such as 2e9
  x: bool = False                --x
  x: Literal['a', 'b']           --x {a,b}
  x: Sequence[float]             --x 0.5 0.8
  x: Annotated[T, {...}]         as T, with these options of argparse
  x: a dataclass                 a group: one flag for each field
  x: Annotated[dict, From('f')]  a group: the keywords of a public function f

The parameters `out` and `command` are no flags: they hold the value of --out,
which every verb has, and the words of the whole command.
"""

import argparse
import contextlib
import dataclasses
import inspect
import json
import os
import pathlib
import re
import shlex
import types
import typing
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

from jax_sparse_pretrain import analysis
from jax_sparse_pretrain.command_line import Parser

PROGRAM = 'python -m jax_sparse_pretrain.analysis'
LARGEST_COUNT = 10**18
GIVEN = ('out', 'command')


class Answer(NamedTuple):
  """What a verb answers.

  Attributes:
    data: for `--json` and `--out FILE.json`; NumPy's values are fine.
    text: tables for a person.
    warnings: one line each, for stderr.
    writers: suffix -> what writes the file of `--out`, where not as JSON.
  """

  data: Mapping[str, Any]
  text: str
  warnings: Sequence[str] = ()
  writers: Mapping[str, Callable[[pathlib.Path], Any]] = {}


def verb(example: str, *suffixes: str) -> Callable:
  """Marks the function of a verb, which returns an `Answer`.

  The example is a command line that works, without the program's name. The
  file of `--out` ends in one of the suffixes.
  """

  def mark(function: Callable) -> Callable:
    function.example, function.suffixes = example, suffixes
    return function

  return mark


class From(NamedTuple):
  """The keyword-only parameters of a public function of the analysis.

  Some are no flags, and some have flags of another name.
  """

  name: str
  without: Sequence[str] = ()
  flags: Mapping[str, str] = {}

  @property
  def function(self) -> Callable:
    return getattr(analysis, self.name)


def count(text: str) -> int:
  """A number of parameters, tokens or steps: 41549824 or 1.1e9."""
  with contextlib.suppress(OverflowError, ValueError):
    value = float(text)
    if 1 <= value <= LARGEST_COUNT and value.is_integer():
      # A float would lose the last digits.
      return int(text) if text.isdigit() else int(value)
  raise argparse.ArgumentTypeError(
    f'{text!r}: must be a whole number above 0, such as 41549824 or 1.1e9, '
    f'and at most {LARGEST_COUNT:.0e}'
  )


Words = Annotated[str, {'nargs': '*', 'positional': True}]
Repeated = Annotated[str, {'action': 'append'}]
AnyInteger = Annotated[int, {'type': int}]
Level = Annotated[float, {'help': 'the level of the intervals'}]
_OPTIONS = {
  bool: {'action': 'store_true'},
  int: {'type': count, 'metavar': 'N'},
  float: {'type': float, 'metavar': 'X'},
  str: {},
}


def add_flags(parser, function: Callable | From) -> None:
  """Adds the flags of a function to a parser, or to a group of it."""
  texts = _explained(getattr(function, 'function', function))
  for each, flag in _parameters(function):
    part = _part(each.annotation)
    if part is not None:
      add_flags(_group(parser, part), part)
    elif each.name not in GIVEN:
      _add_flag(parser, flag, each, texts.get(each.name))


def _group(parser, part: Callable | From):
  """The group of a dataclass; groups cannot be nested."""
  if isinstance(part, From) or not isinstance(parser, argparse.ArgumentParser):
    return parser
  return parser.add_argument_group(_summary(part))


# More choices do not fit into the name of a flag.
MOST_CHOICES = 7


def _add_flag(parser, name: str, parameter, text: str | None) -> None:
  options = _options(parameter.annotation)
  about = (text or options.get('help', '')) + _shown(parameter.default)
  options['help'] = about.replace('%', '%%')
  if options.get('action') != 'store_true' and 'choices' not in options:
    options.setdefault('metavar', name.upper())
  if len(options.get('choices', ())) > MOST_CHOICES:
    options['metavar'] = 'NAME'
    options['help'] += f': {", ".join(options["choices"])}'
  if options.pop('positional', False):
    options['metavar'] = name.removesuffix('s').upper()
    parser.add_argument(name, **options)
    return
  options['required'] = parameter.default is parameter.empty
  if not options['required']:
    is_repeated = options.get('action') == 'append'
    options['default'] = [] if is_repeated else parameter.default
  parser.add_argument(f'--{name}', **options)


def call(function: Callable | From, values: Mapping[str, Any]) -> Any:
  """Calls a function with the values of its flags."""
  given = {}
  for each, flag in _parameters(function):
    part = _part(each.annotation)
    given[each.name] = values[flag] if part is None else call(part, values)
  return given if isinstance(function, From) else function(**given)


def _parameters(of: Callable | From) -> Iterator[tuple[inspect.Parameter, str]]:
  """Each parameter, and its flag."""
  function = of.function if isinstance(of, From) else of
  for each in inspect.signature(function).parameters.values():
    if not isinstance(of, From):
      yield each, each.name
    elif each.kind is each.KEYWORD_ONLY and each.name not in of.without:
      yield each, of.flags.get(each.name, each.name)


def _part(annotation: Any) -> Callable | From | None:
  """What takes several flags: a dataclass, or a `From`."""
  if dataclasses.is_dataclass(annotation):
    return annotation
  for each in getattr(annotation, '__metadata__', ()):
    if isinstance(each, From):
      return each
  return None


def _options(annotation: Any) -> dict[str, Any]:
  """The options of argparse for a type."""
  kind, inner = typing.get_origin(annotation), typing.get_args(annotation)
  if kind is Annotated:
    return {**_options(inner[0]), **inner[1]}
  if kind in (typing.Union, types.UnionType):  # X | None
    return _options(inner[0])
  if kind is Literal:
    return {'choices': inner}
  if kind:
    return {**_options(inner[0]), 'nargs': '+'}
  return dict(_OPTIONS[annotation])


def _explained(function: Callable) -> dict[str, str]:
  """Parameter -> the first sentence of its entry in the docstring."""
  text = inspect.getdoc(function) + '\n'
  section = re.search(r'^(?:Args|Attributes):\n((?: .*\n|\n)*)', text, re.M)
  entries = re.findall(
    r'^  \W*(\w+): (.*(?:\n    .*)*)', section[1] if section else '', re.M
  )
  sentences = {}
  for name, about in entries:
    first, *_ = re.split(r'\. (?=\W?[A-Z]|\W[a-z])', ' '.join(about.split()))
    sentences[name] = first.rstrip('.')
  return sentences


def _shown(default: Any) -> str:
  """A default, as the help shows it."""
  if any(default is x for x in (None, False, (), inspect.Parameter.empty)):
    return ''
  values = default if isinstance(default, tuple) else [default]
  return f' ({" ".join(map(str, values))})'


def make_parser(
  description: str, verbs: Mapping[str, Callable | Mapping[str, Callable]]
) -> argparse.ArgumentParser:
  """The parser of these verbs: name -> function, or functions of its own verbs.

  One verb has its flags; several, of which one has yet to be chosen, have
  not, so that their modules need not be imported.
  """
  parser = _new_parser(Parser, description, list(verbs.values()), prog=PROGRAM)
  _add_verbs(parser, PROGRAM, verbs, 'verb', with_flags=len(verbs) == 1)
  return parser


def _add_verbs(parser, program: str, verbs, title: str, with_flags) -> None:
  titles = {'title': f'{title}s', 'metavar': title.upper(), 'dest': title}
  add = parser.add_subparsers(**titles, required=True).add_parser
  for name, function in verbs.items():
    usage = f'{program} {name} [arguments]'
    summary = _summary(function)
    about = {'usage': usage, 'help': summary[0].lower() + summary[1:]}
    one = _new_parser(add, summary, [function], name, **about)
    if not with_flags:
      continue
    if isinstance(function, Mapping):
      _add_verbs(one, f'{program} {name}', function, 'picture', with_flags)
      continue
    one.set_defaults(function=function)
    add_flags(one, function)
    group = one.add_argument_group('output')
    about = 'print JSON instead of tables'
    group.add_argument('--json', action='store_true', help=about)
    out = inspect.signature(function).parameters.get('out')
    must = out is not None and out.default is out.empty
    about = f'write {" or ".join(function.suffixes)}'
    group.add_argument('--out', metavar='FILE', help=about, required=must)


def _new_parser(make: Callable, about: str, verbs: Sequence, *name, **more):
  lines = [f'  {_first(function).example}' for function in verbs]
  more['epilog'] = '\n'.join([f'examples, each after {PROGRAM}:', *lines])
  more['formatter_class'] = argparse.RawDescriptionHelpFormatter
  return make(*name, description=about, allow_abbrev=False, **more)


def _first(function: Callable | Mapping[str, Callable]) -> Callable:
  is_many = isinstance(function, Mapping)
  return next(iter(function.values())) if is_many else function


def _summary(function: Callable | Mapping[str, Callable]) -> str:
  """The first line of the docstring; of several pictures, of their module."""
  if isinstance(function, Mapping):
    function = inspect.getmodule(_first(function))
  return inspect.getdoc(function).splitlines()[0].rstrip('.')


def answer(argv: Sequence[str], arguments: argparse.Namespace) -> str:
  """Calls the verb, writes the file of --out, and returns what to print."""
  function, out = arguments.function, arguments.out
  path = _checked(out, function.suffixes)
  with _replacing(path) as temporary:
    words = [word for word in argv if word != '--json']
    command = ' '.join(map(_quoted, [*PROGRAM.split(), *words]))
    found = call(function, {**vars(arguments), 'command': command})
    for line in found.warnings:
      warnings.warn(line, stacklevel=2)
    if temporary:
      write = found.writers.get(path.suffix)
      if write is None:
        temporary.write_text(as_json(found.data) + '\n')
      else:
        write(temporary)
  if arguments.json:
    return as_json(found.data)
  files = [f'File: {path}'] if path else []
  return '\n'.join([found.text.removesuffix('\n'), *files])


def as_json(data: Any) -> str:
  # NumPy's scalars and arrays are the only values that json does not know.
  return json.dumps(
    data, indent=2, allow_nan=False, default=lambda value: value.tolist()
  )


def _quoted(word: str) -> str:
  """A word for a shell; in double quotes if it has single ones inside."""
  if "'" in word and not set(word) & set('"$`\\!'):
    return f'"{word}"'
  return shlex.quote(word)


def _checked(out: str | None, suffixes: Sequence[str]) -> pathlib.Path | None:
  """The path of --out, refused before anything is computed."""
  if out is None:
    return None
  if not out:
    raise ValueError('--out: must be the name of a file')
  path = pathlib.Path(out)
  if path.suffix not in suffixes:
    allowed = ' or '.join(suffixes)
    raise ValueError(f'--out = {out}: must end in {allowed}')
  if not path.parent.is_dir():
    raise ValueError(f'--out = {out}: no such directory: {path.parent}')
  if path.is_dir():
    raise ValueError(f'--out = {out}: is a directory')
  return path


@contextlib.contextmanager
def _replacing(out: pathlib.Path | None) -> Iterator[pathlib.Path | None]:
  """A file beside `out` that takes its place at the end, in one step.

  It exists from the beginning, so that a place which cannot be written is
  refused before anything is computed. A link stays a link.
  """
  if out is None:
    yield None
    return
  target = pathlib.Path(os.path.realpath(out))
  temporary = target.with_name(f'.tmp{os.getpid()}{out.suffix}')
  try:
    temporary.touch()
  except OSError as error:
    raise ValueError(f'--out = {out}: {error.strerror}') from None
  try:
    yield temporary
    temporary.replace(target)
  finally:
    temporary.unlink(missing_ok=True)
