"""The pictures show what they were given, and all of it can be read."""

import dataclasses
import functools
import importlib.util
import itertools
import pathlib
import re

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.image import imread
from matplotlib.patches import Rectangle, StepPatch
from matplotlib.text import Text
from t5 import COLUMNS, PATH, t5_runs
from written import COUNTS, DENSE, STEPS, TOKENS_PER_STEP, per_step, write_run

from jax_sparse_pretrain.analysis import (
  Runs,
  ScalingLaw,
  average_parameters,
  fit_scaling_law,
  planned_average,
  simulate_runs,
  write_runs,
)
from jax_sparse_pretrain.analysis.__main__ import main
from jax_sparse_pretrain.analysis.plots import style
from jax_sparse_pretrain.analysis.plots.coefficient_picture import (
  plot_coefficients,
)
from jax_sparse_pretrain.analysis.plots.experiment_pictures import (
  plot_density,
  plot_schedules,
)
from jax_sparse_pretrain.analysis.plots.law_picture import (
  levels,
  plot_isoflops,
  plot_law,
  plot_predicted,
  round_budgets,
)
from jax_sparse_pretrain.planning import plan

DRAW_SCHEDULES = pathlib.Path(__file__).parents[1] / 'docs/draw_schedules.py'
LAW = ScalingLaw(E=1.7, A=400.0, B=1500.0, alpha=0.34, beta=0.36)
SIZES, TOKENS = (1e8, 2e8, 4e8, 8e8), (2e9, 4e9, 1e10, 3e10)
N, D = np.array(list(itertools.product(SIZES, TOKENS))).T
FIT = fit_scaling_law(N, D, simulate_runs(LAW, N, D, noise=0.005, seed=0))
RESAMPLES = FIT.bootstrap(60)
T5 = t5_runs()
BUDGETS = [1e19, 1e20]
GRID = [(a, b) for a in (0, 0.25, 0.5) for b in (0.5, 0.75, 1) if a < b]


def schedule_rows(sparsities=(0.5, 0.8)):
  """start, end, sparsity, loss; best at 0.25, 0.75."""
  return np.array(
    [
      (a, b, s, 2 + s * ((a - 0.25) ** 2 + (b - 0.75) ** 2))
      for s in sparsities
      for a, b in GRID
    ]
  ).T


def planned(sparsities, name='sparsity {}'):
  return [
    dataclasses.replace(
      planned_average(
        10**6,
        plan(
          shape='geometric',
          sparsity=s,
          start=0.25,
          end=0.75,
          unit='compute_fraction',
          every=20,
          dense_steps=1000,
        ),
        512,
      ),
      run=name.format(s),
    )
    for s in sparsities
  ]


def dense_runs():
  """All of one sparsity that is not known."""
  unknown = np.full(len(N), np.nan)
  return dataclasses.replace(
    T5,
    run=tuple(map(str, range(len(N)))),
    average_parameters=N,
    initial_parameters=unknown,
    final_parameters=unknown,
    sparsity=unknown,
    tokens=D,
    loss=FIT.loss,
    others={},
  )


def many_sparsities():
  return dataclasses.replace(T5, sparsity=np.linspace(0, 0.9, len(T5)))


def long_names():
  return planned(
    np.linspace(0, 0.9, 40), 'a_long_name_of_a_$run$_' + 40 * '{0}'
  )


@functools.cache
def law_picture():
  """For tests that look at it and do not change it."""
  return plot_law(T5, LAW)


PICTURES = {
  'law': law_picture,
  'law of dense runs': lambda: plot_law(dense_runs(), FIT),
  'law of many sparsities': lambda: plot_law(many_sparsities(), LAW, 'final'),
  'law of few runs': lambda: plot_law(T5.select(np.array([0, 1])), LAW),
  'predicted': lambda: plot_predicted(
    T5, {'average': LAW, 'final': LAW, 'initial': LAW}
  ),
  'one predicted': lambda: plot_predicted(dense_runs(), {'average': FIT}),
  'coefficients': lambda: plot_coefficients(FIT, RESAMPLES, FIT.intervals()),
  'isoflops': lambda: plot_isoflops(LAW, BUDGETS),
  'isoflops of runs': lambda: plot_isoflops(FIT, BUDGETS, dense_runs()),
  'density': lambda: plot_density(planned((0, 0.4, 0.8))),
  'density of many': lambda: plot_density(long_names()),
  'schedules': lambda: plot_schedules(*schedule_rows(), margin=0.01),
  'five sparsities': lambda: plot_schedules(
    *schedule_rows((0.2, 0.4, 0.5, 0.6, 0.8))
  ),
}


