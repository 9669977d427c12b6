"""`pruning.wrap` in loops that know nothing of this project."""

import functools
import itertools
import math
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import linen as nn
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from updater_runs import (
  KERNELS,
  SCHEDULE,
  loss_fn,
  some_batches,
  some_params,
)

from jax_sparse_pretrain import pruning
from jax_sparse_pretrain.schedule import PruningSchedule
from jax_sparse_pretrain.training import step as step_lib

DOCS = pathlib.Path(__file__).parents[1] / 'docs'
UPDATES = SCHEDULE.update_steps.tolist()
RAMP = {'sparsity': 0.75, 'start': 4, 'end': 16, 'every': 4, 'shape': 'cubic'}
N = sum(math.prod(k.shape) for k in KERNELS.values())


def make_step(tx, donate=False):
  """The step that a tutorial has; nothing in it knows of pruning."""

  @functools.partial(jax.jit, donate_argnums=(0, 1) if donate else ())
  def train_step(params, state, rows):
    grads = jax.grad(loss_fn, has_aux=True)(params, rows)[0]
    updates, state = tx.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  return train_step


def run(tx, params=None, batches=None):
  """Yields (params, state), before the first step and after each."""
  batches = some_batches() if batches is None else batches
  params = some_params() if params is None else params
  state, train_step = tx.init(params), make_step(tx)
  yield params, state
  for rows in batches:
    params, state = train_step(params, state, rows)
    yield params, state
  assert train_step._cache_size() == 1  # Compiled once.


def weights(params):
  return {name: np.asarray(params[name[0]]['kernel']) for name in KERNELS}


def largest(arrays, candidates, k):
  """NumPy: masks of the k largest of all candidates; no two of them tie."""
  names = sorted(arrays)
  flat = [np.abs(np.asarray(arrays[n], np.float64)).ravel() for n in names]
  allowed = np.concatenate([np.ravel(candidates[n]) for n in names])
  magnitudes = np.where(allowed, np.concatenate(flat), -1)
  mask = np.zeros(len(magnitudes), bool)
  mask[np.argsort(-magnitudes, kind='stable')[:k]] = True
  parts = np.split(mask, np.cumsum([len(x) for x in flat])[:-1])
  return {
    n: part.reshape(np.shape(arrays[n]))
    for n, part in zip(names, parts, strict=True)
  }


def assert_same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def assert_close(a, b, atol):
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=atol), a, b
  )


def assert_zero_where_pruned(params, state):
  for name, mask in pruning.masks(state).items():
    pruned = weights(params)[name][~np.asarray(mask)]
    assert not pruned.any() and not np.signbit(pruned.astype(float)).any()


def our_own_run(tx, schedule, batches, **options):
  """Yields (params, masks) after each step of our train step."""
  distribution = options.pop('distribution', 'global')
  pruner = pruning.magnitude_pruner(
    KERNELS, pruning.DISTRIBUTIONS[distribution], order='after', **options
  )
  train_step = jax.jit(step_lib.make_train_step(loss_fn, tx, pruner))
  state = step_lib.init_state(some_params(), tx, pruner)
  fractions = schedule.kept_fractions.tolist()
  kept = dict(zip(schedule.update_steps.tolist(), fractions, strict=True))
  for t, rows in enumerate(batches):
    budget = pruner.budget_for(kept.get(t, 1.0))
    controls = step_lib.Controls(np.float32(0), np.bool_(t in kept), budget)
    state, _ = train_step(state, rows, controls)
    yield state.params, state.masks


