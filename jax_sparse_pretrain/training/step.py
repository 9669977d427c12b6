"""One training step, as a pure function of state, batch and controls."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from jax_sparse_pretrain.pruning import Pruner

PyTree = Any
Metrics = dict[str, jax.Array]
# (params, rows int[B, L + 1]) -> (loss to minimise, metrics).
LossFn = Callable[[PyTree, jax.Array], tuple[jax.Array, Metrics]]


@struct.dataclass
class TrainState:
  """The state of a run, which a checkpoint holds whole.

  Attributes:
    step: finished steps, int32.
    params: the weights; pruned ones are exact zeros.
    opt_state: the state of the optax transformation.
    masks: the state of the pruner; None in a run that never prunes.
  """

  step: jax.Array
  params: PyTree
  opt_state: optax.OptState
  masks: PyTree


class Controls(NamedTuple):
  """What the host decides for one step; data, so that nothing is retraced.

  Attributes:
    learning_rate: float32.
    prune: whether the masks are updated in this step.
    budget: how many weights an update keeps, as `Pruner.budget_for` says it.
  """

  learning_rate: Any
  prune: Any
  budget: Any


def init_state(
  params: PyTree, tx: optax.GradientTransformation, pruner: Pruner
) -> TrainState:
  """The state of a run that has not begun, its params masked."""
  masks = pruner.init(params)
  return TrainState(
    step=jnp.zeros((), jnp.int32),
    params=pruner.mask(params, masks),
    opt_state=tx.init(params),
    masks=masks,
  )


def make_train_step(
  loss_fn: LossFn,
  tx: optax.GradientTransformation,
  pruner: Pruner,
  *,
  accumulation_steps: int = 1,
):
  """Returns (state, rows, controls) -> (state, metrics).

  A step does, in this order:
    1. update the masks, if it is time, and zero the weights that they drop;
    2. the forward and the backward pass;
    3. mask the gradients, so that the clipping norm leaves pruned weights out;
    4. the optimizer;
    5. mask the parameters, since Adam's momentum would bring pruned weights
       back.
  The pruner decides which of 1, 3 and 5 do anything.

  Args:
    loss_fn: what to minimise; differentiated in its first argument.
    tx: any optax transformation; one that takes `learning_rate` gets it.
    pruner: decides which weights go, and when masks act.
    accumulation_steps: micro-batches whose gradients are averaged.
  """
  tx = optax.with_extra_args_support(tx)
  gradients = _accumulated(jax.grad(loss_fn, has_aux=True), accumulation_steps)

  def train_step(
    state: TrainState, rows: jax.Array, controls: Controls
  ) -> tuple[TrainState, Metrics]:

    def apply(grads, opt_state, params):
      return tx.update(
        grads, opt_state, params, learning_rate=controls.learning_rate
      )

    now = controls.prune, controls.budget
    params, masks = pruner.update(state.params, state.masks, *now)
    grads, metrics = gradients(pruner.forward(params, masks), rows)
    grads = pruner.mask_gradients(grads, masks)
    updates, opt_state, masks = pruner.optimize(
      apply, grads, state.opt_state, params, masks, *now
    )
    params = pruner.mask(optax.apply_updates(params, updates), masks)
    metrics['grad_norm'] = optax.tree.norm(grads)
    # It tells at once if the update was not finite, before a checkpoint is
    # saved.
    metrics['param_norm'] = optax.tree.norm(params)
    return TrainState(state.step + 1, params, opt_state, masks), metrics

  return train_step


def _accumulated(grad_fn, n: int):
  """Averages gradients and metrics over n micro-batches, one at a time."""
  if n == 1:
    return grad_fn

  def accumulate(params: PyTree, rows: jax.Array):
    # Strided, so that a device's rows of the batch stay on that device.
    micro_batches = rows.reshape(-1, n, rows.shape[-1]).swapaxes(0, 1)

    def add(total, micro_batch):
      share = jax.tree.map(lambda x: x / n, grad_fn(params, micro_batch))
      return jax.tree.map(jnp.add, total, share), None

    shapes = jax.eval_shape(grad_fn, params, micro_batches[0])
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.scan(add, zero, micro_batches)[0]

  return accumulate
