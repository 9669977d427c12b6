"""What N of the law counts: the table of effective counts, and fits with it."""

import csv
import dataclasses
import json
import math
import pathlib

import numpy as np
import pytest
import t5
import written
from scipy import special, stats

from jax_sparse_pretrain import history
from jax_sparse_pretrain.analysis import (
  EFFECTIVE,
  Runs,
  ScalingLaw,
  ScalingLawFit,
  compare_laws,
  fit_runs,
  fit_scaling_law,
  load_runs,
)
from jax_sparse_pretrain.analysis.comparison.compare import one_schedule
from jax_sparse_pretrain.analysis.effective import (
  Densities,
  l1_mass,
  moment_mass,
  path_of,
  power_mean,
)
from jax_sparse_pretrain.history import gaussian_mass
from jax_sparse_pretrain.planning import plan
from jax_sparse_pretrain.schedule import PruningSchedule

PUBLISHED = pathlib.Path(__file__).parents[1] / 'published_runs'
LAW = ScalingLaw(E=1.7, A=60.0, B=1500.0, alpha=0.24, beta=0.36)
# Of Chinchilla's runs, by Besiroglu et al. (arXiv 2404.10102).
CHINCHILLA = ScalingLaw(
  E=1.817218, A=477.826, B=2143.417, alpha=0.347311, beta=0.367172
)


def test_the_mass_of_gaussian_weights_is_what_sampled_ones_keep():
  """And the numbers that are published with the law."""
  sizes = np.sort(np.abs(np.random.default_rng(0).normal(size=400_000)))[::-1]
  total = sizes.sum()
  published = {0.2: 0.968, 0.4: 0.872, 0.5: 0.797, 0.6: 0.702, 0.75: 0.516,
               0.8: 0.440, 0.875: 0.308, 0.9: 0.259, 0.9375: 0.176}  # fmt: skip
  for sparsity, mass in published.items():
    kept = sizes[: round((1 - sparsity) * len(sizes))].sum() / total
    found = l1_mass(1 - sparsity)
    assert abs(found - mass) <= 0.0005
    assert abs(found - kept) <= 0.003  # Of 400,000 samples.


@pytest.mark.parametrize('p', [0.0, 0.3, 1.0, 1.7, 2.0, 4.0])
def test_the_family_of_moments_is_a_gamma_function(p):
  density = np.array([1e-4, 0.01, 0.0625, 0.2, 0.5, 0.8, 0.999, 1.0])
  x = stats.norm.isf(density / 2) ** 2 / 2
  expected = special.gammaincc((p + 1) / 2, x)
  np.testing.assert_allclose(moment_mass(density, p), expected, rtol=1e-9)
  if p == 0:  # The count itself.
    np.testing.assert_allclose(moment_mass(density, p), density, rtol=1e-9)
  if p == 1:
    np.testing.assert_allclose(moment_mass(density, p), l1_mass(density))


def test_the_power_mean_is_every_mean_of_the_trajectory():
  weights, values = np.array([0.5, 0.3, 0.2]), np.array([1.0, 0.5, 0.1])
  nothing = np.full(1, np.nan)
  densities = Densities(nothing, nothing, nothing, [(weights, values)])
  means = {
    1.0: weights @ values,
    2.0: math.sqrt(weights @ values**2),
    -1.0: 1 / (weights @ (1 / values)),
    0.0: math.exp(weights @ np.log(values)),
  }
  for q, mean in means.items():
    np.testing.assert_allclose(power_mean(densities, q), mean, rtol=1e-12)
  assert np.isclose(power_mean(densities, 1e-7), means[0.0], rtol=1e-6)
  unknown = dataclasses.replace(densities, paths=[None])
  assert np.isnan(power_mean(unknown, 1.0)).all()