@pytest.mark.fast(1)
@pytest.mark.parametrize(
  'options', [{}, {'distribution': 'uniform', 'mask_gradients': True}], ids=str
)
def test_masks_and_weights_are_those_of_our_own_step(options):
  tx = optax.chain(optax.clip_by_global_norm(0.1), optax.adamw(0.05))
  schedule = PruningSchedule('geometric', 0.9, start=3, end=40, every=6)
  batches = jnp.concatenate([some_batches()] * 2)
  theirs = list(our_own_run(tx, schedule, batches, **options))
  ours = list(run(pruning.wrap(tx, schedule, **options), batches=batches))[1:]
  for (params, state), (their_params, their_masks) in zip(
    ours, theirs, strict=True
  ):
    assert_same(pruning.masks(state), dict(their_masks))
    # The same float32 operations, fused by two compilations, over 48 steps.
    assert_close(params, their_params, 2e-6)


@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_each_update_keeps_the_k_largest_and_the_rest_are_exact_zeros(dtype):
  params = jax.tree.map(lambda x: x.astype(dtype), some_params())
  states = list(run(pruning.wrap(optax.adamw(0.05), **RAMP), params))
  masks = {name: np.ones(k.shape, bool) for name, k in KERNELS.items()}
  for t, (before, after) in enumerate(itertools.pairwise(states)):
    if t in UPDATES:
      kept = round(N * SCHEDULE.kept_fractions[UPDATES.index(t)])
      if dtype == jnp.float32:
        masks = largest(weights(before[0]), masks, kept)
      else:  # Weights tie; test_pruning.py holds which of them stay.
        new = jax.device_get(pruning.masks(after[1]))
        assert not any((new[n] & ~masks[n]).any() for n in masks)
        masks = new
      assert sum(n for n, _ in pruning.kept(after[1]).values()) == kept
    assert_same(dict(pruning.masks(after[1])), masks)
    assert_zero_where_pruned(*after)
    assert_same(pruning.apply(*after), after[0])  # Nothing is left to do.
    assert after[0]['a']['kernel'].dtype == dtype
  assert pruning.sparsity(states[-1][1]) == 0.75
  assert pruning.post_gradient_update is pruning.apply


def test_what_follows_in_a_chain_is_what_apply_is_for():
  tx = optax.chain(
    optax.clip_by_global_norm(1.0),
    pruning.wrap(optax.adam(0.05), SCHEDULE),
    optax.add_noise(0.01, 0.55, 0),
  )
  *_, (params, state) = run(tx)
  assert any(weights(params)[n][~np.asarray(m)].any()
             for n, m in pruning.masks(state).items())  # fmt: skip
  assert_zero_where_pruned(pruning.apply(params, state), state)


def test_accumulated_gradients_prune_at_the_steps_that_are_taken():
  tx = pruning.wrap(optax.sgd(0.1), sparsity=0.5, start=1, end=3, every=1)
  many = list(run(optax.MultiSteps(tx, 4).gradient_transformation()))
  for t, (_, state) in enumerate(many):
    n_taken = t // 4
    assert (pruning.sparsity(state) > 0) == (n_taken >= 2)
  for (params, state), after in itertools.pairwise(many):
    del params
    if int(state.mini_step) != 3:
      assert_same(pruning.masks(state), pruning.masks(after[1]))
    assert_zero_where_pruned(*after)
  # As with one gradient of the four batches.
  params, state = some_params(), tx.init(some_params())
  mean_grads = jax.jit(
    lambda params, batches: jax.tree.map(
      lambda g: g.mean(0),
      jax.vmap(lambda rows: jax.grad(loss_fn, has_aux=True)(params, rows)[0])(
        batches
      ),
    )
  )
  for batches in some_batches().reshape(6, 4, 32, 24):
    updates, state = jax.jit(tx.update)(
      mean_grads(params, batches), state, params
    )
    params = optax.apply_updates(params, updates)
  assert_same(pruning.masks(state), pruning.masks(many[-1][1]))
  assert_close(params, many[-1][0], 1e-5)


