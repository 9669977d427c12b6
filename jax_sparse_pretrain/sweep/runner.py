"""Trains the runs of a sweep, one after another, and keeps their files.

What is done and what comes next is read from the files each time. So a sweep
that was stopped, or in which a run failed, goes on as a new one begins.

`runs/NAME/` is the workdir of a run and `runs.csv` the table of finished runs.
`trunks/NAME/STEP/` is what run NAME has left after STEP steps
(`runs.branches`); it is there until no other run needs it.
"""

import contextlib
import dataclasses
import json
import pathlib
import time
import traceback
from collections.abc import Sequence
from typing import Any

import numpy as np

from jax_sparse_pretrain import config as config_lib
from jax_sparse_pretrain import storage
from jax_sparse_pretrain.analysis.plots import training_picture
from jax_sparse_pretrain.command_line import Stopped, StopRequest
from jax_sparse_pretrain.config import Config, ConfigError
from jax_sparse_pretrain.runs import branches, lock, sinks
from jax_sparse_pretrain.runs import workdir as workdir_lib
from jax_sparse_pretrain.runs.checkpoint import CheckpointError
from jax_sparse_pretrain.runs.workdir import Workdir
from jax_sparse_pretrain.schema import one_line
from jax_sparse_pretrain.sweep import collect, prefixes
from jax_sparse_pretrain.sweep.job_report import JobReport
from jax_sparse_pretrain.sweep.prefixes import Fork
from jax_sparse_pretrain.sweep.sweep_file import Run
from jax_sparse_pretrain.text import duration
from jax_sparse_pretrain.training import jitted, loop, metrics, setup
from jax_sparse_pretrain.training.metrics import NonFiniteError
from jax_sparse_pretrain.training.progress import Part, Progress
from jax_sparse_pretrain.training.setup import Experiment

# How a run may fail; any other error is a fault of ours, and is traced.
_EXPECTED = (
  ConfigError,
  NonFiniteError,
  CheckpointError,
  lock.TakenOver,
)


