"""Loss over model size at equal compute, with the optimum of each budget."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from jax_sparse_pretrain.analysis.fitting.fit import ScalingLawFit
from jax_sparse_pretrain.analysis.fitting.law import ScalingLaw
from jax_sparse_pretrain.analysis.plots import labels, style
from jax_sparse_pretrain.analysis.plots.law_picture import MARGIN
from jax_sparse_pretrain.analysis.runs_table import NAMES, Runs
from jax_sparse_pretrain.model.counts import training_flops
from jax_sparse_pretrain.text import power

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
    kind: of parameters, in `table.KINDS`.

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
    sizes, losses = runs.parameters(kind), runs.loss
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
    axes.scatter(sizes, losses, c=own, **labels.POINT)
  if law is law_or_fit or _has_exponents(law_or_fit):
    _plot_optima(axes, law, best_n, best)
  _name_budgets(axes, compute, curves, shades)
  axes.set_xlabel(f'{NAMES[kind]}, parameters')
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
