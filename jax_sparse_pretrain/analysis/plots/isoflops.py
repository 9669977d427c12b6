"""Loss over model size at equal compute, with the optimum of each budget."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from jax_sparse_pretrain.analysis.fitting.fit import ScalingLawFit
from jax_sparse_pretrain.analysis.fitting.law import FLOPS, ScalingLaw
from jax_sparse_pretrain.analysis.plots import numerals, sparsity, style
from jax_sparse_pretrain.analysis.plots.law import MARGIN
from jax_sparse_pretrain.analysis.runs_table import NAMES, Runs

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
  figure = style.new_figure(4.8, 'Loss over model size at equal compute')
  axes = figure.subplots()
  n, spent = best_n, compute
  if runs is not None:
    n = runs.parameters(kind)
    spent = FLOPS * n * runs.tokens
  shade = _scale(np.concatenate([compute, spent]))
  curves = [
    _curve(law, *each) for each in zip(compute, best_n, best, strict=True)
  ]
  _set_limits(axes, curves, n, best, runs)
  for c, (x, y) in zip(compute, curves, strict=True):
    axes.plot(x, y, color=shade(c), linewidth=1.6)
  if runs is not None:
    axes.scatter(n, runs.loss, c=shade(spent), **sparsity.POINT)
  if law is law_or_fit or _has_exponents(law_or_fit):
    _plot_optima(axes, law, best_n, best)
  _name_budgets(axes, compute, curves, shade)
  axes.set_xlabel(f'{NAMES[kind]}, parameters')
  axes.set_ylabel('loss (nats per token)')
  axes.grid(True)
  return figure


def _has_exponents(fit: ScalingLawFit) -> bool:
  intervals = fit.intervals()
  ends = [intervals[name] for name in ('alpha', 'beta')]
  return all(low > 0 and np.isfinite(high) for low, high in ends)


def _scale(compute: np.ndarray):
  """Compute -> colours, by its logarithm."""
  scale = LogNorm(compute.min(), max(compute.max(), 1.001 * compute.min()))
  return lambda values: style.sequential()(scale(values))


def _curve(law: ScalingLaw, compute: float, n: float, best: float):
  """(N, loss) around the optimum, up to `RISE`."""
  x = n * np.geomspace(1e-4, 1e4, 4001)
  y = law.loss(x, compute / (FLOPS * x))
  near = y <= RISE * best
  return x[near], y[near]


def _set_limits(axes: Axes, curves, n, best, runs: Runs | None) -> None:
  ends = [x[[0, -1]] for x, _ in curves] if runs is None else [n]
  sizes = np.concatenate(ends)
  losses = [y.max() for _, y in curves] if runs is None else runs.loss
  style.log_axis(axes.xaxis, sizes.min() / MARGIN, sizes.max() * MARGIN)
  low = min(best.min(), np.min(losses))
  style.log_axis(axes.yaxis, low / 1.03, np.max(losses) * 1.03)


def _plot_optima(axes: Axes, law: ScalingLaw, n, loss) -> None:
  exponent = law.beta / (law.alpha + law.beta)
  axes.plot(
    n,
    loss,
    color=style.INK,
    linestyle='--',
    linewidth=1.2,
    marker='D',
    markersize=5,
    markerfacecolor='white',
    zorder=4,
    label=f'optimum, N ∝ C^{exponent:.2f}',
  )
  axes.legend(loc='lower left')


def _name_budgets(axes: Axes, compute, curves, shade) -> None:
  """Each where its curve ends, or leaves the picture, at the right."""
  right, top = axes.get_xlim()[1], axes.get_ylim()[1]
  for c, (x, y) in zip(compute, curves, strict=True):
    seen = np.flatnonzero((x <= right) & (y <= top))
    if len(seen):
      axes.annotate(
        f'{numerals.power(c)} FLOPs',
        (x[seen[-1]], y[seen[-1]]),
        xytext=(5, 0),
        textcoords='offset points',
        verticalalignment='center',
        color=style.dark(shade(c)),
        fontsize=style.SMALL,
        path_effects=style.HALO,
        zorder=5,
      )


def round_budgets(spent: np.ndarray) -> list[float]:
  """At most seven round budgets over the range of these FLOPs."""
  low, high = np.log10(np.quantile(spent, [0.02, 0.98]))
  for digits in ((1, 2, 5), (1, 3), (1,)):
    found = [
      digit * 10.0**power
      for power in range(int(np.floor(low)), int(np.ceil(high)) + 1)
      for digit in digits
      if low - 0.1 <= np.log10(digit) + power <= high + 0.1
    ]
    if 0 < len(found) <= MOST_BUDGETS:
      return found
  return [float(f'{c:.1e}') for c in np.logspace(low, high, MOST_BUDGETS)]