def test_eight_devices_give_the_masks_of_one_and_keep_them_sharded():
  mesh = jax.make_mesh(
    (4, 2), ('fsdp', 'tensor'), axis_types=(AxisType.Auto,) * 2
  )
  at = {
    'a': {'kernel': PartitionSpec('fsdp', 'tensor')},
    'b': {'kernel': PartitionSpec('tensor', 'fsdp')},
    'n': {'scale': PartitionSpec('fsdp')},
  }
  at = jax.tree.map(lambda spec: NamedSharding(mesh, spec), at)
  tx = optax.chain(
    optax.clip_by_global_norm(1.0),
    pruning.wrap(optax.adam(0.05), SCHEDULE),
  )
  params = jax.device_put(some_params(), at)
  # As for any optimizer whose state holds `optax.MaskedNode`.
  shardings = optax.tree.map_params(
    tx,
    lambda _, where: where,
    jax.eval_shape(tx.init, params),
    at,
    transform_non_params=lambda _: NamedSharding(mesh, PartitionSpec()),
    is_leaf=lambda x: isinstance(x, optax.MaskedNode),
  )
  state = jax.jit(tx.init, out_shardings=shardings)(params)
  train_step = make_step(tx, donate=True)
  for rows in some_batches():
    params, state = train_step(params, state, rows)
  assert train_step._cache_size() == 1
  for name, mask in pruning.masks(state).items():
    assert mask.sharding == at[name[0]]['kernel']
  *_, (alone, alone_state) = run(tx)
  assert_same(pruning.masks(state), pruning.masks(alone_state))
  assert_close(params, alone, 1e-5)
  assert_zero_where_pruned(params, state)


def test_masks_carry_the_axis_names_of_flax():
  boxed = {
    'w': nn.Partitioned(jnp.ones((4, 8)), names=('in', 'out')),
    'b': nn.Partitioned(jnp.ones(8), names=('out',)),
  }
  tx = pruning.wrap(optax.adam(0.05), **ONCE, sparsity=0.5)
  specs = nn.get_partition_spec(jax.eval_shape(tx.init, boxed))
  assert specs.masks['w'] == PartitionSpec('in', 'out')
  mesh = jax.make_mesh((4, 2), ('in', 'out'), axis_types=(AxisType.Auto,) * 2)
  at = nn.logical_to_mesh_sharding(specs, mesh, (('in', 'in'), ('out', 'out')))
  state = jax.jit(tx.init, out_shardings=at)(boxed)
  assert state.masks['w'].value.sharding.spec == PartitionSpec('in', 'out')


def test_a_scan_over_steps_is_the_loop():
  tx = pruning.wrap(optax.adam(0.05), SCHEDULE)
  train_step = make_step(tx)

  def body(carry, rows):
    return train_step(*carry, rows), None

  start = some_params(), tx.init(some_params())
  end, _ = jax.jit(lambda c, b: jax.lax.scan(body, c, b))(start, some_batches())
  *_, last = run(tx)
  assert_same(pruning.masks(end[1]), pruning.masks(last[1]))
  assert_close(end[0], last[0], 1e-6)


def test_a_checkpoint_of_the_state_goes_on_to_the_bit(tmp_path):
  tx = pruning.wrap(optax.adam(0.05), SCHEDULE)
  train_step = make_step(tx)
  *_, half = run(tx, batches=some_batches()[:10])
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(tmp_path / 'state', half)
    checkpointer.wait_until_finished()
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, half)
    restored = checkpointer.restore(tmp_path / 'state', abstract)
  assert isinstance(restored[1], pruning.PrunedState)
  for rows in some_batches()[10:]:
    half, restored = train_step(*half, rows), train_step(*restored, rows)
  assert_same(half, restored)


def one_update(tx, params):
  """State and params after one step of zero gradients."""
  updates, state = jax.jit(tx.update)(
    jax.tree.map(jnp.zeros_like, params), tx.init(params), params
  )
  return state, optax.apply_updates(params, updates)


ONCE = {'start': 0, 'end': 0, 'every': 1, 'shape': 'one_shot'}


