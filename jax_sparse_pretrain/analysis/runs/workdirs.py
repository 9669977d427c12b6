"""Workdirs below a directory, and the averages of their runs."""

import dataclasses
import os
import pathlib
import warnings
from collections.abc import Iterable, Iterator

from jax_sparse_pretrain import storage
from jax_sparse_pretrain.analysis.runs.average import average_parameters
from jax_sparse_pretrain.analysis.runs.counted import Average
from jax_sparse_pretrain.analysis.runs.workdir import logged_steps


def read_averages(paths: Iterable[os.PathLike | str]) -> list[Average]:
  """Of every run at or below these paths, named as `find_workdirs` does.

  Raises:
    ValueError: for a path without one, and as `average_parameters`.
  """
  return [
    dataclasses.replace(average_parameters(workdir), run=name)
    for path in paths
    for name, workdir in find_begun(storage.as_path(path))
  ]


def find_workdirs(
  path: pathlib.Path,
) -> Iterator[tuple[str, pathlib.Path]]:
  """The path if it is a workdir, else those below it, with their names.

  A workdir below is named by the way to it.

  Raises:
    ValueError: if there is none.
  """
  if not path.exists():
    raise ValueError(f'{path}: no such file or directory')
  found = list(_walk(path))
  if not found:
    raise ValueError(f'{path}: no run: no mask_history.jsonl in it or below')
  for workdir in found:
    inside = workdir.relative_to(path)
    name = str(inside) if inside.parts else storage.resolved(workdir).name
    yield name, workdir


def find_begun(path: pathlib.Path) -> Iterator[tuple[str, pathlib.Path]]:
  """Those below it that have logged a step; others with a warning not."""
  for name, workdir in find_workdirs(path):
    has_begun = (workdir / 'summary.json').exists() or logged_steps(workdir)
    if has_begun or workdir == path:
      yield name, workdir
    else:
      text = f'{workdir}: left out: no step has been logged yet'
      warnings.warn(text, stacklevel=2)


def _walk(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Workdirs in order of name."""
  return _walk_remote(path) if storage.is_remote(path) else _walk_local(path)


def _walk_remote(path: pathlib.Path) -> Iterator[pathlib.Path]:
  below = sorted(path.iterdir())
  if any(each.name == 'mask_history.jsonl' for each in below):
    yield path
    return
  for each in below:
    if each.is_dir():
      yield from _walk_remote(each)


def _walk_local(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """Links are followed, but never twice."""
  seen = set()
  for directory, below, files in os.walk(path, followlinks=True):
    real = os.path.realpath(directory)
    if 'mask_history.jsonl' in files and real not in seen:
      yield pathlib.Path(directory)
    if 'mask_history.jsonl' in files or real in seen:
      below.clear()
    below.sort()
    seen.add(real)
