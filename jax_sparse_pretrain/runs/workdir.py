"""The names of a run's files, and the check that they are of the same run."""

import dataclasses
import json
import os
import pathlib
import warnings
from typing import Any, NamedTuple

from jax_sparse_pretrain import config as config_lib
from jax_sparse_pretrain import schema, storage
from jax_sparse_pretrain.config import ConfigError

_TOKENIZERS = {
  'sentencepiece': 'tokenizer.model',
  'huggingface': 'tokenizer.json',
}


class CheckpointError(RuntimeError):
  """No checkpoint of the run can be read."""


def _below(name: str) -> property:
  return property(lambda self: self.root / name)


@dataclasses.dataclass(frozen=True)
class Workdir:
  """Paths of the files that section "Files on disk" of the README lists."""

  root: pathlib.Path

  config = _below('config.json')
  history = _below('mask_history.jsonl')
  metrics = _below('metrics.jsonl')
  summary = _below('summary.json')
  picture = _below('training.png')
  checkpoints = _below('checkpoints')
  snapshots = _below('mask_snapshots')
  # Checkpoints that could not be read.
  unreadable = _below('unreadable')
  lock = _below('.lock')
  # The name of the run at Weights & Biases.
  wandb_id = _below('wandb_run_id.txt')
  # The last file of a branch, which others go on from: it is whole.
  branch = _below('branch.json')

  def snapshot(self, step: int) -> pathlib.Path:
    return self.snapshots / f'{step}.npz'

  def tokenizer(self, kind: str) -> pathlib.Path:
    """The run's copy of its tokenizer's file; that of bytes has none."""
    return self.root / _TOKENIZERS[kind]

  @property
  def saved_steps(self) -> list[int]:
    """Steps with a finished checkpoint, oldest first."""
    if not self.checkpoints.is_dir():
      return []
    found = (path for path in self.checkpoints.iterdir() if _is_saved(path))
    return sorted(int(path.name) for path in found)


def _is_saved(checkpoint: pathlib.Path) -> bool:
  if not checkpoint.name.isdigit():
    return False  # Orbax names what it has not finished in another way.
  # An object store cannot rename: there, Orbax writes this file last.
  last = checkpoint / 'commit_success.txt'
  return not storage.is_remote(checkpoint) or last.exists()


class Previous(NamedTuple):
  """The run that a workdir holds.

  Attributes:
    resolved: its `config.json`.
    changes: what the present config changes in it, as `key: old -> new`.
  """

  resolved: dict[str, Any]
  changes: list[str]


def open_workdir(path: str | os.PathLike) -> Workdir:
  """Creates the directory of a run.

  Raises:
    ConfigError: if it cannot be created or written.
  """
  return Workdir(open_root(path, 'checkpoints'))


def root_of(path: str | os.PathLike) -> pathlib.Path:
  """The directory that `--workdir` names.

  Raises:
    ConfigError: if there can be none of that name.
  """
  try:
    return storage.as_path(path)
  except ConfigError as error:
    raise ConfigError(f'--workdir = {error}') from None


def open_root(path: str | os.PathLike, *below: str) -> pathlib.Path:
  """Creates a directory and those below it; makes sure that it can be written.

  Raises:
    ConfigError: if it cannot.
  """
  root = root_of(path)
  try:
    root.mkdir(parents=True, exist_ok=True)
    probe = root / '.writable'
    probe.touch()
    probe.unlink(missing_ok=True)  # Another process may open it as well.
    for name in below:
      (root / name).mkdir(exist_ok=True)
  except Exception as error:  # Object stores raise many kinds.
    reason = getattr(error, 'strerror', None) or schema.one_line(error)
    raise ConfigError(
      f'--workdir = {path}: must be a directory that can be written ({reason})'
    ) from None
  return root


