"""The command, from its arguments to what it prints and writes."""

import dataclasses
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
import t5
from scipy import special, stats
from written import COUNTS, DENSE, STEPS, per_step, write_run

from jax_sparse_pretrain import text as tables
from jax_sparse_pretrain.analysis import (
  EFFECTIVE,
  ScalingLaw,
  ScalingLawFit,
  average_parameters,
  fit_runs,
  load_runs,
  write_runs,
)
from jax_sparse_pretrain.analysis.__main__ import main
from jax_sparse_pretrain.analysis.command import PROGRAM
from jax_sparse_pretrain.analysis.verbs import VERBS, load
from jax_sparse_pretrain.model.counts import training_flops

ROOT = pathlib.Path(__file__).parents[1]
LAW = ScalingLaw(E=1.7, A=400.0, B=1500.0, alpha=0.34, beta=0.36)
NUMBERS = ','.join(f'{name}={value}' for name, value in LAW.as_dict().items())
SIMULATE = [
  *('simulate', f'--law={NUMBERS}', '--linear_parameters'),
  *('1e8', '2e8', '4e8', '8e8', '--tokens', '2e9', '4e9', '1e10', '3e10'),
  *('--sparsity', '0', '0.8'),
]


@pytest.fixture
def run(capsys):
  """Runs the command; returns what it prints."""

  def run(*arguments):
    status = main([str(each) for each in arguments])
    output = capsys.readouterr()
    assert status == 0, output.err
    return output.out

  return run


@pytest.fixture
def refused(capsys):
  """Runs a command that must be refused; returns its one line."""

  def refused(*arguments):
    assert main([str(each) for each in arguments]) == 2
    output = capsys.readouterr()
    [line] = output.err.splitlines()
    assert output.out == '' and line.startswith('error: ')
    return line

  return refused


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  """A table of 32 simulated runs, and the fit to them."""
  folder = tmp_path_factory.mktemp('made')
  table, fit = folder / 'runs.csv', folder / 'fit.json'
  assert main([*SIMULATE, '--noise=0.002', f'--out={table}']) == 0
  assert main(['fit', str(table), '--bootstrap=40', f'--out={fit}']) == 0
  return folder


@pytest.fixture
def runs_file(made, tmp_path):
  return pathlib.Path(shutil.copy(made / 'runs.csv', tmp_path))


@pytest.fixture
def fit_file(made, tmp_path, runs_file):
  return pathlib.Path(shutil.copy(made / 'fit.json', tmp_path))


@pytest.mark.parametrize('arguments', [[], ['--help']])
def test_without_a_verb_it_says_which_there_are(run, arguments):
  help_ = run(*arguments)
  assert help_.startswith(f'usage: {PROGRAM} ')
  for name in VERBS:
    [_, example] = re.findall(rf'^ +{name} .*', help_, re.MULTILINE)
    assert example.startswith(f'  {name} ')


PICTURES = [f'plot {name}' for name in load('plot')]


@pytest.mark.parametrize('verb', [*VERBS, *PICTURES])
def test_every_verb_explains_itself_in_80_columns(run, verb, monkeypatch):
  monkeypatch.setenv('COLUMNS', '80')
  help_ = run(*verb.split(), '--help')
  assert help_.startswith(f'usage: {PROGRAM} {verb} ')
  assert verb == 'plot' or ('--json' in help_ and '--out' in help_)
  assert max(map(len, help_.splitlines())) <= 80


def test_a_run_is_told_as_it_is(run, tmp_path):
  write_run(tmp_path / 'sparse')
  text = run('average', tmp_path / 'sparse')
  average = per_step().mean()
  assert f'{average:,.0f}  N_avg, {average / DENSE:.2%} of dense' in text
  assert f'{COUNTS[-1][1]:,}' in text
  for name in ('dense', 'pruning', 'recovery'):
    assert re.search(rf'^{name} ', text, re.MULTILINE)


def test_json_is_all_that_is_printed_and_what_is_written(run, tmp_path):
  workdir = write_run(tmp_path / 'sparse')
  out = tmp_path / 'average.json'
  text = run('average', workdir, '--json', '--out', out)
  [found] = json.loads(text)['runs']
  assert found == json.loads(json.dumps(average_parameters(workdir).as_dict()))
  assert out.read_text() == text
  assert sorted(path.name for path in tmp_path.iterdir()) == [
    'average.json',
    'sparse',
  ]


def test_workdirs_become_a_table_of_runs(run, tmp_path):
  for i in range(3):
    write_run(tmp_path / 'sweep' / f'run{i}', eval_loss=2.5 + i)
  out = tmp_path / 'runs.csv'
  text = run('average', tmp_path / 'sweep', '--out', out)
  from_table, from_workdirs = load_runs(out), load_runs(tmp_path / 'sweep')
  assert from_table.fingerprint == from_workdirs.fingerprint
  assert from_table.run == from_workdirs.run == ('run0', 'run1', 'run2')
  assert all(name in text for name in from_table.run)


