"""What a run measures of itself, fetched one step late.

Reading a metric waits for its step. Reading those of step t after step t + 1
has been dispatched keeps the device busy.
"""

import collections
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from jax_sparse_pretrain import history
from jax_sparse_pretrain.model import counts
from jax_sparse_pretrain.training import hardware
from jax_sparse_pretrain.training.setup import Experiment
from jax_sparse_pretrain.training.workdir import Workdir

Write = Callable[[int, Mapping[str, float]], None]


class NonFiniteError(RuntimeError):
  """The loss or the gradient has become NaN or infinite."""


class Meter:
  """Turns device metrics into history rows and logged scalars.

  Args:
    experiment: the run.
    workdir: whose mask history is appended to.
    write: receives (finished steps, scalars) at the logging cadence.
    start_step: finished steps.
    progress: of `progress()` in the checkpoint that the run resumes from.
    writes_history: whether this process does.
  """

  def __init__(
    self,
    experiment: Experiment,
    workdir: Workdir,
    write: Write,
    start_step: int,
    progress: Mapping[str, Any],
    writes_history: bool = True,
  ):
    self._experiment = experiment
    self._workdir = workdir
    self._write = write
    self._writes_history = writes_history
    steps = experiment.plan.steps
    window = max(experiment.config.logging.every, math.ceil(steps / 100))
    losses = progress.get('recent_losses', [])
    self._losses = collections.deque(losses, maxlen=window)
    self._past_seconds = progress.get('wall_seconds', 0.0)
    self._rows = list(history.read(workdir.history).rows)
    self._pending: tuple[int, Any, Any] | None = None
    self._last_finite = losses[-1] if losses else None
    self._started = time.monotonic()
    self._clock = _Clock(start_step)

  def push(self, step: int, metrics: Any, nonzero: Any) -> None:
    """Takes the metrics of `step` finished steps and resolves those before.

    Args:
      step: finished steps, this one included.
      metrics: device scalars.
      nonzero: device counts per layer if the masks have changed, or None.
    """
    self.flush()
    self._pending = (step, metrics, nonzero)

  def flush(self) -> None:
    """Waits for the step in flight and accounts for it.

    Raises:
      NonFiniteError: if its loss or gradient is not finite.
    """
    if self._pending is None:
      return
    step, metrics, nonzero = self._pending
    self._pending = None
    metrics, nonzero = jax.device_get((metrics, nonzero))
    self._clock.tick(step)
    self._check_finite(step, metrics)
    self._losses.append(float(metrics['train_loss']))
    if nonzero is not None:
      self._record_counts(step - 1, nonzero)
    every = self._experiment.config.logging.every
    if step % every == 0 or step == self._experiment.plan.steps:
      self._write(step, self._scalars(step, metrics))

  def _check_finite(self, step: int, metrics: Mapping[str, Any]) -> None:
    bad = [k for k, v in metrics.items() if not math.isfinite(v)]
    if not bad:
      self._last_finite = float(metrics['train_loss'])
      return
    values = ', '.join(f'{name} = {float(metrics[name])}' for name in bad)
    last = 'none' if self._last_finite is None else f'{self._last_finite:.4f}'
    raise NonFiniteError(
      f'step {step}: {values}; last finite loss: {last}. Try a lower '
      'optimizer.peak_lr, a longer optimizer.warmup_fraction, a smaller '
      "optimizer.clip_norm, model.z_loss = 1e-4, or compute_dtype 'float32'"
    )

  def _record_counts(self, step: int, nonzero: Mapping[str, Any]) -> None:
    by_leaf = {k: sum(int(n) for n in v) for k, v in nonzero.items()}
    row = history.Row(step, sum(by_leaf.values()), by_leaf)
    self._rows.append(row)
    if self._writes_history:
      history.append(self._workdir.history, row)

  def _scalars(self, step: int, metrics: Mapping[str, Any]) -> dict[str, float]:
    experiment = self._experiment
    config, header = experiment.config, experiment.header
    nonzero = self._rows[-1].nonzero
    speed = self._clock.lap(step) * config.tokens_per_step
    n_recent = (step - 1) % config.logging.every + 1
    scalars = {
      'tokens': step * config.tokens_per_step,
      **{name: float(value) for name, value in metrics.items()},
      'train_loss': self._mean_loss(n_recent),
      'learning_rate': float(experiment.learning_rates[step - 1]),
      'nonzero': nonzero,
      'density': nonzero / header.linear_parameters,
      'compute_flops': self._compute_flops(step),
      'tokens_per_second': speed,
    }
    peak = _peak_flops(experiment)
    if peak:
      flops = counts.flops_per_token(config.model, header.linear_parameters)
      scalars['mfu'] = speed * flops / peak
    return scalars

  def _mean_loss(self, n: int) -> float:
    recent = list(self._losses)[-n:]
    return math.fsum(recent) / len(recent)

  def _history(self) -> history.History:
    return history.History(self._experiment.header, self._rows)

  def _compute_flops(self, step: int) -> float:
    tokens = step * self._experiment.config.tokens_per_step
    return 6 * self._history().average_parameters(step) * tokens

  def paused(self):
    """A context in which time does not count as training."""
    return self._clock.paused()

  def progress(self) -> dict[str, Any]:
    """What a checkpoint has to carry."""
    return {
      'recent_losses': list(self._losses),
      'wall_seconds': self.wall_seconds,
    }

  @property
  def wall_seconds(self) -> float:
    """Of the run, over all its starts that led here."""
    return self._past_seconds + time.monotonic() - self._started

  def summary(self, step: int) -> dict[str, Any]:
    """The measured part of `summary.json` after `step` finished steps.

    `train_loss` is the mean over the last hundredth of the run's steps.
    """
    header = self._experiment.header
    tokens = step * self._experiment.config.tokens_per_step
    average = self._history().average_parameters(step)
    final = self._rows[-1].nonzero
    last = max(1, math.ceil(self._experiment.plan.steps / 100))
    return {
      'steps': step,
      'tokens': tokens,
      'train_loss': self._mean_loss(last),
      'linear_parameters': header.linear_parameters,
      'total_parameters': header.total_parameters,
      'final_parameters': final,
      'average_parameters': average,
      'sparsity': 1 - final / header.linear_parameters,
      'compute_flops': 6 * average * tokens,
      'dense_equivalent_tokens': tokens * average / header.linear_parameters,
      'wall_seconds': self.wall_seconds,
      'tokens_per_second': self._clock.mean_speed()
      * self._experiment.config.tokens_per_step,
    }


