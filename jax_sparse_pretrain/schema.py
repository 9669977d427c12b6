"""Typed, strict configs: how keys are declared and checked.

Standard library only.
"""

import ast
import copy
import dataclasses
import difflib
import math
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple


class ConfigError(ValueError):
  """Bad input from the user. One line: the key, the value, what is allowed."""


def one_line(error: BaseException) -> str:
  """What an error says, or its kind if it says nothing."""
  # A KeyError's text is the repr of its message.
  text = error.args[0] if isinstance(error, KeyError) else error
  return ' '.join(str(text).split()) or type(error).__name__


class Allowed(NamedTuple):
  """The values a key may take: in words, and as a test."""

  words: str
  test: Callable[[Any], bool]


def at_least(low: float) -> Allowed:
  return Allowed(
    f'at least {low} and below 2^31', lambda value: low <= value < 2**31
  )


NOT_NEGATIVE = Allowed('at least 0', lambda value: value >= 0)
POSITIVE = Allowed('greater than 0', lambda value: value > 0)
FRACTION = Allowed('from 0 to 1', lambda value: 0 <= value <= 1)
BELOW_ONE = Allowed('in [0, 1)', lambda value: 0 <= value < 1)
AXIS = Allowed('at least 1, or -1 for all remaining devices',
               lambda value: value >= 1 or value == -1)  # fmt: skip


def key(default, allowed: Allowed | None = None, *, change: str = 'fork'):
  """Declares a config key.

  Args:
    default: the value of the key if a config does not give one.
    allowed: the values that the key may take, by default all of its type.
    change: what it takes to go on from a checkpoint with another value:
      'fork', 'nothing' or 'new run'.
  """
  metadata = {'allowed': allowed, 'change': change}
  return dataclasses.field(default=default, metadata=metadata)


def free(default, allowed: Allowed | None = None):
  """A key on which weights depend by floating-point rounding at most."""
  return key(default, allowed, change='nothing')


def fixed(default, allowed: Allowed | None = None):
  """A key on which the shapes, the data or the meaning of counts depend."""
  return key(default, allowed, change='new run')


def build(cls: type, values: Mapping[str, Any], prefix: str = ''):
  """Nested mapping -> nested dataclasses, checked key by key.

  Raises:
    ConfigError: for an unknown key, a wrong type or a value out of range.
  """
  if not isinstance(values, Mapping):
    raise ConfigError(f'{prefix[:-1]} = {values!r}: must be a section of keys')
  types = typing.get_type_hints(cls)
  for name in values:
    if name not in types:
      raise ConfigError(_unknown(prefix, name, list(types)))
  fields = {f.name: f for f in dataclasses.fields(cls) if f.name in values}
  return cls(**{
    name: build(types[name], values[name], f'{prefix}{name}.')
    if dataclasses.is_dataclass(types[name])
    else _checked(prefix + name, values[name], types[name], declared)
    for name, declared in fields.items()
  })  # fmt: skip


def _unknown(prefix: str, name: str, known: list[str]) -> str:
  close = difflib.get_close_matches(str(name), known, n=1)
  hint = f'did you mean {prefix}{close[0]}? ' if close else ''
  return f'{prefix}{name}: unknown key; {hint}allowed: {", ".join(known)}'


def _checked(name: str, value: Any, kind: Any, declared: dataclasses.Field):
  if typing.get_origin(kind) is Literal:
    choices = typing.get_args(kind)
    if value not in choices:
      raise ConfigError(f'{name} = {value!r}: must be one of {choices}')
    return value
  if typing.get_origin(kind) is tuple:
    return _checked_tuple(name, value, kind)
  if kind is float and type(value) is int:
    value = float(value)
  if type(value) is not kind:
    raise ConfigError(f'{name} = {value!r}: must be of type {kind.__name__}')
  if kind is float and not math.isfinite(value):
    raise ConfigError(f'{name} = {value!r}: must be finite')
  allowed = declared.metadata['allowed']
  if allowed and not allowed.test(value):
    raise ConfigError(f'{name} = {value!r}: must be {allowed.words}')
  return value


def _checked_tuple(name: str, value: Any, kind: Any) -> tuple:
  """For tuple[T, ...] and tuple[T, U]; a list will do, as JSON has no tuple."""
  items = typing.get_args(kind)
  if not isinstance(value, tuple | list):
    raise ConfigError(f'{name} = {value!r}: must be a tuple, such as (1, 2)')
  if items[-1] is Ellipsis:
    items = items[:1] * len(value)
  if len(value) != len(items):
    raise ConfigError(f'{name} = {value!r}: must have {len(items)} items')
  any_value = key(None)
  return tuple(
    _checked(f'{name}[{i}]', v, t, any_value)
    for i, (v, t) in enumerate(zip(value, items, strict=True))
  )


def leaves(
  tree: Mapping[str, Any], prefix: str = ''
) -> Iterator[tuple[str, Any]]:
  """Nested mapping -> (`section.key`, value) pairs."""
  for name, value in tree.items():
    if isinstance(value, Mapping):
      yield from leaves(value, f'{prefix}{name}.')
    else:
      yield prefix + name, value


def altered(
  values: Mapping[str, Any], changes: Mapping[str, Any]
) -> dict[str, Any]:
  """A copy of nested dicts with other values, {'section.key': value}.

  Raises:
    ConfigError: for changes of another form, or in what is no section.
  """
  values = copy.deepcopy(dict(values))
  for name, value in changes.items():
    if not isinstance(name, str) or isinstance(value, Mapping):
      raise ConfigError(
        f'{name!r}: {value!r}: overrides must be a value for each section.key'
      )
    *sections, last = name.split('.')
    node = values
    for section in sections:
      node = node.setdefault(section, {})
      if not isinstance(node, dict):
        raise ConfigError(f'{name}: unknown key; {section} is no section')
    # A value may well be computed with NumPy.
    node[last] = value.item() if hasattr(value, 'dtype') else value
  return values


def field(cls: type, dotted_name: str) -> dataclasses.Field:
  """The field that `section.key` names."""
  *sections, name = dotted_name.split('.')
  for section in sections:
    cls = typing.get_type_hints(cls)[section]
  return cls.__dataclass_fields__[name]


def literal(text: str) -> Any:
  """'0.2' -> 0.2, 'true' -> True; text that is no literal stays text."""
  if text.lower() in ('true', 'false'):
    return text.lower() == 'true'
  try:
    return ast.literal_eval(text)
  except (SyntaxError, ValueError):
    return text
