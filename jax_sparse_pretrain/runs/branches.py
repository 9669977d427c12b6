"""Where other runs leave a run: its workdir as it is after some steps.

`DIRECTORY/STEP/` is an ordinary workdir that stopped there: history, metrics,
snapshots and one checkpoint. What is in it last says that it is whole.
"""

import contextlib
import pathlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from jax_sparse_pretrain import storage
from jax_sparse_pretrain.runs.checkpoint import Checkpoints
from jax_sparse_pretrain.runs.workdir import Workdir, write_json

PARTIAL = '.partial'
ABOUT = 'branch.json'  # The last file of a branch: the losses it carries.


class Branches(NamedTuple):
  """Attributes:

  directory: of the workdirs.
  steps: finished steps after which one is left.
  n_losses: recent losses that the runs which go on from there, and those that
    leave them in turn, average over at most.
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
      run: its files are those of `step` finished steps.
      save: starts a save of the state.
      n_losses: that it carries.
    """
    with whole_or_not(self.directory / str(step)) as root:
      branch = Workdir(root)
      copy_files(run, branch)
      storage.copy(run.config, branch.config)
      checkpoints = Checkpoints(branch.checkpoints, keep=1)
      with contextlib.closing(checkpoints):
        save(checkpoints)
        checkpoints.wait()
      write_json(root / ABOUT, {'n_losses': n_losses})


def is_whole(branch: pathlib.Path) -> bool:
  return (branch / ABOUT).exists()


def copy_files(run: Workdir, target: Workdir) -> None:
  """All that a run has to show for its steps, but config and checkpoints."""
  storage.copy(run.history, target.history)
  storage.copy(run.metrics, target.metrics)
  if run.snapshots.is_dir():
    storage.copy_tree(run.snapshots, target.snapshots)


@contextlib.contextmanager
def whole_or_not(target: pathlib.Path) -> Iterator[pathlib.Path]:
  """A directory to fill, which is `target` at the end of the context.

  An object store cannot rename: there it is `target` from the start, and what
  is written last has to tell.
  """
  partial = target.with_name(f'.{target.name}{PARTIAL}')
  if storage.is_remote(target):
    storage.remove_tree(target)
    yield target
    return
  storage.remove_tree(partial)
  partial.mkdir(parents=True)
  yield partial
  storage.remove_tree(target)
  partial.rename(target)