def some_tree():
  """Layers of a scan, a list of a convolution and a bias, an embedding."""
  rng = np.random.default_rng(0)
  tree = {
    'layers': {'up': rng.normal(size=(3, 8, 16)), 'scale': np.ones((3, 8))},
    'stem': [rng.normal(size=(3, 3, 4, 8)), np.zeros(8)],
    'embedding': rng.normal(size=(20, 8)),
    'ids': np.arange(6).reshape(2, 3),
  }
  return jax.tree.map(
    lambda x: jnp.asarray(x, None if x.dtype == int else jnp.float32), tree
  )


def test_layers_of_a_stacked_leaf_are_pruned_each_by_itself():
  tree = some_tree()
  tree['layers']['up'] *= jnp.array([0.01, 1, 100])[:, None, None]
  tx = pruning.wrap(
    optax.sgd(0.1),
    **ONCE,
    sparsity=0.75,
    distribution='uniform',
    stacked=('layers/*',),
    exempt=('embedding',),
    sparsities=(('stem/*', 0.5),),
  )
  state, params = one_update(tx, tree)
  masks = pruning.masks(state)
  # Scales of a layer have one axis; ids are no weights.
  assert masks.keys() == {'layers/up', 'stem/0'}
  np.testing.assert_array_equal(masks['layers/up'].sum((1, 2)), [32] * 3)
  assert pruning.kept(state) == {'layers/up': (96, 384), 'stem/0': (144, 288)}
  assert pruning.sparsity(state) == (288 + 144) / (384 + 288)
  for untouched in ('embedding', 'ids'):
    assert params[untouched] is not None
    np.testing.assert_array_equal(params[untouched], tree[untouched])


def test_without_patterns_every_leaf_of_two_axes_is_pruned():
  state, _ = one_update(
    pruning.wrap(optax.sgd(0.1), **ONCE, sparsity=0.5), some_tree()
  )
  assert pruning.masks(state).keys() == {
    *('embedding', 'layers/scale', 'layers/up', 'stem/0')
  }
  # One threshold for all of them: the ones of the scales stay.
  assert pruning.kept(state)['layers/scale'] == (24, 24)


@pytest.mark.parametrize(
  'structure', [pruning.NByM(2, 4), pruning.Block(4, 2), pruning.Channel()]
)
def test_structures_are_kept_whole(structure):
  tx = pruning.wrap(
    optax.sgd(0.1), **ONCE, sparsity=0.5, distribution='uniform',
    structure=structure, exempt=('stem/*',),
    stacked=('layers/*',),
  )  # fmt: skip
  state, _ = one_update(tx, some_tree())
  mask = np.asarray(pruning.masks(state)['embedding'])
  if isinstance(structure, pruning.NByM):
    assert (mask.reshape(20, 2, 4).sum(-1) == 2).all()
  elif isinstance(structure, pruning.Block):
    per_block = mask.reshape(5, 4, 4, 2).sum((1, 3))
    assert sorted(per_block.ravel()) == [0] * 10 + [8] * 10
  else:
    assert sorted(mask.sum(0)) == [0] * 4 + [20] * 4


def test_groups_of_leaves_have_their_own_wraps():
  tx = optax.multi_transform(
    {
      'half': pruning.wrap(optax.sgd(0.1), **ONCE, sparsity=0.5),
      'most': pruning.wrap(optax.sgd(0.1), **ONCE, sparsity=0.75),
      'dense': optax.sgd(0.1),
    },
    {'a': 'half', 'b': 'most', 'n': 'dense'},
  )
  state, params = one_update(tx, some_params())
  assert pruning.kept(state) == {'a/kernel': (192, 384), 'b/kernel': (48, 192)}
  assert_zero_where_pruned(params, state)
  masked = optax.masked(
    pruning.wrap(optax.sgd(0.1), **ONCE, sparsity=0.5),
    {'a': True, 'b': False, 'n': True},
  )
  state, _ = one_update(masked, some_params())
  assert pruning.kept(state) == {'a/kernel': (192, 384)}


