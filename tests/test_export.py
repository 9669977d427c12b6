"""An exported run as `transformers` and `lm_eval` see it."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import safetensors
import trained

from jax_sparse_pretrain import ConfigError, export, export_model
from jax_sparse_pretrain import data as data_lib
from jax_sparse_pretrain.huggingface import llama
from jax_sparse_pretrain.inference.language_model import load_model


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return trained.documents(tmp_path_factory.mktemp('text') / 'documents')


@pytest.fixture(scope='module', params=['bytes', 'huggingface'])
def workdir(request, folder, tmp_path_factory):
  """A sparse run; its head is among what is pruned."""
  root = tmp_path_factory.mktemp(request.param)
  data, vocab_size = {}, 256
  if request.param == 'huggingface':
    path = trained.tokenizer_file(folder, root / 'tokenizer.json')
    data = {'tokenizer': 'huggingface', 'tokenizer_path': str(path)}
    vocab_size = 300
  trained.train(
    folder,
    root / 'run',
    data=data,
    model={'vocab_size': vocab_size, 'n_kv_heads': 2, 'scan_layers': False},
  )
  return root / 'run'


@pytest.fixture(scope='module')
def model(workdir):
  return load_model(workdir)


@pytest.fixture(scope='module')
def exported(workdir, tmp_path_factory):
  return export_model(workdir, tmp_path_factory.mktemp('out') / 'model')


@pytest.fixture(scope='module')
def theirs(exported):
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  return (
    transformers.AutoModelForCausalLM.from_pretrained(
      exported, dtype=torch.float32
    ),
    transformers.AutoTokenizer.from_pretrained(exported),
  )


def test_transformers_finds_the_loss_of_the_run(theirs, workdir, folder, model):
  torch = pytest.importorskip('torch')
  data = load_model(workdir).run['config']['data']
  config = trained.config_of(folder, data=data, model={'vocab_size': 300})
  rows = data_lib.evaluation_rows(
    data_lib.open_corpus(config.data), n_rows=trained.ROWS, context_length=32
  )
  rows = torch.tensor(rows.astype(np.int64))
  with torch.no_grad():
    logits = theirs[0](rows[:, :-1]).logits
  loss = torch.nn.functional.cross_entropy(
    logits.flatten(0, 1), rows[:, 1:].flatten()
  )
  summary = json.loads((workdir / 'summary.json').read_text())
  assert loss.item() == pytest.approx(summary['eval_loss'], abs=1e-5)


def test_zeros_are_where_the_masks_say(theirs, exported, model):
  weights = theirs[0].state_dict()
  masked = {t.name: t for t in llama.tensors(model.config) if t.n_in}
  with safetensors.safe_open(
    exported / 'masks.safetensors', framework='np'
  ) as masks:
    assert set(masks.keys()) == masked.keys()
    for name, tensor in masked.items():
      weight = weights[name].numpy()
      bits = masks.get_tensor(name)
      kept = np.unpackbits(
        bits, axis=1, count=weight.shape[1], bitorder='little'
      ).astype(bool)
      assert not weight[~kept].any() and weight[kept].all(), name
      expected = tensor.to_theirs(model.masks[tensor.path])
      np.testing.assert_array_equal(kept, expected)
  back = load_model(exported)
  for path, mask in model.masks.items():
    prefix = path.replace('layer_0', 'layers').replace('layer_1', 'layers')
    ours = back.masks[prefix]
    if prefix != path:
      ours = ours[int(path[len('layer_')])]
    np.testing.assert_array_equal(ours, mask)


def test_greedy_text_is_that_of_transformers(theirs, model):
  torch = pytest.importorskip('torch')
  network, tokenizer = theirs
  prompts = ['import os\n', 'def f(self', 'x']
  ours = model.generate(prompts, max_tokens=15, temperature=0.0)
  for prompt, text in zip(prompts, ours, strict=True):
    ids = tokenizer(prompt, return_tensors='pt').input_ids
    assert ids[0].tolist() == model.encode(prompt).tolist()
    written = network.generate(
      ids,
      attention_mask=torch.ones_like(ids),
      max_new_tokens=15,
      do_sample=False,
      pad_token_id=tokenizer.eos_token_id,
    )[0]
    whole = tokenizer.decode(written, skip_special_tokens=True)
    assert whole == prompt + text


def test_the_card_has_the_numbers_of_the_run(exported, workdir):
  card = (exported / 'README.md').read_text()
  summary = json.loads((workdir / 'summary.json').read_text())
  for name in ('linear_parameters', 'final_parameters', 'tokens'):
    assert f'{summary[name]:,}' in card, name
  assert f'{summary["average_parameters"]:,.0f}' in card
  assert f'{summary["eval_loss"]:.4f} nats per token' in card
  assert (exported / 'training.png').read_bytes()[:4] == b'\x89PNG'
  config = json.loads((exported / 'config.json').read_text())
  assert 'sparsity_config' not in config


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_a_sparse_file_holds_the_same_model(dtype, workdir, model, tmp_path):
  pytest.importorskip('numba')
  export_model(workdir, tmp_path / 'model', format='sparse', dtype=dtype)
  back = load_model(tmp_path / 'model', compute_dtype='float32')
  tokens = np.arange(60).reshape(3, 20)
  difference = np.abs(back.logits(tokens) - model.logits(tokens)).max()
  assert difference < (1e-6 if dtype == 'float32' else 0.05)
  assert back.masks is not None
  prompts = ['import os\n', 'x']
  options = {'max_tokens': 12, 'temperature': 0.0}
  ours = back.generate(prompts, **options)
  assert back.generate(prompts, engine='sparse', **options) == ours
  with pytest.raises(ConfigError, match='--format=sparse'):
    model.generate(prompts, engine='sparse')


def test_layers_without_a_mask_are_dense(folder, tmp_path):
  """Where the layers of a run are apart, some may be exempt."""
  root = tmp_path / 'run'
  trained.train(
    folder,
    root,
    model={'scan_layers': False},
    pruning={'sparsity': 0.5, 'exempt': ('layer_0/*', 'lm_head/*')},
    duration={'value': 12},
  )
  masks = load_model(root).masks
  assert not any(name.startswith('layer_0') for name in masks)
  for format in ('huggingface', 'sparse'):
    out = export_model(root, tmp_path / format, format=format, dtype='float32')
    back = load_model(out).masks
    assert back.keys() == {name.replace('layer_1', 'layers') for name in masks}
    for name, mask in masks.items():
      first, second = back[name.replace('layer_1', 'layers')]
      assert first.all() and np.array_equal(second, mask), name


def test_a_card_counts_the_targets_alone(folder, tmp_path):
  root = tmp_path / 'run'
  summary = trained.train(folder, root, data={'mask_documents': True})
  assert summary['tokens'] < 30 * 8 * 32
  card = (export_model(root, tmp_path / 'model') / 'README.md').read_text()
  assert f'| tokens (D) | {summary["tokens"]:,} |' in card
  assert f'{summary["compute_flops"]:.4g} FLOPs' in card


def test_no_bos_where_the_tokenizer_puts_none(exported, tmp_path):
  """Some models have the token and were trained without it."""
  copy = shutil.copytree(exported, tmp_path / 'model')
  assert load_model(copy).tokenizer.bos_id is not None
  content = json.loads((copy / 'tokenizer.json').read_text())
  content['post_processor'] = None
  (copy / 'tokenizer.json').write_text(json.dumps(content))
  model = load_model(copy)
  assert model.tokenizer.bos_id is None
  assert model.encode('import').tolist() == load_model(exported).encode(
    'import'
  ).tolist()[1:]  # fmt: skip


def test_long_contexts_are_cut_unless_asked_for(exported, tmp_path):
  copy = shutil.copytree(exported, tmp_path / 'model')
  config = json.loads((copy / 'config.json').read_text())
  config['max_position_embeddings'] = 131_072
  (copy / 'config.json').write_text(json.dumps(config))
  assert load_model(copy).config.context_length == 2048
  assert load_model(copy, context_length=4096).config.context_length == 4096


def test_an_export_is_exported_again(exported, tmp_path):
  export_model(exported, tmp_path / 'again')
  for name in ('model.safetensors', 'tokenizer.json', 'masks.safetensors'):
    again = (tmp_path / 'again' / name).read_bytes()
    assert again == (exported / name).read_bytes(), name


def test_what_is_there_is_kept(workdir, tmp_path, capsys):
  out = tmp_path / 'model'
  out.mkdir()
  (out / 'thesis.txt').write_text('all of it')
  assert export.main([str(workdir), f'--out={out}']) == 2
  assert 'exists; --overwrite replaces it' in capsys.readouterr().err
  assert [path.name for path in out.iterdir()] == ['thesis.txt']
  assert export.main([str(workdir), f'--out={out}', '--overwrite']) == 2
  assert 'is no exported model' in capsys.readouterr().err
  (out / 'thesis.txt').rename(tmp_path / 'thesis.txt')
  assert export.main([str(workdir), f'--out={out}', '--overwrite']) == 0
  assert 'model.safetensors' in capsys.readouterr().out
  assert export.main([str(workdir), f'--out={out}', '--overwrite']) == 0
  argv = [str(workdir), f'--out={workdir.parent}', '--overwrite']
  assert export.main(argv) == 2
  assert 'holds the model that is exported' in capsys.readouterr().err
  assert workdir.exists()


def test_nothing_is_left_of_an_export_that_fails(workdir, tmp_path, capsys):
  blocked = tmp_path / 'file'
  blocked.write_text('')
  assert export.main([str(workdir), f'--out={blocked}/model']) == 2
  [line] = capsys.readouterr().err.splitlines()
  assert line.startswith('error: --out = ')
  blocked.unlink()
  # Files of this process may have so many bytes.
  for format in ('huggingface', 'sparse'):
    code = (
      'import resource, signal, sys\n'
      'signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n'
      'resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))\n'
      'from jax_sparse_pretrain import export\n'
      'sys.exit(export.main(sys.argv[1:]))'
    )
    done = subprocess.run(
      [
        *(sys.executable, '-c', code, str(workdir)),
        *(f'--out={tmp_path}/model', f'--format={format}'),
      ],
      capture_output=True,
      text=True,
      env={**os.environ, 'JAX_COMPILATION_CACHE_DIR': ''},
    )
    assert done.returncode == 1, done.stderr
    [line] = done.stderr.splitlines()
    assert line.startswith('error: ')
    assert not list(tmp_path.iterdir())


def test_a_damaged_export_is_refused_in_one_line(exported, tmp_path):
  for name, content in (
    ('model.safetensors', b'short'),
    ('config.json', b'{'),
    ('tokenizer.json', b'{}'),
    ('masks.safetensors', b''),
  ):
    copy = shutil.copytree(exported, tmp_path / name)
    (copy / name).write_bytes(content)
    with pytest.raises(ConfigError, match=name) as caught:
      load_model(copy)
    assert '\n' not in str(caught.value)


def test_masks_of_other_weights_are_refused(exported, tmp_path):
  copy = shutil.copytree(exported, tmp_path / 'trained on')
  weights = safetensors.numpy.load_file(copy / 'model.safetensors')
  safetensors.numpy.save_file(
    {name: weight + 1 for name, weight in weights.items()},
    copy / 'model.safetensors',
  )
  with pytest.raises(ConfigError, match='leaves out weights that are not zero'):
    load_model(copy)
  (copy / 'masks.safetensors').unlink()
  assert load_model(copy).masks is None


TASK = """\
task: remembered
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/remembered.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}]
"""


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['sparse', 'dense'])
def test_lm_eval_runs_a_task_of_our_own(kind, exported, folder, tmp_path):
  if kind == 'dense':
    run = tmp_path / 'run'
    trained.train(folder, run, pruning={'sparsity': 0.0})
    exported = export_model(run, tmp_path / 'model')
  for name in ('lm_eval', 'accelerate'):
    pytest.importorskip(name)
  pytest.importorskip('torch')
  (tmp_path / 'remembered.yaml').write_text(
    TASK.replace('FOLDER', str(tmp_path))
  )
  questions = [
    {'question': 'import', 'choices': [' os', '\x00\x01\x02'], 'answer': 0},
    {'question': 'def f(', 'choices': ['\x00\x01\x02', 'x'], 'answer': 1},
  ]
  (tmp_path / 'remembered.jsonl').write_text(
    ''.join(json.dumps(question) + '\n' for question in questions)
  )
  done = subprocess.run(
    [
      *(sys.executable, '-m', 'lm_eval', '--model=hf'),
      f'--model_args=pretrained={exported}',
      *('--tasks=remembered', f'--include_path={tmp_path}'),
      *('--device=cpu', f'--output_path={tmp_path}/out'),
    ],
    env={**os.environ, 'HF_HUB_OFFLINE': '1', 'HF_HOME': str(tmp_path)},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  [results] = (tmp_path / 'out').rglob('results_*.json')
  found = json.loads(results.read_text())['results']['remembered']
  assert found['acc,none'] == 1.0
