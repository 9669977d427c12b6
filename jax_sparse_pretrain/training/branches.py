"""Where other runs leave a run: its workdir as it is after some steps.

`DIRECTORY/STEP/` is an ordinary workdir that stopped there: history, metrics,
snapshots and one checkpoint. It appears whole or not at all.
"""

import contextlib
import pathlib
import shutil
from collections.abc import Callable
from typing import NamedTuple

from jax_sparse_pretrain.training.checkpoint import Checkpoints
from jax_sparse_pretrain.training.workdir import Workdir, write_json

PARTIAL = '.partial'
ABOUT = 'branch.json'  # of a branch: how many losses it carries


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
    return step in self.steps and not (self.directory / str(step)).exists()

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
    with whole_or_not(self.directory / str(step)) as partial:
      copy_files(run, partial)
      checkpoints = Checkpoints(partial / 'checkpoints', keep=1)
      with contextlib.closing(checkpoints):
        save(checkpoints)
        checkpoints.wait()
      write_json(partial / ABOUT, {'n_losses': n_losses})


def copy_files(run: Workdir, target: pathlib.Path) -> None:
  """All that a run has to show for its steps, but its checkpoints."""
  for path in (run.config, run.history, run.metrics):
    shutil.copy(path, target)
  if run.snapshots.is_dir():
    shutil.copytree(run.snapshots, target / run.snapshots.name)


@contextlib.contextmanager
def whole_or_not(target: pathlib.Path):
  """A directory to fill, that becomes `target` at the end of the context."""
  partial = target.with_name(f'.{target.name}{PARTIAL}')
  shutil.rmtree(partial, ignore_errors=True)
  partial.mkdir(parents=True)
  yield partial
  partial.rename(target)