@pytest.mark.parametrize('effective', EFFECTIVE.values(), ids=EFFECTIVE)
@pytest.mark.parametrize('part', [0.0, 0.5, 1.0])
def test_dense_runs_and_exempt_kernels_count_whole(effective, part):
  """By every entry of the table, whatever its coefficient."""
  own = effective.coefficient
  q = own and own.low + part * (own.high - own.low)
  one, quarter = np.ones(1), np.full(1, 0.25)
  dense = Densities(one, one, one, [(one, one)])
  assert effective.count(100.0, 0.0, dense, q) == pytest.approx(100.0)
  sparse = Densities(0.5 * one, quarter, 0.6 * one, [(one, quarter)])
  whole = effective.count(100.0, 100.0, sparse, q)
  assert whole == pytest.approx(100.0)
  body = effective.count(60.0, 0.0, sparse, q)
  assert effective.count(100.0, 40.0, sparse, q) == pytest.approx(40 + body)


def test_a_count_asks_for_its_coefficient_and_for_no_other():
  nothing = Densities(*[np.ones(1)] * 3, [None])
  with pytest.raises(ValueError, match='moment: coefficient None'):
    EFFECTIVE['moment'].count(1.0, 0.0, nothing)
  with pytest.raises(ValueError, match='l1: coefficient 2.0: it has no'):
    EFFECTIVE['l1'].count(1.0, 0.0, nothing, 2.0)


def test_a_plan_is_counted_as_its_run_will_be():
  """With a part of the weights exempt, against sums over its steps."""
  made = plan(steps=1000, unit='compute_fraction', start=0.25, end=0.75,
              sparsity=0.8, shape='geometric', every=7, share=0.9)  # fmt: skip
  density = made.schedule.density(np.arange(1000))
  body = (density - 0.1) / 0.9
  average = EFFECTIVE['average'].of_plan(made)
  assert average == pytest.approx(made.mean_density, rel=1e-12)
  found = EFFECTIVE['power_mean'].of_plan(made, 0.5)
  mean = np.mean(np.sqrt(body)) ** 2
  assert found == pytest.approx(0.1 + 0.9 * mean, rel=1e-12)
  l1 = 0.1 + 0.9 * gaussian_mass(0.2)
  assert EFFECTIVE['l1'].of_plan(made) == pytest.approx(l1, rel=1e-12)
  with pytest.raises(ValueError, match='l1_measured: no plan says it'):
    EFFECTIVE['l1_measured'].of_plan(made)


@pytest.fixture(scope='module')
def t5_runs() -> Runs:
  return t5.actual_runs()


# Log RMSE: one sparsity left out, largest compute left out, dense to sparse.
T5 = {
  'average': (0.0318, 0.0263, 0.0327),
  'final': (0.0536, 0.0697, 0.0876),
  'l1': (0.0094, 0.0173, 0.0100),
  'power': (0.0067, 0.0159, 0.0165),
  'moment': (0.0129, 0.0173, 0.0108),
  'Frantar': (0.0128, 0.0161, None),
}


@pytest.mark.slow
def test_the_published_errors_on_t5_are_found(t5_runs):
  """The coefficients of the last column are those of 112 ViT runs."""
  carried = {'moment': 1.075, 'power': 3.20}
  laws = {x.name: x for x in compare_laws(t5_runs, carried=carried).laws}
  for name, errors in T5.items():
    law = laws[name]
    found = (law.one_sparsity_out, law.largest_compute_out, law.dense_to_sparse)
    for ours, theirs in zip(found, errors, strict=True):
      assert (ours is None) == (theirs is None)
      assert ours is None or abs(ours - theirs) <= 0.0005, name
  assert laws['moment'].coefficients['p'] == pytest.approx(0.975, abs=0.0005)
  assert laws['power'].coefficients['q'] == pytest.approx(2.73, abs=0.005)
  # Dense runs alone say nothing of a coefficient that is not carried over.
  assert laws['between'].dense_to_sparse is None


