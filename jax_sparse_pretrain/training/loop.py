"""The training loop: batch, step, and what is done after some steps."""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import multihost_utils

from jax_sparse_pretrain import distributed
from jax_sparse_pretrain.command_line import Stopped, StopRequest
from jax_sparse_pretrain.distributed import AgreedStop
from jax_sparse_pretrain.pruning import path_name
from jax_sparse_pretrain.runs import resume
from jax_sparse_pretrain.runs import workdir as workdir_lib
from jax_sparse_pretrain.runs.branches import Branches
from jax_sparse_pretrain.runs.checkpoint import Checkpoints, Restored
from jax_sparse_pretrain.runs.lock import Claim
from jax_sparse_pretrain.runs.output import Output, open_output
from jax_sparse_pretrain.training.metrics import Meter, NonFiniteError
from jax_sparse_pretrain.training.progress import Part, Progress, Silent
from jax_sparse_pretrain.training.setup import Experiment

Summary = dict[str, Any]


def train(
  experiment: Experiment,
  workdir: workdir_lib.Workdir,
  stop: StopRequest | AgreedStop,
  previous: workdir_lib.Previous | None = None,
  *,
  progress: Progress | Part | Silent | None = None,
  branches: Branches | None = None,
  claim: Claim | None = None,
) -> Summary:
  """Trains to the end, from the newest checkpoint of `workdir` if it has one.

  Args:
    experiment: the run; its batches are closed at the end.
    workdir: the run's files.
    stop: asked after every step whether to stop.
    previous: the run that `workdir` holds, checked by `check_same_run`.
    progress: shows a person how far the run is; not closed if given.
    branches: where other runs leave this one.
    claim: the right to write into the workdir.

  Returns:
    What `summary.json` holds.

  Raises:
    ConfigError: if the previous run cannot be continued like this.
    Stopped: on a signal, once the state is saved.
    NonFiniteError: if the loss, the gradient or the weights are not finite;
      the newest checkpoint is from before.
    CheckpointError: if there are checkpoints and none can be read.
    TakenOver: if another start of the run has the workdir now.
  """
  with contextlib.ExitStack() as stack:
    # The thread that prefetches must not outlive the run, or it may abort the
    # interpreter at its exit.
    stack.enter_context(contextlib.closing(experiment.batches))
    checkpoints = Checkpoints(
      workdir.checkpoints,
      experiment.config.checkpoint.keep,
      experiment.config.checkpoint.keep_every,
    )
    stack.enter_context(contextlib.closing(checkpoints))
    distributed.on_primary(
      lambda: resume.check_fork(
        experiment, workdir, previous, checkpoints.steps()
      )
    )
    start = resume.start_or_resume(experiment, checkpoints)
    output = stack.enter_context(
      open_output(experiment, workdir, previous, start.step, claim or Claim())
    )
    if progress is None:
      progress = stack.enter_context(_progress(experiment, start.step))
    for note in experiment.notes:
      progress.note(note)
    branches = branches or Branches(workdir.root)
    run = _Run(experiment, output, checkpoints, progress, start, branches)
    try:
      return run.to_the_end(stop)
    except Exception:
      # Perhaps another start has changed the files. With several processes,
      # the primary may not have failed, and then nobody checks.
      if claim and distributed.is_alone():
        claim.check()
      raise


def _progress(experiment: Experiment, start_step: int) -> Progress | Silent:
  if distributed.is_primary():
    return Progress(experiment.plan.steps, start_step)
  return Silent()


