"""Trains the shares of a sweep at once, each in a process on CPUs of its own.

Small models gain little from a second core: two processes on a core each train
more than one process on both. A job is the command itself with `--index` and
`--count`, and tells through a pipe how far it is (`job_report`). All that
counts is in the files, so the next start takes up what a dead job has left.

A job that is done does not help the others. Runs go on from runs of the same
share, so that a run that moved would make the steps that it shares again.
"""

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from typing import IO, Any

import jax

from jax_sparse_pretrain.command_line import STOPPED, Stopped, StopRequest
from jax_sparse_pretrain.config import ConfigError
from jax_sparse_pretrain.sweep import cpus
from jax_sparse_pretrain.sweep.runner import Runner
from jax_sparse_pretrain.training.progress import Progress

# Seconds after which a request to stop is passed on, at the latest.
_POLL = 0.1


def check_device(count: int) -> None:
  """Refuses several jobs on a device that one process has to itself.

  Args:
    count: of jobs.

  Raises:
    ConfigError: if JAX would not use the CPU.
  """
  if count > 1 and (backend := jax.default_backend()) != 'cpu':
    raise ConfigError(
      f'--jobs = {count}: must be 1 on a {backend}, which one process has to '
      'itself; JAX_PLATFORMS=cpu trains on the CPUs'
    )


def train_all(
  runner: Runner,
  shares: Sequence[Sequence[int]],
  arguments: Sequence[str],
  stop: StopRequest,
) -> dict[str, str]:
  """Trains what is not finished; `runner.failures` then says what could not be.

  Args:
    runner: of all runs.
    shares: the runs of each job. A share that is finished gets no job.
    arguments: those of the command, which all jobs get.
    stop: passed on to the jobs.

  Returns:
    Why jobs ended before they had tried all their runs, by the job's name.

  Raises:
    Stopped: on a signal, once the jobs have saved their states.
  """
  runner.tidy()
  own, done = runner.own_steps(), runner.finished()
  n_done = [sum(own[i] for i in share if done[i]) for share in shares]
  jobs = []
  with Progress(sum(own), sum(n_done)) as progress:
    crew = _Crew(progress, n_done)
    try:
      for index, part in enumerate(cpus.parts(len(shares))):
        if not all(done[i] for i in shares[index]):
          jobs.append(_Job(index, len(shares), part, arguments, crew))
      crew.follow(jobs, stop)
    finally:  # A second SIGINT interrupts at once.
      for job in jobs:
        job.process.kill()
        job.process.wait()
  for job in jobs:
    runner.failures.update(job.failures or {})
  ended_early = [job for job in jobs if job.failures is None]
  if any(stop.is_due() or job.status == STOPPED for job in ended_early):
    raise Stopped(
      f'Stopped: {sum(runner.finished()):,} of {len(own):,} runs are finished; '
      'the same command goes on from here'
    )
  return {job.name: job.reason() for job in ended_early}


class _Job:
  """The process that trains a share.

  Args:
    index: of the share, from 0.
    count: of the shares.
    part: the CPUs of the job.
    arguments: those of the command.
    tell: called in threads with the job and a message, a dictionary of
      `job_report`, or None at the end of a stream.

  Attributes:
    index: of the share.
    name: the job, for a person.
    process: that of the job.
    n_streams: how many streams are open.
    failures: reasons, by the run; None until the job has tried all its runs.
    last_note: what it said last.
  """

  def __init__(
    self,
    index: int,
    count: int,
    part: Sequence[int],
    arguments: Sequence[str],
    tell: Callable[['_Job', dict[str, Any] | None], None],
  ):
    self.index, self.name = index, f'job {index} of {count}'
    self.failures: dict[str, str] | None = None
    self.last_note = ''
    reader, writer = os.pipe()
    share = f'--index={index}', f'--count={count}', f'--report={writer}'
    module = 'jax_sparse_pretrain.sweep'
    with cpus.pinned(part):
      self.process = subprocess.Popen(
        [sys.executable, '-m', module, *arguments, *share],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=[writer],
        # Ctrl-C signals a whole group, and a second signal interrupts a job.
        process_group=0,
      )
    os.close(writer)
    streams = [
      (os.fdopen(reader, 'rb'), json.loads),
      (self.process.stderr, _as_note),
    ]
    self.n_streams = len(streams)
    for stream, parse in streams:
      follow = threading.Thread(
        target=self._read, args=(stream, parse, tell), daemon=True
      )
      follow.start()

  @property
  def status(self) -> int:
    return self.process.returncode

  def _read(self, stream: IO[bytes], parse: Callable, tell: Callable) -> None:
    with stream:
      for line in stream:
        if line.endswith(b'\n'):  # A killed job may have begun a line.
          tell(self, parse(line))
    tell(self, None)

  def reason(self) -> str:
    """Why it ended before it had tried all its runs."""
    how = f'ended with status {self.status}'
    if self.status < 0:
      how = f'was ended by {signal.Signals(-self.status).name}'
    elif self.last_note:
      how = f'{how}: {self.last_note.removeprefix("error: ")}'
    return f'{how}; the same command takes up its runs'


def _as_note(line: bytes) -> dict[str, Any]:
  return {'note': line.decode(errors='replace').rstrip()}


class _Crew:
  """Shows what the jobs tell; to be called with a job and a message.

  Args:
    progress: over the steps of all runs.
    n_done: steps of each share that are finished.
  """

  def __init__(self, progress: Progress, n_done: Sequence[int]):
    self._progress = progress
    self._n_done = list(n_done)
    self._speeds: dict[int, float] = {}
    self._silent: set[_Job] = set()
    self._messages = queue.SimpleQueue()

  def __call__(self, job: _Job, message: dict[str, Any] | None) -> None:
    self._messages.put((job, message))

  def follow(self, jobs: Sequence[_Job], stop: StopRequest) -> None:
    """Until all jobs have ended."""
    self._silent = set(jobs)
    n_open = sum(job.n_streams for job in jobs)
    is_told = False
    while n_open:
      if stop.is_due() and not is_told:
        is_told = True
        for job in jobs:
          job.process.terminate()
      try:
        job, message = self._messages.get(timeout=_POLL)
      except queue.Empty:
        continue
      if message is None:
        n_open -= 1
        self._close_stream(job, stop)
      else:
        self._take(job, message)

  def _close_stream(self, job: _Job, stop: StopRequest) -> None:
    job.n_streams -= 1
    if job.n_streams:
      return
    self._silent.discard(job)
    self._speeds.pop(job.index, None)
    job.process.wait()
    if job.failures is None and job.status != STOPPED and not stop.is_due():
      self._progress.note(f'{job.name} {job.reason()}')

  def _take(self, job: _Job, message: dict[str, Any]) -> None:
    if 'note' in message:
      job.last_note = message['note']
      self._progress.note(message['note'])
    if 'failures' in message:
      job.failures = message['failures']
    if 'step' in message:
      self._silent.discard(job)
      self._n_done[job.index] = message['step']
      if not self._silent:  # Else a job that begins would count as pace.
        self._progress.advance(sum(self._n_done))
    if speed := message.get('tokens_per_second'):
      self._speeds[job.index] = speed
      if self._progress.is_bar:  # In a pipe, each run of a sweep has one line.
        total = sum(self._speeds.values())
        self._progress.show(sum(self._n_done), {'tokens_per_second': total})