def test_the_released_1b_models_lean_to_the_l1_mass():
  """Sparse less dense twin: measured, by the L1 mass, and by N_avg."""
  with open(PUBLISHED / 'sparsellm_1b_cards.csv') as file:
    cards = {row['model']: row for row in csv.DictReader(file)}
  expected = {
    20: (-0.006, -0.011, -0.001),
    40: (-0.024, -0.025, -0.008),
    60: (-0.027, -0.029, -0.009),
    80: (-0.009, -0.029, -0.011),
  }
  for percent, numbers in expected.items():
    sparse = cards[f'sparsellm-1b-{percent}p']
    twin = cards[f'sparsellm-1b-{percent}p-small-dense']
    loss = 'train_loss_last_1pct'
    tokens = float(sparse['tokens'])
    sizes = (
      1_139_277_824 * gaussian_mass(1 - percent / 100),
      float(sparse['average_linear_parameters']),
    )
    dense = CHINCHILLA.loss(float(twin['linear_parameters']), tokens)
    found = (
      float(sparse[loss]) - float(twin[loss]),
      *(CHINCHILLA.loss(n, tokens) - dense for n in sizes),
    )
    np.testing.assert_allclose(found, numbers, atol=0.0006)


def simulated(kind: str, q: float | None, noise=0.002, seed=0) -> Runs:
  """Runs of three schedules whose loss is that of LAW, counted by `kind`."""
  rng = np.random.default_rng(seed)
  rows, paths = [], []
  for n in (1e8, 3e8, 1e9):
    for tokens in (5e9, 2e10, 8e10):
      for sparsity in (0.0, 0.5, 0.8, 0.9):
        for start, end in ((100, 300), (300, 700), (600, 900)):
          schedule = PruningSchedule('cubic', sparsity, start, end, 10)
          average = schedule.compute(1000) / 1000
          rows.append((n, n * average, n * (1 - sparsity), sparsity, tokens))
          paths.append(path_of(schedule, 1000))
          if not sparsity:
            break
  initial, average, final, sparsity, tokens = np.array(rows).T
  runs = Runs(
    tuple(f'run{i}' for i in range(len(rows))),
    average_parameters=average,
    initial_parameters=initial,
    final_parameters=final,
    sparsity=sparsity,
    tokens=tokens,
    loss=np.ones(len(rows)),
    paths=tuple(paths),
  )
  errors = rng.normal(0, noise, len(rows))
  loss = LAW.loss(runs.parameters(kind, q), tokens) * np.exp(errors)
  return dataclasses.replace(runs, loss=loss)


TRUE = {'moment': 1.3, 'power': 2.2, 'power_mean': -0.7, 'between': 0.6}


@pytest.mark.parametrize('kind, q', TRUE.items())
def test_a_known_coefficient_is_found_with_its_law(kind, q):
  """Both intervals hold it and the coefficients of the law."""
  runs = simulated(kind, q)
  fit = fit_runs(runs, kind)
  bootstrap = fit.bootstrap(100).intervals(0.9)
  for intervals in (fit.intervals(0.999), bootstrap):
    low, high = intervals[EFFECTIVE[kind].coefficient.name]
    assert low < fit.count.value < high and high - low < 0.4
  low, high = fit.intervals(0.999)[EFFECTIVE[kind].coefficient.name]
  assert low < q < high
  for name, value in LAW.as_dict().items():
    low, high = fit.intervals(0.999)[name]
    assert low <= value <= high
  np.testing.assert_array_equal(
    fit.parameters, runs.parameters(kind, fit.count.value)
  )


@pytest.mark.slow
@pytest.mark.parametrize('kind', TRUE)
def test_the_optimum_over_the_coefficient_is_global(t5_runs, kind):
  """No value of a fine grid gives a better law."""
  runs = t5_runs if kind != 'power_mean' else simulated('l1', None)
  fit = fit_runs(runs, kind)
  own = EFFECTIVE[kind].coefficient
  for q in np.linspace(own.low, own.high, 23):
    n = runs.parameters(kind, q)
    other = fit_scaling_law(n, runs.tokens, runs.loss)
    assert fit.objective <= other.objective * (1 + 1e-9)


