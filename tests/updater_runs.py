"""Runs of a small net in jaxpruner's own loop, and what they gave once.

With a checkout of jaxpruner at PATH, this writes tests/golden/updaters.npz:

  PYTHONPATH=PATH python tests/updater_runs.py
"""

import pathlib

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax

from jax_sparse_pretrain import pruning
from jax_sparse_pretrain.pruning.jaxpruner import load_jaxpruner
from jax_sparse_pretrain.schedule import PruningSchedule

GOLDEN = pathlib.Path(__file__).parent / 'golden' / 'updaters.npz'
SHAPES = {'a/kernel': (16, 24), 'b/kernel': (24, 8)}
KERNELS = {n: pruning.Kernel(s, stacked=False) for n, s in SHAPES.items()}
SPARSITY, START, END, EVERY = 0.75, 4, 16, 4
STEPS = 24
SCHEDULE = PruningSchedule('cubic', SPARSITY, START, END, EVERY)
GLOBAL = ('global_magnitude', 'global_saliency')
STRAIGHT_THROUGH = ('magnitude_ste', 'random_ste')
SPARSE_FROM_THE_START = ('static_sparse', 'set', 'rigl')
ALGORITHMS = (
  *('no_prune', 'magnitude', 'random', 'saliency'),
  *(GLOBAL + STRAIGHT_THROUGH + SPARSE_FROM_THE_START),
)
# What our own engine does, too: name -> the updater's config.
ALSO_OURS = {
  'magnitude, erk': {'algorithm': 'magnitude', 'dist_type': 'erk'},
  'magnitude, masked gradients': {
    'algorithm': 'magnitude',
    'is_sparse_gradients': True,
  },
  'global_magnitude, unnormalised': {
    'algorithm': 'global_magnitude',
    'use_normalization': False,
  },
}
RUNS = {**{name: {'algorithm': name} for name in ALGORITHMS}, **ALSO_OURS}


def some_params():
  rng = np.random.default_rng(0)
  a, b = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in SHAPES.values())
  scale = jnp.ones(8)
  return {'a': {'kernel': a}, 'b': {'kernel': b}, 'n': {'scale': scale}}


def some_batches():
  rng = np.random.default_rng(1)
  return jnp.asarray(rng.normal(size=(STEPS, 32, 24)), jnp.float32)


def loss_fn(params, rows):
  hidden = jnp.tanh(rows[:, :16] @ params['a']['kernel'])
  predicted = hidden @ params['b']['kernel'] * params['n']['scale']
  loss = jnp.mean(jnp.square(predicted - rows[:, 16:]))
  return loss, {'train_loss': loss}


def nonzero(params):
  """bool[576], a's weights and then b's."""
  return np.concatenate(
    [np.ravel(params[name]['kernel'] != 0) for name in ('a', 'b')]
  )


def their_run(algorithm, *, dist_type='uniform', **options):
  """jaxpruner's own loop with its own schedule.

  Returns:
    (params, state, scheduler, which weights each forward pass saw and the one
    after the last step would see, bool[STEPS + 1, 576]).
  """
  jaxpruner = load_jaxpruner()
  updater = jaxpruner.create_updater_from_config(
    ml_collections.ConfigDict(
      {
        'algorithm': algorithm,
        'dist_type': dist_type,
        'sparsity': SPARSITY,
        'update_freq': EVERY,
        'update_start_step': START,
        'update_end_step': END,
        **options,
      }
    )
  )
  updater.rng_seed = jax.random.PRNGKey(5)
  tx = updater.wrap_optax(optax.adam(0.05))

  @jax.jit
  def train_step(params, state, rows):
    forward = updater.pre_forward_update(params, state)
    grads = jax.grad(loss_fn, has_aux=True)(forward, rows)[0]
    updates, state = tx.update(grads, state, params)
    params = optax.apply_updates(params, updates)
    return updater.post_gradient_update(params, state), state, forward

  state, seen = tx.init(some_params()), []
  params = updater.post_gradient_update(some_params(), state)
  for rows in some_batches():
    params, state, forward = train_step(params, state, rows)
    seen.append(nonzero(forward))
  seen.append(nonzero(updater.pre_forward_update(params, state)))
  return params, state, updater.scheduler, np.array(seen)


def golden(run):
  """(which weights were seen, bool[STEPS + 1, 576]; the last params)."""
  stored = np.load(GOLDEN)
  seen = np.unpackbits(stored[f'{run}/seen'], axis=1).astype(bool)
  return seen, {
    'a': {'kernel': stored[f'{run}/a']},
    'b': {'kernel': stored[f'{run}/b']},
    'n': {'scale': stored[f'{run}/n']},
  }


def main() -> None:
  arrays = {}
  for run, options in RUNS.items():
    params, _, _, seen = their_run(**options)
    arrays[f'{run}/seen'] = np.packbits(seen, axis=1)
    arrays[f'{run}/a'] = np.asarray(params['a']['kernel'])
    arrays[f'{run}/b'] = np.asarray(params['b']['kernel'])
    arrays[f'{run}/n'] = np.asarray(params['n']['scale'])
  np.savez_compressed(GOLDEN, **arrays)


if __name__ == '__main__':
  main()
