"""Sparse pre-training of language models in JAX.

The names below are the front door. Each is imported from its room when it is
first used, so that reading runs and fitting laws load no JAX. The rooms
`pruning` and `analysis` have more public names of their own.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # For type checkers and editors; `_ROOMS` says the same.
  from jax_sparse_pretrain.analysis import (
    Average,
    Comparison,
    Runs,
    ScalingLaw,
    ScalingLawFit,
    average_parameters,
    compare_laws,
    fit_scaling_law,
    load_runs,
    plan_run,
    planned_average,
    plot_law,
    plot_predicted,
  )
  from jax_sparse_pretrain.command_line import load_config
  from jax_sparse_pretrain.config import Config, ConfigError
  from jax_sparse_pretrain.inference.exporting import export_model
  from jax_sparse_pretrain.inference.language_model import (
    LanguageModel,
    load_model,
  )
  from jax_sparse_pretrain.planning import Plan, plan
  from jax_sparse_pretrain.pruning import Pruner, magnitude_pruner
  from jax_sparse_pretrain.schedule import PruningSchedule
  from jax_sparse_pretrain.training.entry import train_model

__all__ = [
  'Average',
  'Comparison',
  'Config',
  'ConfigError',
  'LanguageModel',
  'Plan',
  'Pruner',
  'PruningSchedule',
  'Runs',
  'ScalingLaw',
  'ScalingLawFit',
  'average_parameters',
  'compare_laws',
  'export_model',
  'fit_scaling_law',
  'load_config',
  'load_model',
  'load_runs',
  'magnitude_pruner',
  'plan',
  'plan_run',
  'planned_average',
  'plot_law',
  'plot_predicted',
  'train_model',
]

# Public name -> its room. The names of the analysis have none here.
_ROOMS = {
  'Config': 'config',
  'ConfigError': 'config',
  'LanguageModel': 'inference.language_model',
  'Plan': 'planning',
  'Pruner': 'pruning',
  'PruningSchedule': 'schedule',
  'export_model': 'inference.exporting',
  'load_config': 'command_line',
  'load_model': 'inference.language_model',
  'magnitude_pruner': 'pruning',
  'plan': 'planning',
  'train_model': 'training.entry',
}


def __getattr__(name: str):
  if name in ('analysis', 'pruning'):
    return importlib.import_module(f'{__name__}.{name}')
  if name not in __all__:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  room = _ROOMS.get(name, 'analysis')
  return getattr(importlib.import_module(f'{__name__}.{room}'), name)


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__, 'analysis', 'pruning'})
