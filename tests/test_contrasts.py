"""Arms against a reference, schedules against the best, and the noise floor."""

import json

import numpy as np
import pytest
from scipy import stats
from written import write_table

from jax_sparse_pretrain.analysis import (
  Noise,
  contrast_runs,
  load_runs,
  plot_contrasts,
  rank_schedules,
  replicate_noise,
)
from jax_sparse_pretrain.analysis.__main__ import main
from jax_sparse_pretrain.analysis.contrasts import read_places
from jax_sparse_pretrain.analysis.ranking import critical_gap
from jax_sparse_pretrain.analysis.verbs import draw
from jax_sparse_pretrain.analysis.verbs.arguments import AskedRuns
from jax_sparse_pretrain.analysis.verbs.compare_runs import rank_runs

NAMES = r'(?P<block>s\d)_(?P<arm>[a-z]+)_(?P<seed>\d)'
SPARSE, DENSE = np.array([2.1, 2.4, 2.2]), np.array([2.0, 2.2, 2.3])


@pytest.fixture
def pairs(tmp_path):
  """Two blocks of a sparse and a dense arm, three seeds, and another run."""
  rows = [{'run': 'else', 'loss': 3.0, 'seed': 0}]
  for block, shift in (('s5', 0.0), ('s8', 0.5)):
    for seed in range(3):
      for arm, losses in (('sparse', SPARSE + shift), ('dense', DENSE)):
        run = {'run': f'{block}_{arm}_{seed}', 'loss': losses[seed]}
        n = {'average_parameters': 50_200 if arm == 'sparse' else 50_000}
        final = {'final_parameters': 20_000, 'sparsity': 0.8}
        rows.append({**run, 'seed': seed, **n, **final})
  return write_table(tmp_path / 'runs.csv', rows)


def contrasts(path, pattern=NAMES, reference='dense'):
  runs = load_runs(path)
  return contrast_runs(runs, read_places(runs, pattern), reference)


def test_a_contrast_is_the_paired_t_test_of_scipy(pairs):
  of_s5, of_s8 = contrasts(pairs)
  expected = stats.ttest_rel(SPARSE, DENSE).confidence_interval(0.9)
  np.testing.assert_allclose(of_s5.interval(0.9), expected)
  assert of_s5.difference == pytest.approx((SPARSE - DENSE).mean())
  assert of_s8.difference == pytest.approx(of_s5.difference + 0.5)
  assert (of_s5.block, of_s5.arm, of_s5.reference) == ('s5', 'sparse', 'dense')
  assert of_s5.average_off == pytest.approx(0.004)
  assert of_s5.final_parameters == 20_000


def test_only_seeds_that_both_arms_have_count(pairs):
  lines = pairs.read_text().splitlines()
  kept = [line for line in lines if 's5_dense_1' not in line]
  pairs.write_text('\n'.join(kept))
  first, _ = contrasts(pairs)
  assert first.seeds == ['0', '2']
  np.testing.assert_allclose(first.differences, [0.1, -0.1])


def test_seeds_may_be_in_a_column(pairs):
  by_name = contrasts(pairs)
  by_column = contrasts(pairs, r'(?P<block>s\d)_(?P<arm>[a-z]+)_\d')
  assert by_name == by_column


def test_one_seed_has_no_end_to_its_interval(tmp_path):
  rows = [{'run': name, 'loss': 2.0, 'seed': 0} for name in 'ab']
  [only] = contrasts(write_table(tmp_path / 'a.csv', rows), '(?P<arm>.)', 'a')
  assert only.interval() == (-np.inf, np.inf)


@pytest.mark.parametrize(
  'pattern, reference, why',
  [
    ('(?P<arm>', 'dense', 'not a regular expression'),
    ('(?P<block>.+)', 'dense', 'must have the group'),
    ('(?P<arm>.+)_(?P<size>.)', 'dense', 'and no other'),
    ('(?P<arm>nothing)', 'dense', 'matches no run'),
    (NAMES, 'denser', "block 's5': no arm 'denser'"),
    (r's5_(?P<arm>dense)_(?P<seed>\d)', 'dense', 'only the arm'),
    (r'(?P<arm>else|s5_dense_2)', 'else', 'shares no seed'),
    (r's\d_(?P<arm>.+)_(?P<seed>\d)', 'dense', 'both are seed'),
  ],
)
def test_contrasts_that_cannot_be_are_refused(pairs, pattern, reference, why):
  with pytest.raises(ValueError, match=why):
    contrasts(pairs, pattern, reference)


