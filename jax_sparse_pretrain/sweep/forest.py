"""Which run goes on from which, and how a sweep is cut into shares."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

# Saving and restoring a state has to be worth it: at least this part of a run.
WORTH = 0.01


class Fork(NamedTuple):
  """Attributes:

  parent: index of the run whose first steps are used.
  step: how many of them.
  """

  parent: int
  step: int


def find_forks(
  common: np.ndarray,
  steps: Sequence[int],
  can_leave: Callable[[Fork], bool] = lambda fork: True,
) -> list[Fork | None]:
  """For each run the earlier one with the most common steps, if any.

  Of several the first, so that a run leaves its parent after the step at which
  the parent left its own. Steps trained are then as few as they can be.

  Args:
    common: int[n, n], of `prefixes.common_steps_table`.
    steps: of each run.
    can_leave: whether a fork can be had.
  """
  forks = []
  for i, n_steps in enumerate(steps):
    worth = [
      Fork(j, int(k))
      for j, k in enumerate(common[i, :i])
      if k > 0 and k >= WORTH * n_steps
    ]
    usable = (fork for fork in worth if can_leave(fork))
    forks.append(max(usable, key=lambda fork: fork.step, default=None))
  return forks


def children(forks: Sequence[Fork | None], parent: int) -> list[int]:
  """Runs that go on from a run."""
  return [i for i, fork in enumerate(forks) if fork and fork.parent == parent]


def descendants(forks: Sequence[Fork | None], run: int) -> list[int]:
  """Its children, theirs, and so on."""
  found = {run}
  for i, fork in enumerate(forks):  # A parent comes before its children.
    if fork and fork.parent in found:
      found.add(i)
  return sorted(found - {run})


def in_tree_order(forks: Sequence[Fork | None]) -> list[int]:
  """Each run before its children, and those that leave last come first.

  Each then has as much in common with the run before it as with any before.
  """
  roots = [i for i, fork in enumerate(forks) if fork is None]
  order, stack = [], roots[::-1]
  while stack:
    order.append(stack.pop())
    stack += sorted(children(forks, order[-1]), key=lambda i: forks[i].step)
  return order


def most_trunks(forks: Sequence[Fork | None]) -> int:
  """States kept for later runs at one time, at most, if runs come in order."""
  lives = {}  # Of each state: from its parent to its last child.
  for i, fork in enumerate(forks):
    if fork:
      lives[fork] = range(fork.parent, i)
  times = range(len(forks))
  return max(sum(t in life for life in lives.values()) for t in times)


def share_out(
  alone: Sequence[float], after: Sequence[float], n: int
) -> list[range]:
  """Cuts a tree order into n stretches whose largest cost is least.

  A stretch costs at least as much as any of its items alone, since it has to
  make that item's steps: filling one up before the next begins is best.

  Args:
    alone: cost of each item at the beginning of a stretch.
    after: its cost after the one before it.
    n: stretches; some are empty if there are fewer items.
  """
  low, high = max(alone), sum(alone)
  for _ in range(60):  # Halvings: to the rounding of the sum.
    middle = (low + high) / 2
    if len(_stretches(alone, after, middle)) <= n:
      high = middle
    else:
      low = middle
  found = _stretches(alone, after, high)
  return found + [range(0)] * (n - len(found))


def _stretches(alone, after, limit: float) -> list[range]:
  """As few as can be of no more cost than the limit."""
  found, start, cost = [], 0, alone[0]
  for i in range(1, len(alone)):
    cost += after[i]
    if cost > limit:
      found.append(range(start, i))
      start, cost = i, alone[i]
  return [*found, range(start, len(alone))]
