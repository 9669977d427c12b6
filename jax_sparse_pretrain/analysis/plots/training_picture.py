"""One picture of one run: its loss, and how many parameters it had, when.

Reads the files of a run and nothing else, so it can be drawn while the run is
going on, and without jax.
"""

import os
import pathlib
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jax_sparse_pretrain import storage
from jax_sparse_pretrain.analysis.plots import style
from jax_sparse_pretrain.analysis.training_log import (
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
  # Room for the marker of the last evaluation.
  count_axes.set_xlim(0, 1.01 * run.tokens)
  _plot_loss(loss_axes, run)
  _plot_counts(count_axes, run)
  _shade_phases(loss_axes, count_axes, run)
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
  few = len(run.train.tokens) < 20
  drawn = {
    'training': (run.train, style.PALE_BLUE, '.' if few else None),
    'evaluation': (run.evaluation, style.BLUE, 'o'),
  }
  names = []
  for name, (series, colour, marker) in drawn.items():
    line = {'color': colour, 'marker': marker, 'markersize': 4}
    axes.plot(*series, linewidth=1.2, **line)
    if len(series.values):
      names.append((series.values[-1], name, colour))
  low, high = loss_limits(run)
  if run.unigram_loss is not None:
    loss, room = run.unigram_loss, high - low
    text = f'unigram baseline {loss:.2f}'
    # A line if it is near the curves, else an arrow to where it would be.
    if low - 0.3 * room < loss < high + 0.3 * room:
      low, high = min(low, loss - 0.12 * room), max(high, loss + 0.12 * room)
      axes.axhline(loss, color=style.GREY, linestyle='--', linewidth=1)
    else:
      text += ' \u2191' if loss > high else ' \u2193'
    names.append((loss, text, style.GREY))
  axes.set_ylim(low, high)
  axes.set_ylabel('loss (nats per token)')
  _name(axes, names)


def _plot_counts(axes: Axes, run: Run) -> None:
  header = run.past.header
  dense = header.linear_parameters
  starts = [row.step * header.tokens_per_step for row in run.past.rows]
  counts, line = [row.nonzero for row in run.past.rows], {'linewidth': 1.8}
  line |= {'baseline': None, 'color': style.VERMILION}
  axes.stairs(counts, [*starts, run.tokens], **line)
  axes.set_ylim(0, 1.2 * dense)
  axes.set_ylabel('nonzero linear parameters')
  if not change_steps(run.past):
    _name(axes, [(dense, f'N = N_avg = {_short(dense)}', style.INK)])
    return
  average = run.past.average_parameters(run.steps)
  final = run.past.rows[-1].nonzero
  axes.axhline(dense, color=style.GREY, linestyle=':', linewidth=1.2)
  axes.axhline(average, color=style.INK, linestyle='--', linewidth=1.2)

  def written(count: float) -> str:
    return f'{_short(count)} ({percent(count / dense, ".1f")})'

  when = 'at the end' if run.completed else 'so far'
  lines = [
    (dense, f'dense N = {_short(dense)}', style.GREY),
    (average, f'N_avg = {written(average)}', style.INK),
    (final, f'{when} {written(final)}', style.VERMILION),
  ]
  _name(axes, lines)


def _name(axes: Axes, lines: list[tuple[float, str, str]]) -> None:
  """Height, text and colour of each: beside the axes, where no curve is."""
  if lines:
    style.label_ends(axes, *zip(*lines, strict=True), inches=2.2)


def _shade_phases(loss_axes: Axes, count_axes: Axes, run: Run) -> None:
  spans = phases(run)
  for phase in spans:
    how = {'color': COLOURS[phase.name], 'alpha': 0.14}
    for axes in (loss_axes, count_axes):
      axes.axvspan(phase.start, phase.end, **how, linewidth=0, zorder=0)
  above = {'transform': loss_axes.get_xaxis_transform(), 'ha': 'center'}
  for phase in _nameable(spans, 0.1 * run.tokens):
    loss_axes.text(_centre(phase), 1.02, phase.name, **above)


def _nameable(spans: Sequence[Phase], room: float) -> list[Phase]:
  """The widest first; those whose name would run into another are left out."""
  named: list[Phase] = []
  for phase in sorted(spans, key=lambda each: each.start - each.end):
    if all(abs(_centre(phase) - _centre(other)) > room for other in named):
      named.append(phase)
  return named


def _centre(phase: Phase) -> float:
  return (phase.start + phase.end) / 2