def drawn_texts(figure, monkeypatch):
  """Texts that a canvas is asked to draw, and the pixels that they take."""
  drawn = {}
  draw = Text.draw

  def draw_and_note(text, *args, **kwargs):
    drawn[id(text)] = text
    return draw(text, *args, **kwargs)

  monkeypatch.setattr(Text, 'draw', draw_and_note)
  figure.canvas.draw()
  return [
    (text, text.get_window_extent())
    for text in drawn.values()
    if text.get_text().strip() and text.get_visible()
  ]


@pytest.mark.fast(5)
@pytest.mark.parametrize('name', PICTURES)
def test_no_text_is_cut_or_small_or_over_another(name, monkeypatch):
  figure = PICTURES[name]()
  texts = drawn_texts(figure, monkeypatch)
  assert len(texts) > 5
  for text, box in texts:
    assert text.get_fontsize() >= 8, text
    assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1, text
    assert figure.bbox.y0 <= box.y0 and box.y1 <= figure.bbox.y1, text
  for (text, a), (other, b) in itertools.combinations(texts, 2):
    # Boxes include what letters like g and l leave free.
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    assert width < 1 or height < 0.25 * min(a.height, b.height), (text, other)


@pytest.mark.parametrize('kind', ['average', 'final', 'initial'])
def test_no_legend_is_over_points_or_curves(kind):
  for figure in (
    plot_law(T5, LAW, kind),
    plot_isoflops(LAW, BUDGETS, T5, kind),
  ):
    figure.draw_without_rendering()
    legends = [axes.get_legend() for axes in figure.axes]
    for legend in filter(None, legends):
      box = legend.get_window_extent()
      assert not any(box.overlaps(axes.bbox) for axes in figure.axes)


@pytest.mark.parametrize('kind', ['png', 'svg'])
def test_a_picture_is_as_wide_as_a_readme_and_always_the_same(kind, tmp_path):
  for name in ('a', 'b'):
    style.save(plot_law(T5, LAW), tmp_path / f'{name}.{kind}')
  if kind == 'png':
    assert imread(tmp_path / 'a.png').shape[1] == 1200
  first = (tmp_path / f'a.{kind}').read_bytes()
  assert first == (tmp_path / f'b.{kind}').read_bytes()
  assert len(first) > 10_000
  assert b'<dc:date>' not in first


def test_another_kind_of_file_is_refused(tmp_path):
  with pytest.raises(ValueError, match="'gif': must be png or svg"):
    style.save(law_picture(), tmp_path / 'law.gif')
  assert not list(tmp_path.iterdir())


def offsets(axes):
  [points] = axes.collections[:1]
  return np.asarray(points.get_offsets()), points.get_facecolors()


def test_the_runs_are_drawn_over_n_and_over_d_with_their_residuals():
  figure = plot_law(T5, LAW, 'final')
  over_n, over_d, left_n, left_d = figure.axes
  n, d = T5.final_parameters, T5.tokens
  residuals = 100 * (np.log(T5.loss) - np.log(LAW.loss(n, d)))
  for axes, x, y in (
    (over_n, n, T5.loss),
    (over_d, d, T5.loss),
    (left_n, n, residuals),
    (left_d, d, residuals),
  ):
    np.testing.assert_allclose(offsets(axes)[0], np.stack([x, y], axis=1))
  assert over_n.get_xscale() == over_n.get_yscale() == 'log'


def test_the_curves_are_the_law_at_what_their_labels_say():
  over_n, over_d, *_ = law_picture().axes
  for line, d in zip(over_n.lines, np.unique(T5.tokens), strict=True):
    np.testing.assert_allclose(line.get_ydata(), LAW.loss(line.get_xdata(), d))
  # From the lowest curve up.
  names = [text.get_text() for text in over_n.texts]
  assert names == ['D = 65.5B', '32.8B', '16.4B']
  for line, n in zip(over_d.lines, levels(T5.average_parameters), strict=True):
    np.testing.assert_allclose(line.get_ydata(), LAW.loss(n, line.get_xdata()))


