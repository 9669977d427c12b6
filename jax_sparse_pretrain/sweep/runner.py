"""Trains the runs of a sweep, one after another."""

import contextlib
import pathlib
import time
import traceback
from collections.abc import Sequence

import numpy as np

from jax_sparse_pretrain import storage
from jax_sparse_pretrain.analysis.plots import training_picture
from jax_sparse_pretrain.command_line import Stopped, StopRequest
from jax_sparse_pretrain.config import ConfigError
from jax_sparse_pretrain.runs import lock
from jax_sparse_pretrain.runs import workdir as workdir_lib
from jax_sparse_pretrain.runs.branches import Branches, is_whole
from jax_sparse_pretrain.runs.checkpoint import CheckpointError
from jax_sparse_pretrain.schema import one_line
from jax_sparse_pretrain.sweep import directory as directory_lib
from jax_sparse_pretrain.sweep import forest, report, table, trunks
from jax_sparse_pretrain.sweep.directory import Directory
from jax_sparse_pretrain.sweep.forest import Fork
from jax_sparse_pretrain.sweep.sweep_file import Run
from jax_sparse_pretrain.training import loop, metrics, setup
from jax_sparse_pretrain.training.metrics import NonFiniteError
from jax_sparse_pretrain.training.progress import Part, Progress
from jax_sparse_pretrain.training.setup import Experiment

# Of a run, said in one line; anything else is a fault of ours to be traced.
_EXPECTED = (
  ConfigError,
  NonFiniteError,
  CheckpointError,
  lock.TakenOver,
)


class Runner:
  """What has been done, from the files, and what to do next.

  Args:
    directory: of the sweep.
    runs: to train, in this order.
    common: int[n, n], steps that each has in common with those before.
    columns: keys of the config to show in the table.

  Attributes:
    failures: reasons by name.
  """

  def __init__(
    self,
    directory: Directory,
    runs: Sequence[Run],
    common: np.ndarray,
    columns: Sequence[str] = (),
  ):
    self._directory, self._runs, self._common = directory, runs, common
    self._columns = columns
    self.failures: dict[str, str] = {}
    self._programs = {}

  def forks(self) -> list[Fork | None]:
    """Where runs that have not begun are going to leave others, as it is now.

    A parent can be left if it has not yet come to that step, or has left its
    files there. One that failed before it has not, so others take its place.
    """
    newest = [self._newest(run) for run in self._runs]

    def can_leave(fork: Fork) -> bool:
      name = self._runs[fork.parent].name
      is_to_come = newest[fork.parent] < fork.step
      trunk = self._directory.trunk(name, fork.step).root
      return (name not in self.failures and is_to_come) or is_whole(trunk)

    steps = [run.plan.steps for run in self._runs]
    found = forest.find_forks(self._common, steps, can_leave)
    return [
      fork if begun == 0 else None
      for fork, begun in zip(found, newest, strict=True)
    ]

  def _newest(self, run: Run) -> int:
    return directory_lib.newest_step(self._directory, run)

  def own_steps(self) -> list[int]:
    """Steps that each run makes or has made itself."""
    return [
      run.plan.steps - (fork.step if fork else self._trunk_step(run))
      for run, fork in zip(self._runs, self.forks(), strict=True)
    ]

  def _trunk_step(self, run: Run) -> int:
    return directory_lib.trunk_of(self._directory, run).get('step', 0)

  def train_all(self, stop: StopRequest) -> None:
    """Trains what is not finished; `failures` tells what could not be.

    Raises:
      Stopped: on a signal, once the state is saved.
    """
    own = self.own_steps()
    done = [
      directory_lib.is_finished(self._directory, run) for run in self._runs
    ]
    n_done = sum(n for n, is_done in zip(own, done, strict=True) if is_done)
    self._write_table()
    with Progress(sum(own), n_done) as progress:
      for i in range(len(self._runs)):
        if done[i]:
          continue
        self._drop_trunks()
        start = self._runs[i].plan.steps - own[i]
        self._train(i, stop, progress, Part(progress, n_done, start))
        n_done += own[i]
        progress.advance(n_done)
        self._write_table()
    self._drop_trunks()

  def _train(
    self, i: int, stop: StopRequest, progress: Progress, part: Part
  ) -> None:
    run, began = self._runs[i], time.monotonic()
    try:
      if stop.signal is not None:
        raise Stopped(f'{stop.signal.name} before run {run.name}')
      summary = self._train_one(i, stop, progress, part)
    except Stopped as stopped:
      raise Stopped(f'run {run.name}: {stopped}') from None
    except Exception as error:  # One run must not take the others with it.
      self.failures[run.name] = one_line(error)
      if not isinstance(error, _EXPECTED):
        progress.note(traceback.format_exc())
      progress.note(f'{run.name}: failed: {one_line(error)}')
      return
    trunk = directory_lib.trunk_of(self._directory, run)
    seconds = time.monotonic() - began
    progress.note(report.run_line(run.name, summary, seconds, trunk))

  def _train_one(
    self, i: int, stop: StopRequest, progress: Progress, part: Part
  ) -> loop.Summary:
    run = self._runs[i]
    experiment = setup.set_up(run.config, cache=self._programs)
    with contextlib.closing(experiment.batches):
      self._begin(i, experiment, progress)
      files = workdir_lib.open_workdir(self._directory.run(run.name).root)
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
        trunks.drop_common_checkpoint(files, run.config)
        training_picture.save_training_picture(files.root)
    return summary

  def _begin(self, i: int, experiment: Experiment, progress: Progress) -> None:
    """Makes the workdir of a run that has its first steps from another."""
    files = workdir_lib.open_workdir(
      self._directory.run(self._runs[i].name).root
    )
    with lock.locked(files):
      pass  # What another process is at must not be replaced on disk.
    while fork := self.forks()[i]:
      parent = self._runs[fork.parent]
      trunk = self._directory.trunk(parent.name, fork.step)
      try:
        trunks.check_trunk(trunk, experiment, parent.config)
        trunks.begin_from(trunk, files, experiment, parent.name)
      except ConfigError as error:
        progress.note(f'{self._runs[i].name}: trained anew: {error}')
        storage.remove_tree(trunk.root)

  def _branches(self, i: int) -> Branches:
    forks, n_losses = self.forks(), 0
    for each in forest.descendants(forks, i):
      n_losses = max(n_losses, metrics.tail(self._runs[each].plan.steps))
    return Branches(
      self._directory.trunks(self._runs[i].name),
      frozenset(forks[c].step for c in forest.children(forks, i)),
      n_losses,
    )

  def _needed_trunks(self) -> set[pathlib.Path]:
    needed = [
      self._directory.trunk(self._runs[fork.parent].name, fork.step).root
      for run, fork in zip(self._runs, self.forks(), strict=True)
      if fork and run.name not in self.failures
    ]
    return set(needed)

  def _drop_trunks(self) -> None:
    directory_lib.drop_trunks(
      self._directory, self._runs, self._needed_trunks()
    )

  def _write_table(self) -> None:
    with contextlib.suppress(table.NoRuns):
      table.write(self._directory, self._columns)