def test_an_unfinished_run_is_tabled_only_if_asked_for(tmp_path, capsys):
  write_run(tmp_path / 'short', completed=False)
  out = tmp_path / 'runs.csv'
  command = ['average', str(tmp_path / 'short'), f'--out={out}']
  assert main(command) == 2 and not out.exists()
  [warning, error] = capsys.readouterr().err.splitlines()
  assert warning.startswith('warning: short: not finished')
  assert error.startswith('error: ') and 'summary.json: an unfinished' in error
  assert main([*command, '--unfinished']) == 0
  assert load_runs(out).run == ('short',)


def test_average_shows_and_tables_what_began_from_another_model(run, tmp_path):
  write_run(tmp_path / 'sweep' / 'a')
  write_run(tmp_path / 'sweep' / 'tuned', init_from='base')
  out = tmp_path / 'runs.csv'
  assert 'tuned' in run('average', tmp_path / 'sweep', '--out', out)
  header, *rows = (line.split(',') for line in out.read_text().splitlines())
  column = header.index('init_from')
  assert [(row[0], row[column]) for row in rows] == [
    ('a', ''),
    ('tuned', 'base'),
  ]


def with_continued(table, folder):
  """The runs of a table, and two of them again, worse, from another model."""
  header, *rows = table.read_text().splitlines()
  loss = header.split(',').index('loss')
  continued = []
  for i, row in enumerate(rows[:2]):
    cells = row.split(',')
    cells[0], cells[loss] = f'tuned-{i}', str(float(cells[loss]) * 1.5)
    continued.append(','.join([*cells, 'models/base']))
  path = folder / 'mixed.csv'
  lines = [f'{header},init_from', *(f'{row},' for row in rows), *continued]
  path.write_text('\n'.join(lines))
  return path


ARMS = ['--names', r'(?P<arm>\D+)-(?P<seed>\d+)', '--reference', 'simulated']


@pytest.mark.fast(2)
@pytest.mark.parametrize(
  'words',
  [
    ['fit', '--bootstrap', '0'],
    ['contrast', *ARMS],
    ['compare'],
    ['report', '--bootstrap', '0', '--out', 'report.html'],
  ],
  ids=lambda words: words[0],
)
def test_what_began_from_another_model_is_no_part_of(
  words, runs_file, tmp_path, monkeypatch, capsys
):
  monkeypatch.chdir(tmp_path)
  mixed = with_continued(runs_file, tmp_path)

  def said(path, *more):
    """The answer, or the error, and the warnings of a verb."""
    main([words[0], str(path), *words[1:], '--json', *more])
    output = capsys.readouterr()
    lines = output.err.splitlines()
    errors = [line for line in lines if line.startswith('error: ')]
    left_out = [line for line in lines if 'warning: left out: ' in line]
    return output.out or errors, left_out

  ordinary, nothing = said(runs_file)
  assert nothing == []
  assert said(mixed) == (
    ordinary,
    [
      'warning: left out: 2 of 34 runs, which began from another model '
      "(init_from), such as 'tuned-0'; --include_continued keeps them"
    ],
  )
  everything, nothing = said(mixed, '--include_continued')
  assert nothing == [] and everything != ordinary


def test_too_few_ordinary_runs_are_refused_after_the_reason(
  runs_file, tmp_path, capsys
):
  mixed = with_continued(runs_file, tmp_path)
  header, *rows = mixed.read_text().splitlines()
  mixed.write_text('\n'.join([header, *rows[-6:]]))
  assert main(['fit', str(mixed)]) == 2
  [warning, error] = capsys.readouterr().err.splitlines()
  assert warning.startswith('warning: left out: 2 of 6 runs')
  assert f'{mixed}: 4 rows: a law of 5 coefficients needs at least 5' in error


def test_warnings_are_lines_of_their_own(tmp_path, capsys):
  workdir = write_run(tmp_path / 'odd', planned=0.3, completed=True)
  write_run(tmp_path / 'short', completed=False)
  with open(workdir / 'mask_history.jsonl', 'a') as file:
    file.write('{"step')
  assert main(['average', str(tmp_path), '--json']) == 0
  output = capsys.readouterr()
  assert len(json.loads(output.out)['runs']) == 2
  torn, plan, short = output.err.splitlines()
  assert torn.startswith('warning: ') and 'torn last line' in torn
  assert plan.startswith('warning: odd: mean density') and '0.3000' in plan
  assert short == f'warning: short: not finished; its first {STEPS} steps'


