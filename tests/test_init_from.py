"""Runs that begin with a model that exists."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import trained

from jax_sparse_pretrain import (
  ConfigError,
  export_model,
  load_config,
  load_runs,
  pruning,
)
from jax_sparse_pretrain.inference.language_model import load_model
from jax_sparse_pretrain.training import setup

pytestmark = pytest.mark.filterwarnings('ignore:init_from:UserWarning')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return trained.documents(tmp_path_factory.mktemp('text') / 'documents')


@pytest.fixture(scope='module')
def sparse(folder, tmp_path_factory):
  """An exported model at 80 %."""
  root = tmp_path_factory.mktemp('first')
  trained.train(folder, root / 'run', model={'n_kv_heads': 2})
  export_model(root / 'run', root / 'model')
  return root / 'model'


SAME = {'model': {'n_kv_heads': 2}}


def kept(workdir):
  """{kernel: which weights are not zero} at the end of a run."""
  leaves = pruning.by_path(load_model(workdir).params)
  return {
    name: np.asarray(leaf) != 0
    for name, leaf in leaves.items()
    if name.endswith('kernel')
  }


@pytest.mark.parametrize(
  'mesh', [{'data': 8}, {'data': 2, 'fsdp': 2, 'tensor': 2}]
)
def test_a_run_begins_with_the_weights(mesh, sparse, folder):
  config = trained.config_of(folder, init_from=str(sparse), mesh=mesh, **SAME)
  experiment = setup.set_up(config)
  state = experiment.init()
  expected = pruning.by_path(load_model(sparse).params)
  for name, leaf in pruning.by_path(state.params).items():
    np.testing.assert_array_equal(leaf, expected[name])
  assert jax.tree.structure(state) == jax.tree.structure(
    experiment.programs.abstract_state
  )
  assert all(np.asarray(mask).all() for mask in state.masks.values())
  experiment.batches.close()


def test_a_pruned_model_trains_on_without_losing_its_zeros(
  sparse, folder, tmp_path
):
  summary = trained.train(
    folder,
    tmp_path,
    init_from=str(sparse),
    init_masks_from_zeros=True,
    pruning={'sparsity': 0.0},
    **SAME,
  )
  before = load_model(sparse)
  after = kept(tmp_path)
  for name, mask in before.masks.items():
    np.testing.assert_array_equal(after[name], mask)
  assert summary['init_from'] == str(sparse)
  first = json.loads((sparse.parent / 'run' / 'summary.json').read_text())
  assert summary['final_parameters'] == first['final_parameters']
  assert summary['average_parameters'] == summary['final_parameters']
  assert summary['eval_loss'] < first['eval_loss']
  # It goes on where it was, not at the beginning, and needs no new zeros.
  rows = (tmp_path / 'mask_history.jsonl').read_text().splitlines()
  assert json.loads(rows[1])['nonzero'] == first['final_parameters']


def test_a_structure_does_not_prune_what_only_holds_zeros(sparse, folder):
  config = trained.config_of(
    folder,
    init_from=str(sparse),
    init_masks_from_zeros=True,
    pruning={'sparsity': 0.0, 'structure': 'n_by_m', 'schedule': 'one_shot'},
    **SAME,
  )
  experiment = setup.set_up(config)
  state = experiment.init()
  before = jax.device_get(state.masks)
  rows = experiment.to_devices(next(experiment.batches))
  state, _ = experiment.programs.train_step(state, rows, experiment.controls(0))
  experiment.batches.close()
  assert 0 < before['layers/mlp/up/kernel'].mean() < 1
  for name, mask in before.items():
    np.testing.assert_array_equal(state.masks[name], mask)


def test_pruning_goes_on_from_the_zeros(sparse, folder, tmp_path):
  changes = {'init_from': str(sparse), **SAME}
  summary = trained.train(
    folder,
    tmp_path / 'from zeros',
    init_masks_from_zeros=True,
    pruning={'sparsity': 0.9},
    **changes,
  )
  masks = load_model(sparse).masks
  after = kept(tmp_path / 'from zeros')
  assert not any((after[name] & ~masks[name]).any() for name in masks)
  assert summary['sparsity'] == pytest.approx(0.9, abs=1e-3)
  first = json.loads((sparse.parent / 'run' / 'summary.json').read_text())
  assert summary['average_parameters'] < first['final_parameters']
  # Without masks, the zeros grow again.
  with pytest.warns(UserWarning, match='61% of the weights there are zero'):
    trained.train(
      folder, tmp_path / 'dense', pruning={'sparsity': 0.0}, **changes
    )
  assert sum(m.sum() for m in kept(tmp_path / 'dense').values()) > 1.1 * sum(
    m.sum() for m in masks.values()
  )


def test_a_run_goes_on_without_the_model_it_began_from(
  sparse, folder, tmp_path
):
  """Its weights are known by a hash, so that the directory may also move."""
  copy = shutil.copytree(sparse, tmp_path / 'copy')
  changes = {'pruning': {'sparsity': 0.5}, **SAME}
  short = {'duration': {'value': 8}, 'checkpoint': {'every': 4}}
  whole = trained.train(
    folder, tmp_path / 'a', init_from=str(sparse), **changes, **short
  )
  run = tmp_path / 'b'
  trained.train(folder, run, init_from=str(copy), **changes, **short)
  shutil.rmtree(run / 'checkpoints' / '8')
  (run / 'summary.json').unlink()
  shutil.rmtree(copy)
  again = trained.train(folder, run, init_from=str(copy), **changes, **short)
  assert again['eval_loss'] == whole['eval_loss']
  assert not jax.tree.leaves(
    jax.tree.map(
      lambda a, b: None if np.array_equal(a, b) else 'differs',
      *(load_model(tmp_path / name).params for name in 'ab'),
    )
  )
  (run / 'summary.json').unlink()
  trained.train(folder, run, init_from=str(sparse), **changes, **short)
  other = tmp_path / 'other'
  grown(sparse, other, 256, scale=2.0)
  for path in (str(other), ''):
    with pytest.raises(ConfigError, match='the weights have changed'):
      trained.train(folder, run, init_from=path, **changes, **short)
  with pytest.raises(ConfigError, match="'nowhere': must be a directory"):
    trained.train(
      folder, tmp_path / 'c', init_from='nowhere', **changes, **short
    )


def test_such_a_run_is_left_out_of_fits(sparse, folder, tmp_path):
  trained.train(
    folder,
    tmp_path / 'runs' / 'a',
    init_from=str(sparse),
    duration={'value': 2},
    pruning={'sparsity': 0.0},
    **SAME,
  )
  with pytest.raises(ValueError, match='include_continued'):
    load_runs(tmp_path / 'runs' / 'a')
  runs = load_runs(tmp_path / 'runs' / 'a', include_continued=True)
  assert runs.began_from == (str(sparse),)


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'model': {}}, r'model.n_kv_heads = 4: must be 2'),
    ({'model': {'n_kv_heads': 2, 'd_ff': 96}}, 'model.d_ff = 96: must be 64'),
    (
      {'model': {'n_kv_heads': 2, 'rope_scaling': 'llama3'}},
      "model.rope_scaling = 'llama3': must be 'none'",
    ),
    (
      {'data': {'tokenizer': 'huggingface'}},
      'tokenizer is not that of the data',
    ),
  ],
)
def test_another_model_is_refused(changes, message, sparse, folder, tmp_path):
  if 'data' in changes:
    path = trained.tokenizer_file(folder, tmp_path / 'tokenizer.json', 258)
    changes = {'data': {**changes['data'], 'tokenizer_path': str(path)}}
    with pytest.raises(ConfigError, match='model.vocab_size'):
      setup.set_up(
        trained.config_of(folder, init_from=str(sparse), **SAME, **changes)
      )
    changes['data']['validation_fraction'] = 0.3
    changes['model'] = {'n_kv_heads': 2, 'vocab_size': 258}
    bigger = tmp_path / 'model'
    grown(sparse, bigger, 258)
    changes['init_from'] = str(bigger)
  config = trained.config_of(
    folder, **{'init_from': str(sparse), **SAME, **changes}
  )
  with pytest.raises(ConfigError, match=message) as caught:
    setup.set_up(config)
  assert '\n' not in str(caught.value)
  if 'data' in changes:
    allowed = dataclasses.replace(config, init_other_tokenizer=True)
    setup.set_up(allowed).batches.close()


def grown(source, target, vocab_size, scale=1.0):
  """A copy of a model with a padded vocabulary and another last norm."""
  from jax_sparse_pretrain.inference import exporting

  model = load_model(source)
  extra = vocab_size - model.config.vocab_size
  params = jax.tree.map(np.asarray, model.params)
  params['embed']['embedding'] = np.pad(
    params['embed']['embedding'], ((0, extra), (0, 0))
  )
  params['lm_head']['kernel'] = np.pad(
    params['lm_head']['kernel'], ((0, 0), (0, extra))
  )
  params['final_norm']['scale'] = scale * params['final_norm']['scale']
  model = dataclasses.replace(
    model,
    params=params,
    masks=None,
    config=dataclasses.replace(model.config, vocab_size=vocab_size),
  )
  exporting.write_model(model, target, 'float32')
  for name in ('tokenizer.json', 'tokenizer_config.json'):
    (target / name).write_bytes((source / name).read_bytes())


def test_the_shipped_config_reads_the_sizes(sparse):
  config = load_config(
    f'continue_pretraining:{sparse}', {'data.path': 'anywhere'}
  )
  assert config.init_from == str(sparse)
  assert (config.model.d_model, config.model.kv_heads) == (32, 2)
  assert config.model.context_length == 32
