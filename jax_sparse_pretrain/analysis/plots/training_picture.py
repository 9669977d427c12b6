"""One picture of one run: its loss, and how many parameters it had, when.

Reads the files of a run and nothing else, so it can be drawn while the run is
going on, and without jax.
"""

import io
import os
import pathlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from jax_sparse_pretrain import storage
from jax_sparse_pretrain.analysis.training_log import (
  Phase,
  Run,
  change_steps,
  phases,
  read_run,
)

# From the palette of Okabe and Ito, which the colour-blind can tell apart.
BLUE, SKY, VERMILION, ORANGE = '#0072b2', '#56b4e9', '#b04a00', '#e69f00'
PALE_BLUE, INK, GREY = '#7db3d8', '#333333', '#6b6b6b'
PHASE_COLOURS = {'dense': 'white', 'pruning': ORANGE, 'recovery': SKY}
HALO = (patheffects.withStroke(linewidth=2.5, foreground='white'),)


def plot_training(workdir: os.PathLike | str) -> Figure:
  """Loss above, nonzero linear parameters below, over training tokens.

  Raises:
    FileNotFoundError: if the run has no metrics or no mask history.
    ValueError: for a malformed line, naming it, and for a run that has not
      logged a step yet.
  """
  run = read_run(storage.as_path(workdir))
  figure = Figure(figsize=(8, 5.5), dpi=150, layout='constrained')
  FigureCanvasAgg(figure)
  loss_axes, count_axes = figure.subplots(2, 1, sharex=True)
  _plot_loss(loss_axes, run)
  _plot_counts(count_axes, run)
  _shade_phases(loss_axes, count_axes, run)
  _dress(figure, run)
  return figure


