"""The pruner that a config asks for, of either library."""

import ast
import math
from collections.abc import Mapping
from typing import Any

from jax_sparse_pretrain import pruning
from jax_sparse_pretrain.config import ConfigError
from jax_sparse_pretrain.config import Pruning as PruningConfig
from jax_sparse_pretrain.pruning.jaxpruner import bridge, upstream
from jax_sparse_pretrain.pruning.jaxpruner.upstream import Traits


def traits(asked: PruningConfig) -> Traits:
  """What a plan has to know of the pruner.

  Raises:
    ConfigError: for a schedule that it would not follow.
  """
  if asked.library == 'builtin':
    return Traits(delay=int(asked.order == 'after'))
  try:
    found = upstream.traits(
      upstream.load_jaxpruner(), asked.algorithm, _options(asked)
    )
  except ValueError as error:
    raise ConfigError(f'pruning.{error}') from None
  if found.begins_sparse and asked.schedule != 'constant':
    raise ConfigError(
      f"pruning.schedule = {asked.schedule!r}: must be 'constant' for "
      f'{asked.algorithm!r}, which is sparse from step 0'
    )
  if found.n_by_m:
    _check_n_by_m(asked, *found.n_by_m)
  return found


def _check_n_by_m(asked: PruningConfig, n: int, m: int) -> None:
  if asked.sparsities or asked.distribution == 'erk':
    raise ConfigError(
      f'pruning.options: sparsity_type: {n}:{m} needs pruning.sparsities = () '
      "and distribution 'uniform': every group keeps its share"
    )
  has_ramp = asked.schedule not in ('one_shot', 'constant')
  if has_ramp or not math.isclose(asked.sparsity, 1 - n / m):
    raise ConfigError(
      f'pruning.options: sparsity_type: {n}:{m} has no ramp: needs '
      f'pruning.sparsity = {1 - n / m} and schedule one_shot or constant'
    )


def make_pruner(
  asked: PruningConfig,
  kernels: Mapping[str, pruning.Kernel],
  targets: Mapping[str, float],
  *,
  end_step: int,
  seed: int,
) -> pruning.Pruner:
  """The pruner of a run.

  Args:
    asked: the config's section.
    kernels: all linear parameters.
    targets: final sparsity of those that are pruned.
    end_step: of the last mask update.
    seed: of the run.

  Raises:
    ConfigError: if a kernel cannot be pruned as asked.
  """
  if asked.sparsity == 0:
    return pruning.no_pruning()
  pruned = {name: kernels[name] for name in targets}
  if asked.library == 'builtin':
    return _builtin(asked, pruned, seed)
  try:
    return bridge.jaxpruner_pruner(
      pruned,
      targets,
      asked.algorithm,
      sparsity=asked.sparsity,
      end_step=end_step,
      options=_options(asked),
      seed=seed,
    )
  except ValueError as error:
    raise ConfigError(f'pruning.{error}') from None


def _builtin(asked: PruningConfig, kernels, seed: int) -> pruning.Pruner:
  try:
    pruner = pruning.magnitude_pruner(
      kernels,
      pruning.DISTRIBUTIONS[asked.distribution],
      structure=_structure(asked),
      score=_SCORES[asked.algorithm](seed),
      order=asked.order,
      mask_gradients=asked.mask_gradients or None,
      regrow=asked.regrow,
    )
  except ValueError as error:
    raise ConfigError(f'pruning.structure: {error}') from None
  return pruning.packed(pruner, kernels) if asked.pack_masks else pruner


_SCORES = {
  'magnitude': lambda seed: pruning.magnitudes,
  'random': pruning.random_scores,
}


def _structure(asked: PruningConfig) -> pruning.Structure:
  structures = {
    'unstructured': lambda: pruning.Unstructured(),
    'n_by_m': lambda: pruning.NByM(asked.n, asked.m, asked.axis),
    'block': lambda: pruning.Block(asked.block_height, asked.block_width),
    'channel': lambda: pruning.Channel(asked.axis),
  }
  return structures[asked.structure]()


def _options(asked: PruningConfig) -> dict[str, Any]:
  names = [name for name, _ in asked.options]
  for name in names:
    if names.count(name) > 1:
      raise ValueError(f'options: {name} is given twice')
  return {name: _literal(value) for name, value in asked.options}


def _literal(text: str):
  """'0.2' -> 0.2, 'true' -> True; what is no literal is itself."""
  if text.lower() in ('true', 'false'):
    return text.lower() == 'true'
  try:
    return ast.literal_eval(text)
  except (SyntaxError, ValueError):
    return text
