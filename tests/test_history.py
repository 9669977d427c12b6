"""The file of the mask history: exact, checked line by line, durable."""

import json
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest

from jax_sparse_pretrain import history

HEADER = history.Header(
  linear_parameters=100,
  total_parameters=130,
  tokens_per_step=8,
  layers={'a/kernel': 60, 'b/kernel': 40},
)
ROWS = [
  history.Row(0, 100, {'a/kernel': 60, 'b/kernel': 40}),
  history.Row(3, 70, {'a/kernel': 50, 'b/kernel': 20}),
  history.Row(7, 20, {'a/kernel': 15, 'b/kernel': 5}),
]


@pytest.fixture
def path(tmp_path):
  file = tmp_path / 'mask_history.jsonl'
  history.write(file, HEADER)
  for row in ROWS:
    history.append(file, row)
  return file


def test_what_is_written_is_read(path):
  assert history.read(path) == history.History(HEADER, ROWS)


def test_a_row_is_on_disk_when_append_returns(path, monkeypatch):
  really_sync, synced = os.fsync, []

  def fsync(descriptor):
    really_sync(descriptor)
    assert os.path.sameopenfile(descriptor, reader.fileno())
    synced.append(path.read_text())

  monkeypatch.setattr(os, 'fsync', fsync)
  with open(path) as reader:
    history.append(path, history.Row(9, 5, {'a/kernel': 5, 'b/kernel': 0}))
  # The whole row had left this process before it was synced.
  assert synced == [path.read_text()]
  assert synced[0].endswith('"b/kernel": 0}}\n')


def test_a_file_is_replaced_whole_or_not_at_all(path):
  """The disk is full half way: no file may have more than 500 bytes."""
  code = (
    'import resource, sys\n'
    'from jax_sparse_pretrain import history\n'
    'past = history.read(sys.argv[1])\n'
    'resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))\n'
    'history.write(sys.argv[1], past.header, 9 * past.rows)'
  )
  before = path.read_bytes()
  assert 250 < len(before) < 500
  command = [sys.executable, '-c', code, path]
  done = subprocess.run(command, capture_output=True, text=True)
  assert 'File too large' in done.stderr
  assert path.read_bytes() == before


@pytest.mark.parametrize('steps', [1, 3, 4, 7, 8, 50])
def test_the_average_is_the_mean_over_steps(path, steps):
  nonzero = np.repeat([100, 70, 20], [3, 4, 50])[:steps]
  assert history.read(path).average_parameters(steps) == nonzero.mean()


def test_the_average_is_exact_beyond_double_precision():
  n = 2**53 + 1
  rows = [history.Row(0, n, {'a': n}), history.Row(1, 1, {'a': 1})]
  header = history.Header(n, n, 1, {'a': n})
  assert history.History(header, rows).average_parameters(2) == 2**52 + 1


@pytest.mark.parametrize(
  'step, n_rows', [(1, 1), (3, 1), (4, 2), (7, 2), (8, 3), (99, 3)]
)
def test_truncation_keeps_what_a_run_of_that_many_steps_has_used(
  path, step, n_rows
):
  history.truncate(path, step)
  assert list(history.read(path).rows) == ROWS[:n_rows]


def test_a_torn_last_line_is_ignored_with_a_warning(path):
  with open(path, 'a') as file:
    file.write('{"step": 9, "nonz')
  with pytest.warns(UserWarning, match='torn last line'):
    assert list(history.read(path).rows) == ROWS
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    history.truncate(path, 99)
  assert list(history.read(path).rows) == ROWS


def row(step=9, nonzero=10, by_leaf=None):
  by_leaf = {'a/kernel': 10, 'b/kernel': 0} if by_leaf is None else by_leaf
  return json.dumps({'step': step, 'nonzero': nonzero, 'by_leaf': by_leaf})


@pytest.mark.parametrize(
  'line',
  [
    'not json',
    '[]',
    '{}',
    row(step=7),
    row(step=3),
    row(by_leaf=[10]),
    row(step=9.0),
    row(nonzero=11),
    row(by_leaf={'a/kernel': 10}),
    row(by_leaf={'a/kernel': -1, 'b/kernel': 11}),
    row(by_leaf={'a/kernel': 61, 'b/kernel': 0}, nonzero=61),
    row(by_leaf={'a/kernel': 10.0, 'b/kernel': 0}),
    row(nonzero=10.0),
  ],
)
def test_a_malformed_line_is_named(path, line):
  with open(path, 'a') as file:
    file.write(line + '\n')
  with pytest.raises(ValueError, match='line 5'):
    history.read(path)


@pytest.mark.parametrize(
  'line',
  [
    '',
    '{"version": 1}',
    json.dumps({**vars(HEADER), 'version': 3}),
    json.dumps({**vars(HEADER), 'linear_parameters': 99}),
    json.dumps({**vars(HEADER), 'tokens_per_step': 0}),
    json.dumps({**vars(HEADER), 'tokens_per_step': '128'}),
    json.dumps({**vars(HEADER), 'linear_parameters': 100.0}),
    json.dumps({**vars(HEADER), 'total_parameters': None}),
    json.dumps({**vars(HEADER), 'layers': [60, 40]}),
  ],
)
def test_a_malformed_header_is_named(tmp_path, line):
  path = tmp_path / 'mask_history.jsonl'
  path.write_text(line + '\n')
  with pytest.raises(ValueError, match='line 1'):
    history.read(path)


def test_a_file_that_is_no_text_is_named(tmp_path):
  path = tmp_path / 'mask_history.jsonl'
  path.write_bytes(b'\xff\xfe\n')
  with pytest.raises(ValueError, match='mask_history.jsonl: is not text'):
    history.read(path)


def test_an_empty_file_has_no_header(tmp_path):
  path = tmp_path / 'mask_history.jsonl'
  path.touch()
  with pytest.raises(ValueError, match='header is missing'):
    history.read(path)


def test_the_first_row_must_be_that_of_step_0(tmp_path):
  path = tmp_path / 'mask_history.jsonl'
  history.write(path, HEADER)
  history.append(path, ROWS[1])
  with pytest.raises(ValueError, match='line 2'):
    history.read(path)
