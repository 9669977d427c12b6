"""Runs on prepared tokens: mixtures, masked documents, several evaluations."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import tiny

from jax_sparse_pretrain import data as data_lib
from jax_sparse_pretrain.command_line import Stopped
from jax_sparse_pretrain.config import ConfigError
from jax_sparse_pretrain.model import counts
from jax_sparse_pretrain.prepare.__main__ import main as prepare
from jax_sparse_pretrain.runs.workdir import (
  Workdir,
  check_same_run,
  read_resolved,
)
from jax_sparse_pretrain.training import setup, train_model
from jax_sparse_pretrain.training.entry import train_here

STEPS = 12


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  """Two prepared directories of bytes."""
  root = tmp_path_factory.mktemp('prepared')
  rng = np.random.default_rng(0)
  for name, letters in (('low', 'abcdef'), ('high', 'uvwxyz')):
    with (root / f'{name}.jsonl').open('w') as file:
      for _ in range(300):
        text = ''.join(rng.choice(list(letters), size=rng.integers(20, 90)))
        file.write(json.dumps({'text': text}) + '\n')
    out = ['--out', str(root / name), '--validation_fraction=0.2']
    source = str(root / f'{name}.jsonl')
    assert prepare([source, *out, '--tokenizer=bytes', '--workers=0']) == 0
  return root


def config_of(prepared):
  return tiny.tiny_config(
    data={
      'source': 'tokens',
      'tokenizer': 'auto',
      'mixture': ((str(prepared / 'low'), 3.0), (str(prepared / 'high'), 1.0)),
      'mask_documents': True,
    },
    duration={'value': STEPS, 'unit': 'steps'},
    evaluation={'every': 6, 'sets': (('high', str(prepared / 'high')),)},
    checkpoint={'every': 6},
    logging={'every': 1, 'tensorboard': False},
  )


@pytest.fixture(scope='module')
def finished(prepared, tmp_path_factory):
  workdir = tmp_path_factory.mktemp('finished')
  return workdir, train_model(config_of(prepared), workdir)


def test_tokens_are_the_targets_in_the_loss(prepared, finished):
  experiment = setup.set_up(config_of(prepared), jax.devices()[:1])
  n_targets = 0
  for _ in range(STEPS):
    tokens, documents = np.moveaxis(next(experiment.batches), 1, 0)
    ends = (
      tokens[:, :-1]
      == data_lib.open_corpus(experiment.config.data).document_end
    )
    n_targets += int((~ends).sum())
    assert ((np.diff(documents) == 1) == ends).all()
  experiment.batches.close()
  workdir, summary = finished
  assert summary['tokens'] == n_targets < STEPS * 8 * 32
  last = json.loads((workdir / 'metrics.jsonl').read_text().splitlines()[-1])
  assert last['tokens'] == n_targets


def test_every_evaluation_set_is_reported_by_name(finished):
  workdir, summary = finished
  lines = map(json.loads, (workdir / 'metrics.jsonl').read_text().splitlines())
  evaluated = [line for line in lines if 'eval_loss' in line]
  assert [line['step'] for line in evaluated] == [6, 12]
  for name in ('eval_loss', 'eval_loss_high'):
    assert summary[name] == evaluated[-1][name]
  assert summary['eval_loss_high'] != summary['eval_loss']


class StopAt:
  name = 'SIGTERM'

  def __init__(self, n):
    self.n = n

  def is_due(self):
    self.n -= 1
    return self.n == 0


def test_a_stopped_run_of_a_mixture_ends_with_the_same_losses(
  prepared, finished, tmp_path
):
  config = config_of(prepared)
  with pytest.raises(Stopped):
    train_here(config, tmp_path, StopAt(8))
  train_model(config, tmp_path)

  def losses(workdir):
    lines = (workdir / 'metrics.jsonl').read_text().splitlines()
    found = {}
    for line in map(json.loads, lines):
      for name in ('train_loss', 'eval_loss', 'eval_loss_high', 'tokens'):
        if name in line:
          found[line['step'], name] = line[name]
    return found

  assert losses(tmp_path) == losses(finished[0])


def test_equal_tokens_at_another_path_are_the_same_data(
  prepared, finished, tmp_path
):
  moved = tmp_path / 'moved'
  moved.symlink_to(prepared)
  assert train_model(config_of(moved), finished[0])['steps'] == STEPS


def test_other_tokens_are_refused(prepared, finished):
  config = config_of(prepared)
  (low, weight), high = config.data.mixture
  data = dataclasses.replace(config.data, mixture=((low, weight + 1), high))
  with pytest.raises(ConfigError, match='the corpus has changed'):
    train_model(dataclasses.replace(config, data=data), finished[0])


def test_a_run_that_read_streams_cannot_go_on_but_opens(finished, tmp_path):
  workdir = tmp_path / 'old'
  shutil.copytree(finished[0], workdir)
  path = workdir / 'config.json'
  resolved = json.loads(path.read_text())
  resolved['config']['data'] |= {
    'streams': 0,
    'source': 'stdlib',
    'path': 'c4/en:3.0.1',
    'mixture': [],
    'tokenizer': 'bytes',
  }
  path.write_text(json.dumps(resolved))
  files = Workdir(workdir)
  with pytest.raises(ConfigError, match='of an earlier version'):
    check_same_run(files, resolved, fork=False)
  with pytest.warns(UserWarning, match='streams is no longer a key'):
    assert 'streams' not in read_resolved(files)['config']['data']


def test_a_head_for_ids_that_never_occur_is_told(prepared):
  config = config_of(prepared)
  model = dataclasses.replace(config.model, vocab_size=512)
  n = [counts.linear_parameters(m) for m in (model, config.model)]
  with pytest.warns(UserWarning, match=f'N is {n[0]:,}, and would be {n[1]:,}'):
    setup.set_up(dataclasses.replace(config, model=model)).batches.close()
