"""Which keys of a config contradict each other. Standard library only.

What a single key may be stands beside it, in `config`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from jax_sparse_pretrain.schema import ConfigError

if TYPE_CHECKING:
  from jax_sparse_pretrain import config as config_lib

# (Whether it holds, the message if not.)
_Check = tuple[bool, str]


def check_model(model: config_lib.Model) -> None:
  """Raises ConfigError for sizes and options that contradict each other."""
  _raise_first(_model_checks(model))


def check_together(config: config_lib.Config) -> None:
  check_model(config.model)
  _raise_first((
    *_data_checks(config.data),
    *_batch_checks(config),
    *_documents_checks(config),
    *_evaluation_checks(config.evaluation),
    *_optimizer_checks(config.optimizer),
    *_pruning_checks(config.pruning),
    *_mesh_checks(config.mesh),
    *_masks_checks(config),
    *_checkpoint_checks(config.checkpoint),
  ))  # fmt: skip


def _raise_first(checks: Iterable[_Check]) -> None:
  for holds, message in checks:
    if not holds:
      raise ConfigError(message)


def _model_checks(model: config_lib.Model) -> Iterator[_Check]:
  yield (
    model.head_dim > 0 or model.d_model % model.n_heads == 0,
    f'model.d_model = {model.d_model}: must be divisible by '
    f'model.n_heads = {model.n_heads}, or model.head_dim be given',
  )
  name = 'model.head_dim' if model.head_dim else 'model.d_model / model.n_heads'
  yield (
    model.head_size % 2 == 0,
    f'{name} = {model.head_size}: the head dimension must be even for rotary '
    'embeddings',
  )
  yield (
    model.n_heads % model.kv_heads == 0,
    f'model.n_kv_heads = {model.n_kv_heads}: must divide '
    f'model.n_heads = {model.n_heads}',
  )
  yield (
    model.tie_embeddings or not model.tied_is_linear,
    'model.tied_is_linear = True: needs model.tie_embeddings = True',
  )
  yield (
    model.rope_scaling == 'none'
    or model.rope_low_frequency_factor < model.rope_high_frequency_factor,
    f'model.rope_low_frequency_factor = {model.rope_low_frequency_factor}: '
    'must be below model.rope_high_frequency_factor = '
    f'{model.rope_high_frequency_factor}',
  )
  yield (
    model.attention != 'cudnn' or model.compute_dtype == 'bfloat16',
    f"model.attention = 'cudnn': needs model.compute_dtype = 'bfloat16', not "
    f'{model.compute_dtype!r}',
  )


def _data_checks(data: config_lib.Data) -> Iterator[_Check]:
  is_tokens = data.source == 'tokens'
  # A plan of a run may come before its tokens; `open_corpus` asks for them.
  yield (
    data.source in ('tokens', 'stdlib') or data.path != '',
    f"data.path = '': must be set when data.source is {data.source!r}",
  )
  yield (
    data.source != 'stdlib' or data.path == '',
    f"data.path = {data.path!r}: not read when data.source is 'stdlib'; set "
    "data.source = 'text' or 'tokens'",
  )
  yield (
    not data.mixture or (is_tokens and data.path == ''),
    "data.mixture: needs data.source = 'tokens' and data.path = ''",
  )
  yield (
    all(0 < weight < math.inf for _, weight in data.mixture),
    f'data.mixture = {data.mixture}: weights must be above 0 and finite',
  )
  yield (
    is_tokens or data.tokenizer != 'auto',
    f"data.tokenizer = 'auto': must name a tokenizer when data.source is "
    f'{data.source!r}',
  )
  yield (
    data.source in ('text', 'stdlib') or data.piece_bytes == 0,
    f'data.piece_bytes = {data.piece_bytes}: must be 0 with data.source = '
    f'{data.source!r}',
  )


def _batch_checks(config: config_lib.Config) -> Iterator[_Check]:
  yield (
    config.batch_size % config.accumulation_steps == 0,
    f'batch_size = {config.batch_size}: must be divisible by '
    f'accumulation_steps = {config.accumulation_steps}',
  )


def _documents_checks(config: config_lib.Config) -> Iterator[_Check]:
  yield (
    not config.data.mask_documents or config.model.attention != 'cudnn',
    "model.attention = 'cudnn': takes no mask of documents; use 'auto' or "
    "'xla' with data.mask_documents = True",
  )


def _evaluation_checks(evaluation: config_lib.Evaluation) -> Iterator[_Check]:
  names = [name for name, _ in evaluation.sets]
  yield (
    len(set(names)) == len(names) and all(n.isidentifier() for n in names),
    f'evaluation.sets: the names {names} must be different words',
  )


def _masks_checks(config: config_lib.Config) -> Iterator[_Check]:
  pruning = config.pruning
  yield (
    config.init_from != '' or not config.init_masks_from_zeros,
    'init_masks_from_zeros = True: needs init_from',
  )
  yield (
    not config.init_masks_from_zeros or pruning.library == 'builtin',
    "init_masks_from_zeros = True: needs pruning.library = 'builtin'",
  )
  yield (
    not config.init_masks_from_zeros or not pruning.regrow,
    'init_masks_from_zeros = True: needs pruning.regrow = False, or the zeros '
    'would come back',
  )
  yield (
    not config.model.tied_is_linear or pruning.structure == 'unstructured',
    "model.tied_is_linear = True: needs pruning.structure = 'unstructured', "
    'since the axes of that matrix are the other way round',
  )


def _checkpoint_checks(checkpoint: config_lib.Checkpoint) -> Iterator[_Check]:
  keep, every = checkpoint.keep_every, checkpoint.every
  yield (
    keep == 0 or (every > 0 and keep % every == 0),
    f'checkpoint.keep_every = {keep}: must be a multiple of '
    f'checkpoint.every = {every}',
  )


def _optimizer_checks(optimizer: config_lib.Optimizer) -> Iterator[_Check]:
  yield (
    optimizer.schedule != 'warmup_stable_decay'
    or optimizer.warmup_steps > 0  # checked where the steps are known
    or optimizer.warmup_fraction + optimizer.decay_fraction <= 1,
    f'optimizer.decay_fraction = {optimizer.decay_fraction}: must be at most '
    f'1 - optimizer.warmup_fraction = {1 - optimizer.warmup_fraction}',
  )


def _pruning_checks(pruning: config_lib.Pruning) -> Iterator[_Check]:
  yield (
    pruning.start <= pruning.end,
    f'pruning.start = {pruning.start}: must be at most '
    f'pruning.end = {pruning.end}',
  )
  yield (
    pruning.unit == 'steps' or pruning.end < 1,
    f'pruning.end = {pruning.end}: must be below 1 when pruning.unit is '
    f'{pruning.unit!r}, to leave steps to recover',
  )
  yield (
    pruning.unit != 'steps'
    or (pruning.start.is_integer() and pruning.end.is_integer()),
    f'pruning.start = {pruning.start}, pruning.end = {pruning.end}: must be '
    "whole numbers when pruning.unit is 'steps'",
  )
  yield (
    pruning.structure != 'n_by_m' or pruning.n <= pruning.m,
    f'pruning.n = {pruning.n}: must be at most pruning.m = {pruning.m}',
  )
  yield from _library_checks(pruning)
  yield (
    not pruning.sparsities or pruning.sparsity > 0,
    'pruning.sparsities: needs pruning.sparsity > 0 for the other kernels; '
    'leave them dense with pruning.exempt',
  )
  yield (
    pruning.structure != 'n_by_m'
    or (not pruning.sparsities and pruning.distribution != 'erk'),
    "pruning.structure = 'n_by_m': needs pruning.sparsities = () and a "
    "distribution other than 'erk': every group keeps n of m",
  )
  yield (
    not pruning.regrow
    or (pruning.algorithm == 'magnitude' and not pruning.mask_gradients),
    "pruning.regrow = True: needs pruning.algorithm = 'magnitude' and "
    'pruning.mask_gradients = False, or no weight could return',
  )
  target = 1 - pruning.n / pruning.m
  yield (
    pruning.sparsity == 0
    or pruning.structure != 'n_by_m'
    or math.isclose(pruning.sparsity, target),
    f'pruning.sparsity = {pruning.sparsity}: must be 1 - n / m = {target} when '
    "pruning.structure is 'n_by_m'",
  )
  yield (
    pruning.sparsity == 0
    or pruning.structure != 'n_by_m'
    or pruning.schedule in ('one_shot', 'constant'),
    f'pruning.schedule = {pruning.schedule!r}: must be one_shot or constant '
    "when pruning.structure is 'n_by_m', which has no ramp",
  )
  yield (
    not pruning.regrow or pruning.order == 'after',
    "pruning.regrow = True: needs pruning.order = 'after', where the optimizer "
    'has moved the pruned weights',
  )


_OURS = ('structure', 'order', 'mask_gradients', 'regrow', 'pack_masks')


def _library_checks(pruning: config_lib.Pruning) -> Iterator[_Check]:
  if pruning.library == 'builtin':
    yield (
      pruning.algorithm in ('magnitude', 'random'),
      f'pruning.algorithm = {pruning.algorithm!r}: must be magnitude or random '
      "when pruning.library is 'builtin'",
    )
    yield (
      not pruning.options,
      f"pruning.options = {pruning.options}: only with library 'jaxpruner'",
    )
    return
  yield (
    pruning.algorithm == 'no_prune'
    or pruning.algorithm.startswith('global_')
    == (pruning.distribution == 'global'),
    f'pruning.distribution = {pruning.distribution!r}: must be '
    "'global' for the global_* algorithms of jaxpruner, and 'uniform' or 'erk' "
    f'for others such as {pruning.algorithm!r}',
  )
  for name in _OURS:
    value, default = getattr(pruning, name), getattr(type(pruning)(), name)
    yield (
      value == default,
      f"pruning.{name} = {value!r}: only with pruning.library = 'builtin'",
    )


def _mesh_checks(mesh: config_lib.Mesh) -> Iterator[_Check]:
  yield (
    [mesh.data, mesh.fsdp, mesh.tensor].count(-1) <= 1,
    'mesh: at most one of mesh.data, mesh.fsdp and mesh.tensor may be -1',
  )