def save_training_picture(workdir: os.PathLike | str) -> pathlib.Path:
  """Draws `training.png` into the run's directory; returns its path."""
  path = storage.as_path(workdir) / 'training.png'
  content = io.BytesIO()
  plot_training(workdir).savefig(content, format='png')
  storage.replace(path, content.getvalue())
  return path


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
  few = len(run.train.tokens) < 20
  axes.plot(
    *run.train,
    color=PALE_BLUE,
    marker='.' if few else None,
    linewidth=1.2,
    label='training',
  )
  axes.plot(
    *run.evaluation,
    color=BLUE,
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
    corner = _plot_unigram(axes, run.unigram_loss, _last_loss(run))
  axes.legend(loc=corner, frameon=False, fontsize=9)


def _last_loss(run: Run) -> float:
  return [np.inf, *run.train.values, *run.evaluation.values][-1]


def _plot_unigram(axes: Axes, loss: float, last: float) -> str:
  """A line if it is near the curves, else a word on where it would be.

  Returns the corner that is left for the legend.
  """
  low, high = axes.get_ylim()
  near, margin = 0.3 * (high - low), 0.12 * (high - low)
  text, height, side = f'unigram baseline {loss:.2f}', loss, 'above'
  if low - near < loss < high + near:
    axes.set_ylim(min(low, loss - margin), max(high, loss + margin))
    axes.axhline(loss, color=GREY, linestyle='--', linewidth=1)
  elif loss > high:
    text, height, side = f'{text} \u2191', high, 'below'
  else:
    text, height = f'{text} \u2193', low
  is_beaten = last < loss - margin
  _label(axes, height, text, 'right' if is_beaten else 'left', side, GREY)
  return 'lower left' if is_beaten else 'upper right'


def _plot_counts(axes: Axes, run: Run) -> None:
  header = run.past.header
  starts = [row.step * header.tokens_per_step for row in run.past.rows]
  counts = [row.nonzero for row in run.past.rows]
  axes.stairs(
    counts,
    [*starts, run.tokens],
    baseline=None,
    color=VERMILION,
    linewidth=1.8,
  )
  axes.set_ylim(0, 1.2 * header.linear_parameters)
  axes.set_ylabel('nonzero linear parameters')
  if change_steps(run.past):
    _label_counts(axes, run)
  else:
    text = f'N = N_avg = {human(header.linear_parameters)}'
    _label(axes, header.linear_parameters, text, 'right', 'above')


def _label_counts(axes: Axes, run: Run) -> None:
  """Reference lines, and labels where the staircase of counts is not.

  The count starts above the average and ends below it. So the space below
  the average is free at the left until the count gets there, and the space
  above it is free at the right.
  """
  dense = run.past.header.linear_parameters
  average = run.past.average_parameters(run.steps)
  final = run.past.rows[-1].nonzero
  axes.axhline(dense, color=GREY, linestyle=':', linewidth=1.2)
  axes.axhline(average, color=INK, linestyle='--', linewidth=1.2)
  _label(axes, dense, f'dense N = {human(dense)}', 'right', 'above', GREY)
  average_text = f'average N_avg = {human(average)} ({average / dense:.1%})'
  when = 'at the end' if run.completed else 'so far'
  final_text = f'{when} {human(final)} ({final / dense:.1%})'
  below = (row.step for row in run.past.rows if row.nonzero < average)
  crossing = next(below, 0)
  to_the_right = crossing < 0.36 * run.steps and average < 0.85 * dense
  if to_the_right and final < 0.15 * dense and average - final < 0.2 * dense:
    _label(axes, average, f'{average_text}, {final_text}', 'right', 'above')
    return
  corner = ('right', 'above') if to_the_right else ('left', 'below')
  _label(axes, average, average_text, *corner)
  side = 'below' if final > 0.15 * dense else 'above'
  _label(axes, final, final_text, 'right', side, VERMILION)


def _label(
  axes: Axes,
  height: float,
  text: str,
  end: Literal['left', 'right'],
  side: Literal['above', 'below'],
  colour: str = INK,
) -> None:
  """Text at one end of a horizontal line."""
  axes.annotate(
    text,
    (0.99 if end == 'right' else 0.01, height),
    xycoords=('axes fraction', 'data'),
    xytext=(0, 3 if side == 'above' else -4),
    textcoords='offset points',
    horizontalalignment=end,
    verticalalignment='bottom' if side == 'above' else 'top',
    color=colour,
    fontsize=9,
    path_effects=HALO,
  )


def _shade_phases(loss_axes: Axes, count_axes: Axes, run: Run) -> None:
  spans = phases(run)
  for phase in spans:
    for axes in (loss_axes, count_axes):
      colour = PHASE_COLOURS[phase.name]
      axes.axvspan(
        phase.start, phase.end, color=colour, alpha=0.14, linewidth=0, zorder=0
      )
  for phase in _nameable(spans, 0.1 * run.tokens):
    loss_axes.text(
      _centre(phase),
      1.02,
      phase.name,
      transform=loss_axes.get_xaxis_transform(),
      horizontalalignment='center',
      fontsize=9,
      color=INK,
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


def _dress(figure: Figure, run: Run) -> None:
  loss_axes, count_axes = figure.axes
  # Room for the marker of the last evaluation.
  count_axes.set_xlim(0, 1.01 * run.tokens)
  count_axes.set_xlabel('training tokens')
  count_axes.xaxis.set_major_formatter(lambda value, _: human(value))
  count_axes.yaxis.set_major_formatter(lambda value, _: human(value))
  for axes in (loss_axes, count_axes):
    axes.spines[['top', 'right']].set_visible(False)
  figure.suptitle(_title(run), x=0.01, ha='left', fontsize=11, parse_math=False)


def _title(run: Run) -> str:
  if not len(run.evaluation.values):
    return run.name
  loss, tokens = run.evaluation.values[-1], run.evaluation.tokens[-1]
  return f'{run.name}: evaluation loss {loss:.3f} after {human(tokens)} tokens'


def human(value: float) -> str:
  """Three digits and a suffix: 0, 950, 1.2M, 41.5M, 2.05B."""
  for size, suffix in ((1e12, 'T'), (1e9, 'B'), (1e6, 'M'), (1e3, 'K')):
    if abs(value) >= 0.9995 * size:
      return f'{value / size:.3g}{suffix}'
  return f'{value:.3g}'
