"""jaxpruner's updaters in our step, against jaxpruner's own loop."""

import pathlib
import sys

import jax
import numpy as np
import optax
import pytest
from flax import linen as nn
from updater_runs import (
  ALGORITHMS,
  END,
  EVERY,
  GLOBAL,
  KERNELS,
  RUNS,
  SPARSE_FROM_THE_START,
  SPARSITY,
  START,
  STEPS,
  STRAIGHT_THROUGH,
  golden,
  loss_fn,
  some_batches,
  some_params,
  their_run,
)

from jax_sparse_pretrain import command_line, pruning
from jax_sparse_pretrain.model.decoder import Decoder
from jax_sparse_pretrain.pruning.jaxpruner import (
  jaxpruner_pruner,
  load_jaxpruner,
  upstream,
)
from jax_sparse_pretrain.runs import checkpoint
from jax_sparse_pretrain.schedule import PruningSchedule
from jax_sparse_pretrain.training import optimizer as optimizer_lib
from jax_sparse_pretrain.training import recipe, step
from jax_sparse_pretrain.training import step as step_lib

SMOKE = pathlib.Path(__file__).parents[1] / 'configs' / 'smoke.py'


@pytest.fixture
def jaxpruner():
  pytest.importorskip('jaxpruner')
  return load_jaxpruner()


def make_pruner(algorithm, kernels=KERNELS, **options):
  return jaxpruner_pruner(
    kernels,
    dict.fromkeys(kernels, SPARSITY),
    algorithm,
    sparsity=SPARSITY,
    end_step=END,
    options=options,
    seed=5,
  )


class Ours:
  """The same steps in our loop, but for jaxpruner's schedule."""

  def __init__(self, algorithm, **options):
    self.pruner = make_pruner(algorithm, **options)
    self.tx = optax.adam(0.05)
    self.step = jax.jit(step.make_train_step(loss_fn, self.tx, self.pruner))
    # These follow their schedule in every step.
    self.always = algorithm in STRAIGHT_THROUGH

  def init(self):
    return step.init_state(some_params(), self.tx, self.pruner)

  def run(self, state, steps=range(STEPS), sparsity_at=lambda t: SPARSITY):
    for t in steps:
      due = self.always or (START <= t <= END and t % EVERY == 0)
      budget = self.pruner.budget_for(1 - sparsity_at(t))
      controls = step.Controls(np.float32(0), np.bool_(due), budget)
      state, _ = self.step(state, some_batches()[t], controls)
    return state


@pytest.mark.parametrize('algorithm', ALGORITHMS)
def test_weights_and_masks_are_those_of_jaxpruners_own_loop(
  jaxpruner, algorithm
):
  params, theirs, schedule, _ = their_run(algorithm)
  if algorithm == 'no_prune':
    schedule = jaxpruner.PolynomialSchedule(EVERY, START, END)
  run = Ours(algorithm)
  ours = run.run(
    run.init(),
    sparsity_at=lambda t: float(schedule.get_sparsity_at_step(SPARSITY, t)),
  )
  # The same float32 operations, fused by two compilations.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
    ours.params,
    params,
  )
  assert int(ours.masks.count) == int(theirs.count) == STEPS
  their_masks = pruning.by_path(theirs.masks)
  assert ours.masks.masks.keys() == their_masks.keys()
  for name, mask in their_masks.items():
    np.testing.assert_array_equal(ours.masks.masks[name], mask, name)


@pytest.mark.parametrize('run', RUNS)
def test_jaxpruner_itself_gives_what_it_gave(jaxpruner, run):
  params, _, _, seen = their_run(**RUNS[run])
  once_seen, once_params = golden(run)
  np.testing.assert_array_equal(seen, once_seen)
  jax.tree.map(
    lambda now, once: np.testing.assert_allclose(now, once, atol=1e-5),
    params,
    once_params,
  )


def test_every_algorithm_that_jaxpruner_registers_is_tested(jaxpruner):
  assert set(jaxpruner.all_algorithm_names()) == set(ALGORITHMS)


@pytest.mark.parametrize('algorithm', ['magnitude', 'global_saliency'])
def test_packed_masks_prune_the_same(jaxpruner, algorithm):
  runs = Ours(algorithm), Ours(algorithm, use_packed_masks=True)
  plain, packed = states = [run.run(run.init()) for run in runs]
  kept = [
    run.pruner.kept(state.params, state.masks)
    for run, state in zip(runs, states, strict=True)
  ]
  jax.tree.map(np.testing.assert_array_equal, *kept)
  jax.tree.map(np.testing.assert_array_equal, plain.params, packed.params)
  assert packed.masks.masks['a/kernel'].size == 16 * 24 // 8


