"""Next-token cross-entropy: of a training step, and of fixed evaluation rows.

Rows are int32[B, L + 1]: each token but the last is an input, each but the
first a target. Losses are float32, in nats.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding

# (params, tokens int[B, L]) -> logits float32[B, L, V].
Apply = Callable[[Any, jax.Array], jax.Array]


def make_loss_fn(apply: Apply, z_loss: float = 0.0):
  """Returns (params, rows) -> (loss, metrics), for the train step.

  Args:
    apply: the model.
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


def token_losses(apply: Apply, params: Any, rows: jax.Array) -> jax.Array:
  """The loss of each target: float32[B, L]."""
  return optax.softmax_cross_entropy_with_integer_labels(
    apply(params, rows[:, :-1]), rows[:, 1:]
  )


def make_row_losses(
  apply: Apply,
  *,
  params_sharding: Any,
  rows_sharding: NamedSharding,
  loss_sharding: NamedSharding,
) -> Callable[[Any, jax.Array], jax.Array]:
  """Returns jitted (params, rows) -> the mean loss of each row, float32[B].

  Args:
    apply: the model.
    params_sharding: where the params live.
    rows_sharding: where the rows live.
    loss_sharding: where the losses go; replicated, so that every process can
      read them.
  """

  def row_losses(params: Any, rows: jax.Array) -> jax.Array:
    return token_losses(apply, params, rows).mean(axis=-1)

  return jax.jit(
    row_losses,
    in_shardings=(params_sharding, rows_sharding),
    out_shardings=loss_sharding,
  )


def evaluate(
  row_losses: Callable[[Any, jax.Array], jax.Array],
  params: Any,
  rows: np.ndarray,
  batch_size: int,
  rows_sharding: NamedSharding,
) -> float:
  """The mean loss over all targets of `rows`, in nats.

  Args:
    row_losses: what `make_row_losses` returns.
    params: the weights as the forward pass is to see them.
    rows: int32[n, L + 1] on the host, the same in every process.
    batch_size: rows at a time. The last batch is filled up with rows that
      are not counted.
    rows_sharding: where a batch lives.
  """
  losses = []
  for start in range(0, len(rows), batch_size):
    batch = rows[np.arange(start, start + batch_size) % len(rows)]
    batch = jax.make_array_from_callback(
      batch.shape, rows_sharding, batch.__getitem__
    )
    losses.append(row_losses(params, batch))
  counted = np.concatenate(jax.device_get(losses))[: len(rows)]
  return float(counted.mean(dtype=np.float64))


def unigram_loss(rows: np.ndarray) -> float:
  """The entropy of the targets' own frequencies, in nats.

  No predictor that ignores the context has a lower loss.
  """
  _, counts = np.unique(rows[:, 1:], return_counts=True)
  p = counts / counts.sum()
  return float(-(p * np.log(p)).sum())
