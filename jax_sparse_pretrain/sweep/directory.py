"""The files of a sweep.

`runs/NAME/` is the workdir of a run, `trunks/NAME/STEP/` the workdir that
others are to go on from, `runs.csv` the table of finished runs.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from jax_sparse_pretrain import config as config_lib
from jax_sparse_pretrain import storage
from jax_sparse_pretrain.config import ConfigError
from jax_sparse_pretrain.runs import workdir as workdir_lib
from jax_sparse_pretrain.runs.branches import PARTIAL
from jax_sparse_pretrain.runs.workdir import Workdir
from jax_sparse_pretrain.schema import one_line
from jax_sparse_pretrain.sweep.sweep_file import Run


class Directory(NamedTuple):
  """The `--workdir` of a sweep."""

  root: pathlib.Path

  @property
  def table(self) -> pathlib.Path:
    return self.root / 'runs.csv'

  @property
  def runs(self) -> pathlib.Path:
    return self.root / 'runs'

  def run(self, name: str) -> Workdir:
    return Workdir(self.runs / name)

  def trunks(self, name: str) -> pathlib.Path:
    return self.root / 'trunks' / name

  def trunk(self, name: str, step: int) -> Workdir:
    return Workdir(self.trunks(name) / str(step))


def find_directory(path: str) -> Directory:
  """The directory of a sweep, which need not be there yet.

  Raises:
    ConfigError: if it is the workdir of a run, or cannot be reached.
  """
  root = workdir_lib.root_of(path)
  try:
    is_run = Workdir(root).config.exists()
  except OSError as error:
    raise ConfigError(f'--workdir = {path}: {one_line(error)}') from error
  if is_run:
    raise ConfigError(
      f'--workdir = {path}: is the workdir of a run; a sweep needs its own'
    )
  return Directory(root)


def check_runs(directory: Directory, runs: Sequence[Run]) -> None:
  """Refuses to go on with runs whose config has changed.

  Raises:
    ConfigError: naming the run and the keys.
  """
  changed = {}
  for run in runs:
    files = directory.run(run.name)
    if not files.config.exists():
      continue
    before = workdir_lib.read_resolved(files)['config']
    changes = config_lib.alterations(before, dataclasses.asdict(run.config))
    if keys := changes['new run'] + changes['fork']:
      changed[run.name] = '; '.join(keys)
  if changed:
    name, keys = next(iter(changed.items()))
    others = f', and {len(changed) - 1} other runs' if len(changed) > 1 else ''
    raise ConfigError(
      f'run {name}: {directory.run(name).root} holds a run with another '
      f'config: {keys}{others}. Use another workdir, or delete what is to be '
      'trained anew'
    )


def is_finished(directory: Directory, run: Run) -> bool:
  files = directory.run(run.name)
  summary = workdir_lib.finished_summary(files, run.plan.steps)
  return files.config.exists() and summary is not None


def newest_step(directory: Directory, run: Run) -> int:
  """Steps that need not be made again; 0 for a run that has to begin."""
  if is_finished(directory, run):  # Even if its checkpoints are deleted.
    return run.plan.steps
  return max(directory.run(run.name).saved_steps, default=0)


def trunk_of(directory: Directory, run: Run) -> dict[str, Any]:
  """`run` and `step` that one which has begun goes on from; empty if alone."""
  files = directory.run(run.name)
  if not files.config.exists():
    return {}
  return workdir_lib.read_resolved(files).get('trunk', {})


def drop_trunks(
  directory: Directory, runs: Sequence[Run], needed: Collection[pathlib.Path]
) -> None:
  """Deletes the trunks of these runs that nobody needs, and half-made ones."""
  for run in runs:
    trunks = directory.trunks(run.name)
    for path in trunks.iterdir() if trunks.is_dir() else ():
      if path not in needed:
        storage.remove_tree(path)
    half_made = directory.runs / f'.{run.name}{PARTIAL}'
    storage.remove_tree(half_made)
    if storage.is_remote(trunks):
      continue  # It has no directories.
    for empty in (trunks, trunks.parent):
      with contextlib.suppress(OSError):
        empty.rmdir()
