"""Pictures of a law: over N and D, predicted and measured, at equal compute."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from jax_sparse_pretrain.analysis.effective import EFFECTIVE
from jax_sparse_pretrain.analysis.fitting.fit import ScalingLawFit
from jax_sparse_pretrain.analysis.fitting.law import ScalingLaw
from jax_sparse_pretrain.analysis.plots import style
from jax_sparse_pretrain.analysis.runs_table import Runs
from jax_sparse_pretrain.model.counts import training_flops
from jax_sparse_pretrain.text import power, short

MOST_CURVES = 5
MARGIN = 1.25  # of a logarithmic axis, as a factor


@style.STYLE
def plot_law(
  runs: Runs, law_or_fit: ScalingLaw | ScalingLawFit, kind: str = 'average'
) -> Figure:
  """Runs and the law over N and over D; log axes, residuals below.

  Each curve holds the other quantity at the value beside it. Points have the
  colour of their sparsity; if it is the same for all, that of the quantity
  which the curves hold.

  Args:
    runs: measured runs.
    law_or_fit: a law of the parameters of this kind.
    kind: of parameters, of `EFFECTIVE`.

  Raises:
    ValueError: if parameters of this kind are not known of every run.
  """
  law = getattr(law_or_fit, 'law', law_or_fit)
  n, d = _counts(runs, law_or_fit, kind), runs.tokens
  figure = style.new_figure(5.7, f'{formula(law, kind)}, {len(runs)} runs')
  (over_n, over_d), (left_n, left_d) = figure.subplots(
    2, 2, sharey='row', sharex='col', height_ratios=(3, 1)
  )
  residuals = 100 * np.log(runs.loss / law.loss(n, d))
  by_sparsity = style.varies(runs.sparsity)
  for axes, below, x, held in (over_n, left_n, n, d), (over_d, left_d, d, n):
    shade = style.shades(held, log=True)
    colours = style.sparsity_colours(runs.sparsity) if by_sparsity else shade
    axes.scatter(x, runs.loss, c=colours, **style.POINT)
    below.scatter(x, residuals, c=colours, **style.POINT)
    style.log_axis(below.xaxis, x.min() / MARGIN, x.max() * MARGIN)
    axes.grid(True)
  shown = np.concatenate([runs.loss, law.loss(n, d)])
  style.log_axis(over_n.yaxis, shown.min() / 1.04, shown.max() * 1.04)
  name = EFFECTIVE[kind].symbol
  _add_curves(over_n, d, lambda n, d: law.loss(n, d), 'D', by_sparsity)
  _add_curves(over_d, n, lambda d, n: law.loss(n, d), name, by_sparsity)
  over_n.set_ylabel('loss (nats per token)')
  left_n.set_xlabel(f'{name}, parameters')
  left_d.set_xlabel('D, tokens')
  _dress_residuals(left_n, left_d, residuals)
  # Above the axes, where there are no points.
  place = {'loc': 'lower right', 'bbox_to_anchor': (1, 1)}
  style.add_legend(over_d, runs.sparsity, **place)
  return figure


def formula(law: ScalingLaw, kind: str) -> str:
  """L = E + A / N_avg^alpha + B / D^beta, in numbers."""
  E, A, B, alpha, beta = map(power, law.as_dict().values())
  return f'L = {E} + {A} / {EFFECTIVE[kind].symbol}^{alpha} + {B} / D^{beta}'


def levels(values: np.ndarray, at_most: int = MOST_CURVES) -> np.ndarray:
  """The different values, or as many rounded ones from end to end."""
  distinct = np.unique(values)
  if len(distinct) <= at_most:
    return distinct
  spread = np.geomspace(*np.quantile(values, [0.02, 0.98]), at_most)
  return np.unique([float(f'{value:.1e}') for value in spread])


def _add_curves(axes: Axes, held, loss, name: str, grey: bool) -> None:
  """The law at some values of what is held, each named at its right end."""
  at = levels(held)
  x = np.geomspace(*axes.get_xlim(), 200)
  low, high = np.log(held.min()), np.log(held.max())
  colours = style.sequential()((np.log(at) - low) / max(high - low, 1e-9))
  if grey:
    colours = [style.GREY] * len(at)
  curves = [loss(x, value) for value in at]
  for y, colour in zip(curves, colours, strict=True):
    axes.plot(x, y, color=colour, linewidth=1.2, zorder=2)
  texts = [short(value, 3) for value in at]
  texts[-1] = f'{name} = {texts[-1]}'
  style.label_curves(axes, x, curves, texts, colours, inches=3.2)


def _dress_residuals(left: Axes, right: Axes, residuals: np.ndarray) -> None:
  rms = np.sqrt(np.mean(residuals**2))
  for axes in (left, right):
    axes.axhline(0, color=style.GREY, linewidth=1, zorder=1)
    axes.axhspan(-rms, rms, color=style.PALE, linewidth=0, zorder=0)
  style.residual_axis(left, np.abs(residuals).max())
  style.label_ends(right, [rms], [f'RMS {rms:.2f} %'], [style.GREY], inches=1)


@style.STYLE
def plot_predicted(
  runs: Runs, fits: Mapping[str, ScalingLaw | ScalingLawFit]
) -> Figure:
  """A column for each law: predicted over measured loss, and the difference.

  A law that holds sparse and dense runs together leaves no order by colour.

  Args:
    runs: measured runs.
    fits: by the kind of parameters that each counts, of `EFFECTIVE`.

  Raises:
    ValueError: if there is no law, and if parameters of its kind are not
      known of every run.
  """
  if not fits:
    raise ValueError('fits: must hold at least one law')
  title = f'Predicted and measured loss, {len(runs)} runs'
  figure = style.new_figure(4.6, title)
  shared = {'sharex': True, 'sharey': 'row', 'squeeze': False}
  grid = figure.subplots(2, len(fits), **shared, height_ratios=(3, 1.4))
  colours = style.sparsity_colours(runs.sparsity)
  low, high = runs.loss.min() / 1.03, runs.loss.max() * 1.03
  most = 0.0
  for (above, below), (kind, each) in zip(grid.T, fits.items(), strict=True):
    law = getattr(each, 'law', each)
    predicted = law.loss(_counts(runs, each, kind), runs.tokens)
    residuals = 100 * np.log(runs.loss / predicted)
    rms = np.sqrt(np.mean(residuals**2))
    most = max(most, np.abs(residuals).max())
    above.scatter(runs.loss, predicted, c=colours, **style.POINT)
    above.axline((low, low), (high, high), color=style.GREY, linewidth=1)
    above.set_title(f'{EFFECTIVE[kind].symbol}\nRMS {rms:.2f} %')
    above.grid(True)
    below.scatter(runs.loss, residuals, c=colours, **style.POINT)
    below.axhline(0, color=style.GREY, linewidth=1, zorder=1)
    below.set_xlabel('measured loss')
    style.log_axis(above.xaxis, low, high)
    style.log_axis(above.yaxis, low, high)
  first, below = grid[:, 0]
  first.set_ylabel('predicted loss')
  style.residual_axis(below, most)
  style.add_legend(figure, runs.sparsity, loc='outside upper right')
  return figure


def _counts(runs: Runs, law_or_fit, kind: str) -> np.ndarray:
  """N of the runs, with the coefficient of the count that was fitted."""
  count = getattr(law_or_fit, 'count', None)
  return runs.parameters(kind, count and count.value)


# A curve ends where its loss is this far above its least.
RISE = 1.12
MOST_BUDGETS = 7


@style.STYLE
def plot_isoflops(
  law_or_fit: ScalingLaw | ScalingLawFit,
  compute: Sequence[float],
  runs: Runs | None = None,
  kind: str = 'average',
) -> Figure:
  """A curve of loss over N for each budget C = 6 N D, and the optima.

  Of a fit that leaves an exponent open the optima are not drawn: they mean
  nothing then.

  Args:
    law_or_fit: a law of parameters of this kind.
    compute: budgets in FLOPs.
    runs: drawn as points, in the colour of their own 6 N D.
    kind: of parameters, of `EFFECTIVE`.

  Raises:
    ValueError: for a law without an optimum, for budgets that are not
      positive, and if parameters of this kind are not known of every run.
  """
  law = getattr(law_or_fit, 'law', law_or_fit)
  compute = np.unique(np.asarray(compute, np.float64))
  best_n, best_d = law.optimal(compute)
  best = law.loss(best_n, best_d)
  curves = [
    _curve(law, *each) for each in zip(compute, best_n, best, strict=True)
  ]
  if runs is None:
    sizes = np.concatenate([x[[0, -1]] for x, _ in curves])
    losses = np.array([y.max() for _, y in curves])
    spent = compute
  else:
    sizes, losses = _counts(runs, law_or_fit, kind), runs.loss
    spent = np.append(training_flops(sizes, runs.tokens), compute)
  scale = LogNorm(spent.min(), max(spent.max(), 1.001 * spent.min()))
  colours = style.sequential()
  shades = colours(scale(compute))
  figure = style.new_figure(4.8, 'Loss over model size at equal compute')
  axes = figure.subplots()
  style.log_axis(axes.xaxis, sizes.min() / MARGIN, sizes.max() * MARGIN)
  low = min(best.min(), losses.min())
  style.log_axis(axes.yaxis, low / 1.03, losses.max() * 1.03)
  for (x, y), shade in zip(curves, shades, strict=True):
    axes.plot(x, y, color=shade, linewidth=1.6)
  if runs is not None:
    own = colours(scale(spent[: len(runs)]))
    axes.scatter(sizes, losses, c=own, **style.POINT)
  if law is law_or_fit or _has_exponents(law_or_fit):
    _plot_optima(axes, law, best_n, best)
  _name_budgets(axes, compute, curves, shades)
  axes.set_xlabel(f'{EFFECTIVE[kind].symbol}, parameters')
  axes.set_ylabel('loss (nats per token)')
  axes.grid(True)
  return figure


def _has_exponents(fit: ScalingLawFit) -> bool:
  ends = [fit.intervals()[name] for name in ('alpha', 'beta')]
  return all(low > 0 and np.isfinite(high) for low, high in ends)


def _curve(law: ScalingLaw, compute: float, n: float, best: float):
  """(N, loss) around the optimum, up to `RISE`."""
  x = n * np.geomspace(1e-4, 1e4, 4001)
  y = law.loss(x, compute / training_flops(x, 1))
  near = y <= RISE * best
  return x[near], y[near]


def _plot_optima(axes: Axes, law: ScalingLaw, n, loss) -> None:
  exponent = law.beta / (law.alpha + law.beta)
  marks = {'marker': 'D', 'markersize': 5, 'markerfacecolor': 'white'}
  line = {'color': style.INK, 'linestyle': '--', 'linewidth': 1.2, **marks}
  label = f'optimum, N ∝ C^{exponent:.2f}'
  axes.plot(n, loss, **line, zorder=4, label=label)
  # Above the axes, where there are no points.
  axes.legend(loc='lower right', bbox_to_anchor=(1, 1))


def _name_budgets(axes: Axes, compute, curves, shades) -> None:
  """Each where its curve ends, or leaves the picture, at the right."""
  right, top = axes.get_xlim()[1], axes.get_ylim()[1]
  for c, (x, y), shade in zip(compute, curves, shades, strict=True):
    seen = np.flatnonzero((x <= right) & (y <= top))
    if len(seen):
      at, text = (x[seen[-1]], y[seen[-1]]), f'{power(c)} FLOPs'
      style.note(axes, text, at, (5, 0), shade, va='center', **style.OVER)


def round_budgets(spent: np.ndarray) -> list[float]:
  """At most seven round budgets over the range of these FLOPs."""
  low, high = np.log10(np.quantile(spent, [0.02, 0.98]))
  for digits in ((1, 2, 5), (1, 3), (1,)):
    found = [
      digit * 10.0**exponent
      for exponent in range(int(np.floor(low)), int(np.ceil(high)) + 1)
      for digit in digits
      if low - 0.1 <= np.log10(digit) + exponent <= high + 0.1
    ]
    if 0 < len(found) <= MOST_BUDGETS:
      return found
  return [float(f'{c:.1e}') for c in np.logspace(low, high, MOST_BUDGETS)]
