"""Pruned runs of Adam, against the numbers of jaxpruner itself."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import updater_runs

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


def wrapped_run():
  """The same through optax alone; yields the params after each step."""
  tx = pruning.wrap(
    optax.adam(0.05),
    PruningSchedule('cubic', 0.75, start=10, end=40, every=5),
    distribution='uniform',
  )

  @jax.jit
  def train_step(params, state):
    grads = jax.grad(loss_fn, has_aux=True)(params, None)[0]
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  params = tree('initial')
  state = tx.init(params)
  for _ in range(STEPS):
    params, state = train_step(params, state)
    yield params


def nonzero(params):
  return [int((params[k]['kernel'] != 0).sum()) for k in ('a', 'b')]


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
  assert_follows_jaxpruner([state.params for state in run(**options)])


def test_sixty_steps_of_a_wrapped_optimizer_follow_jaxpruner():
  assert_follows_jaxpruner(list(wrapped_run()))


def assert_follows_jaxpruner(params):
  np.testing.assert_array_equal(
    [nonzero(each) for each in params], GOLDEN['nonzero_a_b']
  )
  assert_close(params[-1], tree('final'))


def assert_close(ours, theirs):
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), ours, theirs
  )


@pytest.mark.parametrize(
  'golden, options',
  [
    ('magnitude', {}),
    ('magnitude, erk', {'distribution': 'erk'}),
    ('magnitude, masked gradients', {'mask_gradients': True}),
    ('global_magnitude, unnormalised', {'distribution': 'global'}),
    ('no_prune', None),
  ],
)
def test_a_net_is_pruned_as_jaxpruner_prunes_it(golden, options):
  """Every updater that our engine has too; the bridge has the others."""
  tx = optax.adam(0.05)
  if options is not None:
    options = {'distribution': 'uniform', **options}
    tx = pruning.wrap(tx, updater_runs.SCHEDULE, **options)

  @jax.jit
  def train_step(params, state, rows):
    grads = jax.grad(updater_runs.loss_fn, has_aux=True)(params, rows)[0]
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  params = updater_runs.some_params()
  state, seen = tx.init(params), []
  for rows in updater_runs.some_batches():
    seen.append(updater_runs.nonzero(params))
    params, state = train_step(params, state, rows)
  seen.append(updater_runs.nonzero(params))
  their_masks, their_params = updater_runs.golden(golden)
  np.testing.assert_array_equal(seen, their_masks)
  assert_close(params, their_params)