def test_curves_that_leave_the_picture_are_named_where_they_do():
  n = 1e8 * 2.0 ** np.arange(5)
  d = 3.2e18 / n
  runs = Runs(tuple('abcde'), n, n, n, 0 * n, d, LAW.loss(n, d))
  figure = plot_law(runs, LAW)
  for axes in figure.axes[:2]:
    (left, right), bottom = axes.get_xlim(), axes.get_ylim()[0]
    at = [text.xy[0] for text in axes.texts if text.xycoords == 'data']
    assert len(at) == 3 and len(axes.texts) == 5
    leaving = [line for line in axes.lines if line.get_ydata()[-1] < bottom]
    for line in leaving:
      x, y = line.get_data()
      assert x[y >= bottom][-1] in at
    assert left < min(at) and max(at) < right


def test_runs_have_the_colour_of_their_sparsity():
  colours = offsets(law_picture().axes[0])[1]
  by_sparsity = {
    s: {tuple(c) for c in colours[T5.sparsity == s]}
    for s in np.unique(T5.sparsity)
  }
  assert all(len(each) == 1 for each in by_sparsity.values())
  assert len(set.union(*by_sparsity.values())) == 4
  legend = law_picture().axes[1].get_legend()
  names = [text.get_text() for text in legend.get_texts()]
  assert names == ['0 %', '50 %', '75 %', '87.5 %']


def test_without_sparse_runs_curves_and_points_share_their_colours():
  over_n = plot_law(dense_runs(), LAW).axes[0]
  points = {tuple(colour) for colour in offsets(over_n)[1].round(6)}
  lines = {tuple(np.round(line.get_color(), 6)) for line in over_n.lines}
  assert lines == points  # One for each of the four D.


def test_each_law_predicts_from_its_own_parameters():
  kinds = ('average', 'final', 'initial')
  figure = plot_predicted(T5, dict.fromkeys(kinds, LAW))
  for axes, kind in zip(figure.axes[:3], kinds, strict=True):
    predicted = LAW.loss(T5.parameters(kind), T5.tokens)
    expected = np.stack([T5.loss, predicted], axis=1)
    np.testing.assert_allclose(offsets(axes)[0], expected)
    rms = np.sqrt(np.mean(np.log(T5.loss / predicted) ** 2))
    assert axes.get_title(loc='left').endswith(f'RMS {100 * rms:.2f} %')


def test_no_law_to_predict_with_is_refused():
  with pytest.raises(ValueError, match='at least one'):
    plot_predicted(T5, {})


def test_coefficients_show_estimates_resamples_and_intervals():
  profile = FIT.intervals(0.9)
  figure = plot_coefficients(FIT, RESAMPLES, profile, 0.9)
  intervals = (profile, RESAMPLES.intervals(0.9))
  for axes, (name, value), resamples in zip(
    figure.axes[:5], FIT.law.as_dict().items(), RESAMPLES.laws.T, strict=True
  ):
    estimate, first, _, _, second, *_ = axes.lines
    assert set(estimate.get_xdata()) == {value}
    low, high = axes.get_xlim()
    for line, each in zip((first, second), intervals, strict=True):
      np.testing.assert_array_equal(
        line.get_xdata(), np.clip(each[name], low, high)
      )
    [histogram] = [x for x in axes.patches if isinstance(x, StepPatch)]
    counts, edges, _ = histogram.get_data()
    inside = (resamples >= edges[0]) & (resamples <= edges[-1])
    assert counts.sum() == inside.sum() > 50
  [image] = figure.axes[5].images
  np.testing.assert_array_equal(image.get_array(), RESAMPLES.correlations())


def test_an_open_side_is_an_arrow():
  profile = {**FIT.intervals(), 'A': (0.0, np.inf)}
  axes = plot_coefficients(FIT, RESAMPLES, profile).axes[1]
  markers = [line.get_marker() for line in axes.lines[2:4]]
  assert markers == ['<', '>']
  assert [line.get_marker() for line in axes.lines[5:7]] == ['|', '|']


def test_isoflops_hold_compute_and_meet_their_optimum():
  [axes] = plot_isoflops(LAW, BUDGETS).axes
  *curves, optimum = axes.lines
  for line, c in zip(curves, BUDGETS, strict=True):
    n = line.get_xdata()
    np.testing.assert_allclose(line.get_ydata(), LAW.loss(n, c / (6 * n)))
    assert line.get_ydata().max() <= 1.12 * line.get_ydata().min() * (1 + 1e-9)
  n, d = LAW.optimal(np.array(BUDGETS))
  np.testing.assert_allclose(
    optimum.get_xydata(), np.stack([n, LAW.loss(n, d)], axis=1)
  )
  assert optimum.get_label() == f'optimum, N ∝ C^{0.36 / 0.70:.2f}'


