import csv
import dataclasses
import pathlib

import numpy as np
import pytest
from written import COUNTS, DENSE, STEPS, TOKENS_PER_STEP, per_step, write_run

from jax_sparse_pretrain.analysis import load_runs, write_runs
from jax_sparse_pretrain.analysis.csv_table import evaluate
from jax_sparse_pretrain.analysis.runs_table import COLUMNS, NUMBERS

PUBLISHED = pathlib.Path(__file__).parents[1] / 'published_runs'
T5 = {
  'initial_parameters': 'scale * 169869312',
  'average_parameters': 'initial_parameters * (1 - 0.625 * sparsity)',
  'final_parameters': 'initial_parameters * (1 - sparsity)',
  'tokens': 'steps * 128 * 512',
  'loss': "'val-loss'",
}
CHINCHILLA = {
  'parameters': "'Model Size'",
  'tokens': "'Training FLOP' / (6 * parameters)",
}
HEADER = ','.join(COLUMNS)
ROWS = [
  'dense,1e6,1e6,1e6,0,2e7,3.5',
  'sparse,600000,1e6,200000,0.8,3e7,3.25',
]


def table(tmp_path, rows=ROWS, header=HEADER, name='runs.csv'):
  path = tmp_path / name
  path.write_text('\n'.join([header, *rows]) + '\n')
  return path


def assert_equal(a, b):
  assert a.run == b.run and a.others == b.others
  for name in NUMBERS:
    np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


def test_a_table_is_read_as_it_is_written(tmp_path):
  runs = load_runs(table(tmp_path))
  assert runs.run == ('dense', 'sparse') and len(runs) == 2
  assert runs.parameters().tolist() == [1e6, 6e5]
  assert runs.parameters('final').tolist() == [1e6, 2e5]
  assert runs.parameters('initial').tolist() == [1e6, 1e6]
  assert runs.sparsity.tolist() == [0, 0.8]
  assert runs.tokens.tolist() == [2e7, 3e7]
  assert runs.loss.tolist() == [3.5, 3.25]


def test_what_is_written_is_read_to_the_bit(tmp_path):
  path = table(tmp_path, [f'{row},s{i}' for i, row in enumerate(ROWS)],
               f'{HEADER},seed')  # fmt: skip
  runs = load_runs(path)
  odd = dataclasses.replace(
    runs,
    average_parameters=np.array([1e6 - 1 / 3, 0.1 + 6e5]),
    initial_parameters=np.array([np.nan, 1e6]),
    loss=np.array([np.pi, 0.1 + 0.2]),
  )
  write_runs(tmp_path / 'again.csv', odd)
  assert_equal(load_runs(tmp_path / 'again.csv'), odd)


def test_spreadsheets_may_add_a_mark_spaces_and_empty_lines(tmp_path):
  plain = load_runs(table(tmp_path))
  lines = [' , '.join(row.split(',')) for row in (HEADER, *ROWS)]
  path = tmp_path / 'sheet.csv'
  path.write_bytes(b'\xef\xbb\xbf' + '\r\n\r\n'.join(lines).encode())
  assert_equal(load_runs(path), plain)


def test_n_d_and_loss_are_enough_and_nothing_is_made_up(tmp_path):
  path = table(
    tmp_path, ['1e6,2e7,3.5', '2e6,2e7,3.4'], 'parameters,tokens,loss'
  )
  runs = load_runs(path)
  assert runs.parameters().tolist() == [1e6, 2e6]
  assert runs.run == (f'{path}:2', f'{path}:3')
  for kind in ('final', 'initial'):
    with pytest.raises(ValueError, match=f'{kind}_parameters: not known of 2'):
      runs.parameters(kind)
  with pytest.raises(ValueError, match='must be one of'):
    runs.parameters('total')


def published(name):
  with open(PUBLISHED / name) as file:
    rows = list(csv.DictReader(file))
  return {k: [row[k] for row in rows] for k in rows[0]}


