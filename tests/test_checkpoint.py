"""What was saved comes back to the bit, or it is said why not."""

import functools
import gc
import math

import jax
import numpy as np
import pytest
import tiny

from jax_sparse_pretrain.runs.checkpoint import CheckpointError, Checkpoints
from jax_sparse_pretrain.training import setup
from jax_sparse_pretrain.training.step import TrainState

ONE = (('data', 1), ('fsdp', 1), ('tensor', 1))
FSDP = (('data', 2), ('fsdp', 4), ('tensor', 1))
TENSOR = (('data', 1), ('fsdp', 2), ('tensor', 4))
DATA = {'step': 3}
PROGRESS = {'recent_losses': [2.5, 0.1 + 0.2], 'eval_loss': None}


@functools.cache
def abstract_state(mesh=FSDP, sparsity=0.8):
  """Shapes, types and shardings of a run's state on some of the devices."""
  config = tiny.tiny_config(mesh=dict(mesh), pruning={'sparsity': sparsity})
  n_devices = math.prod(size for _, size in mesh)
  experiment = setup.set_up(config, jax.devices()[:n_devices])
  experiment.batches.close()
  return experiment.programs.abstract_state


def random_state(abstract, seed=0):
  """On the host. Floats of random bits: infinities, subnormals, any NaN."""
  rng = np.random.default_rng(seed)

  def draw(leaf):
    if leaf.dtype == bool:
      return rng.random(leaf.shape) < 0.5
    n_bytes = math.prod(leaf.shape) * leaf.dtype.itemsize
    return np.frombuffer(rng.bytes(n_bytes), leaf.dtype).reshape(leaf.shape)

  return jax.tree.map(draw, abstract)


def on_devices(state, abstract):
  return jax.tree.map(
    lambda x, like: jax.device_put(x, like.sharding), state, abstract
  )


def shardings(state):
  return [leaf.sharding for leaf in jax.tree.leaves(state)]


def assert_same_bits(a, b):
  assert jax.tree.structure(a) == jax.tree.structure(b)
  leaves = zip(jax.tree.leaves_with_path(a), jax.tree.leaves(b), strict=True)
  for (path, x), y in leaves:
    x, y = np.asarray(x), np.asarray(y)
    assert (x.dtype, x.shape) == (y.dtype, y.shape), path
    assert x.tobytes() == y.tobytes(), path


@pytest.fixture
def opened(tmp_path):
  """Opens the checkpoints of one run, and closes them after the test."""
  everything = []

  def open_checkpoints(keep=2):
    everything.append(Checkpoints(tmp_path / 'checkpoints', keep))
    return everything[-1]

  yield open_checkpoints
  for checkpoints in everything:
    checkpoints.close()


def saved(opened, *steps, like=None):
  """Saves one random state a step; returns them by step."""
  like = like or abstract_state()
  states = {step: random_state(like, seed=step) for step in steps}
  checkpoints = opened()
  for step, state in states.items():
    checkpoints.save(step, on_devices(state, like), DATA, PROGRESS)
  checkpoints.wait()
  return states


@pytest.mark.fast(3)
@pytest.mark.parametrize('sparsity', [0.0, 0.8], ids=['dense', 'sparse'])
@pytest.mark.parametrize(
  ('before', 'after'),
  [(FSDP, FSDP), (FSDP, TENSOR), (ONE, FSDP), (TENSOR, ONE)],
  ids=['same mesh', 'other mesh', 'one to eight', 'eight to one'],
)
def test_a_state_comes_back_to_the_bit(opened, before, after, sparsity):
  states = saved(opened, 7, like=abstract_state(before, sparsity))
  wanted = abstract_state(after, sparsity)
  restored = opened().restore_newest(wanted)
  assert restored.step == 7
  assert (restored.data, restored.progress) == (DATA, PROGRESS)
  assert (restored.state.masks is None) == (sparsity == 0)
  assert_same_bits(jax.device_get(restored.state), states[7])
  assert shardings(restored.state) == shardings(wanted)


def test_no_checkpoint_is_none(opened):
  assert opened().restore_newest(abstract_state()) is None


def test_a_dense_checkpoint_has_no_masks_to_give(opened):
  states = saved(opened, 7, like=abstract_state(sparsity=0.0))
  restored = opened().restore_newest(abstract_state(sparsity=0.8))
  assert restored.state.masks is None
  assert_same_bits(jax.device_get(restored.state), states[7])


