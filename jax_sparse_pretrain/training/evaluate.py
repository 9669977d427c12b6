"""Evaluation on a fixed set of rows, by the weights as they are."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

from jax_sparse_pretrain.training import loss as loss_lib


def make_row_losses(
  apply: loss_lib.Apply,
  *,
  params_sharding: Any,
  rows_sharding: NamedSharding,
  loss_sharding: NamedSharding,
) -> Callable[[Any, jax.Array], jax.Array]:
  """Returns (params, int32[B, L + 1]) -> mean loss of each row, in nats.

  Args:
    apply: (params, tokens) -> logits.
    params_sharding: of the params.
    rows_sharding: of a batch.
    loss_sharding: of its losses; replicated.
  """

  def row_losses(params: Any, batch: jax.Array) -> jax.Array:
    return loss_lib.token_losses(apply, params, batch).mean(axis=-1)

  return jax.jit(
    row_losses,
    in_shardings=(params_sharding, rows_sharding),
    out_shardings=loss_sharding,
  )


def make_evaluate(
  row_losses: Callable[[Any, jax.Array], jax.Array],
  rows: np.ndarray,
  batch_size: int,
  rows_sharding: NamedSharding,
) -> Callable[[Any], float]:
  """Returns params -> mean loss over all targets of `rows`, in nats.

  Args:
    row_losses: of `make_row_losses`.
    rows: int32[n, L + 1] on the host, the same in every process.
    batch_size: rows at a time; the last batch is filled up with rows that
      are not counted.
    rows_sharding: of a batch.
  """

  def evaluate(params: Any) -> float:
    losses = []
    for start in range(0, len(rows), batch_size):
      batch = rows[np.arange(start, start + batch_size) % len(rows)]
      batch = jax.make_array_from_callback(
        batch.shape, rows_sharding, batch.__getitem__
      )
      losses.append(row_losses(params, batch))
    counted = np.concatenate(jax.device_get(losses))[: len(rows)]
    return float(counted.mean(dtype=np.float64))

  return evaluate


def unigram_loss(rows: np.ndarray) -> float:
  """Entropy of the targets' own frequencies, in nats.

  The least loss of any predictor that ignores the context.
  """
  _, counts = np.unique(rows[:, 1:], return_counts=True)
  p = counts / counts.sum()
  return float(-(p * np.log(p)).sum())
