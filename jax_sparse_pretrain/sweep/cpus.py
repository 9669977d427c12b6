"""The CPUs of this machine, in parts for processes that run at once."""

import contextlib
import os
import pathlib
import re
from collections.abc import Collection, Iterator

# macOS and Windows cannot pin a process.
_CAN_PIN = hasattr(os, 'sched_setaffinity')


def available() -> list[int]:
  """The CPUs that this process may use; threads of one core side by side."""
  if not _CAN_PIN:
    return list(range(os.cpu_count() or 1))
  return sorted(os.sched_getaffinity(0), key=lambda cpu: (_core(cpu), cpu))


def _core(cpu: int) -> int:
  """The first of the CPUs that are threads of the same core."""
  file = f'/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list'
  try:
    siblings = pathlib.Path(file).read_text()  # Such as 3,67 or 6-7.
  except OSError:
    return cpu
  first = re.match(r'\d+', siblings)
  return int(first.group()) if first else cpu


def parts(count: int) -> list[list[int]]:
  """The available CPUs in so many parts, as equal as can be."""
  cpus = available()
  cuts = [i * len(cpus) // count for i in range(count + 1)]
  return [cpus[a:b] for a, b in zip(cuts, cuts[1:], strict=False)]


@contextlib.contextmanager
def pinned(cpus: Collection[int]) -> Iterator[None]:
  """A context in which new processes, and this thread, run on these CPUs.

  A process is pinned from its birth, since libraries count CPUs when they are
  imported. Where the platform cannot pin, nothing happens.
  """
  if not _CAN_PIN:
    yield
    return
  before = os.sched_getaffinity(0)
  os.sched_setaffinity(0, cpus)
  try:
    yield
  finally:
    os.sched_setaffinity(0, before)