def test_the_command_prints_what_the_function_finds(pairs, capsys):
  words = ['contrast', str(pairs), '--names', NAMES, '--reference', 'dense']
  assert main([*words, '--json']) == 0
  found = json.loads(capsys.readouterr().out)['contrasts']
  for each, expected in zip(found, contrasts(pairs), strict=True):
    assert each['difference'] == expected.difference
    assert tuple(each['interval']) == expected.interval()
  assert main(words) == 0
  [line] = [x for x in capsys.readouterr().out.splitlines() if 's8 sp' in x]
  assert line.split()[2:] == [
    *('3', '+0.40%', '20K', '20K', '+0.5667', '+0.1872', 'to', '+0.9461')
  ]


def test_the_picture_has_a_row_for_each_arm(pairs):
  [axes] = plot_contrasts(contrasts(pairs)).axes
  labels = [text.get_text() for text in axes.get_yticklabels()]
  assert labels == ['s5  sparse', 's8  sparse']
  intervals = [line for line in axes.lines if line.get_linewidth() == 1.8]
  expected = [1000 * np.array(each.interval()) for each in contrasts(pairs)]
  for line, ends in zip(intervals, expected, strict=True):
    np.testing.assert_allclose(line.get_xdata(), ends)


def test_noise_is_pooled_over_groups_that_differ_in_seed_alone(tmp_path):
  rng = np.random.default_rng(0)
  groups = {1e-3: rng.normal(size=3), 2e-3: rng.normal(size=5) + 4}
  rows = [
    {'run': f'{lr}_{i}', 'loss': 5 + x, 'seed': i, 'optimizer.peak_lr': lr}
    for lr, losses in groups.items()
    for i, x in enumerate(losses)
  ]
  alone = {'run': 'alone', 'loss': 9, 'seed': 0, 'optimizer.peak_lr': 4e-3}
  noise = replicate_noise(
    load_runs(write_table(tmp_path / 'a.csv', [*rows, alone]))
  )
  squares = [(len(x) - 1) * np.var(x, ddof=1) for x in groups.values()]
  assert noise.sd == pytest.approx(np.sqrt(sum(squares) / 6))
  assert (noise.dof, noise.groups) == (6, 2)
  one_each = load_runs(write_table(tmp_path / 'b.csv', [rows[0], alone]))
  assert replicate_noise(one_each) is None


def test_the_critical_gap_of_two_is_a_t_test():
  for dof in (3, 10, 100):
    expected = np.sqrt(2) * stats.t.ppf(0.95, dof)
    assert critical_gap(2, dof) == pytest.approx(expected, rel=1e-5)
  expected = np.sqrt(2) * stats.norm.ppf(0.9)
  assert critical_gap(2, np.inf, 0.9) == pytest.approx(expected, rel=1e-5)


def test_the_critical_gap_of_many_is_their_simulated_quantile():
  rng = np.random.default_rng(0)
  drawn = rng.normal(size=(100_000, 21))
  gaps = drawn[:, 0] - drawn.min(axis=1)
  estimated = np.sqrt(rng.chisquare(10, len(gaps)) / 10)
  # The error of a quantile from 1e5 draws is near 0.01.
  assert critical_gap(21, np.inf) == pytest.approx(
    np.quantile(gaps, 0.95), abs=0.03
  )
  assert critical_gap(21, 10) == pytest.approx(
    np.quantile(gaps / estimated, 0.95), abs=0.04
  )


# start, end, loss by seed
SCHEDULES = [
  (0.0, 0.5, {'0': 2.0, '1': 2.2}),
  (0.25, 0.75, {'0': 2.05, '1': 2.25, '2': 9.0}),
  (0.5, 1.0, {'0': 2.6, '1': 2.4}),
]


def schedule_columns():
  return zip(
    *(
      (start, end, 0.8, loss, seed)
      for start, end, losses in SCHEDULES
      for seed, loss in losses.items()
    ),
    strict=True,
  )


