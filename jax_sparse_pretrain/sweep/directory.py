"""The files of a sweep, and how a run begins with the steps of another.

`runs/NAME/` is the workdir of a run and `runs.csv` the table of finished runs.
`trunks/NAME/STEP/` is what run NAME has left after STEP steps
(`runs.branches`); it is there until no other run needs it.
"""

import contextlib
import dataclasses
import json
import pathlib
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from jax_sparse_pretrain import config as config_lib
from jax_sparse_pretrain import storage
from jax_sparse_pretrain.config import Config, ConfigError
from jax_sparse_pretrain.runs import branches, sinks
from jax_sparse_pretrain.runs import workdir as workdir_lib
from jax_sparse_pretrain.runs.workdir import Workdir
from jax_sparse_pretrain.schema import one_line
from jax_sparse_pretrain.sweep.sweep_file import Run
from jax_sparse_pretrain.training import metrics
from jax_sparse_pretrain.training.setup import Experiment


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

  def is_finished(self, run: Run) -> bool:
    files = self.run(run.name)
    summary = workdir_lib.finished_summary(files, run.plan.steps)
    return files.config.exists() and summary is not None

  def newest_step(self, run: Run) -> int:
    """Steps that need not be made again; 0 for a run that has to begin."""
    if self.is_finished(run):  # Even if its checkpoints are deleted.
      return run.plan.steps
    return max(self.run(run.name).saved_steps, default=0)

  def origin(self, run: Run) -> dict[str, Any]:
    """The `run` and `step` that a run began with; empty if it began alone."""
    files = self.run(run.name)
    if not files.config.exists():
      return {}
    return workdir_lib.read_resolved(files).get('trunk', {})


def find_directory(path: str) -> Directory:
  """The directory of a sweep, which need not exist yet.

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
    if keys := _alterations(before, run.config):
      changed[run.name] = '; '.join(keys)
  if changed:
    name, keys = next(iter(changed.items()))
    others = f', and {len(changed) - 1} other runs' if len(changed) > 1 else ''
    raise ConfigError(
      f'run {name}: {directory.run(name).root} holds a run with another '
      f'config: {keys}{others}. Use another workdir, or delete what is to be '
      'trained anew'
    )


def _alterations(before: dict[str, Any], config: Config) -> list[str]:
  changes = config_lib.alterations(before, dataclasses.asdict(config))
  return changes['new run'] + changes['fork']


def begin_from(
  trunk: Workdir, files: Workdir, experiment: Experiment, parent: Run
) -> None:
  """Makes the workdir of a run from the one that its parent has left.

  It appears whole or not at all. A workdir without checkpoints is replaced.

  Args:
    trunk: what the parent has left.
    files: the directory of the run that is to begin.
    experiment: that run.
    parent: the run that left the trunk.

  Raises:
    ConfigError: if the run would not be the one that it is alone.
  """
  before = workdir_lib.read_resolved(trunk)
  _check_trunk(trunk, before, experiment, parent.config)
  resolved = {
    **experiment.resolved,
    # Those of the first steps; if they have changed, the run will say so.
    'mesh': before['mesh'],
    'versions': before['versions'],
    'forks': [],
    'trunk': {'run': parent.name, 'step': trunk.saved_steps[-1]},
  }
  with branches.whole_or_not(files.root) as root:
    made = Workdir(root)
    branches.copy_files(trunk, made)
    workdir_lib.write_json(made.config, resolved)
    if experiment.config.logging.tensorboard:
      _draw(made)
    # Last, since a run that has a checkpoint has begun.
    storage.copy_tree(trunk.checkpoints, made.checkpoints)


def _check_trunk(
  trunk: Workdir, before: dict[str, Any], experiment: Experiment, parent: Config
) -> None:
  """Whether what a parent left, perhaps long ago, still serves."""
  reasons = _alterations(before['config'], parent)
  if before['corpus'] != experiment.corpus:
    reasons.append('data: the corpus has changed')
  n_losses = json.loads(trunk.branch.read_text())['n_losses']
  needed = metrics.tail(experiment.plan.steps)
  if n_losses < min(trunk.saved_steps[-1], needed):
    reasons.append(f'it has fewer losses than the {needed} to average over')
  if reasons:
    raise ConfigError(f'{trunk.root}: {"; ".join(reasons)}')


def _draw(files: Workdir) -> None:
  """Writes the metrics so far for TensorBoard, too."""
  with contextlib.closing(sinks.TensorBoard(files.root)) as board:
    for line in files.metrics.read_text().splitlines():
      scalars = json.loads(line)
      step = scalars.pop('step')
      known = {k: v for k, v in scalars.items() if v is not None}
      board.write(step, known)


def drop_common_checkpoint(files: Workdir, config: Config) -> None:
  """Deletes the checkpoint that a finished run would not have made alone."""
  step = workdir_lib.read_resolved(files).get('trunk', {}).get('step')
  every = config.checkpoint.every
  if step in files.saved_steps[:-1] and not (every and step % every == 0):
    storage.remove_tree(files.checkpoints / str(step))


def drop_trunks(
  directory: Directory, runs: Sequence[Run], needed: Collection[pathlib.Path]
) -> None:
  """Deletes the trunks of these runs that nobody needs, and half-made ones."""
  for run in runs:
    trunks = directory.trunks(run.name)
    for path in trunks.iterdir() if trunks.is_dir() else ():
      if path not in needed:
        storage.remove_tree(path)
    half_made = directory.runs / f'.{run.name}{branches.PARTIAL}'
    storage.remove_tree(half_made)
    if storage.is_remote(trunks):
      continue  # An object store has no directories.
    for empty in (trunks, trunks.parent):
      with contextlib.suppress(OSError):
        empty.rmdir()
