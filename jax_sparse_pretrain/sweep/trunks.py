"""A run begins with the steps that another has made."""

import contextlib
import dataclasses
import json

from jax_sparse_pretrain import config as config_lib
from jax_sparse_pretrain import storage
from jax_sparse_pretrain.config import Config, ConfigError
from jax_sparse_pretrain.runs import branches, sinks
from jax_sparse_pretrain.runs import workdir as workdir_lib
from jax_sparse_pretrain.runs.workdir import Workdir
from jax_sparse_pretrain.training import metrics
from jax_sparse_pretrain.training.setup import Experiment


def begin_from(
  trunk: Workdir, files: Workdir, experiment: Experiment, parent: str
) -> None:
  """Makes the workdir of a run from the one that its parent left.

  It appears whole or not at all; one without checkpoints is replaced.

  Args:
    trunk: what the parent left.
    files: of the run.
    experiment: the run.
    parent: name of the run that left it.
  """
  before = workdir_lib.read_resolved(trunk)
  note = {'run': parent, 'step': trunk.saved_steps[-1]}
  resolved = {
    **experiment.resolved,
    # Of those first steps; if they are others now, the run will say so.
    'mesh': before['mesh'],
    'versions': before['versions'],
    'forks': [],
    'trunk': note,
  }
  with branches.whole_or_not(files.root) as root:
    made = Workdir(root)
    branches.copy_files(trunk, made)
    workdir_lib.write_json(made.config, resolved)
    if experiment.config.logging.tensorboard:
      _draw(made)
    # Last, since a run that has a checkpoint has begun.
    storage.copy_tree(trunk.checkpoints, made.checkpoints)


def _draw(files: Workdir) -> None:
  """The metrics so far in TensorBoard too."""
  with contextlib.closing(sinks.TensorBoard(files.root)) as board:
    for line in files.metrics.read_text().splitlines():
      scalars = json.loads(line)
      step = scalars.pop('step')
      known = {k: v for k, v in scalars.items() if v is not None}
      board.write(step, known)


def check_trunk(trunk: Workdir, experiment: Experiment, parent: Config) -> None:
  """Whether a run can go on from here as if it had begun alone.

  Args:
    trunk: what the parent left, perhaps long ago.
    experiment: the run.
    parent: config of the parent as it is now.

  Raises:
    ConfigError: saying why not.
  """
  before = workdir_lib.read_resolved(trunk)
  changes = config_lib.alterations(before['config'], dataclasses.asdict(parent))
  reasons = changes['new run'] + changes['fork']
  if before['corpus'] != experiment.corpus:
    reasons.append('data: the corpus has changed')
  about = json.loads(trunk.branch.read_text())
  needed = metrics.tail(experiment.plan.steps)
  if about['n_losses'] < min(trunk.saved_steps[-1], needed):
    reasons.append(f'it has fewer losses than the {needed} to average over')
  if reasons:
    raise ConfigError(f'{trunk.root}: {"; ".join(reasons)}')


def drop_common_checkpoint(files: Workdir, config: Config) -> None:
  """Of a finished run: the one that it would not have if it had begun alone."""
  step = workdir_lib.read_resolved(files).get('trunk', {}).get('step')
  every = config.checkpoint.every
  if step in files.saved_steps[:-1] and not (every and step % every == 0):
    storage.remove_tree(files.checkpoints / str(step))