def check_same_run(
  workdir: Workdir, resolved: dict, fork: bool
) -> Previous | None:
  """Refuses to continue a run under a config that alters it.

  Args:
    workdir: the run's directory.
    resolved: what `config.json` is to hold.
    fork: whether the user asked for a fork.

  Raises:
    ConfigError: naming the keys that differ, or the file that is missing.
  """
  where = f'--workdir = {workdir.root}'
  if not workdir.config.exists():
    if workdir.saved_steps:
      raise ConfigError(f'{where}: has checkpoints but no config.json')
    return None
  if workdir.saved_steps and not workdir.history.exists():
    raise ConfigError(f'{where}: has checkpoints but no mask_history.jsonl')
  if workdir.saved_steps and is_of_streams(workdir):
    raise ConfigError(
      f'{where}: holds a run of an earlier version, which read the data in '
      'another order: it opens to be read, but cannot go on. Use another '
      'workdir'
    )
  before = read_resolved(workdir)
  changes = config_lib.alterations(before['config'], resolved['config'])
  if before['corpus'] != resolved['corpus']:
    changes['new run'].append('data: the corpus has changed')
  # None if the model is not there any more.
  if resolved['begins_with'] not in (None, before['begins_with']):
    changes['new run'].append('init_from: the weights have changed')
  _refuse(where, changes, fork)
  _warn_of_rounding(before, resolved)
  return Previous(before, changes['fork'])


def is_of_streams(workdir: Workdir) -> bool:
  """Whether a run has read its data in the order of an earlier version."""
  try:
    return 'streams' in json.loads(workdir.config.read_text())['config']['data']
  except (ValueError, KeyError, TypeError):
    return False


def read_resolved(workdir: Workdir) -> dict[str, Any]:
  """What `config.json` holds, with the defaults of keys that are newer.

  Raises:
    ConfigError: if it is not the config of a run.
  """
  try:
    resolved = json.loads(workdir.config.read_text())
    data = resolved['config']['data']
    if data.pop('streams', None) is not None:
      if data['source'] == 'stdlib':
        data['path'] = ''  # It was not read then either, and not refused.
      warnings.warn(
        f'{workdir.config}: data.streams is no longer a key, and is left out',
        stacklevel=2,
      )
    # With tuples, which JSON has not, and the defaults of newer keys.
    config = dataclasses.asdict(config_lib.from_dict(resolved['config']))
    rest = {'corpus': None, 'plan': {}, 'mesh': {}, 'versions': {}}
    rest['begins_with'] = 'random weights'
    return {**rest, **resolved, 'config': config}
  except (ValueError, KeyError, TypeError) as error:
    raise ConfigError(
      f'{workdir.config}: is not the config of a run ({error})'
    ) from None


def _refuse(where: str, changes: dict[str, list[str]], fork: bool) -> None:
  if changes['new run']:
    raise ConfigError(
      f'{where}: holds a run that cannot go on with '
      f'{"; ".join(changes["new run"])}. Use another workdir'
    )
  if changes['fork'] and not fork:
    raise ConfigError(
      f'{where}: holds a run with another config; '
      f'{"; ".join(changes["fork"])}. Use another workdir, or --fork to go on '
      'from its newest checkpoint under the new config'
    )


def _warn_of_rounding(before: dict, now: dict) -> None:
  for name in ('mesh', 'versions'):
    if before[name] != now[name]:
      warnings.warn(
        f'{name}: {before[name]} before, {now[name]} now; results will differ '
        'by floating-point rounding from those of an unchanged run',
        stacklevel=3,
      )


def write_config(
  workdir: Workdir, resolved: dict, previous: Previous | None, step: int
) -> None:
  """Writes `config.json`; every fork adds to its list of `forks`.

  If the run shares its first steps with another run of a sweep, `trunk` names
  that run.
  """
  forks = previous.resolved.get('forks', []) if previous and step else []
  if previous and previous.changes and step:
    forks = [*forks, {'step': step, 'changes': previous.changes}]
  if previous and resolved['begins_with'] is None:
    begins_with = previous.resolved['begins_with']
    resolved = {**resolved, 'begins_with': begins_with}
  trunk = {}
  if previous and step and 'trunk' in previous.resolved:
    trunk = {'trunk': previous.resolved['trunk']}
  write_json(workdir.config, {**resolved, 'forks': forks, **trunk})


def finished_summary(workdir: Workdir, steps: int) -> dict[str, Any] | None:
  """The summary of a run of `steps` steps that is complete, or None."""
  try:
    summary = json.loads(workdir.summary.read_text())
    is_finished = summary['completed'] and summary['steps'] == steps
  except (OSError, ValueError, KeyError, TypeError):
    return None  # The run goes on and writes it again.
  return summary if is_finished else None


def write_json(path: pathlib.Path, value: Any) -> None:
  """Replaces the file in one step."""
  storage.replace(path, json.dumps(value, indent=2, allow_nan=False) + '\n')
