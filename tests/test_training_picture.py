"""The picture of a run shows what its files say."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from matplotlib import patches, path, transforms
from matplotlib.image import imread

from jax_sparse_pretrain import history
from jax_sparse_pretrain.analysis.plots import training_picture
from jax_sparse_pretrain.text import short

N, TOKENS_PER_STEP = 1000, 64


def write_run(
  workdir,
  counts,
  steps=100,
  unigram=3.0,
  completed=True,
  losses=None,
):
  """`counts`: {step: nonzero}. The loss falls from 5 to 2, in a curve."""
  path = workdir / 'mask_history.jsonl'
  history.write(path, history.Header(N, 1500, TOKENS_PER_STEP, {'w': N}))
  for step, count in counts.items():
    history.append(path, history.Row(step, count, {'w': count}))
  losses = losses or {t: 2 + 3 / t for t in range(1, steps + 1)}
  lines = [{'step': t, 'train_loss': loss} for t, loss in losses.items()]
  lines += [
    {'step': t, 'eval_loss': 2 + 3 / t} for t in {max(steps // 2, 1), steps}
  ]
  lines.sort(key=lambda line: line['step'])
  with open(workdir / 'metrics.jsonl', 'w') as file:
    for line in lines:
      line['tokens'] = line['step'] * TOKENS_PER_STEP
      file.write(json.dumps(line) + '\n')
  summary = {'steps': steps, 'unigram_loss': unigram, 'completed': completed}
  (workdir / 'summary.json').write_text(json.dumps(summary))
  return workdir


def plot(workdir, *args, **kwargs):
  return training_picture.plot_training(write_run(workdir, *args, **kwargs))


def phases_of(workdir, *args, **kwargs):
  run = training_picture.read_run(write_run(workdir, *args, **kwargs))
  return [
    (name, start / TOKENS_PER_STEP, end / TOKENS_PER_STEP)
    for name, start, end in training_picture.phases(run)
  ]


def texts(figure):
  return [text.get_text() for axes in figure.axes for text in axes.texts]


SPARSE = {0: 1000, 20: 800, 40: 600, 60: 500}


def test_the_staircase_is_the_history(tmp_path):
  _, axes = plot(tmp_path, SPARSE).axes
  [stairs] = [x for x in axes.patches if isinstance(x, patches.StepPatch)]
  values, edges, _ = stairs.get_data()
  assert list(values) == [1000, 800, 600, 500]
  assert [e / TOKENS_PER_STEP for e in edges] == [0, 20, 40, 60, 100]


def test_the_average_is_labelled_at_its_height(tmp_path):
  figure = plot(tmp_path, SPARSE)
  # (20 * 1000 + 20 * 800 + 20 * 600 + 40 * 500) / 100
  heights = {line.get_ydata()[0] for line in figure.axes[1].lines}
  assert heights == {1000, 680}
  assert 'N_avg = 680 (68.0 %)' in texts(figure)
  assert 'dense N = 1K' in texts(figure)
  assert 'at the end 500 (50.0 %)' in texts(figure)


def test_losses_are_drawn_over_tokens(tmp_path):
  train, evaluation, *_ = plot(tmp_path, SPARSE).axes[0].lines
  np.testing.assert_array_equal(
    train.get_xdata(), TOKENS_PER_STEP * np.arange(1, 101)
  )
  np.testing.assert_allclose(train.get_ydata(), 2 + 3 / np.arange(1, 101))
  assert list(evaluation.get_xydata()[:, 0]) == [3200, 6400]
  np.testing.assert_allclose(evaluation.get_ydata(), [2.06, 2.03])


def test_the_last_marker_is_not_cut_in_half(tmp_path):
  figure = plot(tmp_path, SPARSE)
  _, evaluation, *_ = figure.axes[0].lines
  figure.canvas.draw()
  last = figure.axes[0].transData.transform(evaluation.get_xydata()[-1])
  radius = evaluation.get_markersize() / 2 * figure.dpi / 72
  assert last[0] + radius <= figure.axes[0].bbox.x1


def test_phases_reach_from_the_first_change_to_the_last(tmp_path):
  assert phases_of(tmp_path, SPARSE | {80: 500}) == [
    ('dense', 0, 20),
    ('pruning', 20, 60),
    ('recovery', 60, 100),
  ]


def test_phases_are_shaded_in_both_panels_and_named(tmp_path):
  figure = plot(tmp_path, SPARSE)
  for axes in figure.axes:
    edges = {
      (box.get_x() / TOKENS_PER_STEP, box.get_width() / TOKENS_PER_STEP)
      for box in axes.patches
      if hasattr(box, 'get_width')
    }
    assert edges == {(0, 20), (20, 40), (60, 40)}
  assert {'dense', 'pruning', 'recovery'} < set(texts(figure))


def test_pruning_at_step_0_leaves_no_dense_phase(tmp_path):
  assert phases_of(tmp_path, {0: 900, 50: 500}) == [
    ('pruning', 0, 50),
    ('recovery', 50, 100),
  ]


def test_one_shot_pruning_takes_no_time(tmp_path):
  assert phases_of(tmp_path, {0: 1000, 50: 500}) == [
    ('dense', 0, 50),
    ('recovery', 50, 100),
  ]


def test_an_unfinished_run_is_still_pruning(tmp_path):
  unfinished = {'steps': 70, 'completed': False}
  assert phases_of(tmp_path, SPARSE, **unfinished)[-1] == ('pruning', 20, 70)
  figure = training_picture.plot_training(tmp_path)
  assert 'so far 500 (50.0 %)' in texts(figure)


def test_an_unfinished_run_recovers_once_the_changes_stay_out(tmp_path):
  unfinished = {'steps': 90, 'completed': False}
  assert phases_of(tmp_path, SPARSE, **unfinished)[-1] == ('recovery', 60, 90)


def test_rows_that_the_metrics_have_not_reached_are_left_out(tmp_path):
  run = training_picture.read_run(write_run(tmp_path, SPARSE, steps=60))
  assert [row.nonzero for row in run.past.rows] == [1000, 800, 600]


def test_a_dense_run_has_no_phases(tmp_path):
  figure = plot(tmp_path, {0: N})
  assert phases_of(tmp_path, {0: N}) == []
  assert 'N = N_avg = 1K' in texts(figure)
  assert not any('%' in text for text in texts(figure))


def test_a_narrow_phase_is_not_named_over_its_neighbour(tmp_path):
  figure = plot(tmp_path, {0: 1000, 3: 800, 5: 500})
  assert {'dense', 'pruning'} & set(texts(figure)) in ({'dense'}, {'pruning'})
  assert 'recovery' in texts(figure)


def test_the_fall_from_the_initial_loss_does_not_set_the_scale(tmp_path):
  run = training_picture.read_run(write_run(tmp_path, SPARSE))
  low, high = training_picture.loss_limits(run)
  assert 1.9 < low < 2.03  # the last loss
  assert 2 + 3 / 5 < high < 2.7  # step 5 of 100, not the 5.0 of step 1


def test_a_constant_loss_has_limits_apart(tmp_path):
  losses = {t: 2.0 for t in range(1, 101)}
  run = training_picture.read_run(write_run(tmp_path, SPARSE, losses=losses))
  low, high = training_picture.loss_limits(run)
  assert high - low >= 0.1


@pytest.mark.parametrize(
  ('unigram', 'label', 'drawn'),
  [
    (2.4, 'unigram baseline 2.40', True),
    (2.75, 'unigram baseline 2.75', True),  # near: the scale makes room
    (7.42, 'unigram baseline 7.42 \u2191', False),
    (0.5, 'unigram baseline 0.50 \u2193', False),
  ],
)
def test_the_unigram_baseline_is_drawn_if_it_fits(
  tmp_path, unigram, label, drawn
):
  figure = plot(tmp_path, SPARSE, unigram=unigram)
  assert label in texts(figure)
  lines = [list(line.get_ydata()) for line in figure.axes[0].lines]
  assert ([unigram, unigram] in lines) == drawn
  low, high = figure.axes[0].get_ylim()
  assert (low < unigram < high) == drawn


def test_numbers_that_are_missing_are_left_out(tmp_path):
  losses = {1: 2.5, 50: None, 60: float('nan'), 100: 0.0}
  figure = plot(tmp_path, SPARSE, losses=losses)
  assert list(figure.axes[0].lines[0].get_ydata()) == [2.5, 0.0]


def test_a_run_of_one_step_without_a_summary_can_be_drawn(tmp_path):
  write_run(tmp_path, {0: N}, steps=1, losses={1: 5.0})
  (tmp_path / 'summary.json').unlink()
  assert training_picture.save_training_picture(tmp_path).exists()


COUNTS = [
  {0: N},
  SPARSE,
  {0: 1000, 25: 900, 75: 800},
  {0: 900, 5: 500, 10: 100, 15: 30},
  {0: 900, 5: 700, 10: 600, 15: 500},
  {0: 1000, 2: 400},
]


# The panels do not depend on each other.
CROWDED = [(counts, 2.6) for counts in COUNTS]
CROWDED += [(SPARSE, unigram) for unigram in (0.5, 2.03, 7.42)]


def curves(axes):
  """The paths of data and of reference lines, in pixels."""
  for line in axes.lines:
    yield line.get_transform().transform(line.get_xydata())
  for patch in axes.patches:
    if isinstance(patch, patches.StepPatch):
      yield axes.transData.transform(patch.get_path().vertices)


def covers(box, points):
  """Whether the path through `points` (pixels) enters the box."""
  return path.Path(points).intersects_bbox(box, filled=False)


@pytest.mark.parametrize(('counts', 'unigram'), CROWDED)
def test_no_text_is_clipped_or_covers_another(tmp_path, counts, unigram):
  figure = plot(tmp_path, counts, unigram=unigram)
  figure.canvas.draw()
  words = [*figure.texts]
  for axes in figure.axes:
    words += [*axes.texts, axes.xaxis.label, axes.yaxis.label]
  boxes = [word.get_window_extent() for word in words if word.get_text()]
  width, height = figure.canvas.get_width_height()
  for i, box in enumerate(boxes):
    assert box.x0 >= 0 and box.y0 >= 0
    assert box.x1 <= width and box.y1 <= height
    assert not any(box.overlaps(other) for other in boxes[:i])


@pytest.mark.parametrize(('counts', 'unigram'), CROWDED)
def test_no_text_covers_a_curve(tmp_path, counts, unigram):
  figure = plot(tmp_path, counts, unigram=unigram)
  figure.canvas.draw()
  for axes in figure.axes:
    for word in axes.texts:
      # What lies outside the axes is not drawn.
      box = transforms.Bbox.intersection(word.get_window_extent(), axes.bbox)
      assert box is None or not any(covers(box, x) for x in curves(axes)), word


def test_the_picture_is_saved_at_the_width_of_a_readme(tmp_path):
  path = training_picture.save_training_picture(write_run(tmp_path, SPARSE))
  assert path == tmp_path / 'training.png'
  assert imread(path).shape[:2] == (825, 1200)
  assert not list(tmp_path.glob('*.tmp'))


def test_a_dollar_in_the_name_is_not_mathematics(tmp_path):
  workdir = tmp_path / 'lr_$x^$'
  workdir.mkdir()
  training_picture.save_training_picture(write_run(workdir, SPARSE))


def test_a_line_being_written_is_ignored_and_a_bad_one_named(tmp_path):
  write_run(tmp_path, SPARSE)
  metrics = tmp_path / 'metrics.jsonl'
  with open(metrics, 'a') as file:
    file.write('{"step": 10')
  training_picture.read_run(tmp_path)
  metrics.write_text('{"step": 1, "tokens": 64}\n{"step": 2}\n')
  with pytest.raises(ValueError, match=r'metrics\.jsonl, line 2'):
    training_picture.read_run(tmp_path)


@pytest.mark.parametrize('text', ['', '{"step": 0, "tokens": 0}\n'])
def test_a_run_without_a_finished_step_is_refused(tmp_path, text):
  write_run(tmp_path, SPARSE)
  (tmp_path / 'metrics.jsonl').write_text(text)
  (tmp_path / 'summary.json').unlink()
  with pytest.raises(ValueError, match='no step has been logged yet'):
    training_picture.plot_training(tmp_path)


def test_drawing_needs_no_jax_no_pyplot_and_no_backend_of_matplotlib(tmp_path):
  program = (
    'import os, sys\n'
    'from jax_sparse_pretrain.analysis.plots import training_picture\n'
    'training_picture.save_training_picture(sys.argv[1])\n'
    'print({"jax", "matplotlib.pyplot"} & set(sys.modules))\n'
    'print(os.environ["MPLBACKEND"])'
  )
  run = subprocess.run(
    [sys.executable, '-c', program, write_run(tmp_path, SPARSE)],
    env={**os.environ, 'MPLBACKEND': 'no_such_backend'},
    capture_output=True,
    text=True,
    check=True,
  )
  assert run.stdout == 'set()\nno_such_backend\n'
  assert (tmp_path / 'training.png').exists()


@pytest.mark.parametrize(
  ('value', 'text'),
  [
    (0, '0'),
    (500_000, '500K'),
    (1_200_000, '1.2M'),
    (41_549_824, '41.5M'),
    (999_990, '1M'),
    (6.84e9, '6.84B'),
    (1.5e12, '1.5T'),
  ],
)
def test_counts_are_short(value, text):
  assert short(value, 3) == text