def test_a_fit_with_a_coefficient_survives_its_file_and_any_order(t5_runs):
  fit = fit_runs(t5_runs, 'between')
  again = ScalingLawFit.from_json(fit.to_json())
  assert again.coefficients == fit.coefficients
  assert again.intervals() == fit.intervals()
  drawn = [each.bootstrap(20, seed=3) for each in (fit, again)]
  np.testing.assert_array_equal(drawn[0].laws, drawn[1].laws)
  np.testing.assert_array_equal(drawn[0].values, drawn[1].values)
  turned = fit_runs(t5_runs.select(np.arange(len(t5_runs))[::-1]), 'between')
  assert turned.coefficients == fit.coefficients
  others = turned.bootstrap(20, seed=3)
  np.testing.assert_array_equal(others.laws, drawn[0].laws)
  for key, value in (('values', [1.0]), ('kind', 'l1x'), ('value', None)):
    broken = json.loads(fit.to_json())
    broken['count'][key] = value
    with pytest.raises(ValueError, match='not a fit'):
      ScalingLawFit.from_json(json.dumps(broken))


def test_resamples_are_refitted_each_with_its_own_coefficient():
  """Against fits of the resampled rows, one by one."""
  runs = simulated('moment', 1.3, noise=0.01)
  fit = fit_runs(runs, 'moment')
  drawn = fit.bootstrap(4, seed=1)
  picks = np.random.default_rng(1).integers(0, len(runs), (4, len(runs)))
  order = fit.count.parameters[len(fit.count.values) // 2]
  # The draws are of rows in the canonical order, parameters first.
  rank = np.lexsort((np.zeros(len(runs)), runs.loss, runs.tokens, order))
  low, high = fit.intervals()['p']
  for i, each in enumerate(picks):
    alone = fit_runs(runs.select(rank[each]), 'moment')
    # Of a table of values, by a parabola: near enough for an interval.
    off = abs(drawn.values[i] - alone.count.value)
    assert off < 0.1 * (high - low)
    assert drawn.objectives[i] >= alone.objective * (1 - 1e-9)
    assert drawn.objectives[i] <= alone.objective * 1.01


def test_each_schedule_is_predicted_from_the_others(tmp_path):
  """As `sweep` writes the table; dense runs are always known."""
  runs = simulated('l1', None, noise=0.0)
  labels = ['early', 'middle', 'late']
  path = tmp_path / 'runs.csv'
  with open(path, 'w') as file:
    writer = csv.writer(file)
    writer.writerow(['run', 'initial_parameters', 'average_parameters',
                     'final_parameters', 'tokens', 'loss', 'schedule',
                     'start', 'end', 'steps'])  # fmt: skip
    starts = {'early': (100, 300), 'middle': (300, 700), 'late': (600, 900)}
    seen = 0
    for i in range(len(runs)):
      cells = ['', '', '']
      if runs.sparsity[i]:
        cells = ['cubic', *starts[labels[seen % 3]]]
        seen += 1
      writer.writerow([runs.run[i], runs.initial_parameters[i],
                       runs.average_parameters[i], runs.final_parameters[i],
                       runs.tokens[i], runs.loss[i], *cells, 1000])  # fmt: skip
  loaded = load_runs(path)
  split = one_schedule(loaded.completed())
  assert [name for *_, name in split.folds] == [
    'cubic 10-30 %: ', 'cubic 30-70 %: ', 'cubic 60-90 %: ']  # fmt: skip
  for train, test, _ in split.folds:
    assert (train | test).all() and not (train & test).any()
    assert (loaded.completed().sparsity[test] > 0).all()
  # The schedule says the trajectory, but not how many updates there were: its
  # mean is the average of the table but for half of an update.
  n = loaded.parameters('power_mean', 1.0)
  np.testing.assert_allclose(n, runs.average_parameters, rtol=0.02)
  laws = {each.name: each for each in compare_laws(loaded).laws}
  assert laws['l1'].one_schedule_out < 1e-6
  assert laws['average'].one_schedule_out > 0.005


@pytest.mark.parametrize(
  'carried, words',
  [
    ({'average': 1.0}, 'must be one of'),
    ({'nothing': 1.0}, 'must be one of'),
    ({'moment': 9.0}, 'moment = 9.0: must be from 0 to 4'),
    ({'moment': math.nan}, 'must be from 0 to 4'),
  ],
)
def test_a_coefficient_that_cannot_be_carried_over_is_named(
  t5_runs, carried, words
):
  with pytest.raises(ValueError, match=words):
    compare_laws(t5_runs, carried=carried)


def test_optional_columns_are_read_and_checked(tmp_path):
  """Exempt weights and measured mass; a table may lack both, or leave gaps."""
  path = tmp_path / 'runs.csv'
  sizes = 'initial_parameters,average_parameters,final_parameters'
  head = f'run,{sizes},tokens,loss'
  path.write_text(
    f'{head},exempt_parameters,l1_measured_parameters\n'
    'a,1000000,700000,400000,1e9,3.0,100000,600000\n'
    'b,1000000,1000000,1000000,1e9,2.9,,\n'
  )
  runs = load_runs(path)
  measured = runs.parameters('l1_measured')
  np.testing.assert_array_equal(measured, [600_000, 1_000_000])
  final = (400_000 - 100_000) / 900_000
  l1 = 100_000 + 900_000 * gaussian_mass(final)
  np.testing.assert_allclose(runs.parameters('l1'), [l1, 1e6])
  text = path.read_text()
  for old, new, words in (
    (',600000', ',many', 'l1_measured_parameters'),
    (',600000', ',1100000', 'row 2, l1_measured_parameters: 1100000: must be'),
    (',100000,', ',500000,', 'row 2, exempt_parameters: 500000: must be a c'),
    (',100000,', ',-1,', 'exempt_parameters: -1: must be a count, at most fi'),
  ):
    path.write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=words):
      load_runs(path)
  path.write_text(f'{head}\na,1000000,700000,400000,1e9,3.0\n')
  with pytest.raises(ValueError, match="'l1_measured': not known of 1 of 1"):
    load_runs(path).parameters('l1_measured')