def test_a_schedule_is_planned_like_the_released_run(run):
  found = run(
    *('average', '--linear_parameters', 1139277824, '--sparsity', 0.8),
    *('--dense_steps', 10_000, '--every', 25, '--tokens_per_step', '8e6'),
    '--json',
  )
  [planned] = json.loads(found)['runs']
  assert abs(planned['density'] - 0.3984) < 0.0015
  assert abs(planned['steps'] - 25_050) <= 25
  assert planned['linear_parameters'] == 1139277824


def test_every_digit_and_the_shape_of_a_schedule_count(run):
  n = 2**53 + 1
  command = ['average', '--linear_parameters', n, '--steps', 1000, '--json']
  command += ['--schedule', 'polynomial', '--start', 0, '--end', 0.999]
  command += ['--unit', 'step_fraction', '--every', 1, '--sparsity', 0.5]
  [[dense], *found] = [
    json.loads(run(*command, *more))['runs']
    for more in (['--sparsity', 0], ['--power', 1], ['--power', 4])
  ]
  assert dense['linear_parameters'] == n
  # 1 - s p / (p + 1) over the ramp, which is all but the whole run.
  for [planned], mean in zip(found, (0.75, 0.6), strict=True):
    assert abs(planned['density'] - mean) < 2e-3


def test_simulated_runs_are_pruned_by_the_default_schedule(run, runs_file):
  runs = load_runs(runs_file)
  assert sorted(set(runs.sparsity)) == [0, 0.8]
  [planned] = json.loads(
    run(
      *('average', '--json', '--linear_parameters', '1e8', '--sparsity', 0.8),
      *('--steps', 10**6),
    )
  )['runs']
  density = np.where(runs.sparsity == 0, 1, planned['density'])
  initial = runs.initial_parameters
  np.testing.assert_allclose(runs.parameters(), density * initial, rtol=1e-3)
  np.testing.assert_array_equal(
    runs.parameters('final'), np.rint(initial * (1 - runs.sparsity))
  )
  assert len(set(zip(initial, runs.tokens, runs.sparsity, strict=True))) == 32


def test_a_fit_of_simulated_runs_finds_the_law(run, runs_file, fit_file):
  fit = json.loads(fit_file.read_text())
  runs = load_runs(runs_file)
  assert len(runs) == 32 == len(fit['residuals'])
  assert fit['fingerprint'] == runs.fingerprint
  for kind in ('profile', 'bootstrap'):
    for name, (low, high) in fit['intervals'][kind].items():
      assert low < fit['law'][name] < high
  found = ScalingLaw.from_dict(fit['law'])
  sizes, tokens = runs.parameters(), runs.tokens
  # The noise is 0.2 %, of which 32 runs average out the most.
  np.testing.assert_allclose(
    found.loss(sizes, tokens), LAW.loss(sizes, tokens), rtol=2e-3
  )
  text = run('fit', runs_file, '--bootstrap', 0)
  for name, value in fit['law'].items():
    [shown] = re.findall(rf'^{name} +(\S+)', text, re.MULTILINE)
    np.testing.assert_allclose(float(shown), value, rtol=1e-3)


def test_without_noise_the_fit_is_the_law(run, tmp_path):
  path = tmp_path / 'exact.csv'
  run(*SIMULATE, '--noise', 0, '--out', path)
  found = json.loads(run('fit', path, '--bootstrap', 0, '--json'))
  for name, value in LAW.as_dict().items():
    np.testing.assert_allclose(found['law'][name], value, rtol=1e-4)


def test_a_written_fit_is_the_fit(run, runs_file, fit_file):
  runs = load_runs(runs_file)
  fit = ScalingLawFit.from_json(fit_file.read_text())
  np.testing.assert_array_equal(fit.parameters, runs.parameters())
  np.testing.assert_array_equal(fit.loss, runs.loss)
  again = run('fit', runs_file, '--bootstrap', 40, '--json')
  assert fit_file.read_text() == again


def test_groups_levels_and_other_counts_change_the_fit(run, runs_file):
  def fit(*more):
    command = ['fit', runs_file, '--bootstrap', 40, '--json', *more]
    return json.loads(run(*command))

  plain = fit()
  final = fit('--parameters', 'final')
  assert final['law'] != plain['law'] and final['kind'] == 'final'
  dense = fit('--where', 'sparsity == 0')
  assert len(dense['loss']) == 16
  grouped = fit('--group', 'initial_parameters')
  assert grouped['law'] == plain['law']
  assert grouped['intervals']['profile'] == plain['intervals']['profile']
  assert grouped['intervals']['bootstrap'] != plain['intervals']['bootstrap']
  narrow = fit('--level', 0.5)['intervals']['profile']['alpha']
  low, high = plain['intervals']['profile']['alpha']
  assert low < narrow[0] < narrow[1] < high


