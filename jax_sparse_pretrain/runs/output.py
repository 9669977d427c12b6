"""What a run writes beside its checkpoints; the primary process alone does."""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jax_sparse_pretrain import distributed, history, storage
from jax_sparse_pretrain.runs import resume, sinks, snapshots
from jax_sparse_pretrain.runs import workdir as workdir_lib
from jax_sparse_pretrain.runs.lock import Claim
from jax_sparse_pretrain.training.setup import Experiment

# Objects cannot grow: what was logged is uploaded whole each time.
_UPLOAD_SECONDS = 60.0


class Output:
  """The files of a run.

  In an object store nothing is written that another start of the run has
  claimed, and the mask history always whole: so a row that slips in between is
  gone with the next one of the start whose it is.

  Args:
    workdir: of the run.
    claim: on it.
    past: the mask history so far.
    opened: sinks of metrics; none in other processes.

  Attributes:
    workdir: of the run.
    rows: of the mask history.
  """

  def __init__(
    self,
    workdir: workdir_lib.Workdir,
    claim: Claim,
    past: history.History,
    opened: Sequence[sinks.Sink],
  ):
    self.workdir, self.rows = workdir, list(past.rows)
    self._claim, self._header, self._sinks = claim, past.header, opened
    self._is_remote = storage.is_remote(workdir.root)
    self._flushed = time.monotonic()

  def write_row(self, row: history.Row) -> None:
    self.rows.append(row)
    if not self._may_write():
      return
    if self._is_remote:
      history.write(self.workdir.history, self._header, self.rows)
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
    """Makes sure that all of it is there, and the run still ours.

    To be called in all processes, before anything that counts on it.

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
  """Sets the files back to `step` finished steps, to be added to."""
  with contextlib.ExitStack() as stack:
    opened: list[sinks.Sink] = []

    def open_files() -> history.History:
      logging = experiment.config.logging
      for sink in sinks.open_sinks(
        workdir.root, logging, experiment.resolved, step
      ):
        opened.append(stack.enter_context(contextlib.closing(sink)))
      resume.rewind_files(experiment, workdir, previous, step)
      return history.read(workdir.history)

    past = distributed.on_primary(open_files)
    output = Output(workdir, claim, past, opened)
    stack.callback(output.flush)
    yield output
