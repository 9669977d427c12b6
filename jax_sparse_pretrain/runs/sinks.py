"""Where scalar metrics go: JSON Lines, TensorBoard, Weights & Biases.

The step of a metric is the number of finished steps. A run that resumes from
checkpoint k keeps what was written up to step k. It drops what came later and
writes it again.
"""

import importlib.util
import json
import math
import numbers
import os
import pathlib
import uuid
from collections.abc import Mapping
from typing import Any, Protocol

import tensorboardX

from jax_sparse_pretrain import config, storage
from jax_sparse_pretrain.runs.workdir import Workdir


class Sink(Protocol):
  """Receives the scalars of one step at a time."""

  def write(self, step: int, scalars: Mapping[str, float]) -> None: ...

  def flush(self) -> None:
    """Makes sure that what has been written outlasts this process."""

  def close(self) -> None: ...


class JsonLines:
  """Appends one object a call: `{"step": step, **scalars}`.

  Each line reaches the operating system before `write` returns; an object
  store receives them with `flush`. JSON has no NaN and no infinities, so they
  become `null`: readers of tables take it for a missing number, where a string
  would change the type of the column.
  """

  def __init__(self, path: os.PathLike | str):
    self._path, self._pending = path, ''
    storage.append(path, '')  # Readers need not ask whether it is there.

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    values = {name: _json_number(value) for name, value in scalars.items()}
    self._pending += json.dumps({'step': int(step), **values}) + '\n'
    if not storage.is_remote(self._path):
      self.flush()

  def flush(self) -> None:
    if self._pending:
      storage.append(self._path, self._pending)
    self._pending = ''

  def close(self) -> None:
    pass  # Another start of the run may own the file by now.


def _json_number(value: Any) -> int | float | None:
  # Counts stay integers: a float is exact only up to 2^53.
  if isinstance(value, numbers.Integral):
    return int(value)
  return float(value) if math.isfinite(value) else None


def truncate_json_lines(path: os.PathLike | str, step: int) -> None:
  """Keeps the lines up to `step`; the file is replaced in one go.

  A torn last line, left by a killed run, is dropped. A missing file is left
  missing.

  Raises:
    ValueError: for any other line that is not an object with a `step`, naming
      it; the file is left as it was.
  """
  path = storage.as_path(path)
  if not path.exists():
    return
  # What follows the last newline is nothing, or a torn line.
  lines = path.read_text().split('\n')[:-1]
  kept = [
    line
    for number, line in enumerate(lines, start=1)
    if _step_of(line, f'{path}, line {number}') <= step
  ]
  storage.replace(path, ''.join(f'{line}\n' for line in kept))


def _step_of(line: str, where: str) -> int:
  try:
    return json.loads(line)['step']
  except (KeyError, TypeError, ValueError) as error:
    raise ValueError(f'{where}: not an object with a step: {error}') from None


class TensorBoard:
  """Event files, written by tensorboardX; needs no TensorFlow.

  Args:
    directory: where the event files go; shared by all starts of a run.
    purge_step: TensorBoard hides the earlier events of this directory from
      this step on.
  """

  def __init__(self, directory: os.PathLike | str, purge_step: int = 0):
    self._writer = tensorboardX.SummaryWriter(
      os.fspath(directory),
      purge_step=purge_step,
      # The names of event files differ by the second and are read in order:
      # two starts within one must neither share a file nor swap.
      filename_suffix=f'.{purge_step:010d}',
    )

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    for name, value in scalars.items():
      self._writer.add_scalar(name, float(value), int(step))

  def flush(self) -> None:
    self._writer.flush()

  def close(self) -> None:
    self._writer.close()


class WeightsAndBiases:
  """A run of Weights & Biases; a second start in `directory` continues it.

  Its history cannot be rewound, and it drops points whose step is behind. So
  `step` is sent as a metric and set as the x axis: the steps that a resumed
  run repeats are drawn twice instead of being lost.

  Args:
    project: name of the project.
    directory: the run's workdir, for its local files and `wandb_run_id.txt`.
      In an object store only the latter is written; the local files then go
      to Weights & Biases' own default place.
    settings: the resolved config, shown beside the run.

  Raises:
    ConfigError: if the package is not installed.
  """

  def __init__(
    self,
    project: str,
    directory: os.PathLike | str,
    settings: Mapping[str, Any],
  ):
    check(config.Logging(wandb_project=project))
    import wandb

    self._run = wandb.init(
      project=project,
      dir=None if storage.is_remote(directory) else os.fspath(directory),
      name=storage.resolved(storage.as_path(directory)).name,
      id=_run_id(storage.as_path(directory)),
      resume='allow',
      config=dict(settings),
    )
    self._run.define_metric('*', step_metric='step')

  def write(self, step: int, scalars: Mapping[str, float]) -> None:
    self._run.log({'step': int(step), **scalars})

  def flush(self) -> None:
    pass  # Weights & Biases writes in a process of its own.

  def close(self) -> None:
    self._run.finish()


def check(logging: config.Logging) -> None:
  """Raises ConfigError if a sink that is asked for is not installed."""
  name = logging.wandb_project
  if name and importlib.util.find_spec('wandb') is None:
    raise config.ConfigError(
      f'logging.wandb_project = {name!r}: needs wandb: pip install wandb'
    )


def _run_id(directory: pathlib.Path) -> str:
  path = Workdir(directory).wandb_id
  if not path.exists():
    path.write_text(uuid.uuid4().hex)
  return path.read_text()


def open_sinks(
  workdir: pathlib.Path,
  logging: config.Logging,
  resolved: Mapping[str, Any],
  start_step: int,
) -> list[Sink]:
  """The sinks that `logging` asks for; metrics after `start_step` are dropped.

  Args:
    workdir: gets `metrics.jsonl` and the TensorBoard event files.
    logging: that section of the config.
    resolved: the whole config as nested dicts.
    start_step: steps finished by the checkpoint that the run resumes from; 0
      for a fresh run, which keeps nothing.
  """
  sinks: list[Sink] = []
  # First, because it may refuse: nothing has been dropped by then.
  if logging.wandb_project:
    sinks.append(WeightsAndBiases(logging.wandb_project, workdir, resolved))
  first_new_step = start_step + 1 if start_step else 0
  metrics = Workdir(workdir).metrics
  truncate_json_lines(metrics, first_new_step - 1)
  sinks.append(JsonLines(metrics))
  if logging.tensorboard:
    sinks.append(TensorBoard(workdir, purge_step=first_new_step))
  return sinks
