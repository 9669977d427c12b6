"""How many first steps runs have in common, from what each step does."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jax_sparse_pretrain.sweep.sweep_file import Run
from jax_sparse_pretrain.training import optimizer, program_keys, recipe


class Recipe(NamedTuple):
  """What a run does, step by step.

  Attributes:
    key: equal for runs of the same program, data and seed; None for one that
      shares nothing.
    learning_rates: float32[steps].
    updates: (step, bytes of the budget) of every mask update.
    snapshots: finished steps after which the masks are saved.
  """

  key: str | None
  learning_rates: np.ndarray
  updates: Sequence[tuple[int, Any]]
  snapshots: frozenset[int]


def make_recipe(run: Run) -> Recipe:
  """The recipe of a run, from the functions that its training calls."""
  config, plan = run.config, run.plan
  kernels = recipe.model_kernels(config.model)
  pruner = recipe.make_pruner(config, plan, kernels)
  rates = optimizer.learning_rates(config.optimizer, plan.steps)
  controls = recipe.make_controls(config, plan, pruner, rates)
  key = program_keys.prefix_key(config)
  steps = [] if key is None else plan.schedule.update_steps.tolist()
  return Recipe(
    key=key,
    learning_rates=rates,
    updates=[(step, _bytes(controls(step).budget)) for step in steps],
    snapshots=frozenset(config.pruning.snapshots),
  )


def _bytes(budget: Any) -> tuple:
  leaves, structure = jax.tree.flatten(budget)
  arrays = map(np.asarray, leaves)
  return str(structure), *((str(a.dtype), a.tobytes()) for a in arrays)


def common_steps(a: Recipe, b: Recipe) -> int:
  """Steps after which the files of two runs are the same, to the bit.

  Less than either has: with its last step a run logs, evaluates and saves.
  """
  if a.key is None or a.key != b.key:
    return 0
  steps = min(len(a.learning_rates), len(b.learning_rates)) - 1
  differ = a.learning_rates[:steps].view(np.uint32) != (
    b.learning_rates[:steps].view(np.uint32)
  )
  first_rate = int(differ.argmax()) if differ.any() else steps
  # A snapshot is taken after its step.
  first_snapshot = min(a.snapshots ^ b.snapshots, default=steps + 1) - 1
  return min(first_rate, _first_update(a, b, steps), first_snapshot)


def _first_update(a: Recipe, b: Recipe, steps: int) -> int:
  """The first step at which one run prunes and the other does not, or less."""
  for ours, theirs in zip(a.updates, b.updates, strict=False):
    if ours != theirs:
      return min(ours[0], theirs[0])
  n = min(len(a.updates), len(b.updates))
  rest = [*a.updates[n:], *b.updates[n:]]
  return min((step for step, _ in rest), default=steps)


def common_steps_table(runs: Sequence[Run]) -> np.ndarray:
  """int64[n, n]: common steps of each run with each before it, else 0."""
  recipes = [make_recipe(run) for run in runs]
  table = np.zeros((len(runs), len(runs)), np.int64)
  for i, ours in enumerate(recipes):
    for j, theirs in enumerate(recipes[:i]):
      table[i, j] = common_steps(ours, theirs)
  return table
