"""What a run measures of itself: losses, counts of weights, speed.

Reading a metric waits for its step. The metrics of step t are therefore read
after step t + 1 has been dispatched, which keeps the device busy.
"""

import collections
import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jax_sparse_pretrain import history
from jax_sparse_pretrain.model.counts import flops_per_token, training_flops
from jax_sparse_pretrain.runs.output import Output
from jax_sparse_pretrain.training import recipe
from jax_sparse_pretrain.training.setup import Experiment


class NonFiniteError(RuntimeError):
  """A loss, the gradient or the weights have become NaN or infinite."""


def tail(steps: int) -> int:
  """The last hundredth of a run, over which the summary averages its loss."""
  return math.ceil(steps / 100)


class Meter:
  """Turns device metrics into history rows and logged scalars.

  Args:
    experiment: the run.
    output: has the mask history so far, and receives the rows that follow.
    write: receives (finished steps, scalars) at the logging cadence.
    carried: what `carried()` gave to the checkpoint that the run resumes from.
    n_losses: how many recent losses to carry, if more than the run needs
      itself.
  """

  def __init__(
    self,
    experiment: Experiment,
    output: Output,
    write: Callable[[int, Mapping[str, float]], None],
    carried: Mapping[str, Any],
    n_losses: int = 0,
  ):
    self._experiment = experiment
    self._config, self._header = experiment.config, experiment.header
    self._output, self._history = output, output.history
    self._write = write
    self._tail = tail(experiment.plan.steps)
    losses = carried.get('recent_losses', [])
    window = max(self._config.logging.every, self._tail, n_losses)
    self._losses = collections.deque(losses, maxlen=window)
    self._last_finite = losses[-1] if losses else None
    self._pending: tuple[int, Any, Mapping[int, Any]] | None = None
    self._past_seconds = carried.get('wall_seconds', 0.0)
    self._started = time.monotonic()
    self._clock = Clock(*carried.get('timed', ()))
    # Counted where not every token of a row is a target.
    self._targets = carried.get('targets', 0)
    self._waited = carried.get('waited_seconds', 0.0)

  def push(self, step: int, metrics: Any, counts: Mapping[int, Any]) -> None:
    """Takes the metrics of a step, and reads those of the step before.

    Args:
      step: finished steps, this one included.
      metrics: device scalars.
      counts: of masks that have changed, by the first step (0-based) whose
        forward pass has them: device counts per layer, and the mass of the
        cut, {kernel: float32[2, n_layers]}, or None.
    """
    self.flush()
    self._pending = (step, metrics, counts)

  def flush(self) -> None:
    """Waits for the step in flight and accounts for it.

    Raises:
      NonFiniteError: if its loss, gradient or weights are not finite.
    """
    if self._pending is None:
      return
    step, metrics, counts = self._pending
    self._pending = None
    metrics, counts = jax.device_get((metrics, counts))
    self._clock.tick()
    if 'target_share' in metrics:
      share = float(metrics['target_share'])
      self._targets += round(share * self._config.tokens_per_step)
    loss = float(metrics['train_loss'])
    if math.isfinite(loss):
      self._last_finite = loss
    self.check_finite(step, metrics)
    self._losses.append(loss)
    for first_seen, (by_layer, masses) in counts.items():
      by_leaf = {k: sum(int(n) for n in v) for k, v in by_layer.items()}
      mass = masses and {k: _shortest(v) for k, v in masses.items()}
      row = history.Row(first_seen, sum(by_leaf.values()), by_leaf, mass)
      self._output.write_row(row)
    every = self._config.logging.every
    if step % every == 0 or step == self._experiment.plan.steps:
      self._write(step, self._scalars(step, metrics))

  def check_finite(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Raises NonFiniteError if one of the metrics is not finite."""
    bad = [k for k, v in metrics.items() if not math.isfinite(v)]
    if not bad:
      return
    values = ', '.join(f'{name} = {float(metrics[name])}' for name in bad)
    last = 'none' if self._last_finite is None else f'{self._last_finite:.4f}'
    raise NonFiniteError(
      f'step {step}: {values}; last finite loss: {last}. Try a lower '
      'optimizer.peak_lr, a longer optimizer.warmup_fraction, a smaller '
      "optimizer.clip_norm, model.z_loss = 1e-4, or compute_dtype 'float32'"
    )

  def _scalars(self, step: int, metrics: Mapping[str, Any]) -> dict[str, float]:
    # In the forward pass of the last finished step, which is `step` - 1.
    seen = (row for row in reversed(self._history.rows) if row.step < step)
    nonzero = next(seen).nonzero
    tokens = self.tokens(step)
    every = self._config.logging.every
    average = self._history.average_parameters(step)
    return {
      'tokens': tokens,
      **{name: float(value) for name, value in metrics.items()},
      'train_loss': self._mean_loss((step - 1) % every + 1),
      'learning_rate': float(self._experiment.learning_rates[step - 1]),
      'nonzero': nonzero,
      'density': nonzero / self._header.linear_parameters,
      'compute_flops': training_flops(average, tokens),
      **self._speed(self._clock.lap()),
    }

  def _speed(self, steps_per_second: float | None) -> dict[str, float]:
    """Tokens a second and MFU; nothing as long as no step has been timed."""
    if steps_per_second is None:
      return {}
    tokens = steps_per_second * self._config.tokens_per_step
    peak = self._experiment.peak_flops
    if not peak:
      return {'tokens_per_second': tokens}
    # Hardware computes the pruned weights too.
    linear = self._header.linear_parameters
    flops = tokens * flops_per_token(self._config.model, linear)
    return {'tokens_per_second': tokens, 'mfu': flops / peak}

  def _mean_loss(self, n: int) -> float:
    recent = list(self._losses)[-n:]
    return math.fsum(recent) / len(recent)

  def tokens(self, step: int) -> int:
    """Targets in the loss of `step` finished steps."""
    return self._targets or step * self._config.tokens_per_step

  def paused(self):
    """A context in which time does not count as training."""
    return self._clock.paused()

  @contextlib.contextmanager
  def waiting(self) -> Iterator[None]:
    """A context in which the run waits for data."""
    began = time.monotonic()
    yield
    self._waited += time.monotonic() - began

  def carried(self) -> dict[str, Any]:
    """What a checkpoint has to carry."""
    return {
      'recent_losses': list(self._losses),
      'wall_seconds': self._wall_seconds(),
      'targets': self._targets,
      'waited_seconds': self._waited,
      'timed': [self._clock.timed_steps, self._clock.timed_seconds],
    }

  def _wall_seconds(self) -> float:
    """The run's time so far, over all its starts that led here."""
    return self._past_seconds + time.monotonic() - self._started

  def summary(self, step: int) -> dict[str, Any]:
    """The measured part of `summary.json` after `step` finished steps.

    `train_loss` is the mean over the last hundredth of the run's steps.
    `l1_parameters` follows from counts, and `l1_measured_parameters` from the
    sums of magnitudes, None if a cut was not measured.
    """
    linear = self._header.linear_parameters
    final = self._history.rows[-1].nonzero
    exempt = recipe.exempt_parameters(self._config)
    tokens = self.tokens(step)
    average = self._history.average_parameters(step)
    speed = self._clock.mean()
    return {
      'steps': step,
      'tokens': tokens,
      'train_loss': self._mean_loss(self._tail),
      'linear_parameters': linear,
      'total_parameters': self._header.total_parameters,
      'final_parameters': final,
      'exempt_parameters': exempt,
      'l1_parameters': history.gaussian_parameters(linear, exempt, final),
      'l1_measured_parameters': self._history.measured_parameters(),
      'average_parameters': average,
      'sparsity': 1 - final / linear,
      'compute_flops': training_flops(average, tokens),
      'dense_equivalent_tokens': tokens * average / linear,
      'wall_seconds': self._wall_seconds(),
      'data_seconds': self._waited,
      'tokens_per_second': speed and speed * self._config.tokens_per_step,
    }


def _shortest(sums: np.ndarray) -> list[list[float]]:
  """float32 -> the numbers of fewest digits that round to them."""
  return [[float(str(each)) for each in layers] for layers in sums]


class Clock:
  """Steps a second, without the first step of a start, which compiles.

  Args:
    timed_steps: steps that earlier starts of the run have timed.
    timed_seconds: the time that those steps took.
  """

  def __init__(self, timed_steps: int = 0, timed_seconds: float = 0.0):
    self.timed_steps, self.timed_seconds = timed_steps, timed_seconds
    self._last: float | None = None
    self._lap = (0, 0.0)
    self._paused = 0.0

  def tick(self) -> None:
    """Notes that a step is finished."""
    now = time.monotonic() - self._paused
    if self._last is not None:
      seconds = now - self._last
      self.timed_steps += 1
      self.timed_seconds += seconds
      self._lap = (self._lap[0] + 1, self._lap[1] + seconds)
    self._last = now

  def lap(self) -> float | None:
    """Steps a second since the last lap; None if none was timed."""
    (steps, seconds), self._lap = self._lap, (0, 0.0)
    return _speed(steps, seconds)

  def mean(self) -> float | None:
    """Steps a second over all starts; None if no step was timed."""
    return _speed(self.timed_steps, self.timed_seconds)

  @contextlib.contextmanager
  def paused(self) -> Iterator[None]:
    """Time inside does not count."""
    began = time.monotonic()
    try:
      yield
    finally:
      self._paused += time.monotonic() - began


def _speed(steps: int, seconds: float) -> float | None:
  return steps / seconds if seconds > 0 else None
