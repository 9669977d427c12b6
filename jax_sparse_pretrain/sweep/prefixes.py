"""Which runs begin with the same steps, who goes on from whom, what it saves.

What a step does is known before anything is trained: the learning rate, the
budget of a mask update, a snapshot. Runs of one program, data and seed are the
same as long as their steps do the same. Each goes on from an earlier run, its
parent, with which it shares most steps; the runs then form trees. Several
jobs take the trees in shares.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jax_sparse_pretrain import text
from jax_sparse_pretrain.model import counts
from jax_sparse_pretrain.sweep.sweep_file import Run
from jax_sparse_pretrain.text import Line
from jax_sparse_pretrain.training import jitted, optimizer, recipe

# A fork has to save at least this part of a run, for it costs a checkpoint.
WORTH = 0.01


class Fork(NamedTuple):
  """Where a run goes on from another.

  Attributes:
    parent: index of the run whose first steps are used.
    step: how many of them.
  """

  parent: int
  step: int


def common_steps(runs: Sequence[Run]) -> np.ndarray:
  """int64[n, n]: the steps that each run has in common with each before it.

  After so many steps, the files of the two runs are the same to the bit. The
  last step of a run is not shared: with it the run logs, evaluates and saves.
  """
  keys = [jitted.prefix_key(run.config) for run in runs]
  numbers: dict[Any, int] = {}
  actions = [
    None if key is None else _actions(run, numbers)
    for run, key in zip(runs, keys, strict=True)
  ]
  common = np.zeros((len(runs), len(runs)), np.int64)
  for i, key in enumerate(keys):
    for j in range(i):
      if key is not None and key == keys[j]:
        n = min(len(actions[i]), len(actions[j])) - 1
        differ = actions[i][:n] != actions[j][:n]
        common[i, j] = differ.argmax() if differ.any() else n
  return common


def _actions(run: Run, numbers: dict[Any, int]) -> np.ndarray:
  """What each step of a run does, as numbers: equal ones for equal actions.

  Args:
    run: asked through the functions that its training calls.
    numbers: those of the actions that have been seen, which grow.
  """
  config, plan = run.config, run.plan
  pruner = recipe.make_pruner(config, plan)
  rates = optimizer.learning_rates(config.optimizer, plan.steps)
  controls = recipe.make_controls(config, plan, pruner, rates)
  budgets = {
    step: _as_bytes(controls(step).budget)
    for step in plan.schedule.update_steps.tolist()
  }
  actions = [
    (rate, budgets.get(step), step + 1 in config.pruning.snapshots)
    for step, rate in enumerate(rates.view(np.uint32).tolist())
  ]
  return np.array([numbers.setdefault(a, len(numbers)) for a in actions])


def _as_bytes(budget: Any) -> tuple:
  leaves, structure = jax.tree.flatten(budget)
  arrays = map(np.asarray, leaves)
  return str(structure), *((str(a.dtype), a.tobytes()) for a in arrays)


def find_forks(
  common: np.ndarray,
  steps: Sequence[int],
  can_leave: Callable[[Fork], bool] = lambda fork: True,
) -> list[Fork | None]:
  """For each run the earlier one with the most common steps, if any.

  Of several such runs it is the first: a run then leaves its parent after the
  step at which the parent left its own, and no step is trained twice.

  Args:
    common: int[n, n], of `common_steps`.
    steps: the length of each run.
    can_leave: whether a fork is possible.
  """
  forks = []
  for i, n_steps in enumerate(steps):
    worth = (
      Fork(j, int(k))
      for j, k in enumerate(common[i, :i])
      if k > 0 and k >= WORTH * n_steps
    )
    usable = filter(can_leave, worth)
    forks.append(max(usable, key=lambda fork: fork.step, default=None))
  return forks


def children(forks: Sequence[Fork | None], parent: int) -> list[int]:
  """The runs that go on from a run."""
  return [i for i, fork in enumerate(forks) if fork and fork.parent == parent]


def descendants(forks: Sequence[Fork | None], run: int) -> list[int]:
  """The children of a run, their children, and so on."""
  found = {run}
  for i, fork in enumerate(forks):  # A parent comes before its children.
    if fork and fork.parent in found:
      found.add(i)
  return sorted(found - {run})


def most_trunks(forks: Sequence[Fork | None]) -> int:
  """How many states are kept for later runs at one time, at most."""
  lives = {}  # Each state is kept from its parent to its last child.
  for i, fork in enumerate(forks):
    if fork:
      lives[fork] = range(fork.parent, i)
  times = range(len(forks))
  return max(sum(t in life for life in lives.values()) for t in times)


def in_tree_order(forks: Sequence[Fork | None]) -> list[int]:
  """Each run before its children, of which the last to leave comes first.

  Each run then shares as many steps with the run before it as with any before.
  """
  roots = [i for i, fork in enumerate(forks) if fork is None]
  order, stack = [], roots[::-1]
  while stack:
    order.append(stack.pop())
    stack += sorted(children(forks, order[-1]), key=lambda i: forks[i].step)
  return order


def step_flops(run: Run) -> float:
  """FLOPs that hardware spends on a step: pruned weights cost as others."""
  model = run.config.model
  per_token = counts.flops_per_token(model, counts.linear_parameters(model))
  return run.config.tokens_per_step * per_token


def shares(
  runs: Sequence[Run], common: np.ndarray, count: int
) -> list[list[int]]:
  """Indices of the runs of each of `count` shares, in their order.

  A share is a stretch of the runs in tree order, so that few steps are trained
  in two shares. The FLOPs of the shares are as equal as that allows. Shares of
  whole trees would leave all jobs but one idle where the runs form one tree.
  """
  order = in_tree_order(find_forks(common, [run.plan.steps for run in runs]))
  alone = [runs[i].plan.steps * step_flops(runs[i]) for i in order]
  # The run before in tree order may come later in the sweep.
  both = np.maximum(common, common.T)
  shared = [0, *(both[i, j] for i, j in zip(order, order[1:], strict=False))]
  after = [
    cost - n * step_flops(runs[i])
    for cost, n, i in zip(alone, shared, order, strict=True)
  ]
  return [
    sorted(order[position] for position in stretch)
    for stretch in share_out(alone, after, count)
  ]


def within_shares(
  common: np.ndarray, shares: Sequence[Sequence[int]]
) -> np.ndarray:
  """`common` without the steps that runs of two shares have in common."""
  owner = np.zeros(len(common), np.int64)
  for number, share in enumerate(shares):
    owner[share] = number
  return np.where(owner[:, None] == owner, common, 0)


def share_out(
  alone: Sequence[float], after: Sequence[float], n: int
) -> list[range]:
  """Cuts a tree order into n stretches whose largest cost is least.

  A stretch costs at least as much as any of its items alone, since it has to
  make that item's steps. So it is best to fill one stretch before the next.

  Args:
    alone: the cost of each item at the beginning of a stretch.
    after: its cost after the item before it.
    n: number of stretches; some are empty if there are fewer items.
  """
  low, high = max(alone), sum(alone)
  for _ in range(60):  # Halvings, down to the rounding of the sum.
    middle = (low + high) / 2
    if len(_stretches(alone, after, middle)) <= n:
      high = middle
    else:
      low = middle
  found = _stretches(alone, after, high)
  return found + [range(0)] * (n - len(found))


def _stretches(alone, after, limit: float) -> list[range]:
  """The fewest stretches that cost no more than the limit each."""
  found, start, cost = [], 0, alone[0]
  for i in range(1, len(alone)):
    cost += after[i]
    if cost > limit:
      found.append(range(start, i))
      start, cost = i, alone[i]
  return [*found, range(start, len(alone))]


def plan_text(
  runs: Sequence[Run],
  forks: Sequence[Fork | None],
  shares: Sequence[Sequence[int]],
  n_finished: int = 0,
  n_begun: int = 0,
  seconds: Sequence[float] | None = None,
) -> str:
  """The sweep as a table, before it is trained.

  Args:
    runs: all of them.
    forks: where each goes on from another, as if nothing had been trained.
    shares: the runs of each job.
    n_finished: how many runs are finished.
    n_begun: how many have begun.
    seconds: those left of each run, at the pace of the finished runs; None if
      there is none.
  """
  shared = [fork.step if fork else 0 for fork in forks]
  alone = sum(run.plan.steps for run in runs)
  tokens = sum(
    (run.plan.steps - n) * run.config.tokens_per_step
    for run, n in zip(runs, shared, strict=True)
  )
  flops_alone = sum(_flops(run, run.plan.steps) for run in runs)
  flops_shared = sum(
    _flops(run, n) for run, n in zip(runs, shared, strict=True)
  )
  n_forks = sum(fork is not None for fork in forks)
  n_programs, n_trunks = 0, 0
  for share in shares:
    n_programs += len({jitted.program_key(runs[i].config) for i in share})
    n_trunks += most_trunks(
      [fork if i in share else None for i, fork in enumerate(forks)]
    )
  steps = alone - sum(shared)
  left = 'unknown', 'until a run is finished'
  if seconds is not None:
    pace = f'at the speed of {n_finished:,} finished runs'
    longest = max(sum(seconds[i] for i in share) for share in shares)
    left = text.duration(longest), pace
  jobs = [Line('Jobs', f'{len(shares):,}', 'at once')]
  return text.listing('Sweep', [
    Line('Runs', f'{len(runs):,}',
         f'{n_finished:,} finished, {n_begun:,} begun'),
    Line('Steps', f'{steps:,}', f'of {alone:,} if each began alone'),
    Line('  shared', f'{sum(shared):,}',
         f'{sum(shared) / alone:.1%} less, by {n_forks} runs'),
    Line('Tokens', f'{tokens:,}', 'trained on'),
    Line('Compute', f'{flops_alone - flops_shared:.3e}', 'FLOPs, 6 N_avg D'),
    Line('  shared', f'{flops_shared:.3e}',
         f'{flops_shared / flops_alone:.1%} less'),
    *(jobs if len(shares) > 1 else ()),
    Line('Programs', f'{n_programs:,}',
         'each compiled once' if len(shares) == 1 else 'each job compiles its'),
    Line('Trunks', f'{n_trunks:,}', 'states kept at once, at most'),
    Line('Time left', *left),
  ])  # fmt: skip


def _flops(run: Run, steps: int) -> float:
  """6 N_avg D of the first steps of a run, as planned."""
  linear = counts.linear_parameters(run.config.model)
  dense_steps = run.plan.schedule.compute(steps)
  return counts.training_flops(linear * dense_steps, run.config.tokens_per_step)


def runs_text(runs: Sequence[Run], forks: Sequence[Fork | None]) -> str:
  """Every run with its length and where it begins."""
  header = ['run', 'steps', 'own', 'from', 'at step']
  return text.table('Runs', header, [
    [
      run.name,
      f'{run.plan.steps:,}',
      f'{run.plan.steps - (fork.step if fork else 0):,}',
      runs[fork.parent].name if fork else '',
      f'{fork.step:,}' if fork else '',
    ]
    for run, fork in zip(runs, forks, strict=True)
  ])  # fmt: skip