def test_only_the_newest_are_kept(opened, tmp_path):
  states = saved(opened, 1, 2, 3, 4)
  assert opened().steps() == [3, 4]
  directories = {p.name for p in (tmp_path / 'checkpoints').iterdir()}
  assert directories == {'3', '4'}
  restored = opened().restore_newest(abstract_state())
  assert_same_bits(jax.device_get(restored.state), states[4])


def test_the_state_may_be_donated_once_save_returns(opened):
  # Large, so that the save is still under way when its buffers are reused.
  numbers = np.arange(4_000_000, dtype=np.float32)
  before = TrainState(np.int32(3), {'w': numbers}, (), None)
  replicated = abstract_state().step.sharding
  like = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated),
    before,
  )
  negate = jax.jit(
    lambda state: jax.tree.map(lambda x: -x, state), donate_argnums=0
  )
  state = negate(on_devices(before, like))  # Compiled; no host memory in it.
  checkpoints = opened()
  checkpoints.save(3, state, DATA, PROGRESS)
  for _ in range(3):
    donated, state = state, negate(state)
    assert donated.params['w'].is_deleted()
  jax.block_until_ready(state)
  checkpoints.wait()
  restored = opened().restore_newest(like)
  expected = jax.tree.map(np.negative, before)
  assert_same_bits(jax.device_get(restored.state), expected)


def largest_file(directory):
  return max(directory.rglob('d/*'), key=lambda path: path.stat().st_size)


def truncate_arrays(checkpoint):
  path = largest_file(checkpoint / 'state')
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def delete_arrays(checkpoint):
  largest_file(checkpoint / 'state').unlink()


def delete_index(checkpoint):
  (checkpoint / 'state' / '_METADATA').unlink()


def garble_data_state(checkpoint):
  (checkpoint / 'data' / 'metadata').write_text('{"step"')


def delete_progress(checkpoint):
  (checkpoint / 'progress' / 'metadata').unlink()


# A failed read leaves coroutines of Orbax behind, which Python reports.
orbax_leftovers = pytest.mark.filterwarnings(
  'ignore::pytest.PytestUnraisableExceptionWarning',
  'ignore:coroutine .* was never awaited:RuntimeWarning',
)


@pytest.fixture
def collected():
  """Collects the leftovers before the filters of the test are gone."""
  yield
  gc.collect()


@pytest.mark.fast(2)
@orbax_leftovers
@pytest.mark.usefixtures('collected')
@pytest.mark.parametrize(
  'damage',
  [
    truncate_arrays,
    delete_arrays,
    delete_index,
    garble_data_state,
    delete_progress,
  ],
)
def test_the_one_before_an_unreadable_checkpoint_is_used(
  opened, tmp_path, damage
):
  states = saved(opened, 4, 5)
  newest = tmp_path / 'checkpoints' / '5'
  damage(newest)
  checkpoints = opened()
  with pytest.warns(UserWarning, match=f'{newest} cannot be read'):
    restored = checkpoints.restore_newest(abstract_state())
  assert restored.step == 4
  assert_same_bits(jax.device_get(restored.state), states[4])
  assert checkpoints.steps() == [4]
  assert not newest.exists()
  assert (tmp_path / 'unreadable' / '5').is_dir()

  # The run comes by this step again.
  again = random_state(abstract_state(), seed=50)
  checkpoints.save(5, on_devices(again, abstract_state()), DATA, PROGRESS)
  checkpoints.wait()
  restored = opened().restore_newest(abstract_state())
  assert restored.step == 5
  assert_same_bits(jax.device_get(restored.state), again)


@orbax_leftovers
@pytest.mark.usefixtures('collected')
def test_the_newest_is_named_if_none_can_be_read(opened, tmp_path):
  saved(opened, 4, 5)
  for step in '45':
    delete_index(tmp_path / 'checkpoints' / step)
  with pytest.raises(CheckpointError, match='no checkpoint .* the newest, 5,'):
    opened().restore_newest(abstract_state())
  # Nothing is moved: a person may still want to look.
  assert not (tmp_path / 'unreadable').exists()
  assert opened().steps() == [4, 5]
