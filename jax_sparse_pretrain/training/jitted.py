"""The jitted functions of a run and the shardings of its state."""

import functools
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import Mesh

from jax_sparse_pretrain import pruning, sharding
from jax_sparse_pretrain.config import Config
from jax_sparse_pretrain.model.decoder import Decoder
from jax_sparse_pretrain.training import loss as loss_lib
from jax_sparse_pretrain.training import optimizer as optimizer_lib
from jax_sparse_pretrain.training import step as step_lib


class Programs(NamedTuple):
  """The jitted functions of a run, and what its state looks like.

  Each function is compiled when it is first called.

  Attributes:
    abstract_state: the shapes, types and shardings of the state.
    init: seed -> fresh state, on the devices.
    init_masks: (params, finished steps) -> masks that keep everything.
    train_step: (state, rows, controls) -> (state, metrics); donates the state.
    forward: state -> the params that the forward pass sees.
    kept: state -> {kernel: bool[shape]}; kernels that are left out are dense.
    count_nonzero: state -> {kernel: kept weights in each layer}, as the
      forward pass sees them.
    row_losses: (params, rows) -> the mean loss of each row.
  """

  abstract_state: step_lib.TrainState
  init: Callable[[int], step_lib.TrainState]
  init_masks: Callable[[Any, int], Any]
  train_step: Callable
  forward: Callable[[step_lib.TrainState], Any]
  kept: Callable[[step_lib.TrainState], Any]
  count_nonzero: Callable
  row_losses: Callable


# By `program_keys.program_key` and mesh: programs that runs of one process
# share.
Cache = MutableMapping[tuple[str, Mesh], Programs]


def make_programs(
  config: Config,
  mesh: Mesh,
  kernels: Mapping[str, pruning.Kernel],
  pruner: pruning.Pruner,
) -> Programs:
  """Makes the functions; compiles nothing.

  Raises:
    ConfigError: for a mesh axis that does not divide a parameter.
  """
  model = Decoder(config.model, sharding.constrain_to(mesh))

  def apply(params, tokens):
    return model.apply({'params': params}, tokens)

  tx = optimizer_lib.make_optimizer(config.optimizer)
  init = _make_init(model, config, tx, pruner)
  abstract = jax.eval_shape(init, 0)
  params_sharding = sharding.parameter_shardings(
    mesh, _abstract_params(model, config)
  )
  shardings = _state_shardings(abstract, params_sharding, tx, mesh)
  rows_sharding = sharding.batch_sharding(mesh)
  everywhere = sharding.replicated(mesh)
  train_step = step_lib.make_train_step(
    loss_lib.make_loss_fn(apply, config.model.z_loss),
    tx,
    pruner,
    accumulation_steps=config.accumulation_steps,
  )
  return Programs(
    abstract_state=jax.tree.map(
      lambda leaf, where: jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=where
      ),
      abstract,
      shardings,
    ),
    init=jax.jit(init, out_shardings=shardings),
    init_masks=jax.jit(pruner.init, out_shardings=shardings.masks),
    train_step=jax.jit(
      train_step,
      in_shardings=(shardings, rows_sharding, everywhere),
      out_shardings=(shardings, everywhere),
      donate_argnums=0,
    ),
    forward=_make_forward(pruner, params_sharding),
    kept=jax.jit(lambda state: pruner.kept(state.params, state.masks)),
    count_nonzero=_make_count(kernels, pruner, abstract.masks, everywhere),
    row_losses=loss_lib.make_row_losses(
      apply,
      params_sharding=params_sharding,
      rows_sharding=rows_sharding,
      loss_sharding=everywhere,
    ),
  )


def _make_init(model: Decoder, config: Config, tx, pruner):
  def init(seed: int) -> step_lib.TrainState:
    tokens = np.zeros((1, config.model.context_length), np.int32)
    variables = model.init(jax.random.key(seed), tokens)
    return step_lib.init_state(nn.unbox(variables['params']), tx, pruner)

  return init


def _abstract_params(model: Decoder, config: Config) -> Any:
  """The shapes of the params, boxed with the names of their axes."""
  key = jax.eval_shape(lambda: jax.random.key(0))
  tokens = jax.ShapeDtypeStruct((1, config.model.context_length), np.int32)
  return jax.eval_shape(model.init, key, tokens)['params']


def _make_forward(pruner: pruning.Pruner, params_sharding) -> Callable:
  # A jitted identity would copy all the parameters.
  if not pruner.straight_through:
    return lambda state: state.params
  return jax.jit(
    lambda state: pruner.forward(state.params, state.masks),
    out_shardings=params_sharding,
  )


def _make_count(kernels, pruner, masks, everywhere) -> Callable:
  if masks is None:
    dense = {n: [k.layer_size] * k.n_layers for n, k in kernels.items()}
    return lambda state: dense

  def count(state: step_lib.TrainState):
    kept = pruner.kept(state.params, state.masks)
    return pruning.count_nonzero(kept, kernels)

  return jax.jit(count, out_shardings=everywhere)


def _state_shardings(abstract, params_sharding, tx, mesh) -> Any:
  """Optimizer moments and masks live where their parameters do."""
  everywhere = sharding.replicated(mesh)
  named = {
    pruning.path_name(path): leaf
    for path, leaf in jax.tree.leaves_with_path(params_sharding)
  }
  return step_lib.TrainState(
    step=everywhere,
    params=params_sharding,
    opt_state=optax.tree.map_params(
      tx,
      lambda _, where: where,
      abstract.opt_state,
      params_sharding,
      transform_non_params=lambda _: everywhere,
    ),
    masks=jax.tree.map_with_path(
      functools.partial(_beside, abstract.params, named, everywhere),
      abstract.masks,
    ),
  )


def _beside(params, named, everywhere, path, mask) -> Any:
  """Where a mask lives.

  Beside the parameter of its name, if it has that parameter's shape or, packed
  to bits, an eighth of it that splits alike; else everywhere.
  """
  shapes = {n: p.shape for n, p in pruning.by_path(params).items()}
  name = getattr(path[-1], 'key', None)
  *rest, last = shapes.get(name, (0,))
  if mask.shape == (*rest, last):
    return named[name]
  if mask.shape == (*rest, -(-last // 8)) and _splits(mask, named[name]):
    return named[name]
  return everywhere


def _splits(leaf, where) -> bool:
  try:
    where.shard_shape(leaf.shape)
  except ValueError:
    return False
  return True