def test_two_of_four_are_kept_with_a_sparsity_type(jaxpruner):
  run = Ours('magnitude', sparsity_type='nm_2,4')
  state = run.run(run.init())
  for mask in state.masks.masks.values():
    assert (mask.reshape(-1, 4).sum(axis=1) == 2).all()


class Smoke:
  """The parts of a run of the smoke model, on short rows."""

  def __init__(self, algorithm):
    config = command_line.load_config(str(SMOKE), [])
    self.model = Decoder(config.model, lambda x, axes: x)
    self.kernels = recipe.model_kernels(config.model)
    self.pruner = make_pruner(algorithm, self.kernels)
    self.tx = optimizer_lib.make_optimizer(config.optimizer)
    loss = step_lib.make_loss_fn(
      lambda params, tokens, _: self.model.apply({'params': params}, tokens),
      0.0,
    )
    self.step = jax.jit(step.make_train_step(loss, self.tx, self.pruner))
    self.is_global = algorithm in GLOBAL
    schedule = PruningSchedule('cubic', SPARSITY, START, END, EVERY)
    self.kept = dict(
      zip(schedule.update_steps.tolist(), schedule.kept_fractions, strict=True)
    )

  def init(self):
    tokens = np.zeros((1, 32), np.int32)
    params = self.model.init(jax.random.key(0), tokens)['params']
    return step.init_state(nn.unbox(params), self.tx, self.pruner)

  def run(self, state, steps):
    """(state, losses, {step: kept weights of the step's forward pass})."""
    losses, counts = [], {}
    for t in steps:
      changed = t == 0 or t - self.pruner.delay in self.kept
      if changed and self.pruner.delay:
        counts[t] = self.count(state)
      kept = float(self.kept.get(t, 1.0))
      if not self.is_global:
        kept = dict.fromkeys(self.kernels, kept)
      controls = step.Controls(
        np.float32(3e-3), np.bool_(t in self.kept), self.pruner.budget_for(kept)
      )
      rng = np.random.default_rng(t)
      rows = rng.choice(16, size=(8, 33)).astype(np.int32)
      state, metrics = self.step(state, rows, controls)
      losses.append(float(metrics['train_loss']))
      if changed and not self.pruner.delay:
        counts[t] = self.count(state)
    return state, losses, counts

  def count(self, state):
    kept = self.pruner.kept(state.params, state.masks)
    counts = pruning.count_nonzero(kept, self.kernels)
    return {name: int(n.sum()) for name, n in counts.items()}


@pytest.mark.slow
@pytest.mark.parametrize('algorithm', ALGORITHMS)
def test_forty_steps_of_the_smoke_model_train_and_end_at_the_target(
  jaxpruner, algorithm
):
  smoke = Smoke(algorithm)
  state, losses, counts = smoke.run(smoke.init(), range(40))
  # From that of 256 tokens down to that of the 16 in use; `random_ste`, which
  # draws its masks anew in every step, is the slowest.
  assert np.isfinite(losses).all() and losses[-1] < losses[0] - 0.5
  sizes = {n: k.n_layers * k.layer_size for n, k in smoke.kernels.items()}
  target = {n: round((1 - SPARSITY) * size) for n, size in sizes.items()}
  first, last = counts[0], counts[max(counts)]
  assert first == (target if algorithm in SPARSE_FROM_THE_START else sizes)
  if algorithm == 'no_prune':
    assert last == sizes
  elif algorithm in GLOBAL:
    assert sum(last.values()) == round(0.25 * sum(sizes.values()))
  else:
    assert last == target
  kernels = pruning.kernels.select(state.params, sizes)
  nonzero = {name: int((w != 0).sum()) for name, w in kernels.items()}
  dense = algorithm in (*STRAIGHT_THROUGH, 'no_prune')
  assert nonzero == (sizes if dense else last)


def test_rigl_moves_its_weights_and_static_sparse_does_not(jaxpruner):
  moved = {}
  for algorithm in ('rigl', 'static_sparse'):
    run = Ours(algorithm)
    first, last = run.init().masks, run.run(run.init()).masks
    pairs = [(mask, last.masks[name]) for name, mask in first.masks.items()]
    assert all(a.sum() == b.sum() for a, b in pairs)
    moved[algorithm] = any((a != b).any() for a, b in pairs)
  assert moved == {'rigl': True, 'static_sparse': False}


