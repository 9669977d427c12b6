"""Draws schedules.png: five shapes of pruning at equal compute.

python docs/draw_schedules.py
"""

import dataclasses
import pathlib

from jax_sparse_pretrain import analysis
from jax_sparse_pretrain.analysis.plots import style

SHAPES = ('geometric', 'cubic', 'linear', 'one_shot', 'constant')


def draw(sparsity: float = 0.8, dense_steps: int = 10_000):
  """Ramps from 25 to 75 % of compute; one shot is fired at 50 %."""
  averages = []
  for shape in SHAPES:
    start, end = (0.5, 0.5) if shape == 'one_shot' else (0.25, 0.75)
    plan = analysis.plan(
      shape=shape,
      sparsity=sparsity,
      start=start,
      end=end,
      unit='compute_fraction',
      every=max(1, dense_steps // 50),
      dense_steps=dense_steps,
    )
    average = analysis.planned_average(1_139_277_824, plan)
    averages.append(dataclasses.replace(average, run=shape))
  return analysis.plot_density(averages)


if __name__ == '__main__':
  style.save(draw(), pathlib.Path(__file__).with_name('schedules.png'))
