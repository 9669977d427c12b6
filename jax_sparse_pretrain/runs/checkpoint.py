"""Checkpoints: the only module that knows Orbax.

Checkpoint k holds the state after k finished steps, the position in the data,
and what the training loop carries from step to step.
"""

from __future__ import annotations

import contextlib
import functools
import pathlib
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from jax_sparse_pretrain import distributed, storage
from jax_sparse_pretrain.runs.workdir import CheckpointError, Workdir
from jax_sparse_pretrain.schema import one_line

if TYPE_CHECKING:
  from jax_sparse_pretrain.training.step import TrainState


class Restored(NamedTuple):
  """A checkpoint that has been read, or what a fresh run begins with.

  Attributes:
    step: finished steps.
    state: on the devices, with the shardings asked for.
    data: the state of the data iterator; empty in a fresh run.
    progress: what the loop carried; empty in a fresh run.
  """

  step: int
  state: TrainState
  data: dict[str, Any]
  progress: dict[str, Any]


class _Manager(ocp.CheckpointManager):
  """Does not ask the runtime whether to stop: the loop does.

  The runtime counts the questions, and Orbax would ask for others, from a
  second thread.
  """

  def reached_preemption(self, step: int) -> bool:
    del step
    return False


class Checkpoints:
  """The checkpoints of a run; saving does not hold up training.

  Args:
    directory: where they lie in a workdir; created if missing.
    keep: how many of the newest are kept.
    keep_every: those of multiples of so many steps stay for good; 0: none do.
  """

  def __init__(self, directory: pathlib.Path, keep: int, keep_every: int = 0):
    self._directory = directory
    options = ocp.CheckpointManagerOptions(
      max_to_keep=keep,
      keep_period=keep_every or None,
      cleanup_tmp_directories=True,
    )
    self._options = options
    self._manager = self._open()

  def _open(self) -> ocp.CheckpointManager:
    return _Manager(
      storage.resolved(self._directory),
      options=self._options,
      item_handlers={
        'state': ocp.StandardCheckpointHandler(),
        'data': ocp.JsonCheckpointHandler(),
        'progress': ocp.JsonCheckpointHandler(),
      },
    )

  def steps(self) -> list[int]:
    """Steps with a finished checkpoint, oldest first."""
    return sorted(self._manager.all_steps())

  def save(
    self, step: int, state: TrainState, data: dict, progress: dict
  ) -> None:
    """Starts a save; the arrays may be donated once this returns."""
    self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(state),
        data=ocp.args.JsonSave(data),
        progress=ocp.args.JsonSave(progress),
      ),
    )

  def restore_newest(self, like: TrainState) -> Restored | None:
    """The newest checkpoint that can be read, or None if there is none.

    A warning names each one that cannot be read. Once an older one has been
    read, those are moved to the workdir's `unreadable/`.

    Args:
      like: abstract arrays with shardings. It may have masks that the
        checkpoint of a dense run has not; the restored state has none then.

    Raises:
      CheckpointError: if there are checkpoints and none can be read.
    """
    failed: dict[int, Exception] = {}
    for step in reversed(distributed.gather(self.steps())[0]):
      try:
        restored = distributed.together(
          functools.partial(self._restore, step, like)
        )
      except Exception as error:  # Orbax and its storage raise many kinds.
        failed[step] = error
        continue
      self._set_aside(failed)
      return restored
    if failed:
      newest = max(failed)
      raise CheckpointError(
        f'{self._directory}: no checkpoint can be read; the newest, {newest}, '
        f'fails with: {one_line(failed[newest])[:200]}'
      ) from failed[newest]
    return None

  def _restore(self, step: int, like: TrainState) -> Restored:
    if self._manager.item_metadata(step).state['masks'] is None:
      like = like.replace(masks=None)
    items = self._manager.restore(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardRestore(like),
        data=ocp.args.JsonRestore(),
        progress=ocp.args.JsonRestore(),
      ),
    )
    return Restored(step, items.state, items.data, items.progress)

  def _set_aside(self, failed: dict[int, Exception]) -> None:
    if not failed:
      return
    self._manager.close()
    distributed.on_primary(lambda: self._move(failed))
    self._manager = self._open()

  def _move(self, failed: dict[int, Exception]) -> None:
    for step, error in failed.items():
      source = self._directory / str(step)
      target = Workdir(self._directory.parent).unreadable / str(step)
      warnings.warn(
        f'checkpoint {source} cannot be read ({one_line(error)[:200]}); moved '
        f'to {target}, using the one before',
        stacklevel=2,
      )
      storage.remove_tree(target)
      target.parent.mkdir(exist_ok=True)
      # In an object store, this file also makes the directory exist.
      reason = target.with_name(f'{step}.txt')
      reason.write_text(f'{error}\n')
      source.rename(target)

  def wait(self) -> None:
    """Returns when no save is under way."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    self._manager.close()


def read_weights(
  directory: pathlib.Path, step: int, params: Any, masks: Any
) -> tuple[Any, Any]:
  """Reads params and masks of a checkpoint to the host, and changes nothing.

  Args:
    directory: of the checkpoints.
    step: which one.
    params: abstract arrays.
    masks: abstract arrays, or None. The checkpoint of a dense run has none.

  Returns:
    Both as NumPy arrays, from whatever devices they were saved.

  Raises:
    CheckpointError: if it cannot be read.
  """
  # A manager would tidy the directory, or complain that it may not.
  wanted = {'params': params, 'masks': masks}
  where = storage.resolved(directory) / str(step) / 'state'
  try:
    with contextlib.closing(ocp.PyTreeCheckpointHandler()) as handler:
      if masks is None or handler.metadata(where).tree['masks'] is None:
        del wanted['masks']
      to_host = jax.tree.map(
        lambda leaf: ocp.RestoreArgs(np.ndarray, leaf.dtype), wanted
      )
      found = handler.restore(
        where,
        args=ocp.args.PyTreeRestore(
          wanted, restore_args=to_host, partial_restore=True
        ),
      )
  except Exception as error:  # Orbax and its storage raise many kinds.
    raise CheckpointError(
      f'{directory / str(step)}: cannot be read: {one_line(error)[:200]}'
    ) from error
  return found['params'], found.get('masks')
