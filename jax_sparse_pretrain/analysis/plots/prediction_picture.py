"""Predicted against measured loss, for one law or several side by side."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from jax_sparse_pretrain.analysis.fitting.fit import ScalingLawFit
from jax_sparse_pretrain.analysis.fitting.law import ScalingLaw
from jax_sparse_pretrain.analysis.plots import sparsity, style
from jax_sparse_pretrain.analysis.runs_table import NAMES, Runs


@style.STYLE
def plot_predicted(
  runs: Runs, fits: Mapping[str, ScalingLaw | ScalingLawFit]
) -> Figure:
  """A column for each law: predicted over measured loss, and the difference.

  A law that holds sparse and dense runs together leaves no order by colour.

  Args:
    runs: measured runs.
    fits: by the kind of parameters that each counts, of `table.KINDS`.

  Raises:
    ValueError: if there is no law, and if parameters of its kind are not
      known of every run.
  """
  if not fits:
    raise ValueError('fits: must hold at least one law')
  title = f'Predicted and measured loss, {len(runs)} runs'
  figure = style.new_figure(4.6, title)
  grid = figure.subplots(
    2,
    len(fits),
    sharex=True,
    sharey='row',
    squeeze=False,
    height_ratios=(3, 1.4),
  )
  colours = sparsity.colours(runs.sparsity)
  low, high = runs.loss.min() / 1.03, runs.loss.max() * 1.03
  most = 0.0
  for (above, below), (kind, each) in zip(grid.T, fits.items(), strict=True):
    law = getattr(each, 'law', each)
    predicted = law.loss(runs.parameters(kind), runs.tokens)
    residuals = 100 * np.log(runs.loss / predicted)
    rms = np.sqrt(np.mean(residuals**2))
    most = max(most, np.abs(residuals).max())
    above.scatter(runs.loss, predicted, c=colours, **sparsity.POINT)
    above.axline((low, low), (high, high), color=style.GREY, linewidth=1)
    above.set_title(f'law of {NAMES[kind]}, RMS {rms:.2f} %')
    above.grid(True)
    below.scatter(runs.loss, residuals, c=colours, **sparsity.POINT)
    below.axhline(0, color=style.GREY, linewidth=1, zorder=1)
    below.set_xlabel('measured loss')
    style.log_axis(above.xaxis, low, high)
    style.log_axis(above.yaxis, low, high)
  first, below = grid[:, 0]
  first.set_ylabel('predicted loss')
  style.residual_axis(below, most)
  sparsity.add_legend(figure, runs.sparsity, loc='outside upper right')
  return figure
