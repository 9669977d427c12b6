"""The files of a run, and who may write to them."""

import dataclasses
import json
import os
import pathlib
from typing import Any

from jax_sparse_pretrain import config as config_lib


@dataclasses.dataclass(frozen=True)
class Workdir:
  """Paths of the files that section "Files on disk" of the README lists."""

  root: pathlib.Path

  @property
  def config(self) -> pathlib.Path:
    return self.root / 'config.json'

  @property
  def metrics(self) -> pathlib.Path:
    return self.root / 'metrics.jsonl'

  @property
  def history(self) -> pathlib.Path:
    return self.root / 'mask_history.jsonl'

  @property
  def checkpoints(self) -> pathlib.Path:
    return self.root / 'checkpoints'

  @property
  def summary(self) -> pathlib.Path:
    return self.root / 'summary.json'


def open_workdir(path: str) -> Workdir:
  """Creates the directory.

  Raises:
    ConfigError: if it cannot be created or written.
  """
  root = pathlib.Path(path).expanduser()
  try:
    root.mkdir(parents=True, exist_ok=True)
    probe = root / '.writable'
    probe.touch()
    probe.unlink()
  except OSError as error:
    raise config_lib.ConfigError(
      f'--workdir = {path}: must be a directory that can be written '
      f'({error.strerror})'
    ) from None
  return Workdir(root)


def check_same_run(workdir: Workdir, resolved: dict, fork: bool) -> list[str]:
  """Refuses to continue a run under a config that alters it.

  Args:
    workdir: of the run.
    resolved: what `config.json` is to hold: `config` and `corpus`.
    fork: whether the user asked for a fork.

  Returns:
    The alterations of a fork, `key: old -> new`.

  Raises:
    ConfigError: naming the keys that differ.
  """
  if not workdir.config.exists():
    return []
  try:
    before = json.loads(workdir.config.read_text())
    changes = config_lib.alterations(before['config'], resolved['config'])
    if before['corpus'] != resolved['corpus']:
      changes.append('data: the corpus has changed')
  except (ValueError, KeyError, TypeError, AttributeError) as error:
    raise config_lib.ConfigError(
      f'{workdir.config}: is not the config of a run ({error!r})'
    ) from None
  if changes and not fork:
    raise config_lib.ConfigError(
      f'--workdir = {workdir.root}: holds a run with another config; '
      f'{"; ".join(changes)}. Use another workdir, or --fork to go on from '
      'its checkpoint under the new config'
    )
  return changes


def write_config(
  workdir: Workdir, resolved: dict, step: int, changes: list[str]
) -> None:
  """Writes `config.json`; every fork adds to its list of `forks`."""
  forks = []
  if step and workdir.config.exists():
    forks = json.loads(workdir.config.read_text()).get('forks', [])
  if step and changes:
    forks.append({'step': step, 'changes': changes})
  write_json(workdir.config, {**resolved, 'forks': forks})


def write_json(path: pathlib.Path, value: Any) -> None:
  """Replaces the file in one step, so that a reader never sees half of it."""
  temporary = path.with_name(path.name + '.tmp')
  temporary.write_text(json.dumps(value, indent=2) + '\n')
  os.replace(temporary, path)