def test_a_workdir_says_all_that_counts_read(tmp_path):
  """Exempt kernels from its config, mass and trajectory from its history."""
  workdir = written.write_run(tmp_path / 'run', planned=0.7)
  path = workdir / 'mask_history.jsonl'
  past = history.read(path)
  rows = list(past.rows)
  # The first cut keeps 90 % of the mass of the kernel, the others 80 %.
  shares = [0.9] + [0.8] * (len(rows) - 2)
  for i, share in enumerate(shares, start=1):
    mass = {'a/kernel': [[2.0], [2.0 * share]]}
    rows[i] = dataclasses.replace(rows[i], mass=mass)
  history.write(path, past.header, rows)
  config = json.loads((workdir / 'config.json').read_text())
  config['config'] = {'pruning': {'sparsity': 0.8, 'exempt': ['b/*']}}
  (workdir / 'config.json').write_text(json.dumps(config))
  runs = load_runs(workdir)
  linear, exempt = past.header.linear_parameters, past.header.layers['b/kernel']
  body = linear - exempt
  measured = exempt + body * np.prod(shares)
  np.testing.assert_allclose(runs.parameters('l1_measured'), measured)
  counts = written.per_step(written.COUNTS, written.STEPS)
  mean = np.mean(np.sqrt((counts - exempt) / body)) ** 2
  np.testing.assert_allclose(
    runs.parameters('power_mean', 0.5), exempt + body * mean
  )
  l1 = exempt + body * gaussian_mass((counts[-1] - exempt) / body)
  np.testing.assert_allclose(runs.parameters('l1'), l1)
