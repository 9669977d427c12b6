"""Metrics reach their readers: json, TensorBoard itself, wandb's own file."""

import json
import sys

import numpy as np
import pytest

from jax_sparse_pretrain import config
from jax_sparse_pretrain.runs import sinks

NO_TENSORBOARD = config.Logging(tensorboard=False)


def read_lines(path):
  # Strict: refuses the NaN and Infinity that Python's parser lets through.
  def refuse(constant):
    raise ValueError(f'{constant} is not JSON')

  lines = path.read_text().splitlines()
  return [json.loads(line, parse_constant=refuse) for line in lines]


def read_scalars(directory):
  """What TensorBoard shows: {tag: [(step, value), ...]}."""
  accumulators = pytest.importorskip(
    'tensorboard.backend.event_processing.event_accumulator'
  )
  events = accumulators.EventAccumulator(str(directory)).Reload()
  return {
    tag: [(event.step, event.value) for event in events.Scalars(tag)]
    for tag in events.Tags()['scalars']
  }


def write_steps(opened, steps, offset=0.0):
  for step in steps:
    for sink in opened:
      sink.write(step, {'train_loss': step + offset})
  for sink in opened:
    sink.close()


def test_json_lines_appends_one_object_a_step(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_text('{"step": 1}\n')
  sink = sinks.JsonLines(path)
  sink.write(2, {'train_loss': 2.5, 'tokens': 64})
  expected = [{'step': 1}, {'step': 2, 'train_loss': 2.5, 'tokens': 64}]
  assert read_lines(path) == expected  # before `close`: a kill loses nothing
  sink.close()


def test_json_lines_keeps_large_counts_exact(tmp_path):
  sink = sinks.JsonLines(tmp_path / 'm')
  sink.write(1, {'tokens': 2**53 + 1, 'nonzero': np.int64(2**53 + 1)})
  sink.close()
  [line] = read_lines(tmp_path / 'm')
  assert line == {'step': 1, 'tokens': 2**53 + 1, 'nonzero': 2**53 + 1}


def test_non_finite_numbers_are_valid_json(tmp_path):
  sink = sinks.JsonLines(tmp_path / 'm')
  values = {'a': float('nan'), 'b': float('inf'), 'c': np.float32('-inf')}
  sink.write(1, values | {'d': np.float32(0.5)})
  sink.close()
  [line] = read_lines(tmp_path / 'm')
  assert line == {'step': 1, 'a': None, 'b': None, 'c': None, 'd': 0.5}


def test_truncation_keeps_the_steps_that_the_checkpoint_has(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  kept = '{"step": 5, "x": 1}\n{"step": 10}\n{"step": 10, "eval_loss": 2}\n'
  path.write_text(kept + '{"step": 11}\n{"step": 15}\n')
  sinks.truncate_json_lines(path, 10)
  assert path.read_text() == kept
  assert list(tmp_path.iterdir()) == [path]


def test_truncation_drops_a_torn_last_line(tmp_path):
  path = tmp_path / 'metrics.jsonl'
  path.write_text('{"step": 5}\n{"step": 1')
  sinks.truncate_json_lines(path, 10)
  assert path.read_text() == '{"step": 5}\n'


@pytest.mark.parametrize('line', ['{"step"', '[1]', '{"loss": 2}', '7'])
def test_truncation_names_a_malformed_line_and_keeps_the_file(tmp_path, line):
  path = tmp_path / 'metrics.jsonl'
  text = f'{{"step": 5}}\n{line}\n{{"step": 15}}\n'
  path.write_text(text)
  with pytest.raises(ValueError, match='line 2'):
    sinks.truncate_json_lines(path, 10)
  assert path.read_text() == text


def test_truncation_of_a_missing_file_does_nothing(tmp_path):
  sinks.truncate_json_lines(tmp_path / 'metrics.jsonl', 10)
  assert not list(tmp_path.iterdir())


def test_tensorboard_reads_the_event_files(tmp_path):
  sink = sinks.TensorBoard(tmp_path)
  sink.write(10, {'train_loss': 2.5, 'density': np.float32(1.0)})
  sink.write(20, {'train_loss': float('nan')})
  sink.close()
  scalars = read_scalars(tmp_path)
  assert scalars['density'] == [(10, 1.0)]
  assert scalars['train_loss'][0] == (10, 2.5)
  assert np.isnan(scalars['train_loss'][1][1])


def test_a_resumed_run_has_each_step_once(tmp_path):
  logging = config.Logging()
  write_steps(sinks.open_sinks(tmp_path, logging, {}, 0), [5, 10, 15, 20])
  write_steps(sinks.open_sinks(tmp_path, logging, {}, 10), [15, 20, 25], 0.5)
  expected = [(5, 5.0), (10, 10.0), (15, 15.5), (20, 20.5), (25, 25.5)]
  lines = read_lines(tmp_path / 'metrics.jsonl')
  assert [(line['step'], line['train_loss']) for line in lines] == expected
  assert read_scalars(tmp_path) == {'train_loss': expected}


def test_a_fresh_start_keeps_nothing_of_a_run_without_checkpoint(tmp_path):
  logging = config.Logging()
  write_steps(sinks.open_sinks(tmp_path, logging, {}, 0), [0, 5])
  # A start in the same second has the same file name but for the suffix, so
  # the older file is moved to where an older start would have put it.
  [events] = tmp_path.glob('events.*')
  events.rename(tmp_path / 'events.out.tfevents.0000000001.host')
  write_steps(sinks.open_sinks(tmp_path, logging, {}, 0), [0, 5], 0.5)
  lines = read_lines(tmp_path / 'metrics.jsonl')
  assert [line['train_loss'] for line in lines] == [0.5, 5.5]
  assert read_scalars(tmp_path) == {'train_loss': [(0, 0.5), (5, 5.5)]}


def test_only_the_sinks_asked_for_are_opened(tmp_path):
  write_steps(sinks.open_sinks(tmp_path, NO_TENSORBOARD, {}, 0), [1])
  assert [path.name for path in tmp_path.iterdir()] == ['metrics.jsonl']


def test_wandb_that_is_not_installed_is_bad_input(tmp_path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'wandb', None)  # import raises ImportError
  path = tmp_path / 'metrics.jsonl'
  path.write_text('{"step": 5}\n')
  logging = config.Logging(wandb_project='x')
  with pytest.raises(config.ConfigError) as caught:
    sinks.open_sinks(tmp_path, logging, {}, 0)
  expected = "logging.wandb_project = 'x': needs wandb: pip install wandb"
  assert str(caught.value) == expected
  assert path.read_text() == '{"step": 5}\n'  # refused before dropping lines


# wandb uses what it deprecates itself; its warnings are not ours.
@pytest.mark.filterwarnings('default')
@pytest.mark.slow
def test_wandb_records_metrics_and_a_second_start_continues_the_run(
  tmp_path, monkeypatch
):
  pytest.importorskip('wandb')
  monkeypatch.setenv('WANDB_MODE', 'offline')
  monkeypatch.setenv('WANDB_SILENT', 'true')
  for _ in range(2):
    sink = sinks.WeightsAndBiases('project', tmp_path, {'seed': 0})
    sink.write(7, {'train_loss': 2.5})
    sink.close()
  first, second = tmp_path.rglob('run-*.wandb')
  assert first.name == second.name
  assert b'train_loss' in second.read_bytes()
