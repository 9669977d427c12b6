"""Next-token cross-entropy, in float32."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

Apply = Callable[[Any, jax.Array], jax.Array]


def token_losses(apply: Apply, params: Any, rows: jax.Array) -> jax.Array:
  """Nats of each target: rows int[B, L + 1] -> float32[B, L]."""
  return optax.softmax_cross_entropy_with_integer_labels(
    apply(params, rows[:, :-1]), rows[:, 1:]
  )


def make_loss_fn(apply: Apply, z_loss: float = 0.0):
  """Returns (params, rows) -> (loss, metrics), for the train step.

  Args:
    apply: (params, tokens int[B, L]) -> logits float32[B, L, V].
    z_loss: weight of mean log(Z)^2, which keeps logits from drifting
      (arXiv 2204.02311, section 5).
  """

  def loss_fn(params: Any, rows: jax.Array):
    logits_BxLxV = apply(params, rows[:, :-1])
    loss = optax.softmax_cross_entropy_with_integer_labels(
      logits_BxLxV, rows[:, 1:]
    ).mean()
    metrics = {'train_loss': loss}
    if z_loss:
      log_z_BxL = jax.nn.logsumexp(logits_BxLxV, axis=-1)
      loss += z_loss * jnp.mean(jnp.square(log_z_BxL))
    return loss, metrics

  return loss_fn