def test_predictions_are_those_of_the_fit(run, fit_file):
  found = json.loads(
    run(
      *('predict', '--law', fit_file, '--json'),
      *('--average_parameters', '3e8', '5e8', '--tokens', '1e10'),
    )
  )['predictions']
  fit = ScalingLawFit.from_json(fit_file.read_text())
  low, high = fit.bootstrap(40).loss_intervals([3e8, 5e8], 1e10)
  for i, n in enumerate((3e8, 5e8)):
    assert found[i]['loss'] == fit.law.loss(n, 1e10)
    assert found[i]['interval'] == [low[i], high[i]]
    assert low[i] < found[i]['loss'] < high[i]


def test_a_schedule_and_a_plan_have_predictions(run, tmp_path):
  workdir = write_run(tmp_path / 'run', planned=0.75)
  [plan, run_] = json.loads(
    run(
      *('predict', '--law', NUMBERS, workdir, '--json', '--sparsity', 0.5),
      *('--linear_parameters', '1e9', '--steps', 10_000),
      *('--tokens_per_step', '1e6'),
    )
  )['predictions']
  [planned] = json.loads(
    run(
      *('average', '--sparsity', 0.5, '--json', '--linear_parameters', '1e9'),
      *('--steps', 10_000),
    )
  )['runs']
  average = planned['average_parameters']
  assert (plan['parameters'], plan['tokens']) == (average, 10**10)
  assert plan['loss'] == LAW.loss(average, 1e10)
  assert plan['interval'] is None
  assert (run_['name'], run_['parameters']) == ('run', 0.75 * DENSE)
  assert run_['loss'] == LAW.loss(0.75 * DENSE, run_['tokens'])


def test_a_run_is_predicted_before_its_first_step(run, tmp_path):
  workdir = write_run(tmp_path / 'sweep' / 'new', planned=0.75)
  (workdir / 'summary.json').unlink()
  text = run('predict', '--law', NUMBERS, tmp_path / 'sweep', '--json')
  [found] = json.loads(text)['predictions']
  assert (found['name'], found['parameters']) == ('new', 0.75 * DENSE)


@pytest.mark.parametrize(('kind', 'n'), [('final', 2e8), ('initial', 1e9)])
def test_a_law_is_asked_about_what_it_counts(run, tmp_path, runs_file, kind, n):
  out = tmp_path / 'law.json'
  run('fit', runs_file, '--parameters', kind, '--bootstrap', 0, '--out', out)
  [found] = json.loads(
    run(
      *('predict', '--law', out, '--json', '--sparsity', 0.8, '--steps', 10**4),
      *('--linear_parameters', '1e9', '--tokens_per_step', '1e6'),
    )
  )['predictions']
  assert found['parameters'] == n


@pytest.mark.parametrize('kind', ['final', 'l1', 'moment', 'power_mean'])
@pytest.mark.parametrize('exempt', [[], ['b/*']])
def test_a_planned_run_is_counted_as_the_law_counts(
  run, tmp_path, kind, exempt
):
  """Exempt kernels count whole, and the schedule says how long is how dense."""
  fit = fit_runs(t5.actual_runs(), kind)
  law = tmp_path / 'law.json'
  law.write_text(json.dumps({**json.loads(fit.to_json()), 'kind': kind,
                             'resampling': None}))  # fmt: skip
  workdir = write_run(tmp_path / 'run', planned=0.5)
  config = json.loads((workdir / 'config.json').read_text())
  pruning = {'sparsity': 0.8, 'exempt': exempt, 'schedule': 'one_shot'}
  config['config'] = {'pruning': {**pruning, 'power': 3.0}}
  config['plan'] |= {'steps': 100, 'start': 60, 'end': 60, 'every': 1}
  (workdir / 'config.json').write_text(json.dumps(config))
  [found] = json.loads(run('predict', '--law', law, workdir, '--json'))[
    'predictions'
  ]
  q = fit.count and fit.count.value
  share = {
    'final': lambda: 0.2,
    'l1': lambda: special.gammaincc(1.0, stats.norm.isf(0.1) ** 2 / 2),
    'moment': lambda: special.gammaincc(
      (q + 1) / 2, stats.norm.isf(0.1) ** 2 / 2
    ),
    'power_mean': lambda: (0.6 + 0.4 * 0.2**q) ** (1 / q),
  }[kind]()
  left_out = 10 if exempt else 0
  n = left_out + (DENSE - left_out) * share
  np.testing.assert_allclose(found['parameters'], n, rtol=1e-9)
  # Compute goes by the average, whatever the law counts.
  average = 0.5 * DENSE
  assert found['compute_flops'] == training_flops(average, found['tokens'])


