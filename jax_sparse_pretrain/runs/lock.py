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
  """Says whose a workdir in an object store is: the latest start's.

  There are no locks there. And where a machine is lost, nobody would open one:
  the start that replaces it must not wait, and what is left of it must not
  write any more.

  Attributes:
    path: holds the mark of the latest start; None for a locked directory.
    mark: of this start.
  """

  path: pathlib.Path | None = None
  mark: str = ''

  def holder(self) -> str:
    """The mark of whose it is now."""
    if self.path is None:
      return self.mark
    try:
      return self.path.read_text()
    except FileNotFoundError:
      return 'one that has cleared it'

  def holds(self) -> bool:
    """Whether it is still that of this start. If not, do not write there."""
    return self.holder() == self.mark

  def check(self) -> None:
    """To be called before what is written counts.

    Raises:
      TakenOver: if there has been a later start.
    """
    if (holder := self.holder()) != self.mark:
      raise TakenOver(
        f'--workdir = {self.path.parent}: has been taken over by {holder}'
      )


def _claimed(path: pathlib.Path) -> Claim:
  mark = f'{socket.gethostname()}, process {os.getpid()} ({uuid.uuid4().hex})'
  path.write_text(mark)
  return Claim(path, mark)


@contextlib.contextmanager
def locked(workdir: Workdir, name: str = '.lock') -> Iterator[Claim]:
  """Keeps a second process out for as long as this one lives.

  In an object store it cannot; there the claim has to be checked.

  Args:
    workdir: of the run.
    name: of the file; processes of one name keep each other out.

  Raises:
    ConfigError: if another process is at work in it.
  """
  if storage.is_remote(workdir.root):
    yield _claimed(workdir.root / name)
    return
  with open(workdir.root / name, 'w') as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise ConfigError(
        f'--workdir = {workdir.root}: another process is training in it'
      ) from None
    yield Claim()
