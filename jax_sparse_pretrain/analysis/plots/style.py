"""What all pictures share: size, colours, axes, labels and saving."""

import io
import os
from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
from matplotlib import patheffects, ticker
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import (
  Colormap,
  LinearSegmentedColormap,
  Normalize,
  to_rgb,
  to_rgba,
)
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from jax_sparse_pretrain.text import percent, short, signed

WIDTH = 8.0  # inches; 1200 pixels, of which a README shows about 900
DPI = 150
SMALL = 8.5  # points
# From the palette of Okabe and Ito, which the colour-blind can tell apart.
BLUE, VERMILION, GREEN, PINK = '#0072b2', '#b04a00', '#009e73', '#cc79a7'
SKY, ORANGE, PALE_BLUE = '#56b4e9', '#e69f00', '#7db3d8'
INK, GREY, PALE = '#333333', '#6b6b6b', '#ececec'
FILL = '#c9d3da'
# Cells without a value, unlike white and unlike every colour of a scale.
EMPTY = '#f4f4f4'
HALO = (patheffects.withStroke(linewidth=2.5, foreground='white'),)

# Decorates every function that draws. Names of runs are text, whatever their
# dollar signs.
STYLE = matplotlib.rc_context(
  {
    'axes.axisbelow': True,
    'axes.edgecolor': GREY,
    'axes.labelcolor': INK,
    'axes.spines.right': False,
    'axes.spines.top': False,
    'axes.titlelocation': 'left',
    'axes.titlesize': 9.5,
    'font.family': 'DejaVu Sans',
    'font.size': 9,
    'grid.color': PALE,
    'legend.fontsize': SMALL,
    'legend.frameon': False,
    'text.color': INK,
    'text.parse_math': False,
    'xtick.color': INK,
    'xtick.labelsize': SMALL,
    'ytick.color': INK,
    'ytick.labelsize': SMALL,
  }
)
_SAVING = {'svg.hashsalt': 'jax_sparse_pretrain', 'svg.fonttype': 'path'}
# No dates and versions: the same picture has the same bytes.
_METADATA = {'png': {'Software': None}, 'svg': {'Date': None, 'Creator': None}}


def new_figure(height: float, title: str = '') -> Figure:
  """A figure of README width and a height in inches; it needs no display."""
  figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout='constrained')
  FigureCanvasAgg(figure)
  if title:
    figure.suptitle(title, x=0.01, horizontalalignment='left', fontsize=11)
  return figure


def sequential() -> Colormap:
  """Viridis without its yellow, which is lost on white paper."""
  colours = matplotlib.colormaps['viridis'](np.linspace(0, 0.86, 256))
  return LinearSegmentedColormap.from_list('viridis, dark part', colours)


def shades(values: Sequence[float], log: bool = False) -> np.ndarray:
  """A colour for each value, by its place between the extremes: (n, 4)."""
  values = np.log(values) if log else np.asarray(values, np.float64)
  low, high = values.min(), values.max()
  place = (values - low) / (high - low) if high > low else 0 * values + 0.35
  return sequential()(place)


def dark(colour) -> np.ndarray:
  """The colour, or a darker one in which text on white can be read."""
  colour = np.array(to_rgb(colour))
  luminance = colour**2.2 @ (0.2126, 0.7152, 0.0722)
  # Contrast 4.5 to 1, as the web's guidelines ask of text.
  most = 1.05 / 4.5 - 0.05
  return colour * min(1.0, (most / max(luminance, 1e-9)) ** (1 / 2.2))


def note(axes: Axes, text: str, at, offset, colour, **how) -> None:
  """Small text some points beside a place, in a colour that can be read."""
  how |= {'color': dark(colour), 'fontsize': SMALL, 'xytext': offset}
  axes.annotate(text, at, textcoords='offset points', **how)


# For text over curves.
OVER = {'path_effects': HALO, 'zorder': 5}


