"""The file of `--out`, and JSON."""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from jax_sparse_pretrain.analysis.verbs import Answer


def checked_out(name: str | None, suffixes: Sequence[str]):
  """The path of --out, refused before anything is computed."""
  if name is None:
    return None
  if not name:
    raise ValueError('--out: must be the name of a file')
  out = pathlib.Path(name)
  if out.suffix not in suffixes:
    allowed = ' or '.join(suffixes)
    raise ValueError(f'--out = {out}: must end in {allowed}')
  if not out.parent.is_dir():
    raise ValueError(f'--out = {out}: no such directory: {out.parent}')
  if out.is_dir():
    raise ValueError(f'--out = {out}: is a directory')
  return out


@contextlib.contextmanager
def replacing(out: pathlib.Path | None) -> Iterator[pathlib.Path | None]:
  """A file beside `out` that takes its place in the end, in one step.

  It is there from the beginning, so that a place which cannot be written is
  refused before anything is computed. A link stays one.
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


def write(path: pathlib.Path, answer: Answer) -> None:
  if path.suffix in answer.writers:
    answer.writers[path.suffix](path)
  else:
    path.write_text(as_json(answer.data) + '\n')


def as_json(data: Any) -> str:
  # Numpy scalars and arrays are the only values that json does not know.
  return json.dumps(
    data, indent=2, allow_nan=False, default=lambda value: value.tolist()
  )