def test_the_published_t5_runs_follow_from_their_columns():
  raw = published('t5_c4_sparse_runs.csv')
  runs = load_runs(PUBLISHED / 't5_c4_sparse_runs.csv', columns=T5)
  s, scale, steps = (
    np.array(raw[name], float) for name in ('sparsity', 'scale', 'steps')
  )
  assert len(runs) == 48
  np.testing.assert_array_equal(runs.initial_parameters, scale * 169869312)
  average = runs.initial_parameters * (1 - 0.625 * s)
  np.testing.assert_allclose(runs.parameters(), average, rtol=1e-15)
  np.testing.assert_array_equal(runs.tokens, steps * 65536)
  np.testing.assert_array_equal(runs.loss, np.array(raw['val-loss'], float))
  np.testing.assert_array_equal(runs.sparsity, s)


def test_the_published_chinchilla_runs_are_240_without_the_highest():
  raw = published('chinchilla_figure4_runs.csv')
  path = PUBLISHED / 'chinchilla_figure4_runs.csv'
  runs = load_runs(path, columns=CHINCHILLA, drop_highest_loss=5)
  loss = np.array(raw['loss'], float)
  keep = loss < np.sort(loss)[-5]
  assert len(runs) == keep.sum() == 240
  np.testing.assert_array_equal(runs.loss, loss[keep])
  n, flop = (
    np.array(raw[name], float)[keep] for name in ('Model Size', 'Training FLOP')
  )
  np.testing.assert_allclose(runs.tokens, flop / 6 / n, rtol=1e-14)


def test_runs_can_be_picked_by_what_they_are():
  path = PUBLISHED / 't5_c4_sparse_runs.csv'
  everything = load_runs(path, columns=T5)
  dense = load_runs(path, columns=T5, where=['sparsity == 0', 'scale > 0.02'])
  scale = np.array(everything.labels('scale'), float)
  mask = (everything.sparsity == 0) & (scale > 0.02)
  assert 0 < mask.sum() < 48
  assert_equal(dense, everything.select(mask))
  with pytest.raises(ValueError, match='leaves none'):
    load_runs(path, columns=T5, where='sparsity > 2')


def test_a_workdir_gives_what_its_history_counts(tmp_path):
  runs = load_runs(write_run(tmp_path / 'sparse', eval_loss=2.25))
  assert runs.run == ('sparse',)
  assert runs.parameters().item() == per_step().mean()
  assert runs.parameters('initial').item() == DENSE
  assert runs.parameters('final').item() == COUNTS[-1][1]
  assert runs.tokens.item() == STEPS * TOKENS_PER_STEP
  assert runs.loss.item() == 2.25


def test_tables_and_directories_of_workdirs_come_together(tmp_path):
  for name in ('b', 'a', 'deep/er'):
    write_run(tmp_path / 'sweep' / name)
  (tmp_path / 'sweep' / 'notes').mkdir()
  runs = load_runs(tmp_path / 'sweep', table(tmp_path))
  assert runs.run == ('a', 'b', 'deep/er', 'dense', 'sparse')
  assert runs.parameters('final').tolist() == [2e4] * 3 + [1e6, 2e5]


def test_nothing_inside_a_workdir_is_another_run(tmp_path):
  workdir = write_run(tmp_path / 'run')
  write_run(workdir / 'checkpoints' / 'copy')
  assert load_runs(tmp_path).run == ('run',)


def test_an_unfinished_run_must_be_asked_for(tmp_path):
  write_run(tmp_path / 'run', completed=False)
  with pytest.raises(ValueError, match='summary.json: an unfinished run'):
    load_runs(tmp_path)
  assert len(load_runs(tmp_path, unfinished=True)) == 1


def test_a_run_without_an_evaluation_is_refused(tmp_path):
  write_run(tmp_path / 'run', eval_loss=None)
  with pytest.raises(ValueError, match='summary.json: eval_loss = None'):
    load_runs(tmp_path)


@pytest.mark.parametrize('loss', [float('nan'), float('inf'), 'low', True])
def test_a_loss_of_a_workdir_must_be_a_number(tmp_path, loss):
  write_run(tmp_path / 'run', eval_loss=loss)
  with pytest.raises(ValueError, match='summary.json: eval_loss = .*finite'):
    load_runs(tmp_path)


