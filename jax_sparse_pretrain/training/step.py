"""The loss, and one training step as a pure function.

Rows are int32[B, L + 1]: each token but the last is an input, each but the
first a target. Or they are int32[B, 2, L + 1]: tokens, and the number of each
token's document in the row; then attention stays within documents, and the
first token of a document is no target. Losses are float32, in nats.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax.sharding import NamedSharding

from jax_sparse_pretrain import pruning
from jax_sparse_pretrain.pruning import Pruner

# (params, tokens int[B, L], documents int[B, L] or None) -> logits
# float32[B, L, V].
Apply = Callable[[Any, jax.Array, jax.Array | None], jax.Array]


class Targets(NamedTuple):
  """Rows, taken apart.

  Attributes:
    inputs: int[B, L].
    labels: int[B, L].
    documents: of the inputs, int[B, L]; None if documents are not masked.
    is_target: bool[B, L]; None if all labels are.
  """

  inputs: Any
  labels: Any
  documents: Any
  is_target: Any


def targets_of(rows: Any) -> Targets:
  """Inputs and labels of rows, of JAX or NumPy."""
  if rows.ndim == 2:
    return Targets(rows[:, :-1], rows[:, 1:], None, None)
  tokens, documents = rows[:, 0], rows[:, 1]
  is_target = documents[:, :-1] == documents[:, 1:]
  return Targets(tokens[:, :-1], tokens[:, 1:], documents[:, :-1], is_target)


def make_loss_fn(apply: Apply, z_loss: float = 0.0):
  """Returns (params, rows) -> (loss, metrics), for the train step.

  Args:
    apply: the model.
    z_loss: weight of mean log(Z)^2, which keeps logits from drifting
      (arXiv 2204.02311, section 5).
  """

  def loss_fn(params: Any, rows: jax.Array):
    inputs_BxL, labels_BxL, documents_BxL, is_target_BxL = targets_of(rows)
    logits_BxLxV = apply(params, inputs_BxL, documents_BxL)

    def mean(x_BxL):
      # Over all places; the step divides by the share that are targets.
      if is_target_BxL is None:
        return jnp.mean(x_BxL)
      return jnp.mean(jnp.where(is_target_BxL, x_BxL, 0))

    loss = mean(
      optax.softmax_cross_entropy_with_integer_labels(logits_BxLxV, labels_BxL)
    )
    metrics = {'train_loss': loss}
    if is_target_BxL is not None:
      metrics['target_share'] = jnp.mean(is_target_BxL, dtype=jnp.float32)
    if z_loss:
      loss += z_loss * mean(jnp.square(jax.nn.logsumexp(logits_BxLxV, axis=-1)))
    return loss, metrics

  return loss_fn


def token_losses(apply: Apply, params: Any, rows: jax.Array) -> jax.Array:
  """The loss of each target, float32[B, L]; 0 where there is none."""
  inputs_BxL, labels_BxL, documents_BxL, is_target_BxL = targets_of(rows)
  losses_BxL = optax.softmax_cross_entropy_with_integer_labels(
    apply(params, inputs_BxL, documents_BxL), labels_BxL
  )
  if is_target_BxL is None:
    return losses_BxL
  return jnp.where(is_target_BxL, losses_BxL, 0)


def make_row_losses(
  apply: Apply,
  *,
  params_sharding: Any,
  rows_sharding: NamedSharding,
  loss_sharding: NamedSharding,
) -> Callable[[Any, jax.Array], jax.Array]:
  """Returns jitted (params, rows) -> loss of each row over L, float32[B].

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
  is_target = targets_of(rows).is_target
  share = 1.0 if is_target is None else is_target.mean()
  return float(counted.mean(dtype=np.float64) / share)


def unigram_loss(rows: np.ndarray) -> float:
  """The entropy of the targets' own frequencies, in nats.

  No predictor that ignores the context has a lower loss.
  """
  _, labels, _, is_target = targets_of(rows)
  _, counts = np.unique(
    labels if is_target is None else labels[is_target], return_counts=True
  )
  p = counts / counts.sum()
  return float(-(p * np.log(p)).sum())


