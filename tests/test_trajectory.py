"""Sixty steps of pruned Adam, against the numbers of jaxpruner itself."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jax_sparse_pretrain import pruning
from jax_sparse_pretrain.schedule import PruningSchedule
from jax_sparse_pretrain.training import step

PATH = pathlib.Path(__file__).parent / 'golden_trajectory'
GOLDEN = np.load(PATH / 'jaxpruner_trajectory.npz')
KERNELS = {
  name: pruning.Kernel(GOLDEN[f'initial/{name}'].shape, stacked=False)
  for name in ('a/kernel', 'b/kernel')
}
STEPS = 60


def tree(part):
  return {
    'a': {'kernel': jnp.asarray(GOLDEN[f'{part}/a/kernel'])},
    'b': {'kernel': jnp.asarray(GOLDEN[f'{part}/b/kernel'])},
    'n': {'scale': jnp.asarray(GOLDEN[f'{part}/n/scale'])},
  }


def loss_fn(params, rows):
  del rows
  distances = jax.tree.map(lambda p, t: (p - t) ** 2, params, tree('target'))
  return optax.tree.sum(distances) / 2, {}


def run(**options):
  """Yields the state after each step."""
  pruner = pruning.magnitude_pruner(
    KERNELS, pruning.DISTRIBUTIONS['uniform'], **options
  )
  schedule = PruningSchedule('cubic', 0.75, start=10, end=40, every=5)
  tx = optax.adam(0.05)
  train_step = jax.jit(step.make_train_step(loss_fn, tx, pruner))
  state = step.init_state(tree('initial'), tx, pruner)
  kept = dict(
    zip(schedule.update_steps, schedule.kept_fractions.tolist(), strict=True)
  )
  for t in range(STEPS):
    budget = pruner.budget_for(kept.get(t, 1.0))
    controls = step.Controls(np.float32(0), np.bool_(t in kept), budget)
    state, _ = train_step(state, jnp.zeros((1, 2), jnp.int32), controls)
    yield state


def nonzero(state):
  return [int((state.params[k]['kernel'] != 0).sum()) for k in ('a', 'b')]


@pytest.mark.parametrize(
  'options',
  [
    {'order': 'after'},
    {'order': 'after', 'mask_gradients': True},
    # A coordinate's gradient depends on no other, so that it does not matter
    # here that the forward pass of an update step is already sparse.
    {'order': 'before'},
  ],
)
def test_sixty_steps_follow_jaxpruner(options):
  states = list(run(**options))
  np.testing.assert_array_equal(
    [nonzero(state) for state in states], GOLDEN['nonzero_a_b']
  )
  jax.tree.map(
    lambda ours, theirs: np.testing.assert_allclose(ours, theirs, atol=1e-6),
    states[-1].params,
    tree('final'),
  )
