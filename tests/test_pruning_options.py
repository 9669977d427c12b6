"""Options of the built-in engine, through whole small runs."""

import functools

import jax
import numpy as np
import pytest
import tiny

from jax_sparse_pretrain.config import ConfigError
from jax_sparse_pretrain.training import setup

STEPS = {'unit': 'steps', 'start': 2, 'end': 8, 'every': 3}
EIGHT = {'data': 2, 'fsdp': 2, 'tensor': 2}


@functools.cache
def trained(*changes, mesh=(('data', 1),), peak_lr=3e-3):
  """Losses and the kept weights after every step."""
  config = tiny.tiny_config(
    duration={'value': 11},
    pruning={**STEPS, **dict(changes)},
    mesh=dict(mesh),
    optimizer={'peak_lr': peak_lr},
  )
  n_devices = int(np.prod([size for _, size in mesh]))
  experiment = setup.set_up(config, jax.devices()[:n_devices])
  state, losses, kept = experiment.init(), [], []
  for step in range(experiment.plan.steps):
    rows = experiment.to_devices(next(experiment.batches))
    controls = experiment.controls(step)
    state, metrics = experiment.programs.train_step(state, rows, controls)
    losses.append(float(metrics['train_loss']))
    kept.append(jax.device_get(experiment.programs.kept(state)))
  experiment.batches.close()
  return losses, kept, state


def flat(kept):
  return np.concatenate([kept[name].ravel() for name in sorted(kept)])


@pytest.mark.slow
def test_packed_masks_give_the_same_run_in_an_eighth_of_the_memory():
  losses, kept, state = trained()
  packed_losses, packed_kept, packed = trained(('pack_masks', True))
  assert losses == packed_losses
  for a, b in zip(kept, packed_kept, strict=True):
    np.testing.assert_array_equal(flat(a), flat(b))
  jax.tree.map(np.testing.assert_array_equal, state.params, packed.params)
  size = sum(mask.nbytes for mask in state.masks.values())
  assert sum(mask.nbytes for mask in packed.masks.values()) == size // 8


@pytest.mark.slow
def test_packed_masks_split_over_devices_like_their_parameters():
  _, _, state = trained(('pack_masks', True), mesh=tuple(EIGHT.items()))
  kernel = state.params['layers']['mlp']['up']['kernel']
  bits = state.masks['layers/mlp/up/kernel']
  assert bits.sharding.spec == kernel.sharding.spec
  assert bits.addressable_shards[0].data.size == bits.size // 4


@pytest.mark.slow
def test_random_masks_come_from_the_seed_and_are_nested():
  _, kept, _ = trained(('algorithm', 'random'))
  _, by_magnitude, _ = trained()
  assert flat(kept[-1]).sum() == flat(by_magnitude[-1]).sum()
  assert (flat(kept[-1]) != flat(by_magnitude[-1])).mean() > 0.1
  for before, after in zip(kept, kept[1:], strict=False):
    assert not (flat(after) & ~flat(before)).any()
  # One draw in every five is kept, wherever the weights are large.
  share = [mask.mean() for mask in kept[-1].values()]
  np.testing.assert_allclose(share, 0.2, atol=0.03)
  _, on_eight, _ = trained(('algorithm', 'random'), mesh=tuple(EIGHT.items()))
  np.testing.assert_array_equal(flat(on_eight[-1]), flat(kept[-1]))


@pytest.mark.slow
def test_n_by_m_keeps_n_of_every_m_along_the_axis():
  _, kept, _ = trained(
    ('structure', 'n_by_m'), ('n', 1), ('m', 4), ('axis', 0),
    ('sparsity', 0.75), ('schedule', 'constant'),
  )  # fmt: skip
  stacked = kept[-1]['layers/mlp/up/kernel']
  assert (stacked.reshape(2, -1, 4, 64).sum(axis=2) == 1).all()
  head = kept[-1]['lm_head/kernel']
  assert (head.reshape(-1, 4, 256).sum(axis=1) == 1).all()


@pytest.mark.slow
def test_blocks_are_kept_whole():
  _, kept, _ = trained(
    ('structure', 'block'), ('block_height', 4), ('block_width', 2),
    ('distribution', 'uniform'),
  )  # fmt: skip
  blocks = kept[-1]['lm_head/kernel'].reshape(8, 4, 128, 2).sum(axis=(1, 3))
  assert set(np.unique(blocks)) == {0, 8}
  assert (blocks == 8).sum() == round(8 * 128 * 0.2)


@pytest.mark.slow
def test_channels_are_kept_whole():
  _, kept, _ = trained(
    ('structure', 'channel'), ('axis', -1), ('distribution', 'uniform')
  )
  columns = kept[-1]['lm_head/kernel'].sum(axis=0)
  assert set(np.unique(columns)) == {0, 32}
  assert (columns == 32).sum() == round(256 * 0.2)


