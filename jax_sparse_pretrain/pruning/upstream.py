"""jaxpruner as the bridge needs it: imported, mended, asked only what it can.

Its last commit is of April 2024 and calls `jax.tree_map`, which jax no longer
has. It gets it back in its own modules; jax itself is left as it is.
"""

import dataclasses
import importlib
import sys
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from jax_sparse_pretrain.pruning.distribution import Kernel

# Keys of jaxpruner's config that follow from our own.
_OURS = {
  'algorithm', 'dist_type', 'sparsity', 'sparsity_distribution_fn', 'scheduler',
  'filter_fn', 'custom_sparsity_map', 'rng_seed', 'topk_fn', 'drop_fraction_fn',
  'update_freq', 'update_start_step', 'update_end_step',
}  # fmt: skip
# The others read masks as they are, one entry a weight.
_CAN_PACK = ('magnitude', 'saliency', 'global_magnitude', 'global_saliency')


def load_jaxpruner():
  """Imports jaxpruner and gives it back the `jax.tree_map` of its days.

  Raises:
    ValueError: if it cannot be imported, saying how to install it.
  """
  try:
    jaxpruner = importlib.import_module('jaxpruner')
  except ImportError as error:
    raise ValueError(
      "library = 'jaxpruner': install it with "
      f"pip install '.[jaxpruner]' ({error})"
    ) from None
  for name, module in list(sys.modules.items()):
    is_its = name.split('.')[0] == 'jaxpruner'
    if is_its and getattr(module, 'jax', None) is jax:
      module.jax = _JaxWithTreeMap()
  return jaxpruner


class _JaxWithTreeMap:
  """What jaxpruner's modules, and they alone, see as jax."""

  def __getattr__(self, name: str):
    return getattr(jax, name)

  @staticmethod
  def tree_map(f, tree: Any, *rest: Any) -> Any:
    """`jax.tree.map` for which a None in the first tree answers None."""
    return jax.tree.map(
      lambda leaf, *others: None if leaf is None else f(leaf, *others),
      tree,
      *rest,
      is_leaf=lambda x: x is None,
    )


def create_updater(
  jaxpruner,
  algorithm: str,
  options: Mapping[str, Any],
  config: Mapping[str, Any],
):
  """The updater that the user's options and our config ask for.

  Raises:
    ValueError: for an algorithm or an option that jaxpruner does not know.
  """
  _check_options(jaxpruner.ALGORITHM_REGISTRY, algorithm, options)
  config = {'algorithm': algorithm, 'dist_type': 'uniform', **config, **options}
  return jaxpruner.create_updater_from_config(ml_collections.ConfigDict(config))


def _check_options(registry, algorithm: str, options) -> None:
  if algorithm not in registry:
    raise ValueError(
      f'algorithm = {algorithm!r}: must be one of {", ".join(registry)}'
    )
  fields = {f.name for f in dataclasses.fields(registry[algorithm])}
  allowed = (fields | {'drop_fraction'}) - _OURS
  for name in options:
    if name not in allowed:
      raise ValueError(
        f'options: {name!r} is none of {algorithm!r}; allowed: '
        f'{", ".join(sorted(allowed))}'
      )
  if options.get('use_packed_masks') and (
    algorithm not in _CAN_PACK or options.get('is_sparse_gradients')
  ):
    raise ValueError(
      'options: use_packed_masks works in jaxpruner without '
      f'is_sparse_gradients for {", ".join(_CAN_PACK)} alone'
    )


def check_kernels(updater, kernels: Mapping[str, Kernel]) -> None:
  """Raises ValueError for a kernel that the structure does not fit."""
  for name, kernel in kernels.items():
    scores = jax.ShapeDtypeStruct(kernel.shape, jnp.float32)
    try:
      jax.eval_shape(updater.topk_fn, scores, jnp.float32(0.5))
    except (TypeError, ValueError) as error:
      raise ValueError(f'options: sparsity_type: {name}: {error}') from None
