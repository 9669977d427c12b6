"""When two runs have the same compiled programs, or the same first steps.

All keys of the config are compared but those listed here. A key that this
module does not know therefore keeps runs apart.
"""

import dataclasses
import json

from jax_sparse_pretrain import schema
from jax_sparse_pretrain.config import Config
from jax_sparse_pretrain.training import recipe

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
# Keys that the compiled functions do not close over.
_OUTSIDE_PROGRAM = (*_BESIDE, 'data.', 'evaluation.', 'logging.', 'mesh.')


def program_key(config: Config) -> str:
  """Equal for runs whose compiled functions, on equal meshes, are the same."""
  skip = _OUTSIDE_PROGRAM
  if not (_is_sparse(config) and config.pruning.algorithm == 'random'):
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
  if not _is_sparse(config):
    skip += ('pruning.',)
  kept = {
    name: value
    for name, value in schema.leaves(dataclasses.asdict(config))
    if not name.startswith(skip)
  }
  # Masks, or none, are part of the state.
  kept['pruned kernels'] = sorted(recipe.make_targets(config))
  return json.dumps(kept, sort_keys=True)


def _is_sparse(config: Config) -> bool:
  return config.pruning.sparsity > 0


def _is_upstream(config: Config) -> bool:
  return _is_sparse(config) and config.pruning.library == 'jaxpruner'