def test_schedules_are_ranked_by_the_seeds_they_share():
  noise = Noise(0.05)
  [ranking] = rank_schedules(*schedule_columns(), noise=noise)
  assert [each.loss for each in ranking.schedules] == pytest.approx(
    [2.1, 2.15, 2.5]
  )
  assert ranking.rank == 2 and ranking.gap == pytest.approx(0.05)
  expected = critical_gap(3, np.inf) * 0.05 / np.sqrt(2)
  assert ranking.margin == pytest.approx(expected)
  assert ranking.n_not_told_apart == 2
  [without] = rank_schedules(*schedule_columns(), asked=(0.1, 0.2))
  assert without.rank is without.gap is without.margin is None


def test_schedules_that_share_no_seed_are_not_ranked():
  with pytest.raises(ValueError, match='share no seed'):
    rank_schedules([0, 0.1], [1, 1], [0.5] * 2, [2, 3], ['0', '1'])
  with pytest.raises(ValueError, match='there twice'):
    rank_schedules([0, 0], [1, 1], [0.5] * 2, [2, 3], ['0', '0'])


def sweep_rows():
  """As a sweep's table has them, with a dense run; start, end are steps."""
  yield {'run': 'dense', 'loss': 2.0, 'seed': 0} | dict.fromkeys(
    ('start', 'end', 'pruning.start', 'pruning.end'), 0
  )
  for start, end, losses in SCHEDULES:
    for seed in '01':
      yield {
        'run': f'{start}_{end}_{seed}',
        'loss': losses[seed],
        'seed': seed,
        'start': 100,
        'end': 200,
        'pruning.start': start,
        'pruning.end': end,
        'sparsity': 0.8,
      }


def test_rank_reads_the_table_of_a_sweep(tmp_path, capsys):
  path = write_table(tmp_path / 'runs.csv', sweep_rows())
  assert main(['rank', str(path)]) == 0
  out = capsys.readouterr().out
  assert 'groups of seeds: 3; degrees of freedom: 3' in out
  [row] = [line for line in out.splitlines() if line.startswith('80 %')]
  assert row.split()[:5] == ['80', '%', '0-50', '2.1000', '+0.4000']
  assert row.split()[5:9] == ['2', 'of', '3', '0.0500']
  assert max(map(len, out.splitlines())) <= 80


def test_schedules_that_began_from_another_model_are_not_ranked(
  tmp_path, capsys
):
  rows = [row | {'init_from': ''} for row in sweep_rows()]
  tuned = rows[-1] | {'run': 'tuned', 'loss': 1.0, 'init_from': 'base'}

  def rank(rows, *more):
    path = write_table(tmp_path / 'runs.csv', rows)
    status = main(['rank', str(path), '--json', *more])
    output = capsys.readouterr()
    return status, output.out, output.err

  status, ranked, _ = rank(rows)
  assert status == 0
  status, again, said = rank([*rows, tuned])
  assert status == 0 and again == ranked and "such as 'tuned'" in said
  # Its seed and schedule are there already.
  status, _, said = rank([*rows, tuned], '--include_continued')
  assert status == 2 and 'is there twice' in said


def test_the_heat_map_reads_the_table_of_a_sweep(tmp_path):
  path = write_table(tmp_path / 'runs.csv', sweep_rows())
  figure = draw.heat_map(*rank_runs(AskedRuns([str(path)]), 0.03, 0.95))
  axes = figure.axes[0]
  shown = axes.images[0].get_array()
  np.testing.assert_allclose(np.diag(shown), [0, 50, 400], atol=1e-9)
  # The best, and as dotted the other one that `rank` does not tell from it.
  styles = sorted(box.get_linestyle() for box in axes.patches)
  assert styles == ['-', ':']


@pytest.mark.parametrize(
  'words, why',
  [
    (['--start=0.3'], 'there are, in %, 0-50, 25-75, 50-100'),
    (['--level=0.3'], 'above 1/3, with 3 schedules'),
    (['--level=0.99999'], 'at most 0.9999'),
    (['--noise=-1'], '--noise: noise -1.0: must be at least 0'),
    (['--noise=nan'], '--noise: noise nan'),
    (['--level=1'], 'level'),
    (['--where=sparsity == 0'], 'no run that prunes'),
    (['--column=tokens=steps'], "no column 'steps'"),
    (['other.csv'], 'give one table'),
  ],
)
def test_what_cannot_be_ranked_is_one_line_and_status_2(
  words, why, tmp_path, capsys
):
  path = write_table(tmp_path / 'runs.csv', sweep_rows())
  assert main(['rank', str(path), *words]) == 2
  [line] = capsys.readouterr().err.splitlines()
  assert why in line