@pytest.mark.slow
def test_a_pruned_weight_may_return_only_if_asked():
  def returned(kept):
    pairs = zip(kept, kept[1:], strict=False)
    return sum((flat(b) & ~flat(a)).sum() for a, b in pairs)

  # A step of the optimizer has to carry a weight from zero past the threshold.
  mild = ('order', 'after'), ('schedule', 'constant'), ('sparsity', 0.3)
  _, kept, _ = trained(*mild, peak_lr=0.1)
  _, regrown, _ = trained(*mild, ('regrow', True), peak_lr=0.1)
  assert returned(kept) == 0
  assert returned(regrown) > 0
  assert flat(regrown[-1]).sum() == flat(kept[-1]).sum()


@pytest.mark.parametrize(
  'change, words',
  [
    ({'structure': 'n_by_m', 'n': 5}, r'n = 5: must be at most pruning.m = 4'),
    ({'structure': 'n_by_m'}, r'sparsity = 0.8: must be 1 - n / m = 0.5'),
    (
      {'structure': 'n_by_m', 'sparsity': 0.5},
      "schedule = 'geometric': must be one_shot or constant",
    ),
    (
      {
        'structure': 'n_by_m', 'sparsity': 2 / 3, 'n': 1, 'm': 3,
        'schedule': 'constant',
      },
      '3 must divide axis',
    ),
    ({'structure': 'block', 'block_height': 5}, '5 must divide axis 0'),
    ({'structure': 'channel', 'axis': 9}, 'has axes'),
    ({'regrow': True}, "regrow = True: needs pruning.order = 'after'"),
    (
      {'order': 'after', 'regrow': True, 'algorithm': 'random'},
      "needs pruning.algorithm = 'magnitude'",
    ),
    (
      {'sparsity': 0.0, 'sparsities': (('lm_head/*', 0.5),)},
      'sparsities: needs pruning.sparsity > 0',
    ),
    (
      {
        'structure': 'n_by_m', 'sparsity': 0.5, 'schedule': 'constant',
        'distribution': 'erk',
      },
      "other than 'erk'",
    ),
    (
      {'unit': 'steps', 'start': 0, 'end': 29, 'order': 'after'},
      'end, step 29: must be below 29',
    ),
    ({'snapshots': (0,)}, 'snapshots: 0: must be from 1 to 30'),
    ({'snapshots': (31,)}, 'snapshots: 31: must be from 1 to 30'),
    ({'algorithm': 'largest'}, "algorithm = 'largest': must be magnitude or"),
    ({'options': (('a', '1'),)}, "only with library 'jaxpruner'"),
    (
      {'library': 'jaxpruner', 'algorithm': 'rigl', 'distribution': 'global'},
      "distribution = 'global': must be",
    ),
    (
      {
        'library': 'jaxpruner', 'distribution': 'uniform', 'pack_masks': True,
      },
      "pack_masks = True: only with pruning.library = 'builtin'",
    ),
  ],
)  # fmt: skip
def test_options_that_do_not_go_together_are_refused(change, words):
  with pytest.raises(ConfigError, match=words):
    setup.set_up(tiny.tiny_config(pruning=change))


@pytest.mark.parametrize(
  'change, words',
  [
    (
      {'algorithm': 'rigl'},
      "schedule = 'geometric': must be 'constant' for 'rigl'",
    ),
    (
      {'algorithm': 'magnitude', 'options': (('sparsity_type', 'nm_1,4'),)},
      'sparsity_type: 1:4 has no ramp: needs pruning.sparsity = 0.75',
    ),
    (
      {
        'algorithm': 'magnitude', 'options': (('sparsity_type', 'nm_1,4'),),
        'schedule': 'constant',
      },
      'needs pruning.sparsity = 0.75',
    ),
    (
      {'algorithm': 'rigl', 'options': (('eps', '1.0'), ('eps', '2.0'))},
      'options: eps is given twice',
    ),
    (
      {
        'algorithm': 'magnitude', 'options': (('sparsity_type', 'nm_1,4'),),
        'schedule': 'constant', 'sparsity': 0.75,
        'sparsities': (('*/up/*', 0.9),),
      },
      '1:4 needs pruning.sparsities = ()',
    ),
    (
      {'algorithm': 'magnitude', 'options': (('sparsity_type', 'channel_9'),)},
      'axis 9: must be in -4 to 3',
    ),
    (
      {'algorithm': 'magnitude', 'options': (('sparsity_type', 'block_4,4'),)},
      'would prune whole layers of a kernel that is stacked',
    ),
    (
      {'algorithm': 'magnitude', 'options': (('sparsity_type', 'channel_0'),)},
      'would prune whole layers of a kernel that is stacked',
    ),
    (
      {'algorithm': 'magnitude', 'options': (('sparsity_type', 'nm_0,0'),)},
      "'nm_0,0': must be nm_N,M with 1 <= N <= M",
    ),
    (
      {'algorithm': 'magnitude', 'options': (('sparsity_type', 'block_0,2'),)},
      "'block_0,2': must be",
    ),
  ],
)  # fmt: skip
def test_schedules_that_jaxpruner_would_not_follow_are_refused(change, words):
  pytest.importorskip('jaxpruner')
  change = {'library': 'jaxpruner', 'distribution': 'uniform', **change}
  with pytest.raises(ConfigError, match=words):
    setup.set_up(tiny.tiny_config(pruning=change))
