"""Arms of an experiment against their reference: differences and intervals."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from jax_sparse_pretrain.analysis.contrasts import Contrast
from jax_sparse_pretrain.analysis.plots import style
from jax_sparse_pretrain.text import signed

ROW = 0.34  # inches


@style.STYLE
def plot_contrasts(
  contrasts: Sequence[Contrast], level: float = 0.95
) -> Figure:
  """Loss of each arm less that of its reference, one row an arm.

  A dot for the mean and a line for its interval, over pale dots of the seeds.
  Left of zero the arm is better.

  Args:
    contrasts: in order from the top.
    level: of the intervals.

  Raises:
    ValueError: if there are none.
  """
  if not contrasts:
    raise ValueError('contrasts: must hold at least one')
  reference = contrasts[0].reference
  figure = style.new_figure(
    1.3 + ROW * len(contrasts),
    f'Difference in loss from {reference}: mean over seeds and '
    f'{100 * level:g} % intervals',
  )
  axes = figure.subplots()
  for row, each in enumerate(contrasts):
    seeds = 1000 * np.array(each.differences)
    axes.plot(seeds, [row] * len(seeds), 'o', color=style.FILL, markersize=5)
    if len(seeds) > 1:
      ends = 1000 * np.array(each.interval(level))
      axes.plot(ends, [row, row], color=style.BLUE, linewidth=1.8)
    mean = 1000 * each.difference
    axes.plot([mean], [row], 'o', color=style.BLUE, markersize=6)
  axes.axvline(0, color=style.GREY, linewidth=0.8)
  names = [f'{each.block}  {each.arm}'.strip() for each in contrasts]
  axes.set_yticks(range(len(contrasts)), names)
  axes.set_ylim(len(contrasts) - 0.4, -0.6)
  axes.tick_params(axis='y', length=0)
  axes.spines['left'].set_visible(False)
  axes.grid(True, axis='x')
  axes.set_xlabel(f'loss less that of {reference} (0.001 nats), left is better')
  style.write_ticks(lambda value: signed(value, '+g'), axes.xaxis)
  return figure
