"""Who may write into a workdir: by a lock, or in an object store by a claim."""

import contextlib
import fcntl
import os
import pathlib
import socket
import uuid
from collections.abc import Iterator
from typing import NamedTuple

from jax_sparse_pretrain import storage
from jax_sparse_pretrain.config import ConfigError
from jax_sparse_pretrain.runs.workdir import Workdir


class TakenOver(RuntimeError):
  """Another start of the run has the workdir now."""


class Claim(NamedTuple):
  """Says which start of the run may write into a workdir in an object store.

  An object store has no locks. A lock would not help either: when a machine is
  lost, nobody releases it. So the latest start takes the workdir over. It does
  not wait, and what is left of an earlier start must not write any more.

  Attributes:
    path: the file with the mark of the latest start; None if the directory is
      locked instead.
    mark: what this start has written there.
  """

  path: pathlib.Path | None = None
  mark: str = ''

  def holder(self) -> str:
    """The mark of the start that has the workdir now."""
    if self.path is None:
      return self.mark
    try:
      return self.path.read_text()
    except FileNotFoundError:
      return 'one that has cleared it'

  def holds(self) -> bool:
    """Whether this start may still write there."""
    return self.holder() == self.mark

  def check(self) -> None:
    """To be called before anything that relies on what is written.

    Raises:
      TakenOver: if there has been a later start.
    """
    if (holder := self.holder()) != self.mark:
      raise TakenOver(
        f'--workdir = {self.path.parent}: has been taken over by {holder}'
      )


@contextlib.contextmanager
def locked(workdir: Workdir, name: str | None = None) -> Iterator[Claim]:
  """Keeps a second process out for as long as this one lives.

  An object store has no locks: there the claim has to be checked.

  Args:
    workdir: the run's directory.
    name: the lock's file, if not `Workdir.lock`; processes that use the same
      one keep each other out.

  Raises:
    ConfigError: if another process is at work in it.
  """
  path = workdir.root / name if name else workdir.lock
  if storage.is_remote(path):
    mark = f'{socket.gethostname()}, process {os.getpid()} ({uuid.uuid4().hex})'
    path.write_text(mark)
    yield Claim(path, mark)
    return
  with open(path, 'w') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise ConfigError(
        f'--workdir = {workdir.root}: another process is training in it'
      ) from None
    yield Claim()


@contextlib.contextmanager
def share_locked(
  workdir: Workdir, index: int | str, count: int
) -> Iterator[None]:
  """Keeps out the same share, and all shares of another count.

  Another count divides the same work otherwise, so that its shares and these
  would meet.

  Args:
    workdir: the directory that the shares have in common.
    index: of the share, or 'all' for the process that starts them.
    count: of the shares.

  Raises:
    ConfigError: if another process is at work in it.
  """
  with locked(workdir, f'.lock-{index}-of-{count}'):
    # Only now: if two start at once, one of them at least sees the other.
    if not storage.is_remote(workdir.root):
      for path in workdir.root.glob('.lock-*-of-*'):
        *_, share, _, others = path.name.split('-')
        if others != str(count) and _is_held(path):
          raise ConfigError(
            f'--workdir = {workdir.root}: another process is training in it, '
            f'share {share} of {others}'
          )
    yield


def _is_held(path: pathlib.Path) -> bool:
  with open(path) as file:
    try:
      fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
      return True
  return False
