"""The end-of-run table: the right numbers, beside the right words."""

import re

import pytest

from jax_sparse_pretrain.training.progress import end_of_run_table

N, N_AVG, N_END = 41_549_824, 31_789_770.3, 24_929_894
TOKENS = 6_842_000_000
SPARSE = {
  'steps': 13_050,
  'tokens': TOKENS,
  'eval_loss': 2.4131,
  'unigram_loss': 7.1234,
  'train_loss': 2.3981,
  'linear_parameters': N,
  'total_parameters': 57_940_480,
  'final_parameters': N_END,
  'average_parameters': N_AVG,
  'sparsity': 0.4,
  'compute_flops': 6 * N_AVG * TOKENS,
  'dense_equivalent_tokens': TOKENS * N_AVG / N,
  'wall_seconds': 8050.0,
  'tokens_per_second': 851_100.4,
  'completed': True,
}
DENSE = SPARSE | {
  'final_parameters': N,
  'average_parameters': float(N),
  'sparsity': 0.0,
  'dense_equivalent_tokens': TOKENS,
  'compute_flops': 6 * N * TOKENS,
}


def rows(text):
  """[label, value, remark] of each line, split at runs of spaces."""
  return [re.split(r' {2,}', line.strip()) for line in text.splitlines()]


def test_the_table_holds_exact_counts_and_their_shares():
  table = rows(end_of_run_table(SPARSE))
  assert ['Linear parameters', '41,549,824', 'at the start, dense'] in table
  assert ['average', '31,789,770', '76.5% of dense'] in table
  assert ['at the end', '24,929,894', '60.0% of dense'] in table
  assert ['All parameters', '57,940,480', 'with embedding and norms'] in table
  assert ['at the end', '41,320,550'] in table  # 57,940,480 - 16,619,930


def test_the_loss_stands_beside_its_baseline():
  table = rows(end_of_run_table(SPARSE))
  assert ['Evaluation loss', '2.4131', 'nats per token'] in table
  gap = 'the model is 4.7103 nats below it'
  assert ['unigram baseline', '7.1234', gap] in table
  assert ['Training loss', '2.3981'] in table


@pytest.mark.parametrize('share, remark', [(0.04, []), (0.06, [
  'of the time; more data.prefetch may help'
])])  # fmt: skip
def test_time_spent_waiting_for_data_is_told_and_explained(share, remark):
  table = rows(end_of_run_table(SPARSE | {'data_seconds': share * 8050.0}))
  assert ['Waiting for data', f'{share:.1%}', *remark] in table


def test_a_model_worse_than_its_baseline_is_called_that():
  table = end_of_run_table(SPARSE | {'eval_loss': 7.5})
  assert 'the model is 0.3766 nats ABOVE it' in table


def test_the_table_holds_the_cost():
  table = rows(end_of_run_table(SPARSE))
  assert ['Tokens', '6,842,000,000'] in table
  # 6,842,000,000 * 31,789,770.3 / 41,549,824
  equal = 'of the dense model, at equal compute'
  assert ['equivalent', '5,234,814,193', equal] in table
  assert ['Compute', '1.305e+18', 'FLOPs, 6 N_avg D'] in table
  assert ['Speed', '851,100', 'tokens per second'] in table


def test_the_title_says_how_it_ended():
  title = end_of_run_table(SPARSE).splitlines()[0]
  assert title == 'Finished: 13,050 steps in 2h14m, 40.0% sparse'
  stopped = end_of_run_table(SPARSE | {'completed': False})
  assert stopped.startswith('Stopped before the end: 13,050 steps')


def test_a_dense_run_is_not_compared_with_itself():
  table = end_of_run_table(DENSE)
  assert 'in 2h14m, dense\n' in table
  assert re.search(r'Linear parameters +41,549,824  dense throughout\n', table)
  for absent in ('average', 'equivalent', '%'):
    assert absent not in table


def test_a_loss_that_is_not_known_is_said_to_be():
  summary = SPARSE | {'eval_loss': None}
  table = end_of_run_table(summary)
  assert re.search(r'Evaluation loss +not measured', table)
  del summary['unigram_loss']
  assert 'baseline' not in end_of_run_table(summary)


LARGE = SPARSE | {
  'linear_parameters': 1_139_277_824,
  'total_parameters': 1_204_881_408,
  'tokens': 15_000_000_000_000,
  'dense_equivalent_tokens': 15e12,
}


@pytest.mark.parametrize('summary', [SPARSE, DENSE, LARGE])
def test_the_table_fits_80_columns_and_is_plain(summary):
  table = end_of_run_table(summary)
  assert max(map(len, table.splitlines())) <= 80
  assert table.isascii()
  assert not any(line.endswith(' ') for line in table.splitlines())


def test_values_line_up_at_the_right():
  _, _, *lines, _ = end_of_run_table(SPARSE).splitlines()
  values = [re.search(r'  ([\d.,e+]+)(?=  |$)', line) for line in lines if line]
  assert len({value.end() for value in values}) == 1


def test_the_path_of_the_files_can_be_copied():
  path = '/runs/' + 'a long name/' * 20
  *_, last = end_of_run_table(SPARSE, path).splitlines()
  assert last == f'Files: {path}'
