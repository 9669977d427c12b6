"""Points in the colour of their run's sparsity, and the legend of these."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from jax_sparse_pretrain.analysis.plots import style
from jax_sparse_pretrain.text import percent

# More of them are read off a colour bar.
MOST_IN_LEGEND = 7
DIGITS = 3
POINT = {'s': 24, 'linewidths': 0.5, 'edgecolors': 'white', 'zorder': 3}


def _known(sparsity: np.ndarray) -> np.ndarray:
  """Different ones; between sizes of models they differ by a weight."""
  return np.unique(np.round(sparsity[~np.isnan(sparsity)], DIGITS))


def varies(sparsity: np.ndarray) -> bool:
  """Whether two runs have known and different sparsities."""
  return len(_known(sparsity)) > 1


def colours(sparsity: np.ndarray) -> np.ndarray:
  """(n, 4): grey where it is not known, all blue if it does not vary."""
  if not varies(sparsity):
    return np.tile(to_rgba(style.BLUE), (len(sparsity), 1))
  known = ~np.isnan(sparsity)
  result = np.tile(to_rgba(style.GREY), (len(sparsity), 1))
  result[known] = style.shades(sparsity[known])
  return result


def add_legend(where: Figure | Axes, sparsity: np.ndarray, **place) -> None:
  """Names the colours; not if they are all one.

  Args:
    where: a figure or axes.
    sparsity: of the points.
    **place: where in it, as `legend` takes it. Many sparsities get a colour
      bar beside the figure in any case.
  """
  known = _known(sparsity)
  if len(known) > MOST_IN_LEGEND:
    _add_bar(where.get_figure(), known)
  elif len(known) > 1:
    where.legend(
      [
        Line2D([], [], linestyle='', marker='o', color=colour, markersize=5.5)
        for colour in colours(known)
      ],
      list(map(percent, known)),
      title='sparsity at the end',
      title_fontsize=style.SMALL,
      alignment='left',
      handletextpad=0.1,
      columnspacing=1.0,
      ncols=len(known),
      **place,
    )


def _add_bar(figure: Figure, known: np.ndarray) -> None:
  scale = ScalarMappable(Normalize(known[0], known[-1]), style.sequential())
  bar = figure.colorbar(scale, ax=figure.axes, aspect=40, pad=0.02)
  style.write_ticks(percent, bar.ax.yaxis)
  bar.set_label('sparsity at the end')
  bar.outline.set_visible(False)