def log_axis(
  axis: Axis, low: float, high: float, write: Callable[[float], str] = short
) -> None:
  """A logarithmic axis whose ticks are few, round and written as 300M."""
  axis.axes.set(**{f'{axis.axis_name}scale': 'log'})
  axis.axes.set(**{f'{axis.axis_name}lim': (low, high)})
  decades = np.log10(high / low)
  if decades < 1:
    axis.set_major_locator(few_ticks())
  else:
    subs = (1, 2, 5) if decades < 2 else (1, 3) if decades < 3.6 else (1,)
    axis.set_major_locator(ticker.LogLocator(subs=subs, numticks=8))
  axis.set_minor_locator(ticker.NullLocator())
  write_ticks(write, axis)


def few_ticks() -> ticker.Locator:
  """About five round ones on a linear axis."""
  return ticker.MaxNLocator(5, steps=[1, 2, 2.5, 5, 10])


def write_ticks(write: Callable[[float], str], *axes: Axis) -> None:
  """Ticks as `write` has their values."""
  for axis in axes:
    axis.set_major_formatter(lambda value, _: write(value))


def residual_axis(axes: Axes, most: float) -> None:
  """A y axis of percents up to `most` on both sides of 0."""
  most = 1.15 * max(most, 0.01)
  axes.set_ylim(-most, most)
  axes.set_ylabel('residual')
  axes.yaxis.set_major_locator(ticker.MaxNLocator(4, symmetric=True))
  write_ticks(lambda value: f'{signed(value, "+g")} %', axes.yaxis)


def save(figure: Figure, path: os.PathLike | str) -> None:
  """Writes .png or .svg; the same bytes for the same picture."""
  data = rendered(figure, os.fspath(path).rpartition('.')[2])
  with open(path, 'wb') as file:
    file.write(data)


def rendered(figure: Figure, kind: str) -> bytes:
  """The bytes of a file of this kind, 'png' or 'svg'.

  Raises:
    ValueError: for another kind.
  """
  if kind not in _METADATA:
    raise ValueError(f'picture of kind {kind!r}: must be png or svg')
  file = io.BytesIO()
  with matplotlib.rc_context(_SAVING):
    figure.savefig(file, format=kind, metadata=_METADATA[kind])
  return file.getvalue()


def label_ends(axes: Axes, heights, texts, colours, inches: float) -> None:
  """Text beside the right edge at these heights, moved apart to be legible.

  The axes have their limits set, and are about so many inches high.
  """
  # Also among those beyond an end, the order stays that of the heights.
  order = np.argsort(heights, kind='stable')
  inside = np.clip(np.asarray(heights)[order], *axes.get_ylim())
  points = np.column_stack([np.full(len(inside), axes.get_xlim()[0]), inside])
  to_fraction = axes.transScale + axes.transLimits
  places = apart(to_fraction.transform(points)[:, 1], 1.3 * SMALL / 72 / inches)
  for place, i in zip(places, order.tolist(), strict=True):
    how = {'xycoords': 'axes fraction', 'va': 'center'}
    note(axes, texts[i], (1, place), (4, 0), colours[i], **how)


def label_curves(
  axes: Axes, x: np.ndarray, curves, texts, colours, inches: float
) -> None:
  """Names falling curves beside the right edge, or where they leave below.

  The axes have their limits set, of which `x`, of every curve, reaches the
  right one, and are about so many inches high.
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
      note(axes, texts[i], at, (-3, 2), colours[i], **how, **OVER)


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


def sparsity_colours(sparsity: np.ndarray) -> np.ndarray:
  """(n, 4): grey where it is not known, all blue if it does not vary."""
  if not varies(sparsity):
    return np.tile(to_rgba(BLUE), (len(sparsity), 1))
  known = ~np.isnan(sparsity)
  result = np.tile(to_rgba(GREY), (len(sparsity), 1))
  result[known] = shades(sparsity[known])
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
        for colour in sparsity_colours(known)
      ],
      list(map(percent, known)),
      title='sparsity at the end',
      title_fontsize=SMALL,
      alignment='left',
      handletextpad=0.1,
      columnspacing=1.0,
      ncols=len(known),
      **place,
    )


def _add_bar(figure: Figure, known: np.ndarray) -> None:
  scale = ScalarMappable(Normalize(known[0], known[-1]), sequential())
  bar = figure.colorbar(scale, ax=figure.axes, aspect=40, pad=0.02)
  write_ticks(percent, bar.ax.yaxis)
  bar.set_label('sparsity at the end')
  bar.outline.set_visible(False)
