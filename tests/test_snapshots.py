import subprocess
import sys

import jax
import numpy as np
import pytest
import tiny

from jax_sparse_pretrain.command_line import StopRequest
from jax_sparse_pretrain.runs import snapshots, workdir
from jax_sparse_pretrain.training import loop, setup


def some_masks(seed, share=0.5):
  rng = np.random.default_rng(seed)
  shapes = {'layers/up/kernel': (3, 5, 7), 'lm_head/kernel': (4, 9)}
  return {name: rng.random(shape) < share for name, shape in shapes.items()}


def kept(masks):
  """Names and flat indices of the kept weights, as a set."""
  return {
    (name, i)
    for name, mask in masks.items()
    for i in np.flatnonzero(mask).tolist()
  }


def test_what_is_written_is_read(tmp_path):
  masks = some_masks(0)
  snapshots.write(tmp_path / 'masks' / '3.npz', masks)
  read = snapshots.read(tmp_path / 'masks' / '3.npz')
  assert read.keys() == masks.keys()
  for name, mask in masks.items():
    assert read[name].dtype == bool
    np.testing.assert_array_equal(read[name], mask)


def test_overlap_and_survival_are_those_of_sets():
  a, b = some_masks(0), some_masks(1, share=0.3)
  assert snapshots.overlap(a, b) == len(kept(a) & kept(b)) / len(
    kept(a) | kept(b)
  )
  assert snapshots.survival(a, b) == len(kept(a) & kept(b)) / len(kept(a))
  assert snapshots.overlap(a, a) == snapshots.survival(a, a) == 1
  nothing = {name: np.zeros_like(mask) for name, mask in a.items()}
  assert snapshots.overlap(a, nothing) == snapshots.survival(a, nothing) == 0
  assert snapshots.overlap(nothing, nothing) == 1


def test_masks_of_different_kernels_do_not_compare():
  with pytest.raises(ValueError, match='lm_head/kernel'):
    snapshots.overlap(some_masks(0), {'layers/up/kernel': np.ones((3, 5, 7))})


@pytest.mark.slow
def test_reading_needs_no_jax_and_no_file_needs_training():
  code = (
    'import sys\n'
    'from jax_sparse_pretrain.runs import snapshots, workdir\n'
    "assert 'jax' not in sys.modules\n"
    'from jax_sparse_pretrain.runs import branches, lock, output, resume\n'
    "assert 'jax_sparse_pretrain.training' not in sys.modules"
  )
  subprocess.run([sys.executable, '-c', code], check=True)


def test_masks_of_different_shapes_are_not_compared():
  a, b = {'x': np.ones((1, 4), bool)}, {'x': np.ones((8, 4), bool)}
  with pytest.raises(ValueError, match='x: .1, 4., .8, 4.'):
    snapshots.survival(a, b)


@pytest.mark.slow
def test_a_run_takes_the_snapshots_that_it_is_asked_for(tmp_path):
  config = tiny.tiny_config(
    duration={'value': 12},
    pruning={
      'unit': 'steps', 'start': 3, 'end': 9, 'every': 3, 'snapshots': (3, 4, 12)
    },
  )  # fmt: skip
  experiment = setup.set_up(config, jax.devices()[:1])
  files = workdir.open_workdir(tmp_path)
  with StopRequest() as stop:
    loop.train(experiment, files, stop)
  directory = tmp_path / 'mask_snapshots'
  assert {p.name for p in directory.iterdir()} == {'3.npz', '4.npz', '12.npz'}
  before, after, last = (
    snapshots.read(directory / f'{step}.npz') for step in (3, 4, 12)
  )
  n = experiment.header.linear_parameters
  # The update of step 3 is in force once four steps are finished.
  assert all(mask.all() for mask in before.values())
  density = float(experiment.plan.schedule.density(3))
  assert snapshots.survival(before, after) == round(n * density) / n
  assert len(kept(last)) == round(n * 0.2)
  assert kept(last) <= kept(after)