def test_a_fit_without_exponents_has_no_optimum_to_draw():
  n, d = np.repeat([1e8, 2e8, 4e8], 2), np.tile([2e9, 8e9], 3)
  fit = fit_scaling_law(n, d, LAW.loss(n, d))
  [axes] = plot_isoflops(fit, BUDGETS).axes
  assert len(axes.lines) == len(BUDGETS) and axes.get_legend() is None


def test_runs_have_the_colour_of_their_compute_among_isoflops():
  runs = dense_runs()
  spent = 6 * N * D
  [axes] = plot_isoflops(LAW, spent[:3], runs).axes
  points, colours = offsets(axes)
  np.testing.assert_array_equal(points, np.stack([N, runs.loss], axis=1))
  shown = dict(zip(spent, map(tuple, colours), strict=True))
  lines = sorted(zip(np.unique(spent[:3]), axes.lines[:3], strict=True))
  for c, line in lines:
    np.testing.assert_allclose(line.get_color(), shown[c])


@pytest.mark.parametrize('low, high', [(1, 1), (1, 30), (3, 1e4), (1, 1e12)])
def test_budgets_are_few_and_within_the_runs(low, high):
  budgets = np.array(round_budgets(1e18 * np.geomspace(low, high, 50)))
  assert 1 <= len(budgets) <= 7
  assert (budgets >= 0.75e18 * low).all() and (budgets <= 1.35e18 * high).all()


def test_density_is_that_of_each_step(tmp_path):
  average = average_parameters(write_run(tmp_path / 'run'))
  over_data, over_compute = plot_density([average]).axes
  [line], [spent] = over_data.lines, over_compute.lines
  middles = (np.arange(STEPS) + 0.5) * TOKENS_PER_STEP
  drawn = [
    kept
    for t in middles
    for (x, kept), (end, _) in itertools.pairwise(line.get_xydata())
    if x < t < end
  ]
  np.testing.assert_allclose(drawn, per_step() / DENSE)
  corners = [sum(per_step()[:step]) for step, _ in COUNTS] + [sum(per_step())]
  np.testing.assert_allclose(
    np.unique(spent.get_xdata()), np.array(corners) / sum(per_step())
  )


def test_density_and_compute_are_both_in_percent():
  over_data, over_compute = plot_density(planned([0.8])).axes
  for axis in (over_data.yaxis, over_compute.xaxis):
    assert axis.get_major_formatter()(0.5) == '50 %'
  [label] = over_compute.texts
  assert re.search(r', N_avg/N [0-9.]+ %$', label.get_text())


def test_ticks_of_one_axis_have_one_form():
  for high, form in ((2e4, r'\d+'), (1e9, r'\d(\.\d)?e\d+')):
    laws = RESAMPLES.laws.copy()
    laws[:, 2] = np.geomspace(1e3, high, len(laws))
    resamples = dataclasses.replace(RESAMPLES, laws=laws)
    axes = plot_coefficients(FIT, resamples).axes[2]
    texts = [tick.get_text() for tick in axes.get_xticklabels()]
    assert texts and all(re.fullmatch(form, text) for text in texts)


def test_plans_without_tokens_are_drawn_over_steps():
  [run] = planned([0.8])
  run = dataclasses.replace(run, tokens_per_step=None)
  axes = plot_density([run]).axes[0]
  assert axes.get_xlabel() == 'steps'
  assert axes.lines[0].get_xdata()[-1] == run.steps


def test_a_name_is_not_taken_for_a_formula():
  """This one would be an error in matplotlib's mathtext."""
  figure = plot_density(planned([0.5], r'$\nothing$'))
  figure.canvas.draw()
  assert figure.axes[1].texts[0].get_text().startswith(r'$\nothing$, N_avg')


def test_shapes_of_one_sparsity_are_told_apart():
  spec = importlib.util.spec_from_file_location('draw', DRAW_SCHEDULES)
  draw_schedules = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(draw_schedules)
  over_steps, over_compute = draw_schedules.draw(dense_steps=1000).axes
  assert len({line.get_color() for line in over_steps.lines}) == 5
  for a, b, shape in zip(
    over_steps.lines, over_compute.lines, draw_schedules.SHAPES, strict=True
  ):
    at = 0.5 if shape == 'one_shot' else None
    each = plan(
      shape=shape,
      sparsity=0.8,
      start=at or 0.25,
      end=at or 0.75,
      unit='compute_fraction',
      every=20,
      dense_steps=1000,
    )
    x, kept = a.get_data()
    middles = np.arange(each.steps) + 0.5
    np.testing.assert_allclose(
      kept[np.searchsorted(x, middles)],
      each.schedule.density(np.arange(each.steps)),
      atol=1e-9,
    )
    np.testing.assert_array_equal(kept, b.get_ydata())
    assert x[-1] == each.steps and b.get_xdata()[-1] == 1


