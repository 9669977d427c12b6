"""Branches: copies of a run's workdir as it is after some step.

Other runs go on from there. `DIRECTORY/STEP/` is an ordinary workdir of a run
that stopped after this step: history, metrics, snapshots and one checkpoint.
The file that is written last says that the branch is whole.
"""

import contextlib
import pathlib
from collections.abc import Callable
from typing import NamedTuple

from jax_sparse_pretrain import storage
from jax_sparse_pretrain.runs.checkpoint import Checkpoints
from jax_sparse_pretrain.runs.workdir import Workdir, write_json


class Branches(NamedTuple):
  """The branches that a run has to leave.

  Attributes:
    directory: where they go.
    steps: the finished steps after which one is due.
    n_losses: how many recent losses the run has to carry, for the averages of
      the runs that go on from it, directly or through another.
  """

  directory: pathlib.Path
  steps: frozenset[int] = frozenset()
  n_losses: int = 0

  def is_due(self, step: int) -> bool:
    return step in self.steps and not is_whole(self.directory / str(step))

  def leave(
    self,
    step: int,
    run: Workdir,
    save: Callable[[Checkpoints], None],
    n_losses: int,
  ) -> None:
    """Copies the files of `run` and saves a checkpoint beside them.

    Args:
      step: finished steps.
      run: the run's directory, as it is after these steps.
      save: starts a save of the state.
      n_losses: how many recent losses the checkpoint carries.
    """
    with storage.whole_or_not(self.directory / str(step)) as root:
      copy = Workdir(root)
      copy_files(run, copy)
      storage.copy(run.config, copy.config)
      checkpoints = Checkpoints(copy.checkpoints, keep=1)
      with contextlib.closing(checkpoints):
        save(checkpoints)
        checkpoints.wait()
      write_json(copy.branch, {'n_losses': n_losses})


def is_whole(branch: pathlib.Path) -> bool:
  return Workdir(branch).branch.exists()


def copy_files(run: Workdir, target: Workdir) -> None:
  """Copies what a run has logged: all but its config and checkpoints."""
  storage.copy(run.history, target.history)
  storage.copy(run.metrics, target.metrics)
  if run.snapshots.is_dir():
    storage.copy_tree(run.snapshots, target.snapshots)
