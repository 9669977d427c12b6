"""The jitted functions of a run and the shardings of its state."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import Mesh

from jax_sparse_pretrain import pruning, sharding
from jax_sparse_pretrain.config import Config
from jax_sparse_pretrain.training import optimizer as optimizer_lib
from jax_sparse_pretrain.training import step as step_lib


def make_programs(
  config: Config,
  mesh: Mesh,
  model: nn.Module,
  loss_fn: step_lib.LossFn,
  kernels: Mapping[str, pruning.Kernel],
  pruner: pruning.Pruner,
  params_sharding: Any,
) -> dict[str, Any]:
  """The jitted functions on a state, and what the state looks like.

  Returns:
    The fields of `setup.Experiment` of these names.
  """
  tx = optimizer_lib.make_optimizer(config.optimizer)
  init = _make_init(model, config, tx, pruner)
  abstract = jax.eval_shape(init)
  shardings = _state_shardings(abstract, params_sharding, tx, mesh)
  everywhere = sharding.replicated(mesh)
  train_step = step_lib.make_train_step(
    loss_fn,
    tx,
    pruner,
    accumulation_steps=config.accumulation_steps,
  )
  return {
    'abstract_state': jax.tree.map(_abstract, abstract, shardings),
    'init': jax.jit(init, out_shardings=shardings),
    'init_masks': jax.jit(pruner.init, out_shardings=shardings.masks),
    'train_step': jax.jit(
      train_step,
      in_shardings=(shardings, sharding.batch_sharding(mesh), everywhere),
      out_shardings=(shardings, everywhere),
      donate_argnums=0,
    ),
    'forward': _make_forward(pruner, shardings.params),
    'kept': jax.jit(lambda state: pruner.kept(state.params, state.masks)),
    'count_nonzero': _make_count(kernels, pruner, abstract.masks, everywhere),
  }


def _make_init(model, config: Config, tx, pruner):
  def init() -> step_lib.TrainState:
    tokens = np.zeros((1, config.model.context_length), np.int32)
    variables = model.init(jax.random.key(config.seed), tokens)
    return step_lib.init_state(nn.unbox(variables['params']), tx, pruner)

  return init


def _state_shardings(abstract, params_sharding, tx, mesh) -> Any:
  """Optimizer moments and masks live where their parameters do."""
  everywhere = sharding.replicated(mesh)
  named = {
    sharding.path_name(path): leaf
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


def _make_forward(pruner: pruning.Pruner, params_sharding) -> Callable:
  """A jitted identity would copy all the parameters."""
  if pruner.forward is pruning.Pruner._field_defaults['forward']:
    return lambda state: state.params
  return jax.jit(
    lambda state: pruner.forward(state.params, state.masks),
    out_shardings=params_sharding,
  )


def _beside(params, named, everywhere, path, mask) -> Any:
  """Where the parameter lives whose name and shape, or bits, a mask has."""
  shapes = {n: p.shape for n, p in pruning.pruner.by_path(params).items()}
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


def _abstract(leaf, where) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)


def _make_count(kernels, pruner, masks, everywhere) -> Callable:
  """state -> kept weights per layer of what the forward pass sees."""
  if masks is None:
    dense = {n: [k.layer_size] * k.n_layers for n, k in kernels.items()}
    return lambda state: dense

  def count(state: step_lib.TrainState):
    kept = pruner.kept(state.params, state.masks)
    return pruning.count_nonzero(kept, kernels)

  return jax.jit(count, out_shardings=everywhere)