class _Run:
  """A run in motion."""

  def __init__(
    self,
    experiment: Experiment,
    output: Output,
    checkpoints: Checkpoints,
    progress: Progress | Part | Silent,
    start: Restored,
    branches: Branches,
  ):
    self._experiment, self._config = experiment, experiment.config
    self._output = output
    self._checkpoints = checkpoints
    self._progress = progress
    self._branches = branches
    self._start, self._steps = start.step, experiment.plan.steps
    self._state = start.state
    self._eval_losses = {
      name: start.progress.get(name) for name in experiment.evaluation_rows
    }
    self._meter = Meter(
      experiment,
      output,
      self._write_metrics,
      start.progress,
      n_losses=branches.n_losses,
    )

  def to_the_end(self, stop: StopRequest | AgreedStop) -> Summary:
    config = self._config
    try:
      for step in range(self._start + 1, self._steps + 1):
        self._take_step(step)
        if self._is_due(step, config.evaluation.every):
          self._evaluate(step)
        # Before the checkpoint: a run that goes on from there has branched.
        if self._branches.is_due(step):
          self._leave_branch(step)
        if self._is_due(step, config.checkpoint.every):
          self._save(step)
        if stop.is_due() and step < self._steps:
          self._save_and_stop(step, stop)
    except NonFiniteError as error:
      leaves = ', '.join(_not_finite(self._state.params)) or 'none'
      raise NonFiniteError(f'{error}. Leaves not finite: {leaves}') from None
    self._checkpoints.wait()
    return self._write_summary(self._steps, completed=True)

  def _is_due(self, step: int, every: int) -> bool:
    """At multiples of `every`, if not 0, and after the last step."""
    return step == self._steps or (every > 0 and step % every == 0)

  def _take_step(self, step: int) -> None:
    """Takes the step after which `step` steps are finished."""
    experiment, programs = self._experiment, self._experiment.programs
    controls = experiment.controls(step - 1)
    with self._meter.waiting():
      rows = next(experiment.batches)
    rows = experiment.to_devices(rows)
    # Counts by the first forward pass that sees them. With a delay that is the
    # next one, and what the very first sees is counted before it.
    delay, counts = experiment.delay, {}
    if step == 1 and delay:
      counts[0] = programs.count_nonzero(self._state), None
    self._state, metrics = programs.train_step(self._state, rows, controls)
    masses = metrics.pop('masses', None)
    if controls.prune or (step == 1 and not delay):
      mass = masses if controls.prune else None
      counts[step - 1 + delay] = programs.count_nonzero(self._state), mass
    self._meter.push(step, metrics, counts)
    if step in self._config.pruning.snapshots:
      self._take_snapshot(step)
    self._progress.advance(step)

  def _take_snapshot(self, step: int) -> None:
    with self._meter.paused():
      # One kernel after another, since every device holds all of it meanwhile.
      masks = {
        name: multihost_utils.process_allgather(mask, tiled=True)
        for name, mask in self._experiment.programs.kept(self._state).items()
      }
      self._output.write_snapshot(step, masks)

  def _write_metrics(self, step: int, scalars) -> None:
    self._output.write_scalars(step, scalars)
    if 'train_loss' in scalars:
      self._progress.show(step, scalars)

  def _settle(self) -> None:
    """Makes sure that all steps so far went well, and writes what is known.

    To be called before anything that relies on these steps.
    """
    self._meter.flush()
    self._output.settle()

  def _evaluate(self, step: int) -> None:
    self._settle()
    with self._meter.paused():
      losses = self._experiment.evaluate(
        self._experiment.programs.forward(self._state)
      )
    self._meter.check_finite(step, losses)
    self._eval_losses = losses
    self._write_metrics(step, {'tokens': self._meter.tokens(step), **losses})
    others = ''.join(
      f', {name.removeprefix("eval_loss_")} {loss:.4f}'
      for name, loss in losses.items()
      if name != 'eval_loss'
    )
    self._progress.note(
      f'step {step:,}: evaluation loss {losses["eval_loss"]:.4f}{others}'
    )
    if step < self._steps:
      self._write_summary(step, completed=False)

  def _save(self, step: int) -> None:
    self._settle()
    with self._meter.paused():
      self._save_to(self._checkpoints, step, self._carried())

  def _leave_branch(self, step: int) -> None:
    self._settle()
    with self._meter.paused():
      carried = self._carried()
      self._branches.leave(
        step,
        self._output.workdir,
        lambda checkpoints: self._save_to(checkpoints, step, carried),
        n_losses=len(carried['recent_losses']),
      )

  def _carried(self) -> dict[str, Any]:
    return {**self._meter.carried(), **self._eval_losses}

  def _save_to(self, checkpoints: Checkpoints, step: int, carried) -> None:
    data = self._experiment.batches.get_state()
    checkpoints.save(step, self._state, data, carried)

  def _save_and_stop(self, step: int, stop: StopRequest | AgreedStop) -> None:
    if step not in self._checkpoints.steps():
      self._save(step)
    self._checkpoints.wait()
    raise Stopped(
      f'{stop.name} at step {step:,} of {self._steps:,}: saved; the '
      'same command goes on from here'
    )

  def _write_summary(self, step: int, completed: bool) -> Summary:
    summary = {
      **self._meter.summary(step),
      **self._eval_losses,
      'unigram_loss': self._experiment.unigram_loss,
      'completed': completed,
    }
    if self._config.init_from:
      summary['init_from'] = self._config.init_from
    self._output.write_summary(summary)
    return summary


def _not_finite(params) -> list[str]:
  """Paths of the leaves that hold a NaN or an infinity."""
  finite = jax.device_get(jax.tree.map(lambda x: jnp.isfinite(x).all(), params))
  return [
    path_name(path)
    for path, is_finite in jax.tree.leaves_with_path(finite)
    if not is_finite
  ]
