"""Finds the workdirs of runs below a directory."""

import os
import pathlib
import warnings
from collections.abc import Iterator

from jax_sparse_pretrain import storage
from jax_sparse_pretrain.analysis.training_log import logged_steps
from jax_sparse_pretrain.runs.workdir import Workdir

# A directory with this file is the workdir of a run.
MARK = Workdir(pathlib.Path()).history.name


def find_workdirs(
  path: pathlib.Path,
) -> Iterator[tuple[str, pathlib.Path]]:
  """The name and the path of each workdir at or below `path`.

  A workdir below is named by its path from there.

  Raises:
    ValueError: if there is none.
  """
  if not path.exists():
    raise ValueError(f'{path}: no such file or directory')
  walk = _walk_remote if storage.is_remote(path) else _walk_local
  found = list(walk(path))
  if not found:
    raise ValueError(f'{path}: no run: no {MARK} in it or below')
  for workdir in found:
    inside = workdir.relative_to(path)
    name = str(inside) if inside.parts else storage.resolved(workdir).name
    yield name, workdir


def find_begun(path: pathlib.Path) -> Iterator[tuple[str, pathlib.Path]]:
  """The workdirs of runs that have logged a step; warns of the others."""
  for name, workdir in find_workdirs(path):
    has_summary = Workdir(workdir).summary.exists()
    if has_summary or workdir == path or logged_steps(workdir):
      yield name, workdir
    else:
      text = f'{workdir}: left out: no step has been logged yet'
      warnings.warn(text, stacklevel=2)


def _walk_remote(path: pathlib.Path) -> Iterator[pathlib.Path]:
  below = sorted(path.iterdir())
  if any(each.name == MARK for each in below):
    yield path
    return
  for each in below:
    if each.is_dir():
      yield from _walk_remote(each)


def _walk_local(path: pathlib.Path) -> Iterator[pathlib.Path]:
  """In order of name. Links are followed, but never twice."""
  seen = set()
  for directory, below, files in os.walk(path, followlinks=True):
    real = os.path.realpath(directory)
    if MARK in files and real not in seen:
      yield pathlib.Path(directory)
    if MARK in files or real in seen:
      below.clear()
    below.sort()
    seen.add(real)