def test_extra_arguments_reach_the_optimizer():
  def update(grads, state, params=None, *, value, **extra):
    return jax.tree.map(lambda g: g + value, grads), state

  inner = optax.GradientTransformationExtraArgs(lambda p: (), update)
  tx = pruning.wrap(inner, SCHEDULE)
  params = some_params()
  updates, _ = tx.update(params, tx.init(params), params, value=2.0)
  np.testing.assert_array_equal(updates['n']['scale'], np.full(8, 3.0))


def wrap(**options):
  return pruning.wrap(optax.sgd(0.1), **{**RAMP, **options})


@pytest.mark.parametrize(
  'options, words',
  [
    ({'sparsity': 0.0}, 'sparsity = 0: must be above 0'),
    ({'sparsity': 1.5}, r'sparsity 1.5: must be in \[0, 1\)'),
    ({'every': None, 'end': None}, 'end, every: must be given, or a schedule'),
    ({'schedule': SCHEDULE}, 'sparsity, .* must not be given beside'),
    ({'schedule': 0.5, **dict.fromkeys(RAMP)}, 'must be a PruningSchedule'),
    ({'end': 2**31, 'every': 2**30}, 'end = 2147483648: must be below'),
    ({'shape': 'square'}, "shape 'square': must be one of"),
    ({'distribution': 'even'}, "'even': must be one of .'global', 'uniform'"),
    ({'structure': 'block'}, "structure = 'block': must be a Structure"),
    ({'structure': pruning.NByM(2, 4)}, 'NByM.*: has no ramp; needs sparsity'),
  ],
)  # fmt: skip
def test_what_cannot_be_wrapped_is_refused(options, words):
  with pytest.raises(ValueError, match=words) as error:
    wrap(**options)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  'options, words',
  [
    ({'exempt': ('head/*',)}, "exempt: 'head/.' matches no kernel; there"),
    ({'stacked': ('c*',)}, "stacked: 'c.' matches no kernel; there are a/"),
    ({'exempt': ('*',)}, 'exempt = .* must leave kernels to prune'),
    ({'sparsities': (('a/*', 0.5),)}, "empty for distribution 'global'"),
    ({'structure': pruning.Block(5, 5)}, 'a/kernel: Block.* 5 must divide'),
  ],
)  # fmt: skip
def test_what_does_not_fit_the_params_is_refused(options, words):
  with pytest.raises(ValueError, match=words) as error:
    wrap(**options).init(some_params())
  assert '\n' not in str(error.value)


def test_params_that_cannot_be_pruned_are_refused():
  params, tx = some_params(), wrap()
  with pytest.raises(ValueError, match='nothing to prune, .* n/scale'):
    tx.init({'n': params['n']})
  with pytest.raises(ValueError, match='params: must be given, tx.update'):
    tx.update(params, tx.init(params))
  with pytest.raises(ValueError, match='not those of the leaves to prune'):
    wrap(exempt=('a/*',)).update(params, tx.init(params), params)
  with pytest.raises(ValueError, match='state: has no masks'):
    pruning.apply(params, optax.sgd(0.1).init(params))
  twice = optax.chain(tx, tx)
  with pytest.raises(ValueError, match='a/kernel: is pruned by two wraps'):
    pruning.masks(twice.init(params))
  begins = PruningSchedule('constant', 0.5, 0, 1, 1, begins_sparse=True)
  with pytest.raises(ValueError, match='begins_sparse = True'):
    pruning.wrap(tx, begins)


def blocks(page):
  text = (DOCS / page).read_text()
  return re.findall(r'```python\n(.*?)```', text, re.S)


@pytest.mark.slow
@pytest.mark.parametrize('i', range(len(blocks('optax.md'))))
def test_the_code_of_the_page_runs(i):
  exec(compile(blocks('optax.md')[i], f'docs/optax.md, block {i}', 'exec'), {})
