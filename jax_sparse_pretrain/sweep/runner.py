"""Trains the runs of a sweep, one after another.

What is done and what comes next is read from the files each time. So a sweep
that was stopped, or in which a run failed, goes on as a new one begins.
"""

import contextlib
import time
import traceback
from collections.abc import Sequence

import numpy as np

from jax_sparse_pretrain import storage
from jax_sparse_pretrain.analysis.plots import training_picture
from jax_sparse_pretrain.command_line import Stopped, StopRequest
from jax_sparse_pretrain.config import ConfigError
from jax_sparse_pretrain.runs import branches, lock
from jax_sparse_pretrain.runs import workdir as workdir_lib
from jax_sparse_pretrain.runs.checkpoint import CheckpointError
from jax_sparse_pretrain.schema import one_line
from jax_sparse_pretrain.sweep import collect, overview, prefixes
from jax_sparse_pretrain.sweep import directory as directory_lib
from jax_sparse_pretrain.sweep.directory import Directory
from jax_sparse_pretrain.sweep.prefixes import Fork
from jax_sparse_pretrain.sweep.sweep_file import Run
from jax_sparse_pretrain.training import loop, metrics, setup
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
    directory: the files of the sweep.
    runs: what to train, in this order.
    common: int[n, n], the steps that each has in common with those before.
    columns: keys of the config to show in the table.

  Attributes:
    failures: reasons, by the name of the run.
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
    """Where the runs that have not begun will leave others, as things are.

    A parent can be left if it has not yet come to that step, or has left a
    trunk there. If it failed before that step, others take its place.
    """
    newest = [self._directory.newest_step(run) for run in self._runs]

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

  def _trunk(self, fork: Fork) -> workdir_lib.Workdir:
    return self._directory.trunk(self._runs[fork.parent].name, fork.step)

  def own_steps(self) -> list[int]:
    """How many steps each run makes, or has made, itself."""
    return [
      run.plan.steps
      - (fork.step if fork else self._directory.origin(run).get('step', 0))
      for run, fork in zip(self._runs, self.forks(), strict=True)
    ]

  def train_all(self, stop: StopRequest) -> None:
    """Trains what is not finished; `failures` then says what could not be.

    Raises:
      Stopped: on a signal, once the state is saved.
    """
    own = self.own_steps()
    done = [self._directory.is_finished(run) for run in self._runs]
    n_done = sum(n for n, is_done in zip(own, done, strict=True) if is_done)
    self._write_table()
    with Progress(sum(own), n_done) as progress:
      for i, run in enumerate(self._runs):
        if done[i]:
          continue
        self._drop_trunks()
        part = Part(progress, n_done, run.plan.steps - own[i])
        self._train(i, stop, progress, part)
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
    except Exception as error:  # The other runs are trained all the same.
      self.failures[run.name] = one_line(error)
      if not isinstance(error, _EXPECTED):
        progress.note(traceback.format_exc())
      progress.note(f'{run.name}: failed: {one_line(error)}')
      return
    seconds = time.monotonic() - began
    origin = self._directory.origin(run)
    progress.note(overview.run_line(run.name, summary, seconds, origin))

  def _train_one(
    self, i: int, stop: StopRequest, progress: Progress, part: Part
  ) -> loop.Summary:
    run = self._runs[i]
    files = self._directory.run(run.name)
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
        directory_lib.drop_common_checkpoint(files, run.config)
        training_picture.save_training_picture(files.root)
    return summary

  def _begin(self, i: int, experiment: Experiment, progress: Progress) -> None:
    """Makes the workdir of a run that has its first steps from another."""
    name = self._runs[i].name
    files = workdir_lib.open_workdir(self._directory.run(name).root)
    with lock.locked(files):
      pass  # A workdir in which another process trains must not be replaced.
    while fork := self.forks()[i]:
      trunk, parent = self._trunk(fork), self._runs[fork.parent]
      try:
        directory_lib.begin_from(trunk, files, experiment, parent)
      except ConfigError as error:
        progress.note(f'{name}: trained anew: {error}')
        storage.remove_tree(trunk.root)

  def _branches(self, i: int) -> branches.Branches:
    forks, n_losses = self.forks(), 0
    for each in prefixes.descendants(forks, i):
      n_losses = max(n_losses, metrics.tail(self._runs[each].plan.steps))
    return branches.Branches(
      self._directory.trunks(self._runs[i].name),
      frozenset(forks[c].step for c in prefixes.children(forks, i)),
      n_losses,
    )

  def _drop_trunks(self) -> None:
    needed = {
      self._trunk(fork).root
      for run, fork in zip(self._runs, self.forks(), strict=True)
      if fork and run.name not in self.failures
    }
    directory_lib.drop_trunks(self._directory, self._runs, needed)

  def _write_table(self) -> None:
    with contextlib.suppress(collect.NoRuns):
      collect.write_table(self._directory, self._columns)
