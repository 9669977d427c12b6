"""What a run writes beside its checkpoints; the primary process alone does."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from jax_sparse_pretrain import history, snapshots
from jax_sparse_pretrain.training import agree, resume, sinks
from jax_sparse_pretrain.training import workdir as workdir_lib
from jax_sparse_pretrain.training.ownership import Claim
from jax_sparse_pretrain.training.setup import Experiment


class Output(NamedTuple):
  """Attributes:

  workdir: of the run.
  claim: on the workdir.
  sinks: of metrics; none in other processes.
  """

  workdir: workdir_lib.Workdir
  claim: Claim
  sinks: Sequence[sinks.Sink]

  def write_row(self, row: history.Row) -> None:
    if agree.is_primary():
      history.append(self.workdir.history, row)

  def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
    for sink in self.sinks:
      sink.write(step, scalars)

  def write_snapshot(self, step: int, masks: snapshots.Masks) -> None:
    if agree.is_primary():
      snapshots.write(self.workdir.snapshot(step), masks)

  def write_summary(self, summary: Mapping[str, Any]) -> None:
    if agree.is_primary():
      workdir_lib.write_json(self.workdir.summary, summary)

  def settle(self) -> None:
    """Makes sure that all of it is there, and the run still ours.

    To be called in all processes, before anything that counts on it.

    Raises:
      TakenOver: if another start of the run has the workdir now.
    """
    agree.on_primary(self._settle)

  def _settle(self) -> None:
    self.claim.check()
    for sink in self.sinks:
      sink.flush()


@contextlib.contextmanager
def open_output(
  experiment: Experiment,
  workdir: workdir_lib.Workdir,
  previous: workdir_lib.Previous | None,
  step: int,
  claim: Claim,
) -> Iterator[tuple[Output, Sequence[history.Row]]]:
  """Sets the files back to `step` finished steps; yields the rows they have."""
  with contextlib.ExitStack() as stack:
    opened: list[sinks.Sink] = []

    def open_files() -> Sequence[history.Row]:
      logging = experiment.config.logging
      for sink in sinks.open_sinks(
        workdir.root, logging, experiment.resolved, step
      ):
        opened.append(stack.enter_context(contextlib.closing(sink)))
      resume.rewind_files(experiment, workdir, previous, step)
      return history.read(workdir.history).rows

    rows = agree.on_primary(open_files)
    yield Output(workdir, claim, opened), rows
