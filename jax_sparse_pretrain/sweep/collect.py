"""Collects the finished runs of a sweep in a table for the analysis."""

import contextlib
import fcntl
import json
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jax_sparse_pretrain import schema, storage
from jax_sparse_pretrain.analysis import Runs, write_runs
from jax_sparse_pretrain.config import Config
from jax_sparse_pretrain.runs import workdir as workdir_lib
from jax_sparse_pretrain.runs.workdir import Workdir

# Column of the table -> key of `summary.json`.
_SUMMARY = {
  'average_parameters': 'average_parameters',
  'initial_parameters': 'linear_parameters',
  'final_parameters': 'final_parameters',
  'sparsity': 'sparsity',
  'tokens': 'tokens',
  'loss': 'eval_loss',
}


# Keys of `summary.json` that older ones lack; columns of the same name.
_MASS = ('exempt_parameters', 'l1_measured_parameters')


def write_table(root: pathlib.Path, columns: Sequence[str] = ()) -> int:
  """Makes `runs.csv` from the finished runs in `runs/`, in order of name.

  Args:
    root: the directory of a sweep, or one that holds directories of sweeps.
      Runs are then called SWEEP/NAME.
    columns: keys of the config to show beside those in which runs differ.

  Returns:
    The number of runs in the table; 0 if there is none, and then no table.

  Raises:
    ConfigError: if a file is not that of a run.
  """
  if (root / 'runs').is_dir():
    sweeps = {'': root}
  else:
    below = sorted(root.iterdir()) if root.is_dir() else ()
    sweeps = {f'{p.name}/': p for p in below if (p / 'runs').is_dir()}
  if not sweeps:
    return 0
  # Shares may write at once: the last to read has to be the last to write.
  with _alone(root):
    found = {
      prefix + name: run
      for prefix, sweep in sweeps.items()
      for name, run in _finished(sweep)
    }
    if found:
      write_runs(root / 'runs.csv', _as_runs(found, columns))
  return len(found)


@contextlib.contextmanager
def _alone(root: pathlib.Path) -> Iterator[None]:
  # An object store has no locks; the table of the next run is right again.
  if storage.is_remote(root):
    yield
    return
  with open(root / '.runs.lock', 'w') as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    yield


Found = tuple[dict[str, Any], dict[str, Any]]  # summary.json, config.json


def _finished(sweep: pathlib.Path) -> Iterator[tuple[str, Found]]:
  paths = (sweep / 'runs').iterdir()
  for path in sorted(paths, key=lambda path: _natural(path.name)):
    files = Workdir(path)
    if path.name.startswith('.') or not files.config.exists():
      continue
    resolved = workdir_lib.read_resolved(files)
    steps = resolved['plan'].get('steps')
    if summary := workdir_lib.finished_summary(files, steps):
      yield path.name, (summary, resolved)


def _natural(name: str) -> list[str | int]:
  """Sorts run2 before run10."""
  parts = re.split(r'(\d+)', name)
  return [int(part) if part.isdigit() else part for part in parts]


def _as_runs(found: Mapping[str, Found], columns: Sequence[str]) -> Runs:
  numbers = {
    ours: np.array([float(summary[theirs]) for summary, _ in found.values()])
    for ours, theirs in _SUMMARY.items()
  }
  rows = [_others(*each) for each in found.values()]
  configs = [resolved['config'] for _, resolved in found.values()]
  flat = [dict(schema.leaves(config)) for config in configs]
  keys = dict.fromkeys([*columns, *differing_keys(configs)])
  others = {name: [row[name] for row in rows] for name in rows[0]}
  if not any(others['init_from']):
    del others['init_from']
  others |= {key: [config[key] for config in flat] for key in keys}
  texts = {name: tuple(map(_text, cells)) for name, cells in others.items()}
  return Runs(tuple(found), **numbers, others=texts)


def _others(summary: dict, resolved: dict) -> dict[str, Any]:
  """What the law does not need; dense runs have no start and end."""
  config, plan = resolved['config'], resolved['plan']
  pruning = config['pruning']
  start, end = plan['compute_fractions']
  sparse = {
    'schedule': pruning['schedule'],
    'start': plan['start'],
    'end': plan['end'],
    'start_fraction': start,
    'end_fraction': end,
  }
  is_sparse = pruning['sparsity'] > 0
  trunk = resolved.get('trunk', {})
  return {
    'train_loss': summary['train_loss'],
    'seed': config['seed'],
    'steps': summary['steps'],
    'compute_flops': summary['compute_flops'],
    **(sparse if is_sparse else dict.fromkeys(sparse, '')),
    'trunk': trunk.get('run', ''),
    'trunk_steps': trunk.get('step', 0),
    'wall_seconds': summary['wall_seconds'],
    'init_from': summary.get('init_from') or '',
    **{name: _if_known(summary.get(name)) for name in _MASS},
  }


def _if_known(value: Any) -> Any:
  return '' if value is None else value


def differing_keys(configs: Sequence[Mapping[str, Any]]) -> list[str]:
  """The keys in which configs differ, as far as a loss depends on them.

  Args:
    configs: nested dictionaries, as `config.json` holds them.
  """
  flat = [dict(schema.leaves(config)) for config in configs]
  return [
    key
    for key in flat[0]
    if key != 'seed'
    and schema.field(Config, key).metadata['change'] != 'nothing'
    and any(config[key] != flat[0][key] for config in flat)
  ]


def _text(value: Any) -> str:
  if isinstance(value, str):
    return value
  return json.dumps(value) if isinstance(value, tuple | list) else repr(value)