def test_steps_are_not_taken_for_fractions(tmp_path, capsys):
  rows = [
    {k: v for k, v in row.items() if not k.startswith('pruning')}
    for row in sweep_rows()
  ]
  path = write_table(tmp_path / 'runs.csv', rows)
  assert main(['rank', str(path)]) == 2
  assert 'must be a fraction of compute' in capsys.readouterr().err


def test_a_seed_that_comes_again_is_no_replicate(tmp_path):
  rows = [
    {'run': f'{i}', 'loss': loss, 'seed': seed}
    for i, (loss, seed) in enumerate([(2.0, 0), (2.2, 1), (2.0, 0), (2.2, 1)])
  ]
  noise = replicate_noise(load_runs(write_table(tmp_path / 'a.csv', rows)))
  assert noise.dof == 1 and noise.sd == pytest.approx(0.2 / np.sqrt(2))
  for row in rows:
    del row['seed']
  assert (
    replicate_noise(load_runs(write_table(tmp_path / 'b.csv', rows))) is None
  )


def test_runs_from_other_models_are_no_replicates(tmp_path):
  rows = [
    {'run': name, 'loss': 2.0 + seed, 'seed': seed, 'init_from': name}
    for seed, name in enumerate(['base', 'other'])
  ]
  path = write_table(tmp_path / 'a.csv', rows)
  assert replicate_noise(load_runs(path, include_continued=True)) is None


def test_schedules_are_no_replicates_of_one_another(tmp_path):
  rows = [row | {'seed': i} for i, row in enumerate(sweep_rows()) if i % 2]
  assert (
    replicate_noise(load_runs(write_table(tmp_path / 'a.csv', rows))) is None
  )


@pytest.mark.parametrize(
  'change, why',
  [
    ({'tokens': 1.1e6}, 'differ in N_avg x tokens'),
    (
      {
        'initial_parameters': 200_000,
        'final_parameters': 40_000,
        'average_parameters': 100_000,
      },
      'differ in initial_parameters',
    ),
  ],
)
def test_only_schedules_of_equal_compute_and_size_are_ranked(
  change, why, tmp_path, capsys
):
  *rows, last = sweep_rows()
  path = write_table(tmp_path / 'runs.csv', [*rows, last | change])
  assert main(['rank', str(path)]) == 2
  assert why in capsys.readouterr().err


def test_a_bare_table_of_schedules_may_have_seeds(tmp_path, capsys):
  path = tmp_path / 'a.csv'
  lines = [','.join(map(str, row)) for row in schedule_columns_as_rows()]
  path.write_text('\n'.join(['start,end,sparsity,loss,seed', *lines]))
  assert main(['rank', str(path)]) == 0
  assert '2 of 3' in capsys.readouterr().out
  path.write_text('start,end,sparsity,loss\n0.5,0.25,0.8,2\n')
  assert main(['rank', str(path)]) == 2
  assert 'must not end before it starts' in capsys.readouterr().err


def schedule_columns_as_rows():
  return zip(*schedule_columns(), strict=True)


def test_tokens_may_follow_from_other_columns(tmp_path, capsys):
  rows = [
    {'steps' if k == 'tokens' else k: v for k, v in row.items()}
    for row in ({'tokens': 1e6} | row for row in sweep_rows())
  ]
  path = tmp_path / 'runs.csv'
  write_table(path, rows)
  text = path.read_text().replace('tokens', 'batches')
  path.write_text(text)
  assert main(['rank', str(path), '--column=tokens=steps * 1']) == 0


@pytest.mark.slow
def test_the_truly_best_schedule_is_not_told_from_the_best_as_often_as_said():
  """Of 400 draws at 95 %, 363 are four standard deviations off."""
  rng = np.random.default_rng(0)
  truth = np.array([2.0, 2.01, 2.02, 2.05, 2.5])
  held = 0
  for _ in range(400):
    losses = truth + 0.02 * rng.normal(size=5)
    [ranking] = rank_schedules(
      np.arange(5) / 10, [0.9] * 5, [0.5] * 5, losses, noise=Noise(0.02)
    )
    best = [each.start for each in ranking.schedules].index(0.0)
    held += best < ranking.n_not_told_apart
  assert held >= 363
