"""Pictures of runs: arms against a reference, schedules, densities."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from jax_sparse_pretrain.analysis.averages import Average
from jax_sparse_pretrain.analysis.contrasts import Contrast
from jax_sparse_pretrain.analysis.plots import style
from jax_sparse_pretrain.text import cut, percent, short, signed

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


# Cells of more columns are too small for their numbers.
MOST_COLUMNS = 9
# Panels side by side, by how many there are.
ACROSS = {1: 1, 2: 2, 4: 2}
MOST_ACROSS = 3


@style.STYLE
def plot_schedules(start, end, sparsity, loss, margin=None) -> Figure:
  """Loss above the best schedule of each sparsity; start across, end up.

  The best cell has a frame. With a margin, so has, dotted, every other cell
  that is within it of the best. Repeats of one schedule are averaged.

  Args:
    start: of pruning, as a fraction of compute, (m,).
    end: of pruning, likewise, (m,).
    sparsity: at the end, (m,).
    loss: in nats, (m,).
    margin: within which a loss is not told from the best, in nats; one, or
      (m,), equal for equal sparsity.

  Raises:
    ValueError: for columns of different lengths or without rows, and for a
      margin below 0.
  """
  columns = [np.asarray(each, float) for each in (start, end, sparsity, loss)]
  if len({each.shape for each in columns}) > 1 or not columns[0].size:
    raise ValueError('start, end, sparsity, loss: must be as long, not empty')
  if margin is not None and not np.all(np.asarray(margin) >= 0):
    raise ValueError(f'margin {margin}: must be at least 0')
  start, end, sparsity, loss = columns
  which = np.unique(sparsity)
  margins = [None] * len(which)
  if margin is not None:
    margin = np.broadcast_to(np.asarray(margin, float), loss.shape)
    margins = [margin[sparsity == s].max() for s in which]
  tables = [
    _table(*(each[sparsity == s] for each in (start, end, loss))) for s in which
  ]
  across = ACROSS.get(len(which), MOST_ACROSS)
  down = -(-len(which) // across)
  figure = style.new_figure(0.9 + 3.1 * down, _title(margins))
  grid = figure.subplots(down, across, squeeze=False)
  most = max(np.nanmax(each[2]) - np.nanmin(each[2]) for each in tables)
  # Near the best, where schedules are to be told apart, colours change fastest.
  norm = PowerNorm(0.5, 0, 1000 * max(most, 1e-6))
  scale = ScalarMappable(norm, 'cividis_r')
  for axes, s, table, each in zip(
    grid.flat, which, tables, margins, strict=False
  ):
    _plot_table(axes, *table, scale, each)
    axes.set_title(f'sparsity {percent(s)}, best {np.nanmin(table[2]):.3f}')
  for axes in grid.flat[len(which) :]:
    axes.set_axis_off()
  bar = figure.colorbar(scale, ax=list(grid.flat), aspect=30, pad=0.02)
  bar.set_label('loss above the best (0.001 nats)')
  bar.outline.set_visible(False)
  return figure


def _title(margins: list) -> str:
  title = 'Loss of pruning schedules; the best is framed'
  if margins[0] is None:
    return title
  ends = dict.fromkeys(f'{each:.2g}' for each in (min(margins), max(margins)))
  return f'{title}, those within {" to ".join(ends)} nats of it are dotted'


def _table(start, end, loss):
  """Different starts (k,) and ends (n,), and their mean loss (n, k).

  NaN where there is no run.
  """
  starts, column = np.unique(start, return_inverse=True)
  ends, row = np.unique(end, return_inverse=True)
  total, count = np.zeros((2, len(ends), len(starts)))
  np.add.at(total, (row, column), loss)
  np.add.at(count, (row, column), 1)
  with np.errstate(invalid='ignore'):
    return starts, ends, total / count


def _plot_table(axes: Axes, starts, ends, losses, scale, margin) -> None:
  above = 1000 * (losses - np.nanmin(losses))
  # Black or white, whichever can be seen on the cell.
  inks = np.where(scale.norm(np.nan_to_num(above)) > 0.5, 'white', 'black')
  best, *_ = np.argwhere(above == 0)
  axes.set_facecolor(style.EMPTY)
  axes.imshow(
    above, cmap=scale.cmap, norm=scale.norm, origin='lower', aspect='auto'
  )
  for row, column in np.argwhere(~np.isnan(above)):
    value, ink = above[row, column], inks[row, column]
    if len(starts) <= MOST_COLUMNS:
      text = f'{value:.0f}'
      axes.text(
        column, row, text, color=ink, fontsize=8, ha='center', va='center'
      )
    if (row, column) == tuple(best):
      _frame(axes, row, column, style.INK, linestyle='-', linewidth=2.2)
    elif margin is not None and value <= 1000 * margin:
      _frame(axes, row, column, ink, linestyle=':', linewidth=1.4)
  axes.set_xticks(range(len(starts)), [f'{100 * x:g}' for x in starts])
  axes.set_yticks(range(len(ends)), [f'{100 * x:g}' for x in ends])
  axes.tick_params(length=0)
  axes.spines[:].set_visible(False)
  axes.set_xlabel('start (% of compute)')
  axes.set_ylabel('end (% of compute)')


def _frame(axes: Axes, row: int, column: int, colour: str, **line) -> None:
  corner = column - 0.46, row - 0.46
  box = Rectangle(corner, 0.92, 0.92, fill=False, edgecolor=colour, **line)
  axes.add_patch(box)


MOST_LABELS = 12
LONGEST_LABEL = 26
# Of runs that end equally sparse, such as those of other shapes.
APART = (style.BLUE, style.VERMILION, style.GREEN, style.PINK, style.GREY)


@style.STYLE
def plot_density(averages: Sequence[Average]) -> Figure:
  """Nonzero share of the linear parameters over tokens, and over compute.

  Each in the colour of its final sparsity, with its name and average. A few
  that end equally sparse have a colour each.

  Args:
    averages: of runs, or planned. Over steps if one has no tokens.

  Raises:
    ValueError: if there are none.
  """
  if not averages:
    raise ValueError('averages: must hold at least one')
  in_tokens = all(each.tokens for each in averages)
  figure = style.new_figure(3.8, 'Nonzero share of the linear parameters')
  over_data, over_compute = figure.subplots(1, 2, sharey=True)
  colours = _colours(np.array([each.sparsity for each in averages]))
  for each, colour in zip(averages, colours, strict=True):
    steps, spent, kept = _staircase(each)
    data = steps * each.tokens_per_step if in_tokens else steps
    line = {'color': colour, 'linewidth': 1.6}
    over_data.plot(data, kept, **line)
    over_compute.plot(spent / spent[-1], kept, **line)
  for axes in (over_data, over_compute):
    axes.set_xlim(left=0)
    axes.grid(True)
  over_compute.set_xlim(0, 1)
  over_data.set_ylim(0, 1.04)
  over_data.set_xlabel('D, tokens' if in_tokens else 'steps')
  over_compute.set_xlabel('compute of the run')
  style.write_ticks(short, over_data.xaxis)
  style.write_ticks(percent, over_data.yaxis, over_compute.xaxis)
  # The last tick of one axis and the first of the next stand apart.
  figure.get_layout_engine().set(wspace=0.06)
  _name_runs(over_compute, averages, colours)
  return figure


def _colours(final: np.ndarray) -> np.ndarray:
  if style.varies(final) or not 1 < len(final) <= len(APART):
    return style.shades(final)
  return np.array(APART[: len(final)])


def _staircase(each: Average):
  """Steps, parameters times steps spent, and density at every corner."""
  starts, counts = np.array(each.counts, dtype=np.float64).T
  edges = np.append(starts, each.steps)
  spent = np.append(0, np.cumsum(counts * np.diff(edges)))
  corner = np.repeat(np.arange(len(edges)), 2)[1:-1]
  kept = np.repeat(counts / each.linear_parameters, 2)
  return edges[corner], spent[corner], kept


def _name_runs(axes: Axes, averages: Sequence[Average], colours) -> None:
  """All, or as many from the densest to the sparsest as fit beside it."""
  order = np.argsort([each.sparsity for each in averages], kind='stable')
  if len(order) > MOST_LABELS:
    order = order[np.linspace(0, len(order) - 1, MOST_LABELS).astype(int)]
    axes.set_title(f'{len(order)} of {len(averages)} named', loc='right')
  shown = [averages[i] for i in order]
  heights = [1 - each.sparsity for each in shown]
  texts = [
    f'{cut(each.run, LONGEST_LABEL)}, N_avg/N {percent(each.density)}'
    for each in shown
  ]
  style.label_ends(axes, heights, texts, colours[order], inches=3.0)
