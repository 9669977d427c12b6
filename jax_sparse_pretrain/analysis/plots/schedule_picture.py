"""A picture of pruning schedules: kept weights over steps and over compute.

python -m jax_sparse_pretrain.analysis.plots.schedule_picture --out=a.png
"""

import argparse
from collections.abc import Mapping

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from jax_sparse_pretrain.planning import Plan, plan

# From the palette of Okabe and Ito, which the colour-blind can tell apart.
COLOURS = ('#0072b2', '#b04a00', '#009e73', '#cc79a7', '#6b6b6b')
SHAPES = ('geometric', 'cubic', 'linear', 'one_shot', 'constant')


def plans(sparsity: float, dense_steps: int) -> dict[str, Plan]:
  """Every shape at 25-75 % of compute; those that jump do so at 50 %."""
  return {
    shape: plan(
      shape=shape,
      sparsity=sparsity,
      start=0.5 if shape == 'one_shot' else 0.25,
      end=0.5 if shape == 'one_shot' else 0.75,
      unit='compute_fraction',
      every=max(1, dense_steps // 50),
      dense_steps=dense_steps,
    )
    for shape in SHAPES
  }


def plot_shapes(shown: Mapping[str, Plan]) -> Figure:
  """Kept fraction over steps of the dense run, and over compute.

  Args:
    shown: plans of equal compute, by label.
  """
  figure = Figure(figsize=(8, 3.6), dpi=150, layout='constrained')
  FigureCanvasAgg(figure)
  over_steps, over_compute = figure.subplots(1, 2, sharey=True)
  for (label, each), colour in zip(shown.items(), COLOURS, strict=False):
    steps = np.arange(each.steps + 1)
    kept = each.schedule.density(steps)
    spent = np.concatenate([[0], np.cumsum(kept[:-1])])
    text = f'{label}, N_avg {each.mean_density:.0%}'
    style = {'color': colour, 'linewidth': 1.6, 'drawstyle': 'steps-post'}
    over_steps.plot(steps / each.dense_steps, kept, label=text, **style)
    over_compute.plot(spent / each.dense_steps, kept, **style)
  over_steps.set_xlabel('steps / steps of the dense run')
  over_compute.set_xlabel('compute / compute of the run')
  over_steps.set_ylabel('kept fraction')
  over_steps.set_ylim(0, 1.04)
  over_steps.legend(frameon=False, fontsize=8)
  for axes in (over_steps, over_compute):
    axes.set_xlim(left=0)
    axes.spines[['top', 'right']].set_visible(False)
  return figure


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--out', default='schedules.png', help='PNG or SVG file')
  parser.add_argument('--sparsity', type=float, default=0.8)
  parser.add_argument('--dense_steps', type=int, default=10_000)
  args = parser.parse_args()
  plot_shapes(plans(args.sparsity, args.dense_steps)).savefig(args.out)


if __name__ == '__main__':
  main()
