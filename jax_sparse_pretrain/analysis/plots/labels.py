"""Labels at the ends of curves, and colours for the sparsity of points."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from jax_sparse_pretrain.analysis.plots import style
from jax_sparse_pretrain.text import percent


def label_ends(
  axes: Axes,
  heights: Sequence[float],
  texts: Sequence[str],
  colours: Sequence,
  inches: float,
) -> None:
  """Text beside the right edge at these heights, moved apart to be legible.

  Args:
    axes: with its limits set.
    heights: y of each text, in data.
    texts: what to write.
    colours: of each text; a pale one is darkened.
    inches: height of the axes, roughly.
  """
  # Also among those beyond an end, the order stays that of the heights.
  order = np.argsort(heights, kind='stable')
  inside = np.clip(np.asarray(heights)[order], *axes.get_ylim())
  points = np.column_stack([np.full(len(inside), axes.get_xlim()[0]), inside])
  to_fraction = axes.transScale + axes.transLimits
  places = apart(
    to_fraction.transform(points)[:, 1], 1.3 * style.SMALL / 72 / inches
  )
  for place, i in zip(places, order.tolist(), strict=True):
    how = {'xycoords': 'axes fraction', 'va': 'center'}
    style.note(axes, texts[i], (1, place), (4, 0), colours[i], **how)


def label_curves(
  axes: Axes,
  x: np.ndarray,
  curves: Sequence[np.ndarray],
  texts: Sequence[str],
  colours: Sequence,
  inches: float,
) -> None:
  """Names falling curves beside the right edge, or where they leave below.

  Args:
    axes: with its limits set, of which `x` reaches the right one.
    x: of every curve.
    curves: y of each.
    texts: name of each.
    colours: of each name.
    inches: height of the axes, roughly.
  """
  bottom = axes.get_ylim()[0]
  stay = [i for i, y in enumerate(curves) if y[-1] >= bottom]
  if stay:
    ends = ((curves[i][-1], texts[i], colours[i]) for i in stay)
    label_ends(axes, *zip(*ends, strict=True), inches)
  for i in sorted(set(range(len(curves))) - set(stay)):
    seen = np.flatnonzero(curves[i] >= bottom)
    if len(seen):
      at, how = (x[seen[-1]], bottom), {'ha': 'right', 'va': 'bottom'}
      style.note(axes, texts[i], at, (-3, 2), colours[i], **how, **style.OVER)


def apart(places: np.ndarray, gap: float) -> np.ndarray:
  """Places in [0, 1], no two nearer than the gap, with little moved.

  Groups of places that collide are spread about their common mean, and kept
  in [0, 1] if there is room.
  """
  order = np.argsort(places, kind='stable')
  groups: list[list[float]] = []
  for place in places[order].tolist():
    groups.append([place])
    while len(groups) > 1 and (
      _spread(groups[-1], gap)[0] - _spread(groups[-2], gap)[-1] < gap
    ):
      last = groups.pop()
      groups[-1] += last
  result = np.empty(len(places))
  result[order] = np.concatenate([_spread(group, gap) for group in groups])
  return result


def _spread(group: Sequence[float], gap: float) -> np.ndarray:
  half = gap * (len(group) - 1) / 2
  middle = np.clip(np.mean(group), half, 1 - half) if half < 0.5 else 0.5
  return middle + np.linspace(-half, half, len(group))


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
  """Names the colours of points, if they differ, in a legend at `place`.

  Many sparsities get a colour bar beside the figure instead.
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
