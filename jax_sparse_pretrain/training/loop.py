"""The training loop: batch, step, hooks."""

import contextlib
import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from jax_sparse_pretrain import history
from jax_sparse_pretrain.config import ConfigError
from jax_sparse_pretrain.training import sinks as sinks_lib
from jax_sparse_pretrain.training import workdir as workdir_lib
from jax_sparse_pretrain.training.checkpoint import Checkpoints
from jax_sparse_pretrain.training.meter import Meter
from jax_sparse_pretrain.training.progress import Progress
from jax_sparse_pretrain.training.setup import Experiment
from jax_sparse_pretrain.training.signals import Stopped, StopRequest
from jax_sparse_pretrain.training.step import TrainState

Summary = dict[str, Any]


class Hook(NamedTuple):
  """Something to do every so many steps and after the last.

  Attributes:
    every: steps; 0 for only after the last.
    run: (finished steps, state) -> None.
  """

  every: int
  run: Callable[[int, TrainState], None]

  def is_due(self, step: int, steps: int) -> bool:
    return step == steps or (self.every > 0 and step % self.every == 0)


def train(
  experiment: Experiment,
  workdir: workdir_lib.Workdir,
  stop: StopRequest,
  changes: Sequence[str] = (),
) -> Summary:
  """Trains to the end, from the newest checkpoint of `workdir` if it has one.

  Args:
    experiment: the run.
    workdir: its files.
    stop: polled after every step.
    changes: what a fork alters, for the record.

  Returns:
    What `summary.json` holds.

  Raises:
    Stopped: on a signal, once the state is saved.
    NonFiniteError: the newest checkpoint is from before.
  """
  # Grain's prefetch thread must not outlive the run: at interpreter exit it
  # would take the process down.
  with contextlib.closing(experiment.batches):
    run = _Run(experiment, workdir, changes)
    with contextlib.closing(run):
      return run.to_the_end(stop)


class _Run:
  """The parts of a run in motion: what hooks share."""

  def __init__(
    self,
    experiment: Experiment,
    workdir: workdir_lib.Workdir,
    changes: Sequence[str],
  ):
    self.experiment = experiment
    self.workdir = workdir
    self.config = experiment.config
    self.steps = experiment.plan.steps
    self.is_writer = jax.process_index() == 0
    self.checkpoints = Checkpoints(
      workdir.checkpoints, self.config.checkpoint.keep
    )
    restored = self.checkpoints.restore_newest(experiment.abstract_state)
    if restored is None:
      self.start, self.state, carried = 0, experiment.init(), {}
    else:
      self.start, self.state, carried = (
        restored.step,
        restored.state,
        restored.progress,
      )
      experiment.batches.set_state(restored.data)
    self.eval_loss: float | None = carried.get('eval_loss')
    self._check_length()
    self._rewind_files(changes)
    self.sinks = self._open_sinks()
    self.progress = self._open_progress()
    self.meter = Meter(
      experiment,
      workdir,
      self._write_metrics,
      self.start,
      carried,
      writes_history=self.is_writer,
    )

  def _check_length(self) -> None:
    if self.start > self.steps:
      raise ConfigError(
        f'duration = {self.steps} steps: must be at least the {self.start} '
        f'that the checkpoint in {self.workdir.root} has finished'
      )

  def _rewind_files(self, changes: Sequence[str]) -> None:
    """Files on disk go back to the checkpoint; what follows is redone."""
    if not self.is_writer:
      return
    workdir_lib.write_config(
      self.workdir, self.experiment.resolved, self.start, list(changes)
    )
    if self.start:
      history.truncate(self.workdir.history, self.start)
    else:
      history.create(self.workdir.history, self.experiment.header)

  def _open_sinks(self) -> list[sinks_lib.Sink]:
    if not self.is_writer:
      return []
    return sinks_lib.open_sinks(
      self.workdir.root,
      self.config.logging,
      self.experiment.resolved,
      self.start,
    )

  def _open_progress(self) -> Progress:
    return Progress(self.steps, self.start)

  def to_the_end(self, stop: StopRequest) -> Summary:
    hooks = [
      Hook(self.config.evaluation.every, self.evaluate),
      Hook(self.config.checkpoint.every, self.save),
    ]
    for step in range(self.start, self.steps):
      self._step(step)
      for hook in hooks:
        if hook.is_due(step + 1, self.steps):
          hook.run(step + 1, self.state)
      if stop.signal is not None and step + 1 < self.steps:
        self._save_and_stop(step + 1, stop)
    self.checkpoints.wait()
    return self._write_summary(self.steps, completed=True)

  def _step(self, step: int) -> None:
    experiment = self.experiment
    controls = experiment.controls(step)
    rows = experiment.to_devices(next(experiment.batches))
    self.state, metrics = experiment.train_step(self.state, rows, controls)
    nonzero = None
    if step == 0 or controls.prune:
      nonzero = experiment.count_nonzero(self.state.masks)
    self.meter.push(step + 1, metrics, nonzero)
    self.progress.advance(step + 1)

  def _write_metrics(self, step: int, scalars) -> None:
    for sink in self.sinks:
      sink.write(step, scalars)
    if 'tokens_per_second' in scalars:
      self.progress.show(step, scalars)

  def evaluate(self, step: int, state: TrainState) -> None:
    self.meter.flush()
    with self.meter.paused():
      self.eval_loss = self.experiment.evaluate(state.params)
    tokens = step * self.config.tokens_per_step
    self._write_metrics(step, {'tokens': tokens, 'eval_loss': self.eval_loss})
    self.progress.note(f'step {step:,}: evaluation loss {self.eval_loss:.4f}')
    if step < self.steps:
      self._write_summary(step, completed=False)

  def save(self, step: int, state: TrainState) -> None:
    # Flushed first: a checkpoint must not follow a step that went wrong, and
    # the history must be on disk before the checkpoint that relies on it.
    self.meter.flush()
    with self.meter.paused():
      carried = {**self.meter.progress(), 'eval_loss': self.eval_loss}
      self.checkpoints.save(
        step, state, self.experiment.batches.get_state(), carried
      )

  def _save_and_stop(self, step: int, stop: StopRequest) -> None:
    if step not in self.checkpoints.steps():
      self.save(step, self.state)
    self.checkpoints.wait()
    raise Stopped(
      f'{stop.signal.name} at step {step:,} of {self.steps:,}: saved; the same '
      'command goes on from here'
    )

  def _write_summary(self, step: int, completed: bool) -> Summary:
    summary = {
      **self.meter.summary(step),
      'eval_loss': self.eval_loss,
      'unigram_loss': self.experiment.unigram_loss,
      'completed': completed,
    }
    if self.is_writer:
      workdir_lib.write_json(self.workdir.summary, summary)
    return summary

  def close(self) -> None:
    self.progress.close()
    for sink in self.sinks:
      sink.close()
    self.checkpoints.close()


def finished_summary(
  workdir: workdir_lib.Workdir, steps: int
) -> Summary | None:
  """The summary of a run of `steps` steps that is complete, or None."""
  if not workdir.summary.exists():
    return None
  summary = json.loads(workdir.summary.read_text())
  # A fork that goes on beyond the end starts with the summary of before.
  is_finished = summary['completed'] and summary['steps'] == steps
  return summary if is_finished else None