class _Clock:
  """Steps a second, without the first step of a start, which compiles."""

  def __init__(self, step: int):
    self._first: tuple[int, float] | None = None
    self._lap = self._now = (step, 0.0)
    self._paused = 0.0
    self._pause_began: float | None = None

  def tick(self, step: int) -> None:
    self._now = (step, time.monotonic() - self._paused)
    if self._first is None:
      self._first = self._lap = self._now

  def lap(self, step: int) -> float:
    """Steps a second since the last lap."""
    speed = _speed(self._lap, self._now)
    self._lap = self._now
    return speed

  def mean_speed(self) -> float:
    return _speed(self._first, self._now) if self._first else 0.0

  def paused(self) -> '_Clock':
    return self

  def __enter__(self) -> None:
    self._pause_began = time.monotonic()

  def __exit__(self, *exception) -> None:
    self._paused += time.monotonic() - self._pause_began


def _speed(start: tuple[int, float], end: tuple[int, float]) -> float:
  steps, seconds = end[0] - start[0], end[1] - start[1]
  return steps / seconds if seconds > 0 else 0.0


def _peak_flops(experiment: Experiment) -> float | None:
  """Peak of all devices of the mesh."""
  device = experiment.mesh.devices.flat[0]
  given = experiment.config.logging.peak_flops
  peak = given or hardware.peak_flops(device.device_kind)
  return peak and peak * experiment.mesh.size