def test_an_unfinished_run_without_a_loss_is_left_out_by_name(tmp_path):
  write_run(tmp_path / 'a')
  write_run(tmp_path / 'b', eval_loss=None, completed=False)
  with pytest.warns(UserWarning, match='b: left out: not evaluated yet'):
    assert load_runs(tmp_path, unfinished=True).run == ('a',)


def test_a_run_from_another_model_is_left_out_unless_asked_for(tmp_path):
  write_run(tmp_path / 'sweep' / 'a', init_from='')
  write_run(tmp_path / 'sweep' / 'b', init_from='gs://models/base')
  write_run(tmp_path / 'sweep' / 'c')
  why = "1 of 3 runs, which .*init_from.* 'b'; --include_continued keeps"
  with pytest.warns(UserWarning, match=why) as said:
    assert load_runs(tmp_path / 'sweep').run == ('a', 'c')
  assert [each.filename for each in said] == [__file__]
  runs = load_runs(tmp_path / 'sweep', include_continued=True)
  assert runs.run == ('a', 'b', 'c')
  assert runs.others == {'init_from': ('', 'gs://models/base', '')}
  assert runs.continued.tolist() == [False, True, False]
  with pytest.raises(ValueError, match='no runs: all began.*--include_cont'):
    load_runs(tmp_path / 'sweep' / 'b')


def test_a_written_table_still_knows_where_its_runs_began(tmp_path):
  write_run(tmp_path / 'b', init_from='base')
  path = table(tmp_path)
  runs = load_runs(path, tmp_path / 'b', include_continued=True)
  assert runs.others == {'init_from': ('', '', 'base')}
  write_runs(tmp_path / 'again.csv', runs)
  again = load_runs(tmp_path / 'again.csv', include_continued=True)
  assert_equal(again, runs)
  with pytest.warns(UserWarning, match='left out: 1 of 3 runs'):
    ordinary = load_runs(tmp_path / 'again.csv')
  assert ordinary.run == ('dense', 'sparse')
  assert ordinary.fingerprint == load_runs(path).fingerprint


def test_where_and_the_highest_losses_are_of_the_runs_that_are_kept(tmp_path):
  rows = [f'{ROWS[0]},', f'{ROWS[1]},', 'tuned,1e6,1e6,1e6,0,2e7,9,base']
  path = table(tmp_path, rows, f'{HEADER},init_from')
  with pytest.warns(UserWarning, match='left out'):
    assert load_runs(path, drop_highest_loss=1).run == ('sparse',)
  # No warning of a run that would not have been there.
  assert load_runs(path, where='loss < 5').run == ('dense', 'sparse')
  assert load_runs(path, drop_highest_loss=1, include_continued=True).run == (
    'dense',
    'sparse',
  )


def test_runs_from_random_weights_get_no_new_column(tmp_path):
  write_run(tmp_path / 'a', init_from='')
  write_run(tmp_path / 'b')
  assert load_runs(tmp_path, include_continued=True).others == {}
  seeds = table(tmp_path, [f'{row},0' for row in ROWS], f'{HEADER},seed')
  write_runs(tmp_path / 'again.csv', load_runs(seeds))
  header = (tmp_path / 'again.csv').read_text().splitlines()[0]
  assert header == f'{HEADER},seed'