PyTree = Any
Metrics = dict[str, jax.Array]
# (params, rows) -> (loss to minimise, metrics).
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
  measured: Mapping[str, pruning.Kernel] | None = None,
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
    measured: kernels whose `pruning.sums_of_magnitudes` become the metric
      `masses`, {kernel: float32[2, n_layers]}: before an update, and of what it
      keeps, both of the weights before the optimizer; zeros at other steps.
      Without masks, or straight through, there is none.
  """
  tx = optax.with_extra_args_support(tx)
  gradients = _accumulated(jax.grad(loss_fn, has_aux=True), accumulation_steps)
  # A straight-through forward pass cuts anew in every step.
  measured = {} if pruner.straight_through else measured or {}

  def sums(params, masks):
    names = sorted(measured.keys() & pruner.kept(params, masks).keys())
    leaves = pruning.select(params, names)
    return pruning.sums_of_magnitudes(leaves, measured)

  def cut_and_measure(params, masks, budget):
    before = sums(params, masks)
    budget = _after(before, budget)
    params, masks = pruner.update(params, masks, True, budget)
    return params, masks, _pairs(before, sums(params, masks))

  def update(params, masks, due, budget):
    """That of the pruner, and what it finds and keeps; None if not measured."""
    if pruner.delay or not measured or masks is None:
      return *pruner.update(params, masks, due, budget), None

    def keep(params, masks, budget):
      _, _, nothing = _zeros(cut_and_measure, params, masks, budget)
      return params, masks, nothing

    return jax.lax.cond(due, cut_and_measure, keep, params, masks, budget)

  def measure(params, masks, due):
    """What masks that have changed in `optimize` will leave of the weights."""
    if not pruner.delay or not measured or masks is None:
      return None

    def masses(params, masks):
      left = pruning.apply_masks(params, pruner.kept(params, masks))
      return _pairs(sums(params, masks), sums(left, masks))

    nothing = functools.partial(_zeros, masses)
    return jax.lax.cond(due, masses, nothing, params, masks)

  def train_step(
    state: TrainState, rows: jax.Array, controls: Controls
  ) -> tuple[TrainState, Metrics]:

    def apply(grads, opt_state, params):
      return tx.update(
        grads, opt_state, params, learning_rate=controls.learning_rate
      )

    now = controls.prune, controls.budget
    params, masks, mass = update(state.params, state.masks, *now)
    grads, metrics = gradients(pruner.forward(params, masks), rows)
    if 'target_share' in metrics:
      share = jnp.maximum(metrics['target_share'], jnp.finfo(jnp.float32).tiny)
      grads = jax.tree.map(lambda g: g / share, grads)
      metrics['train_loss'] /= share
    grads = pruner.mask_gradients(grads, masks)
    updates, opt_state, masks = pruner.optimize(
      apply, grads, state.opt_state, params, masks, *now
    )
    if pruner.delay:
      mass = measure(params, masks, controls.prune)
      updates = _after(mass or {}, updates)
    if mass:
      metrics['masses'] = mass
    params = pruner.mask(optax.apply_updates(params, updates), masks)
    metrics['grad_norm'] = optax.tree.norm(grads)
    # It tells at once if the update was not finite, before a checkpoint is
    # saved.
    metrics['param_norm'] = optax.tree.norm(params)
    return TrainState(state.step + 1, params, opt_state, masks), metrics

  return train_step


def _pairs(before, kept):
  """{kernel: [n_layers]} twice -> {kernel: [2, n_layers]}."""
  return {name: jnp.stack([before[name], kept[name]]) for name in before}


def _after(sums, tree):
  """The tree as it is, but not known before these sums, which are >= 0.

  What changes weights in place by it has to wait until they are summed. Else
  the compiler would copy all weights, in every step.
  """
  if not sums:
    return tree
  negative = jnp.any(jnp.concatenate(list(sums.values()), axis=-1) < 0)
  return jax.tree.map(lambda x: x + negative.astype(x.dtype), tree)


def _zeros(function, *args):
  """Zeros of the shapes that the function would return."""
  shapes = jax.eval_shape(function, *args)
  return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)


def _accumulated(grad_fn, n: int):
  """Averages gradients and metrics over n micro-batches, one at a time."""
  if n == 1:
    return grad_fn

  def accumulate(params: PyTree, rows: jax.Array):
    # Strided, so that a device's rows of the batch stay on that device.
    micro_batches = rows.reshape(-1, n, *rows.shape[1:]).swapaxes(0, 1)

    def add(total, micro_batch):
      share = jax.tree.map(lambda x: x / n, grad_fn(params, micro_batch))
      return jax.tree.map(jnp.add, total, share), None

    zero = _zeros(grad_fn, params, micro_batches[0])
    return jax.lax.scan(add, zero, micro_batches)[0]

  return accumulate