class Runner:
  """Trains what is left of a sweep.

  Args:
    root: the directory of the sweep.
    runs: what to train, in this order.
    common: int[n, n], the steps that each has in common with those before.
    columns: keys of the config to show in the table.

  Attributes:
    failures: reasons, by the name of the run.
    table: the file of the finished runs.
  """

  def __init__(
    self,
    root: pathlib.Path,
    runs: Sequence[Run],
    common: np.ndarray,
    columns: Sequence[str] = (),
  ):
    self._root, self._runs, self._common = root, runs, common
    self._columns = columns
    self.failures: dict[str, str] = {}
    self.table = root / 'runs.csv'
    self._programs = {}

  def check(self) -> None:
    """Refuses to go on with runs whose config has changed.

    Raises:
      ConfigError: naming the run and the keys.
    """
    changed = {}
    for run in self._runs:
      files = self._files(run)
      if files.config.exists():
        before = workdir_lib.read_resolved(files)['config']
        if keys := _alterations(before, run.config):
          changed[files.root] = '; '.join(keys)
    if changed:
      root, keys = next(iter(changed.items()))
      n = len(changed) - 1
      others = f', and {n} other runs' if n else ''
      raise ConfigError(
        f'run {root.name}: {root} holds a run with another config: '
        f'{keys}{others}. Use another workdir, or delete what is to be '
        'trained anew'
      )

  def _files(self, run: Run) -> Workdir:
    return Workdir(self._root / 'runs' / run.name)

  def _trunks(self, run: Run) -> pathlib.Path:
    return self._root / 'trunks' / run.name

  def _trunk(self, fork: Fork) -> Workdir:
    return Workdir(self._trunks(self._runs[fork.parent]) / str(fork.step))

  def _summary(self, run: Run) -> dict[str, Any] | None:
    """That of a finished run; None for a run that is not."""
    files = self._files(run)
    if not files.config.exists():
      return None
    return workdir_lib.finished_summary(files, run.plan.steps)

  def _newest_step(self, run: Run) -> int:
    """Steps that need not be made again; 0 for a run that has to begin."""
    if self._summary(run):  # Even if its checkpoints are deleted.
      return run.plan.steps
    return max(self._files(run).saved_steps, default=0)

  def _forks(self) -> list[Fork | None]:
    """Where the runs that have not begun will leave others, as things are.

    A parent can be left if it has not yet come to that step, or has left a
    trunk there. If it failed before that step, others take its place.
    """
    newest = [self._newest_step(run) for run in self._runs]

    def can_leave(fork: Fork) -> bool:
      name = self._runs[fork.parent].name
      is_to_come = newest[fork.parent] < fork.step
      return (name not in self.failures and is_to_come) or branches.is_whole(
        self._trunk(fork).root
      )

    steps = [run.plan.steps for run in self._runs]
    found = prefixes.find_forks(self._common, steps, can_leave)
    return [
      fork if begun == 0 else None
      for fork, begun in zip(found, newest, strict=True)
    ]

  def own_steps(self) -> list[int]:
    """How many steps each run makes, or has made, itself."""
    return [
      run.plan.steps
      - (fork.step if fork else _origin(self._files(run)).get('step', 0))
      for run, fork in zip(self._runs, self._forks(), strict=True)
    ]

  def finished(self) -> list[bool]:
    """Which runs are finished."""
    return [self._summary(run) is not None for run in self._runs]

  def status(self) -> tuple[int, int, list[float] | None]:
    """How many runs are finished, how many begun, and the seconds left of each.

    The seconds are those at the pace of the finished runs; None if there is
    none.
    """
    newest = [self._newest_step(run) for run in self._runs]
    paces = {}
    for i, run in enumerate(self._runs):
      if summary := self._summary(run):
        paces[i] = summary['wall_seconds'] / run.plan.steps
    n_begun = sum(n > 0 for n in newest) - len(paces)
    if not paces:
      return 0, n_begun, None
    seconds = [
      min(n, run.plan.steps - step) * pace
      for n, run, step, pace in zip(
        self.own_steps(),
        self._runs,
        newest,
        _all_paces(self._runs, paces),
        strict=True,
      )
    ]
    return len(paces), n_begun, seconds

  def train_all(
    self, stop: StopRequest, report: JobReport | None = None
  ) -> None:
    """Trains what is not finished; `failures` then says what could not be.

    Args:
      stop: asked after every step whether to stop.
      report: gets the progress, which a person is shown otherwise.

    Raises:
      Stopped: on a signal, once the state is saved.
    """
    own, done = self.own_steps(), self.finished()
    n_done = sum(n for n, is_done in zip(own, done, strict=True) if is_done)
    collect.write_table(self._root, self._columns)
    with report or Progress(sum(own), n_done) as progress:
      for i, run in enumerate(self._runs):
        if done[i]:
          continue
        self._drop_trunks()
        part = Part(progress, n_done, run.plan.steps - own[i])
        self._train(i, stop, progress, part)
        n_done += own[i]
        progress.advance(n_done)
        collect.write_table(self._root, self._columns)
    self._drop_trunks()

  def tidy(self) -> None:
    """Makes the table, and deletes what no run needs, as nobody trains.

    The directory of all trunks goes only here: other shares may be about to
    make theirs in it.
    """
    collect.write_table(self._root, self._columns)
    self._drop_trunks()
    if not storage.is_remote(self._root):
      with contextlib.suppress(OSError):
        (self._root / 'trunks').rmdir()

  def _train(
    self, i: int, stop: StopRequest, progress: Progress | JobReport, part: Part
  ) -> None:
    """Trains a run and says how it went."""
    run, began = self._runs[i], time.monotonic()
    try:
      if stop.signal is not None:
        raise Stopped(f'{stop.signal.name} before run {run.name}')
      summary = self._train_one(i, stop, progress, part)
    except Stopped as stopped:
      raise Stopped(f'run {run.name}: {stopped}') from None
    except Exception as error:  # The other runs are trained all the same.
      self.failures[run.name] = one_line(error)
      if not isinstance(error, _EXPECTED):
        progress.note(traceback.format_exc())
      progress.note(f'{run.name}: failed: {one_line(error)}')
      return
    begun = ''
    if origin := _origin(self._files(run)):
      begun = f'  from {origin["run"]} at step {origin["step"]:,}'
    progress.note(
      f'{run.name}: loss {summary["eval_loss"]:.4f}  '
      f'N_avg {summary["average_parameters"]:,.0f}  '
      f'{duration(time.monotonic() - began)}{begun}'
    )

  def _train_one(
    self, i: int, stop: StopRequest, progress: Progress | JobReport, part: Part
  ) -> loop.Summary:
    run = self._runs[i]
    files = self._files(run)
    experiment = setup.set_up(run.config, cache=self._programs)
    with contextlib.closing(experiment.batches):
      self._begin(i, experiment, progress)
      workdir_lib.open_workdir(files.root)
      with lock.locked(files) as claim:
        previous = workdir_lib.check_same_run(
          files, experiment.resolved, fork=False
        )
        summary = loop.train(
          experiment,
          files,
          stop,
          previous,
          progress=part,
          branches=self._branches(i),
          claim=claim,
        )
        _drop_common_checkpoint(files, run.config)
        training_picture.save_training_picture(files.root)
    return summary

  def _begin(
    self, i: int, experiment: Experiment, progress: Progress | JobReport
  ) -> None:
    """Makes the workdir of a run that has its first steps from another."""
    run = self._runs[i]
    files = workdir_lib.open_workdir(self._files(run).root)
    with lock.locked(files):
      pass  # A workdir in which another process trains must not be replaced.
    while fork := self._forks()[i]:
      trunk, parent = self._trunk(fork), self._runs[fork.parent]
      try:
        _begin_from(trunk, files, experiment, parent)
      except ConfigError as error:
        progress.note(f'{run.name}: trained anew: {error}')
        storage.remove_tree(trunk.root)

  def _branches(self, i: int) -> branches.Branches:
    forks, n_losses = self._forks(), 0
    for each in prefixes.descendants(forks, i):
      n_losses = max(n_losses, metrics.tail(self._runs[each].plan.steps))
    return branches.Branches(
      self._trunks(self._runs[i]),
      frozenset(forks[c].step for c in prefixes.children(forks, i)),
      n_losses,
    )

  def _drop_trunks(self) -> None:
    """Deletes the trunks that nobody needs, and half-made workdirs."""
    needed = {
      self._trunk(fork).root
      for run, fork in zip(self._runs, self._forks(), strict=True)
      if fork and run.name not in self.failures
    }
    for run in self._runs:
      trunks = self._trunks(run)
      for path in trunks.iterdir() if trunks.is_dir() else ():
        if path not in needed:
          storage.remove_tree(path)
      storage.remove_tree(storage.partial(self._files(run).root))
      if storage.is_remote(trunks):
        continue  # An object store has no directories.
      with contextlib.suppress(OSError):
        trunks.rmdir()