def test_no_run_is_counted_twice(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  path = table(tmp_path, ['1e6,2e7,3.5'], 'parameters,tokens,loss')
  with pytest.raises(ValueError, match=f'{path}: is there twice'):
    load_runs('runs.csv', './runs.csv')
  workdir = write_run(tmp_path / 'sweep' / 'deep' / 'er')
  with pytest.raises(ValueError, match=f'{workdir}: is there twice'):
    load_runs('sweep', 'sweep/deep/er')


def test_runs_of_one_name_are_told_how_to_get_two(tmp_path):
  for name in ('a/seed0', 'b/seed0'):
    write_run(tmp_path / name)
  with pytest.raises(ValueError, match='twice.*the directory above both'):
    load_runs(tmp_path / 'a', tmp_path / 'b')
  assert load_runs(tmp_path).run == ('a/seed0', 'b/seed0')


def test_a_derived_column_that_nothing_uses_is_said(tmp_path):
  path = table(tmp_path)
  with pytest.warns(UserWarning, match='--column token: nothing uses it'):
    load_runs(path, columns={'token': 'tokens * 2'})
  columns = {'ratio': 'tokens / initial_parameters', 'half': 'loss / 2'}
  load_runs(path, columns={**columns, 'loss': 'half'}, where='ratio > 1')


UNITS = [
  ('1e8', '2000', "'tokens = tokens * 1e6'"),
  ('1e8', '30000', "'tokens = tokens * 1e6'"),
  ('1e8', '9e5', 'tokens: 900000: hardly any for the N'),
  ('100', '2e9', "'parameters = parameters * 1e6'"),
  ('1e308', '2e9', 'parameters: 1e+308: must be at most 1e+16'),
  ('1e8', '1e17', 'tokens: 1e+17: must be at most 1e+16'),
]


@pytest.mark.parametrize(('n', 'd', 'words'), UNITS)
def test_units_are_checked_and_the_column_is_named(tmp_path, n, d, words):
  path = table(tmp_path, [f'{n},{d},3.5'], 'parameters,tokens,loss')
  with pytest.raises(ValueError) as error:
    load_runs(path)
  assert words in str(error.value)


def test_the_fingerprint_is_that_of_the_numbers(tmp_path):
  runs = load_runs(table(tmp_path))
  renamed = dataclasses.replace(runs, run=('a', 'b'))
  assert renamed.fingerprint == runs.fingerprint
  prints = {runs.fingerprint}
  for name in NUMBERS:
    values = getattr(runs, name).copy()
    values[1] = np.nextafter(values[1], 0)
    changed = dataclasses.replace(runs, **{name: values})
    prints.add(changed.fingerprint)
  assert len(prints) == 1 + len(NUMBERS)


def changed(column, value):
  cells = dict(zip(COLUMNS, ROWS[1].split(','), strict=True))
  return [ROWS[0], ','.join({**cells, column: value}.values())]


BAD_CELLS = {
  ('loss', ''): 'nothing is not a number',
  ('loss', 'low'): "'low' is not a number",
  ('loss', 'nan'): 'nan is not finite',
  ('loss', '-inf'): '-inf is not finite',
  ('loss', '0'): '0: must be above 0',
  ('loss', '25.3'): 'nats per token, not a perplexity',
  ('tokens', '-3e7'): 'must be above 0',
  ('tokens', '1.4'): '1.4: expected a count, not thousands, millions or',
  ('average_parameters', '70'): 'expected a count',
  ('average_parameters', '1.2e6'): 'must lie between final_parameters and',
  ('average_parameters', '1.9e5'): 'must lie between final_parameters and',
  ('sparsity', '1'): 'must be in [0, 1)',
  ('sparsity', '-0.1'): 'must be in [0, 1)',
  ('run', 'dense'): "'dense' is there twice, first at",
  ('run', ' '): 'has no name',
  ('sparsity', '0.2'): 'must be 1 - final_parameters / initial_parameters',
}


@pytest.mark.parametrize('cell', BAD_CELLS, ids=lambda cell: '='.join(cell))
def test_a_bad_cell_is_named_by_file_row_and_column(tmp_path, cell):
  path = table(tmp_path, changed(*cell))
  with pytest.raises(ValueError) as error:
    load_runs(path)
  message = str(error.value)
  assert message.startswith(f'{path}, row 3, {cell[0]}: ')
  assert BAD_CELLS[cell] in message


BAD_FILES = {
  '': 'is empty',
  '\n\n': 'is empty',
  HEADER: 'names columns but has no rows',
  f'{HEADER}\na,1e6,1e6': 'row 2: 3 cells, but 7 columns',
  'run,tokens,tokens\na,1,2': "column 'tokens' is there twice",
  'run;tokens;loss\na;1;2': 'must be separated by commas',
  'tokens,loss\n1e7,3': 'no column average_parameters (or parameters)',
  'parameters,tokens\n1e6,1e7': "no column loss; there are 'parameters', 'tok",
  'parameters,loss\n1e6,3': 'no column tokens',
  f'{HEADER}\n"a\nb,1\n': 'not CSV',
}


@pytest.mark.parametrize('text', BAD_FILES, ids=lambda text: repr(text[:20]))
def test_a_file_that_is_no_table_of_runs_is_named(tmp_path, text):
  path = tmp_path / 'bad.csv'
  path.write_text(text)
  with pytest.raises(ValueError) as error:
    load_runs(path)
  message = str(error.value)
  assert message.startswith(str(path)) and BAD_FILES[text] in message


def test_a_picture_is_no_table(tmp_path):
  path = tmp_path / 'runs.csv'
  path.write_bytes(b'\x89PNG\xff\x00')
  with pytest.raises(ValueError, match='not a CSV file'):
    load_runs(path)


@pytest.mark.parametrize('n', [-1, 2, 9])
def test_some_run_must_be_left(tmp_path, n):
  with pytest.raises(ValueError, match='drop_highest_loss'):
    load_runs(table(tmp_path), drop_highest_loss=n)


COLUMN = {
  'a': np.array([1.0, 2, -3]),
  'b': np.array([0.5, 0, 4]),
  'c d': np.array([7.0, 8, 9]),
}


@pytest.mark.parametrize(
  'expression',
  [
    'a + b * 3 - -2',
    '(a + b) ** 2 / 4e0',
    'a ** 2 ** b',
    '+a - (b - 1)',
    'a < b',
    'not (a >= 2) and b != 0 or a == 1',
    '3',
  ],
)
def test_expressions_mean_what_they_mean_in_python(expression):
  rows = [
    eval(expression, {'a': float(a), 'b': float(b)})
    for a, b in zip(COLUMN['a'], COLUMN['b'], strict=True)
  ]
  found = np.broadcast_to(evaluate(expression, COLUMN.__getitem__), 3)
  np.testing.assert_allclose(found, rows, rtol=1e-15)


def test_quotes_name_columns_with_spaces():
  found = evaluate(' 2 * \'c d\' / "a"', COLUMN.__getitem__)
  np.testing.assert_array_equal(found, 2 * COLUMN['c d'] / COLUMN['a'])


@pytest.mark.parametrize(
  'expression',
  [
    '',
    'a +',
    'a b',
    'a; b',
    'abs(a)',
    'a.shape',
    'a[0]',
    '__import__("os")',
    '(lambda: a)()',
    '[a for a in b]',
    'a if b else a',
    'a @ b',
    'a // b',
    'a % b',
    'a & b',
    '1j * a',
    "f'{a}'",
    '0 < a < 2',
    'a := 3',
    'True and a',
    'a\x00',
  ],
)
def test_nothing_but_arithmetic_is_run(expression):
  with pytest.raises(ValueError, match='numbers, column names'):
    evaluate(expression, COLUMN.__getitem__)


def test_an_expression_cannot_hang():
  assert evaluate('9 ** 9 ** 9 ** 9', COLUMN.__getitem__) == np.inf
  assert evaluate('1' + '0' * 400, COLUMN.__getitem__) == np.inf


def test_a_column_that_an_expression_makes_infinite_is_named(tmp_path):
  path = table(tmp_path)
  with pytest.raises(ValueError, match='row 2, tokens: inf: must be finite'):
    load_runs(path, columns={'tokens': '1e7 / sparsity'})
  with pytest.raises(ValueError, match="--column tokens: .*no column 'step'"):
    load_runs(path, columns={'tokens': 'step * 4'})


def test_a_column_can_be_put_into_other_units(tmp_path):
  header = 'parameters,tokens,loss'
  path = table(tmp_path, ['0.07,1.4,3.5', '0.4,8,3.0'], header)
  columns = {'parameters': 'parameters * 1e9', 'tokens': 'tokens * 1e9'}
  runs = load_runs(path, columns=columns)
  np.testing.assert_allclose(runs.parameters(), [7e7, 4e8], rtol=1e-15)
  np.testing.assert_allclose(runs.tokens, [1.4e9, 8e9], rtol=1e-15)
