"""AdamW whose learning rate is an argument of `update`.

Learning rates are data, one number a step, so that runs which differ only in
their schedule share one compiled step.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jax_sparse_pretrain import config as config_lib


def make_optimizer(
  config: config_lib.Optimizer,
) -> optax.GradientTransformationExtraArgs:
  """Clipping by global norm, Adam, decoupled weight decay, learning rate.

  It is called as `update(grads, state, params, learning_rate=...)`.
  """
  clip = (
    optax.clip_by_global_norm(config.clip_norm)
    if config.clip_norm
    else optax.identity()
  )
  return optax.chain(
    clip,
    optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps),
    optax.add_decayed_weights(
      config.weight_decay, mask=None if config.decay_norms else _not_norms
    ),
    scale_by_given_learning_rate(),
  )


def scale_by_given_learning_rate() -> optax.GradientTransformationExtraArgs:
  """Multiplies updates by minus the `learning_rate` passed to `update`."""

  def update(updates, state, params=None, *, learning_rate, **extra_args):
    del params, extra_args
    return jax.tree.map(lambda u: -learning_rate * u, updates), state

  return optax.GradientTransformationExtraArgs(
    lambda params: optax.EmptyState(), update
  )


def learning_rates(config: config_lib.Optimizer, steps: int) -> np.ndarray:
  """The learning rate of every step, float32[steps].

  Linear warm-up reaches the peak at its last step. The last step of the run,
  if it comes after warm-up, has the final rate.
  """
  warmup = warmup_steps(config, steps)
  schedule = optax.join_schedules(
    [
      optax.linear_schedule(0.0, config.peak_lr, max(warmup, 1)),
      _after_warmup(config, steps, max(steps - warmup, 1)),
    ],
    boundaries=[warmup],
  )
  # Rounded up, so that runs of different lengths share compiled operations.
  length = 1 << steps.bit_length()
  rates = np.asarray(schedule(jnp.arange(1, length + 1)), np.float32)
  return np.broadcast_to(rates, (length,))[:steps]


def warmup_steps(config: config_lib.Optimizer, steps: int) -> int:
  """Steps of warm-up in a run of `steps`."""
  return config.warmup_steps or round(config.warmup_fraction * steps)


def decay_steps(config: config_lib.Optimizer, steps: int) -> int:
  """Steps of decay of a warmup_stable_decay run of `steps`."""
  return max(round(config.decay_fraction * steps), 1)


def _after_warmup(
  config: config_lib.Optimizer, steps: int, left: int
) -> optax.Schedule:
  """Step since the end of warm-up -> learning rate."""
  peak, final = config.peak_lr, config.peak_lr * config.final_lr_fraction
  if config.schedule == 'cosine':
    return optax.cosine_decay_schedule(peak, left, config.final_lr_fraction)
  if config.schedule == 'linear':
    return optax.linear_schedule(peak, final, left)
  if config.schedule == 'warmup_stable_decay':
    decay = min(decay_steps(config, steps), left)
    return optax.linear_schedule(peak, final, decay, left - decay)
  return optax.constant_schedule(peak)


def _not_norms(params: Any) -> Any:
  """True but for norm scales, by name, since a stacked scale has rank 2."""
  return jax.tree.map_with_path(lambda path, _: path[-1].key != 'scale', params)