def find_root(path: str) -> pathlib.Path:
  """The directory of a sweep, which need not exist yet.

  Raises:
    ConfigError: if it is the workdir of a run, or cannot be reached.
  """
  root = workdir_lib.root_of(path)
  try:
    is_run = Workdir(root).config.exists()
  except OSError as error:
    raise ConfigError(f'--workdir = {path}: {one_line(error)}') from error
  if is_run:
    raise ConfigError(
      f'--workdir = {path}: is the workdir of a run; a sweep needs its own'
    )
  return root


def _all_paces(runs: Sequence[Run], paces: dict[int, float]) -> list[float]:
  """Seconds a step of each run, from those of the finished runs.

  They are those of finished runs of the same program; where there is none,
  those of all in proportion to their FLOPs.
  """
  programs = [jitted.program_key(run.config) for run in runs]
  flops = [prefixes.step_flops(run) for run in runs]
  by_program: dict[str, list[float]] = {}
  for i, pace in paces.items():
    by_program.setdefault(programs[i], []).append(pace)
  usual = sum(pace / flops[i] for i, pace in paces.items()) / len(paces)
  found = [by_program.get(program) for program in programs]
  return [
    sum(same) / len(same) if same else usual * n
    for same, n in zip(found, flops, strict=True)
  ]


def _origin(files: Workdir) -> dict[str, Any]:
  """The `run` and `step` that a run began with; empty if it began alone."""
  if not files.config.exists():
    return {}
  return workdir_lib.read_resolved(files).get('trunk', {})


def _alterations(before: dict[str, Any], config: Config) -> list[str]:
  changes = config_lib.alterations(before, dataclasses.asdict(config))
  return changes['new run'] + changes['fork']


def _begin_from(
  trunk: Workdir, files: Workdir, experiment: Experiment, parent: Run
) -> None:
  """Makes the workdir of a run from the one that its parent has left.

  It appears whole or not at all. A workdir without checkpoints is replaced.

  Raises:
    ConfigError: if the run would not be the one that it is alone.
  """
  before = workdir_lib.read_resolved(trunk)
  _check_trunk(trunk, before, experiment, parent.config)
  resolved = {
    **experiment.resolved,
    # Those of the first steps; if they have changed, the run will say so.
    'mesh': before['mesh'],
    'versions': before['versions'],
    'forks': [],
    'trunk': {'run': parent.name, 'step': trunk.saved_steps[-1]},
  }
  with storage.whole_or_not(files.root) as root:
    made = Workdir(root)
    branches.copy_files(trunk, made)
    workdir_lib.write_json(made.config, resolved)
    if experiment.config.logging.tensorboard:
      with contextlib.closing(sinks.TensorBoard(root)) as board:
        for line in made.metrics.read_text().splitlines():
          scalars = json.loads(line)
          step = scalars.pop('step')
          known = {k: v for k, v in scalars.items() if v is not None}
          board.write(step, known)
    # Last, since a run that has a checkpoint has begun.
    storage.copy_tree(trunk.checkpoints, made.checkpoints)


def _check_trunk(
  trunk: Workdir, before: dict[str, Any], experiment: Experiment, parent: Config
) -> None:
  """Whether what a parent left, perhaps long ago, still serves."""
  reasons = _alterations(before['config'], parent)
  if before['corpus'] != experiment.corpus:
    reasons.append('data: the corpus has changed')
  n_losses = json.loads(trunk.branch.read_text())['n_losses']
  needed = metrics.tail(experiment.plan.steps)
  if n_losses < min(trunk.saved_steps[-1], needed):
    reasons.append(f'it has fewer losses than the {needed} to average over')
  if reasons:
    raise ConfigError(f'{trunk.root}: {"; ".join(reasons)}')


def _drop_common_checkpoint(files: Workdir, config: Config) -> None:
  """Deletes the checkpoint that a finished run would not have made alone."""
  step, every = _origin(files).get('step'), config.checkpoint.every
  if step in files.saved_steps[:-1] and not (every and step % every == 0):
    storage.remove_tree(files.checkpoints / str(step))