@pytest.mark.parametrize('keys', [('schedule',), ('power',), ('end',)])
def test_a_plan_without_a_schedule_is_refused(
  refused, run, tmp_path, runs_file, keys
):
  law = tmp_path / 'final.json'
  run(*('fit', runs_file, '--parameters', 'final', '--bootstrap', 0),
      '--out', law)  # fmt: skip
  workdir = write_run(tmp_path / 'run', planned=0.5)
  config = json.loads((workdir / 'config.json').read_text())
  pruning = {'sparsity': 0.8, 'schedule': 'one_shot', 'power': 3.0}
  config['config'] = {'pruning': pruning}
  config['plan'] |= {'steps': 100, 'start': 60, 'end': 60, 'every': 1}
  for key in keys:
    pruning.pop(key, None)
    config['plan'].pop(key, None)
  (workdir / 'config.json').write_text(json.dumps(config))
  said = refused('predict', '--law', law, workdir)
  assert 'no density follows' in said and keys[0] in said


def test_what_lies_beyond_the_runs_is_said(fit_file, capsys):
  main(
    shlex.split(
      f'predict --law {fit_file} --average_parameters 9e9 --tokens 3e9'
    )
  )
  output = capsys.readouterr()
  assert 'warning: N_avg up to 9B is far beyond the fitted runs' in output.err


def test_what_a_law_does_not_know_is_said_with_its_predictions(
  tmp_path, runs_file, capsys
):
  law = tmp_path / 'few.json'
  flags = ['--where=tokens < 2e10', '--bootstrap=20', f'--out={law}']
  assert main(['fit', str(runs_file), *flags]) == 0
  capsys.readouterr()
  for verb in ('predict --average_parameters 2e8 --tokens 4e9',
               'plan --compute 1e19 --sparsity 0.5'):  # fmt: skip
    assert main([*verb.split(), f'--law={law}']) == 0
    assert 'three different token counts' in capsys.readouterr().err


def test_far_from_the_runs_an_interval_may_be_open(run, tmp_path, runs_file):
  law = tmp_path / 'few.json'
  run('fit', runs_file, '--where=tokens < 5e9', '--bootstrap=50', '--out', law)
  point = ('--average_parameters=2e8', '--tokens=1e12')
  far = ('predict', '--law', law, *point)
  [found] = json.loads(run(*far, '--json'))['predictions']
  assert found['interval'] == [0, None]
  assert tables.ABOUT_OPEN in run(*far)
  plan = ('plan', '--law', law, '--compute=1e22', '--sparsity=0.5')
  assert json.loads(run(*plan, '--json'))['dense']['interval'] == [0, None]
  assert tables.ABOUT_OPEN in run(*plan)


def test_an_open_side_is_explained_under_the_table(run, runs_file):
  few = run('fit', runs_file, '--where=tokens < 5e9', '--bootstrap=0')
  assert tables.ABOUT_OPEN in few
  assert tables.ABOUT_OPEN not in run('fit', runs_file, '--bootstrap=0')


def readme_commands():
  text = (ROOT / 'published_runs' / 'README.md').read_text()
  blocks = re.findall(r'```\n(.*?)```', text, re.DOTALL)
  return [block.replace('\\\n', ' ').removeprefix(PROGRAM) for block in blocks]


def test_the_published_runs_are_fitted_as_their_page_says(
  run, monkeypatch, recwarn
):
  monkeypatch.chdir(ROOT)
  t5, actual, chinchilla, average, once = (
    run(*shlex.split(command), '--json')
    if command.split()[0] == 'average'
    else run(*shlex.split(command), '--json', '--bootstrap=0')
    for command in readme_commands()
  )
  found = json.loads(chinchilla)
  # Besiroglu et al., section 3: the optimum of the summed objective.
  np.testing.assert_allclose(found['objective'], 0.00101827401780, rtol=1e-9)
  expected = (1.817218, 477.826, 2143.417, 0.347311, 0.367172)
  np.testing.assert_allclose(list(found['law'].values()), expected, rtol=5e-6)
  assert len(found['loss']) == 240
  assert len(json.loads(t5)['loss']) == 48
  # Root mean square of log residuals, by the L1 mass.
  assert json.loads(actual)['log_rmse'] == pytest.approx(0.00758, abs=1e-5)
  # Muennighoff et al. without repeated data, as the page rounds it.
  law = json.loads(once)['law']
  assert len(json.loads(once)['loss']) == 33
  assert (round(law['alpha'], 2), round(law['beta'], 2)) == (0.34, 0.39)
  assert abs(json.loads(average)['runs'][0]['density'] - 0.3984) < 0.0015