@pytest.mark.parametrize('algorithm', ['rigl', 'random_ste'])
def test_a_checkpoint_goes_on_to_the_bit(jaxpruner, algorithm, tmp_path):
  run = Ours(algorithm)
  half = run.run(run.init(), range(10))
  checkpoints = checkpoint.Checkpoints(tmp_path / 'checkpoints', keep=1)
  checkpoints.save(10, half, {}, {})
  checkpoints.wait()
  restored = checkpoints.restore_newest(
    jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), half)
  )
  checkpoints.close()
  ends = [run.run(state, range(10, STEPS)) for state in (half, restored.state)]
  jax.tree.map(np.testing.assert_array_equal, *ends)


def test_masks_of_a_sharded_run_are_those_of_one_device(jaxpruner):
  run = Ours('rigl')
  mesh = jax.make_mesh(
    (8,), ('fsdp',), axis_types=(jax.sharding.AxisType.Auto,)
  )
  spread = jax.sharding.NamedSharding(mesh, jax.P('fsdp'))

  def masks_after_an_update(place):
    state = jax.tree.map(lambda x: place(x) if x.ndim else x, run.init())
    return run.run(state, [START]).masks.masks

  masks = (
    masks_after_an_update(lambda x: x),
    masks_after_an_update(lambda x: jax.device_put(x, spread)),
  )
  jax.tree.map(np.testing.assert_array_equal, *masks)


def test_random_scores_of_a_branch_are_those_of_its_step(jaxpruner):
  pruner = make_pruner('random')
  assert int(pruner.init(some_params(), 7).count) == 7
  assert int(pruner.init(some_params()).count) == 0


def test_jax_itself_is_left_as_it_is(jaxpruner):
  assert not hasattr(jax, 'tree_map')
  assert jaxpruner.base_updater.jax.tree_map is not None
  assert jaxpruner.base_updater.jax.jit is jax.jit


def test_none_in_the_first_tree_answers_none():
  tree = upstream._JaxWithTreeMap.tree_map(
    lambda a, b: a if b is None else a + b,
    {'x': None, 'y': 1, 'z': 2},
    {'x': 5, 'y': None, 'z': 3},
  )
  assert tree == {'x': None, 'y': 1, 'z': 5}


@pytest.mark.parametrize(
  'algorithm, options, message',
  [
    ('lottery', {}, "algorithm = 'lottery': must be one of no_prune,"),
    ('rigl', {'drop': 0.2}, "'drop' is none of 'rigl'; allowed: drop_fraction"),
    ('magnitude', {'sparsity': 0.5}, "'sparsity' is none of 'magnitude'"),
    ('random', {'use_packed_masks': True}, 'use_packed_masks works'),
    ('magnitude', {'sparsity_type': 'nm_2,5'}, 'a/kernel: The target axis'),
    ('magnitude', {'sparsity_type': 'oval'}, "'oval': must be nm_N,M"),
    ('magnitude', {'skip_gradients': 1}, 'must be True or False'),
    ('rigl', {'drop_fraction': 2.0}, 'must be a float in .0, 1.'),
    ('rigl', {'drop_fraction': 'half'}, "'half': must be a float"),
    ('rigl', {'is_debug': True}, "'is_debug' is none of 'rigl'"),
    ('magnitude', {'drop_fraction': 0.2}, "'drop_fraction' is none of"),
    ('global_magnitude', {'sparsity_type': 'nm_2,4'}, 'not supported for'),
  ],
)
def test_what_jaxpruner_cannot_do_is_refused(
  jaxpruner, algorithm, options, message
):
  with pytest.raises(ValueError, match=message):
    make_pruner(algorithm, **options)


@pytest.mark.parametrize('algorithm', ['rigl', 'set'])
def test_a_drop_fraction_needs_steps_to_fall(jaxpruner, algorithm):
  with pytest.raises(ValueError, match='end, step 0: must be at least 1'):
    jaxpruner_pruner(
      KERNELS, dict.fromkeys(KERNELS, 0.5), algorithm, sparsity=0.5, end_step=0
    )


def test_global_updaters_refuse_fractions_by_kernel(jaxpruner):
  pruner = make_pruner('global_magnitude')
  with pytest.raises(ValueError, match="distribution: must be 'global'"):
    pruner.budget_for(dict.fromkeys(KERNELS, 0.5))


def test_without_jaxpruner_one_line_says_how_to_install_it(monkeypatch):
  monkeypatch.setitem(sys.modules, 'jaxpruner', None)
  with pytest.raises(ValueError, match="pip install '.\\[jaxpruner]'") as error:
    make_pruner('magnitude')
  assert '\n' not in str(error.value)
