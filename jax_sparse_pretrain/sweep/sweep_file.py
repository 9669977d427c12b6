"""A sweep's config file: `get_config()`, and `get_runs()` that alter it."""

import functools
import pathlib
import re
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import ml_collections
from ml_collections import config_flags

from jax_sparse_pretrain import command_line, schema
from jax_sparse_pretrain import config as config_lib
from jax_sparse_pretrain.config import Config, ConfigError
from jax_sparse_pretrain.planning import Plan
from jax_sparse_pretrain.training import recipe

_NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9._=+-]{0,99}')


class Run(NamedTuple):
  """A run of a sweep, before it is trained.

  Attributes:
    name: that of the run and of its directory.
    config: the checked config.
    plan: the pruning schedule and the number of steps.
  """

  name: str
  config: Config
  plan: Plan


def read_sweep(path: str, overrides: Sequence[str]) -> list[Run]:
  """The runs of a file, in its order.

  Args:
    path: defines `get_config()`, the `ConfigDict` of what runs have in common,
      and `get_runs()`, which yields `(name, {'section.key': value})`.
    overrides: `--config.KEY=VALUE` for all runs, where they do not set it.

  Raises:
    ConfigError: naming the run and the key.
  """
  path = command_line.find_config(path)
  with command_line.running_file(path):
    # Not by ml_collections, which puts every file into one module.
    module = types.ModuleType(f'_sweep_file_{pathlib.Path(path).stem}')
    module.__file__ = path
    sys.modules[module.__name__] = module  # Dataclasses look themselves up.
    source = pathlib.Path(path).read_text()
    exec(compile(source, path, 'exec'), module.__dict__)
    base = _called(module, 'get_config')
    asked = list(_called(module, 'get_runs'))
  if not isinstance(base, ml_collections.ConfigDict):
    raise ConfigError(f'--config = {path}: get_config() must give a ConfigDict')
  if not asked:
    raise ConfigError(f'--config = {path}: get_runs() gives no run')
  argv = ['sweep', *overrides]
  define = functools.partial(config_flags.DEFINE_config_dict, 'config', base)
  values = command_line.read_flags(path, define, argv)
  return [
    _make_run(name, values, changes)
    for name, changes in _checked(asked, f'--config = {path}: get_runs()')
  ]


def _called(module: types.ModuleType, name: str) -> Any:
  if not callable(getattr(module, name, None)):
    raise AttributeError(f'must define {name}()')
  return getattr(module, name)()


def _checked(asked: Sequence[Any], where: str) -> Iterator[tuple[str, Mapping]]:
  seen = set()
  for each in asked:
    match each:
      case [str(name), Mapping() as changes]:
        pass
      case _:
        raise ConfigError(f'{where}: {each!r}: must be (name, overrides)')
    if not _NAME.fullmatch(name):
      raise ConfigError(
        f'{where}: run {name!r}: must begin with a letter or digit and hold at '
        'most 100 of letters, digits and . _ = + -, for it names a directory'
      )
    if name in seen:
      raise ConfigError(f'{where}: run {name!r}: is there twice')
    seen.add(name)
    yield name, changes


def _make_run(name: str, values: dict[str, Any], changes: Mapping) -> Run:
  try:
    config = config_lib.from_dict(schema.altered(values, changes))
    plan = recipe.make_plan(config)
    # Refuses what the run would refuse.
    recipe.make_pruner(config, plan)
  except ConfigError as error:
    raise ConfigError(f'run {name}: {error}') from None
  return Run(name, config, plan)