def test_no_density_to_draw_is_refused():
  with pytest.raises(ValueError, match='at least one'):
    plot_density([])


def heat_maps(figure):
  return [
    axes for axes in figure.axes if axes.images and axes.get_title('left')
  ]


def test_the_heat_map_is_the_table():
  rows = schedule_rows()
  maps = heat_maps(plot_schedules(*rows))
  for axes, s in zip(maps, (0.5, 0.8), strict=True):
    table = {(a, b): loss for a, b, each, loss in rows.T if each == s}
    best = min(table.values())
    expected = [
      [1000 * (table.get((a, b), np.nan) - best) for a in (0, 0.25, 0.5)]
      for b in (0.5, 0.75, 1)
    ]
    shown = axes.images[0].get_array().filled(np.nan)
    np.testing.assert_allclose(shown, expected, atol=1e-9)
    ticks = [text.get_text() for text in axes.get_xticklabels()]
    assert ticks == ['0', '25', '50']


def framed(axes):
  return {
    (box.get_linestyle(), box.get_x() + 0.46, box.get_y() + 0.46)
    for box in axes.patches
    if isinstance(box, Rectangle)
  }


def test_the_best_is_framed_and_what_is_as_good_within_the_noise():
  rows = schedule_rows([0.8])
  [axes] = heat_maps(plot_schedules(*rows))
  assert framed(axes) == {('-', 1, 1)}
  # 0.05 = 0.8 (1/4)^2 nats for a step in start or end.
  [axes] = heat_maps(plot_schedules(*rows, margin=0.0501))
  neighbours = {(0, 1), (1, 0), (2, 1), (1, 2)}
  dotted = {(':', *cell) for cell in neighbours}
  assert framed(axes) == {('-', 1, 1)} | dotted


def test_frames_can_be_seen_on_dark_cells():
  start, loss = np.array([0.0, 0.1, 0.2]), np.array([2.0, 2.01, 3.0])
  [axes] = heat_maps(
    plot_schedules(start, 0 * start + 1, 0 * start + 0.8, loss, margin=1.0)
  )
  dotted = [box for box in axes.patches if box.get_linestyle() == ':']
  colours = {to_hex(box.get_edgecolor()) for box in dotted}
  assert colours == {'#000000', '#ffffff'}


def test_repeats_of_a_schedule_are_averaged():
  rows = np.array([(0.25, 0.75, 0.8, loss) for loss in (2.0, 2.5)]).T
  [axes] = heat_maps(plot_schedules(*rows))
  assert axes.get_title('left') == 'sparsity 80 %, best 2.250'


@pytest.mark.parametrize(
  'rows, noise',
  [
    (([], [], [], []), None),
    (([0.1], [0.2], [0.5], [2.0, 2.1]), None),
    (([0.1], [0.2], [0.5], [2.0]), -1),
  ],
)
def test_tables_that_cannot_be_are_refused(rows, noise):
  with pytest.raises(ValueError, match='must be'):
    plot_schedules(*rows, margin=noise)


@pytest.mark.parametrize('seed', range(5))
def test_labels_move_apart_and_keep_their_order(seed):
  places = np.random.default_rng(seed).uniform(size=12)
  moved = style.apart(places, 0.05)
  assert np.diff(np.sort(moved)).min() > 0.05 - 1e-12
  np.testing.assert_array_equal(np.argsort(moved), np.argsort(places))
  assert moved.min() >= 0 and moved.max() <= 1
  far = np.linspace(0, 1, 5)
  np.testing.assert_allclose(style.apart(far, 0.2), far)


def test_text_in_any_colour_of_the_scale_can_be_read():
  """Contrast with white of at least 4.5, but for rounding of the gamma."""
  for colour in style.sequential()(np.linspace(0, 1, 50)):
    luminance = style.dark(colour) ** 2.2 @ (0.2126, 0.7152, 0.0722)
    assert 1.05 / (luminance + 0.05) > 4.49


def test_unknown_sparsity_is_grey_among_known_ones():
  first, second, third = style.sparsity_colours(np.array([0.0, np.nan, 0.5]))
  assert len({first[1], third[1]}) == 2
  assert second[0] == second[1] == second[2]


