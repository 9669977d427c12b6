"""The jitted functions of a run, and when two runs may share them.

`program_key` and `prefix_key` compare all keys of the config but those listed
here. A key that this module does not know therefore keeps runs apart.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import Mesh

from jax_sparse_pretrain import pruning, schema, sharding
from jax_sparse_pretrain.config import Config
from jax_sparse_pretrain.model.decoder import Decoder
from jax_sparse_pretrain.training import optimizer as optimizer_lib
from jax_sparse_pretrain.training import recipe
from jax_sparse_pretrain.training import step as step_lib

# Keys that act on a step only through its `Controls`, which are data.
_BY_CONTROLS = (
  'duration.',
  'optimizer.peak_lr',
  'optimizer.schedule',
  'optimizer.warmup_',
  'optimizer.decay_fraction',
  'optimizer.final_lr_fraction',
  'pruning.schedule',
  'pruning.power',
  'pruning.start',
  'pruning.end',
  'pruning.unit',
  'pruning.every',
  # Which kernels are pruned is part of the program; how far they are is not.
  'pruning.sparsity',
  'pruning.sparsities',
  'pruning.exempt',
)
# Keys on which neither weights nor metrics depend.
_BESIDE = (
  'checkpoint.',
  'data.prefetch',
  'data.data_dir',
  'logging.tensorboard',
  'logging.wandb_project',
  'pruning.snapshots',
)
# Keys that the compiled functions do not close over. Of the data's,
# `mask_documents` does matter: it gives rows another shape.
_OUTSIDE_PROGRAM = (*_BESIDE, 'data.', 'evaluation.', 'logging.', 'mesh.')


def program_key(config: Config) -> str:
  """Equal for runs whose compiled functions, on equal meshes, are the same."""
  skip = _OUTSIDE_PROGRAM
  if not (config.has_masks and config.pruning.algorithm == 'random'):
    skip += ('seed',)  # An argument of the initialisation.
  if _is_upstream(config):
    # An updater of jaxpruner is built from the sparsity, last step and seed.
    return _key(config, tuple(name for name in skip if name != 'seed'))
  return _key(config, (*skip, *_BY_CONTROLS))


def prefix_key(config: Config) -> str | None:
  """Equal for runs whose steps are the same as long as their controls are.

  None for a run that shares nothing, since an updater of jaxpruner may take
  the length of the run into account at any step.
  """
  if _is_upstream(config):
    return None
  return _key(config, (*_BESIDE, *_BY_CONTROLS))


def _key(config: Config, skip: tuple[str, ...]) -> str:
  if not config.has_masks:
    skip += ('pruning.',)
  kept = {
    name: value
    for name, value in schema.leaves(dataclasses.asdict(config))
    if not name.startswith(skip) or name == 'data.mask_documents'
  }
  # Masks, or none, are part of the state.
  kept['pruned kernels'] = sorted(recipe.make_targets(config))
  return json.dumps(kept, sort_keys=True)


def _is_upstream(config: Config) -> bool:
  return config.has_masks and config.pruning.library == 'jaxpruner'


class Programs(NamedTuple):
  """The jitted functions of a run, and what its state looks like.

  Each function is compiled when it is first called.

  Attributes:
    abstract_state: the shapes, types and shardings of the state.
    params_sharding: where the params live.
    init: seed -> fresh state, on the devices.
    begin: params -> the state of a run that begins with them; donates them.
    init_masks: (params, finished steps) -> masks that keep everything.
    train_step: (state, rows, controls) -> (state, metrics); donates the state.
    forward: state -> the params that the forward pass sees.
    kept: state -> {kernel: bool[shape]}; kernels that are left out are dense.
    count_nonzero: state -> {kernel: kept weights in each layer}, as the
      forward pass sees them.
    row_losses: (params, rows) -> the loss of each row over its length.
  """

  abstract_state: step_lib.TrainState
  params_sharding: Any
  init: Callable[[int], step_lib.TrainState]
  begin: Callable[[Any], step_lib.TrainState]
  init_masks: Callable[[Any, int], Any]
  train_step: Callable
  forward: Callable[[step_lib.TrainState], Any]
  kept: Callable[[step_lib.TrainState], Any]
  count_nonzero: Callable
  row_losses: Callable


# By `program_key` and mesh: programs that runs of one process share.
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

  def apply(params, tokens, documents=None):
    return model.apply({'params': params}, tokens, documents)

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
    step_lib.make_loss_fn(apply, config.model.z_loss),
    tx,
    pruner,
    accumulation_steps=config.accumulation_steps,
    measured=kernels if config.pruning.measure_mass else {},
  )
  return Programs(
    abstract_state=jax.tree.map(
      lambda leaf, where: jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=where
      ),
      abstract,
      shardings,
    ),
    params_sharding=params_sharding,
    init=jax.jit(init, out_shardings=shardings),
    begin=jax.jit(
      lambda params: step_lib.init_state(params, tx, pruner),
      in_shardings=(params_sharding,),
      out_shardings=shardings,
      donate_argnums=0,
    ),
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
    row_losses=step_lib.make_row_losses(
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