def documented():
  text = (ROOT / 'docs' / 'analysis.md').read_text()
  blocks = re.findall(r'```\n\$ (.*)\n((?:(?!```).*\n)*)```', text)
  for command, printed in blocks:
    words = command.removeprefix(f'{PROGRAM} ')
    # The resamples of these runs take long to settle, and laws with
    # coefficients of their own to fit.
    is_slow = '/t5' in words or words.startswith('compare')
    marks = [pytest.mark.slow] if is_slow else []
    yield pytest.param(words, printed, marks=marks, id=words.split()[0])


# As the page has them written.
ACTUAL = ('@published_runs/t5_actual.args', '--bootstrap', '0')
LAWS = {
  '/tmp/chinchilla.json': ('@published_runs/chinchilla.args',),
  '/tmp/l1.json': (*ACTUAL, '--parameters', 'l1'),
  '/tmp/average.json': (*ACTUAL, '--parameters', 'average'),
}


@pytest.mark.parametrize(('words', 'printed'), list(documented()))
def test_the_docs_show_what_the_commands_print(
  words, printed, tmp_path, monkeypatch, capsys
):
  monkeypatch.chdir(ROOT)
  monkeypatch.setenv('COLUMNS', '80')
  for name, flags in LAWS.items():
    if name in words:
      law = str(tmp_path / 'law.json')
      assert main(['fit', *flags, '--out', law]) == 0
      words = words.replace(name, law)
      capsys.readouterr()
  words, _, first = words.partition(' | head -n ')
  command, _, hidden = words.partition(' 2> ')
  assert main(shlex.split(command)) == 0
  output = capsys.readouterr()
  out = output.out.splitlines(keepends=True)[: int(first) if first else None]
  assert ''.join(out) + ('' if hidden else output.err) == printed


@pytest.mark.slow
@pytest.mark.parametrize('columns', [80, 120])
@pytest.mark.parametrize('kind', EFFECTIVE)
def test_a_fit_under_every_count_fits_the_terminal(
  capsys, tmp_path, monkeypatch, kind, columns
):
  monkeypatch.setenv('COLUMNS', str(columns))
  path = tmp_path / 'runs.csv'
  runs = t5.actual_runs()
  measured = runs.parameters('l1')
  cells = tuple(map(repr, measured.tolist()))
  others = {**runs.others, 'l1_measured_parameters': cells}
  write_runs(path, dataclasses.replace(runs, others=others))
  assert main(['fit', str(path), '--parameters', kind, '--bootstrap=40']) == 0
  lines = capsys.readouterr().out.splitlines()
  assert max(map(len, lines)) <= columns
  assert any(EFFECTIVE[kind].formula in line for line in lines)


