"""The verbs of `python -m jax_sparse_pretrain.analysis`.

A verb is a module here with

  SUMMARY: one line of what it answers.
  EXAMPLE: a command line that works, without the program's name.
  SUFFIXES: what the file of `--out` may end in; '.json' needs no writer.
  add_arguments(parser): its own; `--json` and `--out` are there already.
  answer(arguments) -> Answer: a ValueError is the user's, exit status 2.

Standard library only at import, but for numpy: `--help` must answer at once.
"""

import pathlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

# Name -> module, imported when it is used.
VERBS = {
  name: f'{__name__}.{name}'
  for name in (
    'average',
    'compare',
    'contrast',
    'fit',
    'plan',
    'plot',
    'predict',
    'rank',
    'report',
    'simulate',
  )
}


class Answer(NamedTuple):
  """What a verb has to say.

  Attributes:
    data: for `--json` and `--out FILE.json`; numpy scalars and arrays are
      fine, what is not known is None.
    text: tables for a person.
    warnings: one line each, for stderr.
    writers: of `--out` by suffix, where it is more than `data` as JSON.
  """

  data: Mapping[str, Any]
  text: str
  warnings: tuple[str, ...] = ()
  writers: Mapping[str, Callable[[pathlib.Path], None]] = MappingProxyType({})
