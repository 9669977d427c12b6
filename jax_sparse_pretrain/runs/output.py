"""What a run writes beside its checkpoints, and how it goes back to a step.

Only the primary process writes.
"""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jax_sparse_pretrain import distributed, history, storage
from jax_sparse_pretrain.runs import sinks, snapshots
from jax_sparse_pretrain.runs import workdir as workdir_lib
from jax_sparse_pretrain.runs.lock import Claim

if TYPE_CHECKING:
  from jax_sparse_pretrain.training.setup import Experiment

# Objects cannot grow: each time, all that was logged is uploaded.
_UPLOAD_SECONDS = 60.0


class Output:
  """The files of a run.

  In an object store, nothing is written once another start of the run has
  claimed the workdir, and the mask history is always written whole. Should a
  row of an earlier start slip in, the next write of the later one removes it.

  Args:
    workdir: the run's directory.
    claim: the right of this start to write there.
    past: the mask history so far.
    opened: the sinks of metrics; none in processes that are not primary.

  Attributes:
    workdir: the run's directory.
    history: the mask history, which grows.
  """

  def __init__(
    self,
    workdir: workdir_lib.Workdir,
    claim: Claim,
    past: history.History,
    opened: Sequence[sinks.Sink],
  ):
    self.workdir, self._rows = workdir, list(past.rows)
    self.history = history.History(past.header, self._rows)
    self._claim, self._sinks = claim, opened
    self._is_remote = storage.is_remote(workdir.root)
    self._flushed = time.monotonic()

  def write_row(self, row: history.Row) -> None:
    self._rows.append(row)
    if not self._may_write():
      return
    if self._is_remote:
      history.write(self.workdir.history, self.history.header, self._rows)
    else:
      history.append(self.workdir.history, row)

  def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
    for sink in self._sinks:
      sink.write(step, scalars)
    is_late = time.monotonic() > self._flushed + _UPLOAD_SECONDS
    if self._is_remote and is_late:
      self.flush()

  def write_snapshot(self, step: int, masks: snapshots.Masks) -> None:
    if self._may_write():
      snapshots.write(self.workdir.snapshot(step), masks)

  def write_summary(self, summary: Mapping[str, Any]) -> None:
    if self._may_write():
      workdir_lib.write_json(self.workdir.summary, summary)

  def flush(self) -> None:
    """Makes sure that what was logged outlasts this process."""
    if self._may_write():
      for sink in self._sinks:
        sink.flush()
    self._flushed = time.monotonic()

  def settle(self) -> None:
    """Makes sure that everything is written and the workdir still ours.

    To be called in all processes, before anything that relies on the files.

    Raises:
      TakenOver: if another start of the run has the workdir now.
    """
    distributed.on_primary(self._claim.check)
    self.flush()

  def _may_write(self) -> bool:
    return distributed.is_primary() and self._claim.holds()


@contextlib.contextmanager
def open_output(
  experiment: Experiment,
  workdir: workdir_lib.Workdir,
  previous: workdir_lib.Previous | None,
  step: int,
  claim: Claim,
) -> Iterator[Output]:
  """The files of a run, set back to `step` finished steps."""
  with contextlib.ExitStack() as stack:
    opened: list[sinks.Sink] = []

    def open_files() -> history.History:
      logging = experiment.config.logging
      for sink in sinks.open_sinks(
        workdir.root, logging, experiment.resolved, step
      ):
        opened.append(stack.enter_context(contextlib.closing(sink)))
      _rewind(experiment, workdir, previous, step)
      return history.read(workdir.history)

    past = distributed.on_primary(open_files)
    output = Output(workdir, claim, past, opened)
    stack.callback(output.flush)
    yield output


def _rewind(
  experiment: Experiment,
  workdir: workdir_lib.Workdir,
  previous: workdir_lib.Previous | None,
  step: int,
) -> None:
  """Drops from the files what came after the checkpoint: it is redone."""
  workdir_lib.write_config(workdir, experiment.resolved, previous, step)
  # The model is of no use without it.
  if experiment.tokenizer and experiment.tokenizer.model:
    kind = experiment.tokenizer.kind
    storage.replace(workdir.tokenizer(kind), experiment.tokenizer.model)
  workdir.summary.unlink(missing_ok=True)
  for path in workdir.snapshots.glob('*.npz'):
    if path.stem.isdigit() and int(path.stem) > step:
      path.unlink()
  for late in experiment.config.pruning.snapshots:
    if late <= step and not workdir.snapshot(late).exists():
      warnings.warn(
        f'pruning.snapshots: {late}: is past, the run goes on from {step}',
        stacklevel=2,
      )
  if step:
    # With a delay, a row counts for a step after the last finished one.
    history.truncate(workdir.history, step + experiment.delay)
  else:
    history.write(workdir.history, experiment.header)
