"""The coefficients: how well each is known, and how they move together."""

from collections.abc import Iterable, Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from jax_sparse_pretrain.analysis.fitting.bootstrap import Bootstrap
from jax_sparse_pretrain.analysis.fitting.fit import ScalingLawFit
from jax_sparse_pretrain.analysis.plots import style
from jax_sparse_pretrain.text import percent, power, signed

Intervals = Mapping[str, tuple[float, float]]
# Part of a value: a narrower range of resamples is rounding.
NARROWEST = 1e-6
LOGARITHMIC = ('A', 'B')
LABELS = {'alpha': 'α', 'beta': 'β'}
COLOURS = {'profile': style.VERMILION, 'bootstrap': style.BLUE}


@style.STYLE
def plot_coefficients(
  fit: ScalingLawFit,
  bootstrap: Bootstrap,
  profile: Intervals | None = None,
  level: float = 0.95,
) -> Figure:
  """Resamples, estimate and intervals of each; their correlations.

  An arrow is an open side, or one beyond the axis.

  Args:
    fit: for the estimates.
    bootstrap: its resamples.
    profile: `fit.intervals(level)`, drawn if given.
    level: of the intervals.
  """
  intervals = {'bootstrap': bootstrap.intervals(level)}
  if profile is not None:
    intervals = {'profile': profile, **intervals}
  law = fit.law.as_dict()
  shown = [*zip(law.items(), bootstrap.laws.T, strict=True)]
  if fit.count:
    shown.append(((fit.count.name, fit.count.value), bootstrap.values))
  figure = style.new_figure(5.0, f'Coefficients, {len(fit.loss)} runs')
  left, right = figure.subfigures(1, 2, width_ratios=(1.15, 1))
  rows = left.subplots(len(shown), 1)
  for axes, ((name, value), resamples) in zip(rows, shown, strict=True):
    ends = {kind: each[name] for kind, each in intervals.items()}
    _plot_one(axes, name, value, resamples, ends)
  rows[0].set_title('estimates and resamples')
  _add_legend(figure, intervals, level)
  _plot_correlations(right.subplots(), list(law), bootstrap.correlations())
  return figure


def _plot_one(axes: Axes, name: str, value: float, resamples, ends) -> None:
  is_log = name in LOGARITHMIC
  low, high = _limits(value, resamples, ends, is_log)
  if is_log:
    write = '{:g}'.format if high < 1e5 else _power
    style.log_axis(axes.xaxis, low, high, write)
  else:
    axes.set_xlim(low, high)
    axes.xaxis.set_major_locator(style.few_ticks())
  bins = (np.geomspace if is_log else np.linspace)(low, high, 61)
  counts, _ = np.histogram(resamples, bins)
  axes.stairs(counts, bins, fill=True, color=style.FILL)
  top = max(counts.max(), 1)
  axes.axvline(value, color=style.INK, linewidth=1.4)
  for row, (kind, (start, end)) in enumerate(ends.items()):
    height = -(0.28 + 0.32 * row) * top
    _plot_interval(axes, height, start, end, COLOURS[kind])
  axes.set_ylim(-(0.2 + 0.34 * len(ends)) * top, 1.08 * top)
  axes.set_yticks([])
  axes.spines['left'].set_visible(False)
  label = f'{LABELS.get(name, name)} = {power(value)}'
  axes.set_ylabel(label, rotation=0, ha='right', va='center', fontsize=9.5)


def _power(value: float) -> str:
  """1e4, 2.5e4: all ticks of a wide axis in one form."""
  mantissa, exponent = f'{value:.1e}'.split('e')
  return f'{mantissa.removesuffix(".0")}e{int(exponent)}'


def _limits(value, resamples, ends, is_log) -> tuple[float, float]:
  """Of the bulk of the resamples, and of interval ends that are near it."""
  to, back = (np.log, np.exp) if is_log else (np.asarray, np.asarray)
  known = resamples[np.isfinite(resamples)]
  known = known[known > 0] if is_log else known
  low, high = to(np.quantile(known, [0.005, 0.995]) if len(known) else value)
  low, high = min(low, to(value)), max(high, to(value))
  # Resamples that differ by rounding alone have no bulk.
  least = NARROWEST * (abs(to(value)) or 1.0)
  reach = high - low if high - low > least else abs(to(value)) or 1.0
  with np.errstate(divide='ignore'):
    edges = to(np.ravel(list(ends.values())))
  near = edges[(edges > low - reach) & (edges < high + reach)]
  low, high = min([low, *near]), max([high, *near])
  margin = 0.06 * (high - low if high - low > least else reach)
  return float(back(low - margin)), float(back(high + margin))


def _plot_interval(axes: Axes, height: float, start, end, colour) -> None:
  low, high = axes.get_xlim()
  inside = max(start, low), min(end, high)
  axes.plot(inside, [height] * 2, color=colour, linewidth=2.2)
  marks = '<' if start < low else '|', '>' if end > high else '|'
  how = {'markersize': 6, 'markeredgewidth': 1.6, 'clip_on': False}
  for edge, marker in zip(inside, marks, strict=True):
    axes.plot(edge, height, color=colour, marker=marker, **how)


def _add_legend(figure: Figure, kinds: Iterable[str], level: float) -> None:
  lines = [Line2D([], [], color=COLOURS[kind], linewidth=2.2) for kind in kinds]
  title = {'title': f'{percent(level)} intervals'}
  title['title_fontsize'] = style.SMALL
  place = {'loc': 'outside upper right', 'ncols': 2, 'borderaxespad': 0.2}
  figure.legend(lines, list(kinds), **title, **place)


def _plot_correlations(axes: Axes, names: list[str], values) -> None:
  """(5, 5); NaN stays empty."""
  ends = [style.VERMILION, '#f7f7f7', style.BLUE]
  colours = LinearSegmentedColormap.from_list('correlations', ends)
  axes.imshow(values, cmap=colours, vmin=-1, vmax=1)
  for row, column in np.argwhere(~np.isnan(values)):
    value = values[row, column]
    ink = 'white' if abs(value) > 0.75 else style.INK
    text = signed(value, '.2f')
    axes.text(column, row, text, color=ink, ha='center', va='center')
  labels = [
    f'ln {name}' if name in LOGARITHMIC else LABELS.get(name, name)
    for name in names
  ]
  axes.set_xticks(range(len(names)), labels)
  axes.set_yticks(range(len(names)), labels)
  axes.tick_params(length=0, labelsize=9.5)
  axes.spines[:].set_visible(False)
  axes.set_title('correlations of the resamples')
