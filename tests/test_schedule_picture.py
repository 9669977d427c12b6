import subprocess
import sys

import numpy as np

from jax_sparse_pretrain.analysis.plots import schedule_picture


def test_the_picture_shows_each_schedule_over_steps_and_over_compute():
  shown = schedule_picture.plans(0.8, 1_000)
  figure = schedule_picture.plot_shapes(shown)
  over_steps, over_compute = (axes.get_lines() for axes in figure.axes)
  assert len(over_steps) == len(over_compute) == len(shown)
  for a, b, each in zip(over_steps, over_compute, shown.values(), strict=True):
    kept = each.schedule.density(np.arange(each.steps + 1))
    np.testing.assert_array_equal(a.get_ydata(), kept)
    np.testing.assert_array_equal(b.get_ydata(), kept)
    assert a.get_xdata()[-1] == each.steps / each.dense_steps
    # All of its compute, at the end.
    np.testing.assert_allclose(b.get_xdata()[-1], 1, rtol=1e-12)


def test_the_command_writes_a_picture(tmp_path):
  out = tmp_path / 'schedules.svg'
  module = 'jax_sparse_pretrain.analysis.plots.schedule_picture'
  subprocess.run([sys.executable, '-m', module, f'--out={out}'], check=True)
  assert '<svg' in out.read_text()
