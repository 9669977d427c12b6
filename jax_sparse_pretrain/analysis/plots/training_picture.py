"""One picture of one run: its loss, and how many parameters it had, when.

Reads the files of a run and nothing else, so it can be drawn while the run is
going on, and without jax.
"""

import os
import pathlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jax_sparse_pretrain import storage
from jax_sparse_pretrain.analysis.plots import style
from jax_sparse_pretrain.analysis.runs.workdir import (
  Phase,
  Run,
  change_steps,
  phases,
  read_run,
)
from jax_sparse_pretrain.runs.workdir import Workdir
from jax_sparse_pretrain.text import percent, short

COLOURS = {'dense': 'white', 'pruning': style.ORANGE, 'recovery': style.SKY}


@style.STYLE
def plot_training(workdir: os.PathLike | str) -> Figure:
  """Loss above, nonzero linear parameters below, over training tokens.

  Raises:
    FileNotFoundError: if the run has no metrics or no mask history.
    ValueError: for a malformed line, naming it, and for a run that has not
      logged a step yet.
  """
  run = read_run(storage.as_path(workdir))
  figure = style.new_figure(5.5, _title(run))
  loss_axes, count_axes = figure.subplots(2, 1, sharex=True)
  _plot_loss(loss_axes, run)
  _plot_counts(count_axes, run)
  _shade_phases(loss_axes, count_axes, run)
  # Room for the marker of the last evaluation.
  count_axes.set_xlim(0, 1.01 * run.tokens)
  count_axes.set_xlabel('training tokens')
  style.write_ticks(_short, count_axes.xaxis, count_axes.yaxis)
  return figure


def save_training_picture(workdir: os.PathLike | str) -> pathlib.Path:
  """Draws `training.png` into the run's directory; returns its path."""
  path = Workdir(storage.as_path(workdir)).picture
  storage.replace(path, style.rendered(plot_training(workdir), 'png'))
  return path


def _title(run: Run) -> str:
  if not len(run.evaluation.values):
    return run.name
  loss, tokens = run.evaluation.values[-1], run.evaluation.tokens[-1]
  return f'{run.name}: evaluation loss {loss:.3f} after {_short(tokens)} tokens'


def _short(value: float) -> str:
  return short(value, 3)


def loss_limits(run: Run) -> tuple[float, float]:
  """Limits of the loss axis: what comes after the first 5 % of the tokens.

  The fall from the initial loss would press all that matters into a line.
  """
  tokens = np.concatenate([run.train.tokens, run.evaluation.tokens])
  values = np.concatenate([run.train.values, run.evaluation.values])
  late = values[tokens >= 0.05 * run.tokens]
  shown = late if len(late) else values
  if not len(shown):
    return 0.0, 1.0
  low, high = float(shown.min()), float(shown.max())
  # At least a tenth of a nat: a range of nothing has no readable ticks.
  margin = max(0.06 * (high - low), 0.05)
  return low - margin, high + margin


def _plot_loss(axes: Axes, run: Run) -> None:
  marker = '.' if len(run.train.tokens) < 20 else None
  axes.plot(
    *run.train,
    color=style.PALE_BLUE,
    marker=marker,
    linewidth=1.2,
    label='training',
  )
  axes.plot(
    *run.evaluation,
    color=style.BLUE,
    marker='o',
    markersize=4,
    linewidth=1.2,
    label='evaluation',
  )
  axes.set_ylim(*loss_limits(run))
  axes.set_ylabel('loss (nats per token)')
  # A falling curve leaves two corners free. The legend takes the lower one,
  # unless the baseline is down there too.
  corner = 'lower left'
  if run.unigram_loss is not None:
    last = [np.inf, *run.train.values, *run.evaluation.values][-1]
    corner = _plot_unigram(axes, run.unigram_loss, last)
  axes.legend(loc=corner)