FIT = ['fit', 'runs.csv']
COMPARE = ['compare', 'runs.csv', '--carried']
BAD_INPUT = {
  'no verb of that name': (['fti'], "invalid choice: 'fti'"),
  'flag': ([*FIT, '--colour', 'red'], 'unrecognized arguments: --colour'),
  'abbreviation': ([*FIT, '--boot', '3'], 'unrecognized arguments: --boot'),
  'no paths': (['fit'], 'PATH'),
  'file': (['fit', 'nowhere.csv'], 'nowhere.csv: no such file or directory'),
  'directory': (['fit', '.'], '.: no run: no mask_history.jsonl'),
  'suffix': ([*FIT, '--out', 'x.png'], '--out = x.png: must end in .json'),
  'place': ([*FIT, '--out', 'no/x.json'], '--out = no/x.json: no such direc'),
  'column': ([*FIT, '--column', 'tokens'], "--column 'tokens': must be NAME="),
  'expression': ([*FIT, '--column', 'loss=a.b'], "--column loss: 'a.b': not"),
  'where': ([*FIT, '--where', 'tokens'], "'tokens': must be a comparison"),
  'where name': ([*FIT, '--where', 'x > 1'], "no column 'x'; there are 'run',"),
  'all gone': ([*FIT, '--where', 'tokens < 1'], '--where leaves none'),
  'few': (
    [*FIT, '--where', 'tokens < 3e9 and sparsity == 0'],
    'runs.csv: 4 rows: a law of 5 coefficients needs at least 5, after --wh',
  ),
  'drop': ([*FIT, '--drop_highest_loss', '32'], 'must be from 0 to 31'),
  'twice': ([*FIT, './runs.csv'], 'runs.csv: is there twice'),
  'carried no value': (
    [*COMPARE, 'moment'],
    "--carried 'moment': must be COUNT=VALUE",
  ),
  'carried no number': (
    [*COMPARE, 'moment=much'],
    "--carried 'moment=much': must be COUNT=VALUE",
  ),
  'carried no count': ([*COMPARE, 'l2=1'], "carried 'l2': must be one of"),
  'carried without': ([*COMPARE, 'l1=1'], "carried 'l1': must be one of"),
  'carried far': ([*COMPARE, 'power=99'], 'carried power = 99.0: must be from'),
  'carried nan': ([*COMPARE, 'power=nan'], 'carried power = nan: must be from'),
  'carried twice': (
    [*COMPARE, 'power=2', '--carried', 'power=3'],
    "--carried 'power=3': is there twice",
  ),
  'too many': ([*FIT, '--bootstrap', '10000000000'], 'at most 100,000'),
  'tiny delta': ([*FIT, '--delta', '1e-300'], '--delta = 1e-300: must be at'),
  'no out': ([*FIT, '--out', ''], '--out: must be the name of a file'),
  'long out': ([*FIT, '--out', f'{"x" * 300}.json'], 'File name too long'),
  'out in /proc': (['fit', 'no.csv', '--out', '/proc/x.json'], '/proc/x.json'),
  'long path': (['fit', 'x' * 300], 'File name too long'),
  'no words': (['fit', '@no.args'], 'no.args: No such file'),
  'law twice': (['predict', '--law', 'E=1,E=2'], 'is there twice'),
  'level of numbers': (
    ['predict', '--law', NUMBERS, '--level', '7'],
    'level 7.0: must be',
  ),
  'huge N': (
    ['predict', '--law', NUMBERS, '--tokens=1e9', '--average_parameters=1e308'],
    'at most 1e+18',
  ),
  'huge law': (
    [
      'predict',
      '--law',
      'E=1e308,A=1e308,B=1,alpha=0,beta=1',
      '--json',
      '--tokens=1e9',
      '--average_parameters=1e9',
    ],
    'no finite loss',
  ),
  'loud': ([*SIMULATE, '--noise', '1e9'], '--noise = 1000000000.0: must be'),
  'group': ([*FIT, '--group', 'seed'], "no column 'seed'; there are"),
  'level': ([*FIT, '--level', '1'], 'level 1.0: must be between 0 and 1'),
  'delta': ([*FIT, '--delta', '-1'], 'delta -1.0: must be positive'),
  'resamples': ([*FIT, '--bootstrap', '-1'], '--bootstrap = -1: must be'),
  'kind': (
    [*FIT, '--parameters', 'all'],
    "--parameters: invalid choice: 'all'",
  ),
  'no law': (['predict', '--tokens', '1e9'], '--law'),
  'law file': (['predict', '--law', 'x.json'], '--law = x.json: no such file'),
  'law of a table': (['predict', '--law', 'runs.csv'], 'runs.csv: must be a'),
  'law numbers': (['predict', '--law', 'E=1,A=2'], 'must be A, B, E, alpha'),
  'half a point': (['predict', '--law', NUMBERS, '--tokens', '1e9'], 'both'),
  'no point': (['predict', '--law', NUMBERS], 'nothing to predict'),
  'count': (
    ['predict', '--law', NUMBERS, '--tokens', '1.5'],
    "'1.5': must be a whole number above 0",
  ),
  'nothing to average': (['average'], 'give workdirs, or the flags'),
  'both': (['average', '.', '--sparsity', '0.5'], 'give workdirs, or the'),
  'half a schedule': (['average', '--sparsity', '0.5'], '--linear_parameters'),
  'sparsity': (
    [*SIMULATE, '--sparsity', '1'],
    '--sparsity = 1.0: must be in [0, 1)',
  ),
  'noise': ([*SIMULATE, '--noise', '-1'], 'noise -1.0: must be finite'),
  'seed': ([*SIMULATE, '--seed', '-1'], '--seed = -1: must be'),
}
SCHEDULE = ['average', '--linear_parameters', '1e9', '--sparsity', '0.5']
BAD_SCHEDULES = {
  'no length': ([], '--steps, --dense_steps: give one'),
  'two lengths': (['--steps=9', '--dense_steps=9'], 'give one of them'),
  'start': (['--steps=900', '--start=0.8'], '--start = 0.8: must be at most'),
  'ramp': (['--steps=50'], 'every 50: must be at most'),
  'one shot': (['--steps=900', '--schedule=one_shot'], 'must be equal for'),
  'table': (['--steps=900', '--out=x.csv'], '--out = x.csv: a plan has no'),
}


@pytest.mark.parametrize('case', BAD_INPUT)
def test_bad_input_is_one_line(case, refused, runs_file, monkeypatch):
  monkeypatch.chdir(runs_file.parent)
  arguments, words = BAD_INPUT[case]
  assert words in refused(*arguments)
  assert [path.name for path in runs_file.parent.iterdir()] == ['runs.csv']


