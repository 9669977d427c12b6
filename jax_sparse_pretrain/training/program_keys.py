"""What decides that two runs have one program, or the same first steps.

Keys of the config are compared unless they are listed here, so that a key
which this module does not know keeps runs apart.
"""

import dataclasses
import json

from jax_sparse_pretrain import schema
from jax_sparse_pretrain.config import Config
from jax_sparse_pretrain.training import recipe

# Act on a step only through its `Controls`, which are data.
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
  # Of these, which kernels are pruned is in the program, how far is not.
  'pruning.sparsity',
  'pruning.sparsities',
  'pruning.exempt',
)
# Neither weights nor metrics depend on them.
_BESIDE = (
  'checkpoint.',
  'data.prefetch',
  'data.data_dir',
  'logging.tensorboard',
  'logging.wandb_project',
  'pruning.snapshots',
)
# What else the train step and the evaluation do not close over.
_OUTSIDE_PROGRAM = (*_BESIDE, 'data.', 'evaluation.', 'logging.', 'mesh.')


def program_key(config: Config) -> str:
  """Equal for runs whose compiled functions, on equal meshes, are the same."""
  skip = _OUTSIDE_PROGRAM
  if not (_is_sparse(config) and config.pruning.algorithm == 'random'):
    skip += ('seed',)  # An argument of the initialisation.
  if _is_upstream(config):
    # jaxpruner's updaters are built from sparsity, last step and seed.
    return _key(config, tuple(name for name in skip if name != 'seed'))
  return _key(config, (*skip, *_BY_CONTROLS))


def prefix_key(config: Config) -> str | None:
  """Equal for runs that are the same as long as their controls are.

  None for a run that shares nothing: jaxpruner's updaters may take the length
  of the run into account at any step.
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