def draw(*arguments):
  return main(['plot', *map(str, arguments)])


T5_TABLE = [PATH, *(f'--column={k}={v}' for k, v in COLUMNS.items())]
NUMBERS = ','.join(f'{name}={value}' for name, value in LAW.as_dict().items())


@pytest.mark.parametrize(
  'arguments',
  [
    ['law', *T5_TABLE],
    ['predicted', *T5_TABLE],
    ['isoflops', *T5_TABLE],
    ['isoflops', '--law', NUMBERS, '--compute', '1e19', '1e20'],
    [
      'density',
      '--linear_parameters=1e6',
      '--steps=1000',
      '--sparsities',
      '0',
      '.8',
    ],
  ],
  ids=lambda arguments: arguments[0],
)
def test_the_command_writes_each_picture(arguments, tmp_path, capsys):
  assert draw(*arguments, '--out', tmp_path / 'picture.svg') == 0
  assert '<svg' in (tmp_path / 'picture.svg').read_text()
  assert 'picture.svg' in capsys.readouterr().out


@pytest.mark.slow
def test_density_of_workdirs_and_schedules_of_a_table(tmp_path):
  write_run(tmp_path / 'runs' / 'a')
  assert draw('density', tmp_path / 'runs', '--out', tmp_path / 'a.png') == 0
  table = tmp_path / 'table.csv'
  lines = [','.join(map(str, row)) for row in schedule_rows().T.tolist()]
  table.write_text('\n'.join(['start,end,sparsity,loss', *lines]))
  out = tmp_path / 'b.png'
  assert draw('schedules', table, '--noise=.01', '--out', out) == 0
  for name in 'ab':
    pixels = imread(tmp_path / f'{name}.png').reshape(-1, 4)
    assert len(np.unique(pixels, axis=0)) > 20


def test_a_saved_law_draws_what_its_runs_draw(tmp_path):
  law, a, b = (tmp_path / name for name in ('fit.json', 'a.svg', 'b.svg'))
  write_runs(tmp_path / 'runs.csv', dense_runs())
  flags = [tmp_path / 'runs.csv', '--bootstrap=30', '--group=tokens']
  assert main(['fit', *map(str, flags), '--out', str(law)]) == 0
  assert draw('coefficients', *flags, '--out', a) == 0
  assert draw('coefficients', '--law', law, '--out', b) == 0
  assert a.read_bytes() == b.read_bytes()


@pytest.mark.parametrize(
  'arguments, why',
  [
    (['law', PATH], '--out'),
    (['tree', PATH, '--out=a.png'], "'tree'"),
    (['law', '--out=a.png'], 'PATH'),
    (['law', PATH, '--out=a.pdf'], '.png or .svg'),
    (['isoflops', '--law', NUMBERS, '--out=a.png'], '--compute'),
    (['coefficients', '--law', NUMBERS, '--out=a.png'], 'a file of fit'),
    (
      ['coefficients', *T5_TABLE, '--bootstrap=0', '--out=a.png'],
      '--bootstrap',
    ),
    (['density', '--out=a.png'], 'PATH'),
    (['density', PATH, '--sparsities', '.5', '--out=a.png'], 'not both'),
    (['density', '--sparsities', '.5', '--out=a.png'], '--linear_parameters'),
    (['schedules', PATH, '--out=a.png'], "no column 'start'"),
    (['schedules', PATH, PATH, '--out=a.png'], 'give one table'),
    (['law', PATH, '--sparsity=0.5', '--out=a.png'], 'arguments: --sparsity='),
    (['law', PATH, '--sparsities', '9', '--out=a.png'], 'ments: --sparsities'),
    (['law', PATH, '--noise=3', '--out=a.png'], 'arguments: --noise'),
    (['law', PATH, '--group=nosuch', '--out=a.png'], 'arguments: --group'),
    (['schedules', PATH, '--delta=1', '--out=a.png'], 'arguments: --delta'),
    (
      ['law', PATH, '--law', NUMBERS, '--delta=5', '--out=a.png'],
      '--delta: nothing is fitted with --law',
    ),
  ],
)
def test_what_cannot_be_drawn_is_one_line_and_status_2(
  arguments, why, tmp_path, monkeypatch, capsys
):
  monkeypatch.chdir(tmp_path)
  assert draw(*arguments) == 2
  [line] = capsys.readouterr().err.splitlines()
  assert line.startswith('error: ') and why in line
  assert not list(tmp_path.iterdir())
