"""Colour of points by the sparsity of their runs, and its legend."""

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from jax_sparse_pretrain.analysis.plots import numerals, style

# More of them are read off a colour bar.
MOST_IN_LEGEND = 7
DIGITS = 3
POINT = {'s': 24, 'linewidths': 0.5, 'edgecolors': 'white', 'zorder': 3}


def _known(sparsity: np.ndarray) -> np.ndarray:
  """Different ones; of models of different size they differ by a weight."""
  return np.unique(np.round(sparsity[~np.isnan(sparsity)], DIGITS))


def varies(sparsity: np.ndarray) -> bool:
  """Whether it is known, and differs."""
  return len(_known(sparsity)) > 1


def colours(sparsity: np.ndarray) -> np.ndarray:
  """(n, 4); grey where it is not known, blue if it does not vary."""
  if not varies(sparsity):
    return np.tile(to_rgba(style.BLUE), (len(sparsity), 1))
  known = ~np.isnan(sparsity)
  result = np.tile(to_rgba(style.GREY), (len(sparsity), 1))
  result[known] = style.shades(sparsity[known])
  return result


def add_legend(figure: Figure, sparsity: np.ndarray, inside=None) -> None:
  """Names the colours.

  Args:
    figure: with its axes.
    sparsity: of the points.
    inside: axes whose lower left is free; else at the upper right of the
      figure. Many sparsities get a bar beside the axes in any case.
  """
  known = _known(sparsity)
  if len(known) < 2:
    return
  if len(known) > MOST_IN_LEGEND:
    _add_bar(figure, known)
    return
  handles = [
    Line2D([], [], linestyle='', marker='o', color=colour, markersize=5.5)
    for colour in colours(known)
  ]
  place = {'loc': 'outside upper right', 'ncols': len(known)}
  (inside or figure).legend(
    handles,
    [numerals.percent(value) for value in known],
    title='sparsity at the end',
    title_fontsize=style.SMALL,
    alignment='left',
    handletextpad=0.1,
    columnspacing=1.0,
    **({'loc': 'lower left'} if inside else place),
  )


def _add_bar(figure: Figure, known: np.ndarray) -> None:
  scale = ScalarMappable(Normalize(known[0], known[-1]), style.sequential())
  bar = figure.colorbar(scale, ax=figure.axes, aspect=40, pad=0.02)
  bar.ax.yaxis.set_major_formatter(lambda value, _: numerals.percent(value))
  bar.set_label('sparsity at the end')
  bar.outline.set_visible(False)
