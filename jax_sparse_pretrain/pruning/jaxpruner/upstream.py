"""jaxpruner as the bridge needs it: imported, patched, and checked.

Its last commit is of April 2024 and calls `jax.tree_map`, which jax no longer
has. Its own modules get the function back; jax itself is left as it is.
"""

import dataclasses
import importlib
import math
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from jax_sparse_pretrain.pruning.kernels import Kernel, Kernels

_STRUCTURE = re.compile(r'nm_(\d+),(\d+)|block_\d+,\d+|channel_-?\d+')


def _is_structure(text: str) -> bool:
  match = _STRUCTURE.fullmatch(text)
  if not match:
    return False
  sizes = [int(size) for size in re.findall(r'\d+', text)]
  if match[1]:
    return 1 <= sizes[0] <= sizes[1]
  return text.startswith('channel') or min(sizes) >= 1


# What is allowed, and whether a value is that.
_Option = tuple[str, Callable[[Any], bool]]
_BOOL: _Option = 'True or False', lambda value: isinstance(value, bool)
_POSITIVE: _Option = (
  'a positive float',
  lambda value: isinstance(value, float) and 0 < value < math.inf,
)
# The keys of jaxpruner's config that a user may set, for the updaters that have
# them. Its other keys follow from our config, or ask for what a jitted step
# cannot do (is_debug).
_OPTIONS: dict[str, _Option] = {
  'is_sparse_gradients': _BOOL,
  'skip_gradients': _BOOL,
  'use_packed_masks': _BOOL,
  'use_normalization': _BOOL,
  'sparsity_type': (
    'nm_N,M with 1 <= N <= M, block_H,W or channel_AXIS',
    lambda value: isinstance(value, str) and _is_structure(value),
  ),
  'drop_fraction': (
    'a float in (0, 1)',
    lambda value: isinstance(value, float) and 0 < value < 1,
  ),
  'eps': _POSITIVE,
  'normalization_eps': _POSITIVE,
}
# The other updaters read masks with one entry for each weight.
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


class Traits(NamedTuple):
  """What a plan has to know about a pruner.

  Attributes:
    delay: as in `Pruner`.
    begins_sparse: as in `PruningSchedule`.
    prunes: whether anything is pruned at all.
    n_by_m: (n, m) of every mask, whatever sparsity is asked for; or None.
  """

  delay: int = 0
  begins_sparse: bool = False
  prunes: bool = True
  n_by_m: tuple[int, int] | None = None


def traits(jaxpruner, algorithm: str, options: Mapping[str, Any]) -> Traits:
  """The traits of an updater.

  Raises:
    ValueError: for an algorithm or an option that jaxpruner does not know.
  """
  _check_options(jaxpruner.ALGORITHM_REGISTRY, algorithm, options)
  cls = jaxpruner.ALGORITHM_REGISTRY[algorithm]
  match = _STRUCTURE.fullmatch(options.get('sparsity_type', ''))
  n_by_m = tuple(map(int, match.groups())) if match and match[1] else None
  return Traits(
    delay=0 if is_straight_through(jaxpruner, cls) else 1,
    begins_sparse=issubclass(cls, jaxpruner.algorithms.StaticRandomSparse),
    prunes=algorithm != 'no_prune',
    n_by_m=n_by_m,
  )


def is_straight_through(jaxpruner, updater: type) -> bool:
  """Whether the forward pass sees other params than those of the state."""
  base = jaxpruner.BaseUpdater.pre_forward_update
  return updater.pre_forward_update is not base


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
  if algorithm in ('rigl', 'set') and config['update_end_step'] < 1:
    raise ValueError(
      f'end, step 0: must be at least 1 for {algorithm!r}, whose drop fraction '
      'falls until then'
    )
  config = {'algorithm': algorithm, 'dist_type': 'uniform', **config, **options}
  return jaxpruner.create_updater_from_config(ml_collections.ConfigDict(config))


def _check_options(registry, algorithm: str, options) -> None:
  if algorithm not in registry:
    raise ValueError(
      f'algorithm = {algorithm!r}: must be one of {", ".join(registry)}'
    )
  fields = {f.name for f in dataclasses.fields(registry[algorithm])}
  if 'drop_fraction_fn' in fields:
    fields.add('drop_fraction')
  allowed = fields & _OPTIONS.keys()
  for name, value in options.items():
    if name not in allowed:
      raise ValueError(
        f'options: {name!r} is none of {algorithm!r}; allowed: '
        f'{", ".join(sorted(allowed))}'
      )
    must_be, holds = _OPTIONS[name]
    if not holds(value):
      raise ValueError(f'options: {name} = {value!r}: must be {must_be}')
  if options.get('use_packed_masks') and (
    algorithm not in _CAN_PACK or options.get('is_sparse_gradients')
  ):
    raise ValueError(
      'options: use_packed_masks works in jaxpruner without '
      f'is_sparse_gradients for {", ".join(_CAN_PACK)} alone'
    )


def check_kernels(updater, kernels: Kernels) -> None:
  """Raises ValueError for a kernel that the structure does not fit."""
  shapes = {
    name: jax.ShapeDtypeStruct(kernel.shape, jnp.float32)
    for name, kernel in kernels.items()
  }
  for name, scores in shapes.items():
    try:
      _check_layers(updater.sparsity_type, kernels[name])
      jax.eval_shape(updater.topk_fn, scores, jnp.float32(0.5))
    except (TypeError, ValueError) as error:
      raise ValueError(f'options: sparsity_type: {name}: {error}') from None
  try:
    jax.eval_shape(updater.init_state, shapes)
  except (TypeError, ValueError, AttributeError) as error:
    raise ValueError(f'options: {error}') from None


def _check_layers(structure: Any, kernel: Kernel) -> None:
  """jaxpruner takes the layers of a stacked kernel for one of its axes."""
  kind, n = type(structure).__name__, len(kernel.shape)
  cuts_layers = kind == 'Block'
  if kind == 'Channel':
    if not -n <= structure.axis < n:
      raise ValueError(f'axis {structure.axis}: must be in {-n} to {n - 1}')
    cuts_layers = structure.axis % n == 0
  if kernel.stacked and cuts_layers:
    raise ValueError(
      'would prune whole layers of a kernel that is stacked over them; set '
      'model.scan_layers = False'
    )