@pytest.mark.parametrize('case', BAD_SCHEDULES)
def test_a_schedule_that_cannot_be_is_one_line(case, refused):
  arguments, words = BAD_SCHEDULES[case]
  assert words in refused(*SCHEDULE, *arguments)


@pytest.mark.parametrize(
  'text', ['[]', '{}', '{"law": 3}', '{"law": {"E": 1}}', 'null', '{']
)
def test_a_file_that_is_no_fit_is_named(refused, tmp_path, text):
  path = tmp_path / 'fit.json'
  path.write_text(text)
  assert f'--law = {path}: must be a file that fit' in refused(
    'predict', '--law', path
  )


ALTERED = {
  'kind': 'other',
  'resampling': 'other',
  'resampling n_resamples': 'x',
  'resampling seed': -1,
  'resampling groups': 5,
  'objective': 0.5,
  'law E': 50.0,
  'delta': 0.1,
}


@pytest.mark.parametrize('keys', ALTERED)
def test_a_fit_that_was_altered_is_named(refused, fit_file, keys):
  values = json.loads(fit_file.read_text())
  first, *rest = keys.split()
  inner = values if not rest else values[first]
  inner[(rest or [first])[0]] = ALTERED[keys]
  fit_file.write_text(json.dumps(values))
  name = 'objective' if first in ('law', 'delta') else first
  line = refused(
    *('predict', '--law', fit_file, '--tokens=1e9', '--average_parameters=1e8')
  )
  assert f'--law = {fit_file}: ' in line and f'{name} ' in line


@pytest.mark.parametrize(
  ('key', 'value'),
  [('steps', '20'), ('steps', 10**30), ('mean_density', -1.0)],
)
def test_a_plan_that_cannot_be_is_named(refused, tmp_path, key, value):
  workdir = write_run(tmp_path / 'run')
  plan = {'steps': STEPS, 'mean_density': 0.5, key: value}
  (workdir / 'config.json').write_text(json.dumps({'plan': plan}))
  words = f'config.json: plan.{key} = {value!r}'
  assert words in refused('predict', '--law', NUMBERS, workdir)


@pytest.mark.parametrize('text', [b'\xff\xfe', b'fit "runs.csv\n'])
def test_a_bad_file_of_arguments_is_named(refused, tmp_path, text):
  path = tmp_path / 'some.args'
  path.write_bytes(text)
  assert f'@{path}: no file of arguments' in refused(f'@{path}')


def test_a_link_stays_one_when_it_is_written(run, tmp_path):
  (tmp_path / 'data').mkdir()
  link, target = tmp_path / 'runs.csv', tmp_path / 'data' / 'runs.csv'
  link.symlink_to(target)
  run(*SIMULATE, '--out', link)
  assert link.is_symlink() and len(load_runs(target)) == 32
  assert [each.name for each in target.parent.iterdir()] == ['runs.csv']


@pytest.mark.parametrize('columns', [80, 120])
def test_tables_fit_the_terminal(run, tmp_path, fit_file, columns, monkeypatch):
  monkeypatch.setenv('COLUMNS', str(columns))
  name = 'a_run_with_a_name_that_says_' + 'all_of_' * 10 + 'its_config'
  for i in range(2):
    write_run(tmp_path / 'sweep' / f'{name}{i}')
  many, one = (
    run('average', tmp_path / 'sweep' / path) for path in ('', f'{name}0')
  )
  predicted = run('predict', '--law', NUMBERS, tmp_path / 'sweep')
  fitted = run('fit', fit_file.with_name('runs.csv'), '--bootstrap', 9)
  for text in (many, one, predicted, fitted):
    assert max(map(len, text.splitlines())) <= columns
  # The wide terminal shows more of it.
  [first, _] = re.findall(r'^a_run\S+', many, re.MULTILINE)
  assert first.endswith('config0') and len(first) > columns - 66


def test_runs_can_come_through_a_pipe(runs_file):
  command = (
    f'cat {runs_file} | {sys.executable} -m jax_sparse_pretrain.analysis fit '
    '/dev/stdin --bootstrap 0 --json'
  )
  text = subprocess.check_output(command, shell=True, cwd=ROOT)
  assert len(json.loads(text)['loss']) == 32


def test_text_is_cut_in_its_middle():
  assert tables.cut('abcdefgh', 8) == 'abcdefgh'
  assert tables.cut('abcdefgh', 7) == 'abc..gh'


def test_a_reader_that_goes_away_is_no_failure():
  reading, writing = os.pipe()
  os.close(reading)
  command = [sys.executable, '-m', 'jax_sparse_pretrain.analysis', *SIMULATE]
  done = subprocess.run(
    command, stdout=writing, stderr=subprocess.PIPE, cwd=ROOT
  )
  os.close(writing)
  assert done.returncode == 0 and done.stderr == b''