def _plot_unigram(axes: Axes, loss: float, last: float) -> str:
  """A line if it is near the curves, else a word on where it would be.

  Returns the corner that is left for the legend.
  """
  low, high = axes.get_ylim()
  near, margin = 0.3 * (high - low), 0.12 * (high - low)
  text, height, side = f'unigram baseline {loss:.2f}', loss, 'above'
  if low - near < loss < high + near:
    axes.set_ylim(min(low, loss - margin), max(high, loss + margin))
    axes.axhline(loss, color=style.GREY, linestyle='--', linewidth=1)
  elif loss > high:
    text, height, side = f'{text} \u2191', high, 'below'
  else:
    text, height = f'{text} \u2193', low
  is_beaten = last < loss - margin
  end = 'right' if is_beaten else 'left'
  _label(axes, height, text, end, side, style.GREY)
  return 'lower left' if is_beaten else 'upper right'


def _plot_counts(axes: Axes, run: Run) -> None:
  header = run.past.header
  dense = header.linear_parameters
  starts = [row.step * header.tokens_per_step for row in run.past.rows]
  axes.stairs(
    [row.nonzero for row in run.past.rows],
    [*starts, run.tokens],
    baseline=None,
    color=style.VERMILION,
    linewidth=1.8,
  )
  axes.set_ylim(0, 1.2 * dense)
  axes.set_ylabel('nonzero linear parameters')
  if change_steps(run.past):
    _label_counts(axes, run)
  else:
    _label(axes, dense, f'N = N_avg = {_short(dense)}', 'right', 'above')


def _label_counts(axes: Axes, run: Run) -> None:
  """Reference lines, and labels where the staircase of counts is not.

  The count starts above the average and ends below it. So the space below
  the average is free at the left until the count gets there, and the space
  above it is free at the right.
  """
  dense = run.past.header.linear_parameters
  average = run.past.average_parameters(run.steps)
  final = run.past.rows[-1].nonzero
  axes.axhline(dense, color=style.GREY, linestyle=':', linewidth=1.2)
  axes.axhline(average, color=style.INK, linestyle='--', linewidth=1.2)
  text = f'dense N = {_short(dense)}'
  _label(axes, dense, text, 'right', 'above', style.GREY)

  def written(count: float) -> str:
    return f'{_short(count)} ({percent(count / dense, ".1f")})'

  average_text = f'average N_avg = {written(average)}'
  when = 'at the end' if run.completed else 'so far'
  final_text = f'{when} {written(final)}'
  below = (row.step for row in run.past.rows if row.nonzero < average)
  crossing = next(below, 0)
  to_the_right = crossing < 0.36 * run.steps and average < 0.85 * dense
  if to_the_right and final < 0.15 * dense and average - final < 0.2 * dense:
    _label(axes, average, f'{average_text}, {final_text}', 'right', 'above')
    return
  corner = ('right', 'above') if to_the_right else ('left', 'below')
  _label(axes, average, average_text, *corner)
  side = 'below' if final > 0.15 * dense else 'above'
  _label(axes, final, final_text, 'right', side, style.VERMILION)


def _label(
  axes: Axes,
  height: float,
  text: str,
  end: Literal['left', 'right'],
  side: Literal['above', 'below'],
  colour: str = style.INK,
) -> None:
  """Text at one end of a horizontal line."""
  axes.annotate(
    text,
    (0.99 if end == 'right' else 0.01, height),
    xycoords=('axes fraction', 'data'),
    xytext=(0, 3 if side == 'above' else -4),
    textcoords='offset points',
    ha=end,
    va='bottom' if side == 'above' else 'top',
    color=colour,
    path_effects=style.HALO,
  )


def _shade_phases(loss_axes: Axes, count_axes: Axes, run: Run) -> None:
  spans = phases(run)
  for phase in spans:
    for axes in (loss_axes, count_axes):
      colour = COLOURS[phase.name]
      axes.axvspan(
        phase.start, phase.end, color=colour, alpha=0.14, linewidth=0, zorder=0
      )
  for phase in _nameable(spans, 0.1 * run.tokens):
    loss_axes.text(
      _centre(phase),
      1.02,
      phase.name,
      transform=loss_axes.get_xaxis_transform(),
      ha='center',
    )


def _nameable(spans: Sequence[Phase], room: float) -> list[Phase]:
  """The widest first; those whose name would run into another are left out."""
  named: list[Phase] = []
  for phase in sorted(spans, key=lambda each: each.start - each.end):
    if all(abs(_centre(phase) - _centre(other)) > room for other in named):
      named.append(phase)
  return named


def _centre(phase: Phase) -> float:
  return (phase.start + phase.end) / 2
