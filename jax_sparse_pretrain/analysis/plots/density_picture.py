"""Density of runs or plans, over what they have seen and what they cost."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jax_sparse_pretrain.analysis.averages import Average
from jax_sparse_pretrain.analysis.plots import labels, style
from jax_sparse_pretrain.text import cut, percent, short

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
  if labels.varies(final) or not 1 < len(final) <= len(APART):
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
  labels.label_ends(axes, heights, texts, colours[order], inches=3.0)
