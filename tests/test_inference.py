"""Models that have left training: opened, evaluated, and made to write."""

import dataclasses
import json
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import trained

from jax_sparse_pretrain import (
  ConfigError,
  evaluate,
  export_model,
  generate,
  pruning,
)
from jax_sparse_pretrain import data as data_lib
from jax_sparse_pretrain.inference import evaluation, generation
from jax_sparse_pretrain.inference.language_model import (
  LanguageModel,
  load_model,
)
from jax_sparse_pretrain.runs.checkpoint import CheckpointError

# Reads of a damaged checkpoint that are still under way when it is given up
# complain later, perhaps during another test: Orbax has closed their loop.
pytestmark = pytest.mark.filterwarnings(
  'ignore::pytest.PytestUnraisableExceptionWarning'
)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return trained.documents(tmp_path_factory.mktemp('text') / 'documents')


@pytest.fixture(scope='module')
def workdir(folder, tmp_path_factory):
  """A sparse run on eight devices, with all its checkpoints."""
  root = tmp_path_factory.mktemp('run') / 'run'
  trained.train(
    folder,
    root,
    mesh={'fsdp': 4, 'data': 2},
    checkpoint={'every': 5, 'keep': 1, 'keep_every': 10},
  )
  return root


@pytest.fixture(scope='module')
def summary(workdir):
  return json.loads((workdir / 'summary.json').read_text())


@pytest.fixture(scope='module')
def model(workdir):
  return load_model(workdir)


def test_a_model_opens_on_one_device_without_the_data(
  model, workdir, summary, folder
):
  assert model.step == 30 and model.run['config']['seed'] == 0
  assert {len(leaf.devices()) for leaf in jax.tree.leaves(model.params)} == {1}
  leaves = pruning.by_path(model.params)
  n_pruned = sum(int((~mask).sum()) for mask in model.masks.values())
  linear = summary['linear_parameters']
  assert linear - n_pruned == summary['final_parameters']
  for name, mask in model.masks.items():
    assert not np.asarray(leaves[name])[~mask].any(), name
  corpus = data_lib.open_corpus(trained.config_of(folder).data)
  rows = data_lib.evaluation_rows(
    corpus, n_rows=trained.ROWS, context_length=32
  )
  logits = model.logits(rows[:, :-1])
  losses = optax.softmax_cross_entropy_with_integer_labels(logits, rows[:, 1:])
  assert float(losses.mean()) == pytest.approx(summary['eval_loss'], rel=1e-6)


def test_opening_changes_nothing(workdir):
  unfinished = workdir / 'checkpoints' / '40.orbax-checkpoint-tmp-1'
  unfinished.mkdir()
  (unfinished / 'part').write_text('of a save in progress')
  before = trained.files_of(workdir)
  load_model(workdir).loss(['text'])
  assert trained.files_of(workdir) == before
  shutil.rmtree(unfinished)


def test_checkpoints_of_every_nth_step_stay(workdir):
  assert load_model(workdir, step=10).step == 10
  names = sorted(int(p.name) for p in (workdir / 'checkpoints').iterdir())
  assert names == [10, 20, 30]
  early, late = (load_model(workdir, step=s) for s in (10, 30))
  densities = [
    np.mean([mask.mean() for mask in m.masks.values()]) for m in (early, late)
  ]
  assert densities[0] > densities[1]
  with pytest.raises(ConfigError, match='no checkpoint of step 15; there are'):
    load_model(workdir, step=15)


def test_a_damaged_checkpoint_is_told_and_left_alone(workdir, tmp_path, capsys):
  copy = shutil.copytree(workdir, tmp_path / 'run')
  for path in (copy / 'checkpoints' / '30' / 'state').rglob('d/*'):
    path.write_bytes(path.read_bytes()[:10])
  before = trained.files_of(copy)
  with pytest.raises(CheckpointError, match='30: cannot be read') as caught:
    load_model(copy)
  assert '\n' not in str(caught.value)
  assert trained.files_of(copy) == before
  assert load_model(copy, step=20).step == 20
  assert evaluate.main([str(copy)]) == 1
  [line] = capsys.readouterr().err.splitlines()
  assert line.startswith('error: ') and '30: cannot be read' in line


def test_a_run_on_adopted_tokens_has_no_tokenizer(tmp_path, capsys):
  """Only the boundaries of such tokens are known."""
  from jax_sparse_pretrain.prepare import __main__ as prepare

  for split in ('train', 'val'):
    np.arange(5000, dtype=np.uint16).clip(max=199).tofile(
      tmp_path / f'{split}.bin'
    )
  argv = [f'--adopt={tmp_path}/*.bin', f'--out={tmp_path}/tokens']
  assert prepare.main([*argv, '--vocab_size=200', '--eos_id=7']) == 0
  data = {'source': 'tokens', 'path': str(tmp_path / 'tokens')}
  trained.train(
    tmp_path,
    tmp_path / 'run',
    data={**data, 'tokenizer': 'auto'},
    duration={'value': 2},
    pruning={'sparsity': 0.0},
  )
  model = load_model(tmp_path / 'run')
  assert model.tokenizer is None and model.logits([[1, 2]]).shape[0] == 1
  with pytest.raises(ConfigError, match='the model has no tokenizer'):
    model.generate(['import'])
  with pytest.raises(ConfigError, match='--without_tokenizer'):
    export_model(tmp_path / 'run', tmp_path / 'model')
  assert not list(tmp_path.glob('*model*')) + list(tmp_path.glob('.*'))
  export_model(tmp_path / 'run', tmp_path / 'model', without_tokenizer=True)


def altered(workdir, copy, change):
  """A copy of a run whose config.json has been changed."""
  shutil.copytree(workdir, copy)
  resolved = json.loads((copy / 'config.json').read_text())
  change(resolved)
  (copy / 'config.json').write_text(json.dumps(resolved))
  return copy


def test_a_step_from_before_a_fork_is_told(workdir, tmp_path):
  def fork(resolved):
    resolved['forks'] = [{'step': 20, 'changes': ['model.rope_base: 1 -> 2']}]

  copy = altered(workdir, tmp_path / 'run', fork)
  with pytest.warns(UserWarning, match='before a fork.*rope_base: 1 -> 2'):
    load_model(copy, step=20)
  load_model(copy, step=30)  # A warning would be an error.


def test_a_run_with_a_kernel_that_is_not_here_opens(workdir, model, tmp_path):
  def on_a_gpu(resolved):
    resolved['config']['model'] |= {
      'attention': 'cudnn',
      'compute_dtype': 'bfloat16',
    }

  copy = altered(workdir, tmp_path / 'run', on_a_gpu)
  tokens = [[1, 2, 3]]
  opened = load_model(copy, compute_dtype='float32')
  np.testing.assert_array_equal(opened.logits(tokens), model.logits(tokens))


def test_what_is_no_model_is_refused(tmp_path):
  with pytest.raises(ConfigError, match='neither the workdir of a run nor'):
    load_model(tmp_path)
  with pytest.raises(ConfigError, match='neither'):
    load_model(tmp_path / 'none')


@pytest.mark.parametrize('kind', ['huggingface', 'sentencepiece'])
def test_a_run_keeps_its_tokenizer(kind, folder, tmp_path):
  path = trained.tokenizer_file(folder, tmp_path / 'tokenizer.json')
  name = 'tokenizer.json'
  if kind == 'sentencepiece':
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
      input=','.join(map(str, folder.iterdir())),
      model_prefix=str(tmp_path / 'spm'),
      vocab_size=300,
      character_coverage=1.0,
      hard_vocab_limit=False,
      minloglevel=2,
    )
    path, name = tmp_path / 'spm.model', 'tokenizer.model'
  trained.train(
    folder,
    tmp_path / 'run',
    model={'vocab_size': 300},
    duration={'value': 2},
    pruning={'sparsity': 0.0},
    data={'tokenizer': kind, 'tokenizer_path': str(path)},
  )
  content = path.read_bytes()
  path.unlink()
  assert (tmp_path / 'run' / name).read_bytes() == content
  tokenizer = load_model(tmp_path / 'run').tokenizer
  [ids] = tokenizer.encode(['import os'])
  assert tokenizer.decode(ids) == 'import os'
  (tmp_path / 'run' / name).write_bytes(content + b'\n')
  with pytest.raises(ConfigError, match='tokenizer'):
    load_model(tmp_path / 'run')


def likeliest(model, prompt, n):
  """Greedy text by whole forward passes."""
  ids = model.encode(prompt).tolist()
  for _ in range(n):
    padded = ids + [0] * (32 - len(ids))  # One shape, so one program.
    token = int(np.argmax(model.logits([padded])[0, len(ids) - 1]))
    if token == model.tokenizer.eos_id:
      break
    ids.append(token)
  return model.tokenizer.decode(ids)[len(prompt) :]


PROMPTS = ['import os\n', 'def f(', '', 'class Parser:\n  """']


def test_greedy_text_is_that_of_whole_forward_passes(model):
  options = {'max_tokens': 9, 'temperature': 0.0}
  together = model.generate(PROMPTS, **options)
  assert together == [likeliest(model, prompt, 9) for prompt in PROMPTS]
  assert together == [model.generate([p], **options)[0] for p in PROMPTS]
  for same in ({'top_k': 1}, {'top_p': 1e-9}):
    assert model.generate(PROMPTS, max_tokens=9, **same) == together


def test_samples_depend_on_the_seed_and_the_place_alone(model):
  options = {'max_tokens': 12, 'samples': 3}
  texts = model.generate(['import os\n'], seed=1, **options)
  assert len(set(texts)) == 3
  assert model.generate(['import os\n'], seed=1, **options) == texts
  assert model.generate(['import os\n'], seed=2, **options) != texts
  others = model.generate(['import os\n', 'def f('], seed=1, **options)
  assert others[:3] == texts


@pytest.mark.parametrize(
  'options', [{}, {'temperature': 0.5}, {'top_k': 5}, {'top_p': 0.6}]
)
def test_samples_have_the_probabilities_of_the_model(options):
  rng = np.random.default_rng(0)
  logits = rng.normal(scale=1.5, size=20).astype(np.float32)
  n = 20_000
  settings = {'temperature': 1.0, 'top_k': 0, 'top_p': 1.0, **options}
  chosen = generation.choose(
    jnp.tile(logits, (n, 1)), 0, 0, *settings.values(), bool(options)
  )
  p = np.exp(logits / settings['temperature'])
  p /= p.sum()
  order = np.argsort(-p)
  kept = order[: settings['top_k'] or 20]
  n_kept = np.searchsorted(np.cumsum(p[kept]), settings['top_p'] - 1e-9) + 1
  expected = np.zeros(20)
  expected[kept[:n_kept]] = p[kept[:n_kept]]
  expected /= expected.sum()
  found = np.bincount(chosen, minlength=20) / n
  assert not found[expected == 0].any()
  error = np.sqrt(expected * (1 - expected) / n)
  assert (np.abs(found - expected) <= 5 * error).all()


def test_text_comes_as_it_is_written_and_ends_with_the_document(model):
  parts = []
  [text] = model.generate(
    ['é'], max_tokens=20, on_text=lambda i, part: parts.append((i, part))
  )
  assert ''.join(part for _, part in parts) == text and len(parts) > 5
  # A head that always closes the document.
  params = jax.tree.map(jnp.zeros_like, model.params)
  params['final_norm']['scale'] += 1
  params['embed']['embedding'] += 1.0
  params['lm_head']['kernel'] = (
    params['lm_head']['kernel'].at[:, model.tokenizer.eos_id].set(1.0)
  )
  ends = dataclasses.replace(model, params=params)
  assert ends.generate(['import'], temperature=0.0) == ['']


def test_bytes_of_a_character_wait_for_the_rest():
  model = LanguageModel(None, None, None, data_lib.load_tokenizer(
    trained.tiny.tiny_config().data
  ))  # fmt: skip
  text = generation.Text(model, 'a')
  raw = 'é€'.encode()
  told = [text.add(byte, is_last=False) for byte in raw]
  assert told == ['', 'é', '', '', '€']
  assert text.add(0xC3, is_last=True) == '\ufffd'


def test_more_than_the_context_is_told(model):
  with pytest.warns(UserWarning, match='more than the 32'):
    model.generate(['import os'], max_tokens=40)
  for options, message in (
    ({'max_tokens': 0}, 'max_tokens = 0: must be at least 1'),
    ({'temperature': -1.0}, 'temperature'),
    ({'top_p': 0.0}, 'top_p'),
    ({'samples': 0}, 'samples'),
  ):
    with pytest.raises(ConfigError, match=message):
      model.generate(['import'], **options)


def losses_by_hand(model, ids):
  """The loss of each token but the first, in stretches of the context."""
  length, losses = model.config.context_length, []
  for start in range(0, len(ids) - 1, length):
    stretch = ids[start : start + length + 1]
    logits = model.logits([stretch[:-1]])[0]
    losses += optax.softmax_cross_entropy_with_integer_labels(
      logits, np.asarray(stretch[1:])
    ).tolist()
  return losses


def test_documents_are_measured_one_by_one(model):
  texts = ['import os\n' * 9, 'x', '', 'def f(x):\n  return x\n']
  bos, eos = model.tokenizer.bos_id, model.tokenizer.eos_id
  each = [losses_by_hand(model, [bos, *text.encode(), eos]) for text in texts]
  result = evaluation.evaluate_texts(model, texts)
  everything = np.concatenate(each)
  assert result.loss == pytest.approx(everything.mean(), rel=1e-5)
  assert model.loss(texts) == result.loss
  assert (result.n, result.tokens) == (4, len(everything))
  n_bytes = sum(map(len, texts))
  assert result.bits_per_byte == pytest.approx(
    everything.sum() / n_bytes / math.log(2), rel=1e-5
  )
  sums, counts = np.array(list(map(sum, each))), np.array(list(map(len, each)))
  spread = ((sums - everything.mean() * counts) ** 2).sum() / 3
  assert result.standard_error == pytest.approx(
    math.sqrt(4 * spread) / counts.sum(), rel=1e-4
  )


def test_without_bos_the_first_token_is_predicted_after_an_end(model):
  tokenizer = type(model.tokenizer)()
  tokenizer.bos_id = None
  without = dataclasses.replace(model, tokenizer=tokenizer)
  text, eos = 'import os', tokenizer.eos_id
  result = evaluation.evaluate_texts(without, [text])
  by_hand = losses_by_hand(model, [eos, *text.encode(), eos])
  assert result.tokens == len(text) + 1
  assert result.loss == pytest.approx(np.mean(by_hand), rel=1e-5)


def run_evaluate(capsys, *argv):
  assert evaluate.main([*map(str, argv), '--json']) == 0
  return json.loads(capsys.readouterr().out)


def test_a_run_is_measured_as_it_measures_itself(
  workdir, summary, folder, capsys
):
  ours = run_evaluate(capsys, workdir, f'--rows={trained.ROWS}')
  assert ours['loss'] == pytest.approx(summary['eval_loss'], rel=1e-6)
  assert ours['rows'] == trained.ROWS and ours['split'] == 'validation'
  whole = run_evaluate(capsys, workdir)
  corpus = data_lib.open_corpus(trained.config_of(folder).data)
  assert whole['rows'] == (len(corpus.validation) - 1) // 32
  documents = run_evaluate(capsys, workdir, '--documents')
  assert documents['documents'] == corpus.fingerprint['validation']['documents']
  assert documents['bytes'] == corpus.fingerprint['validation']['bytes']
  assert documents['tokens'] == len(corpus.validation) - documents['documents']
  assert abs(documents['loss'] - whole['loss']) < 0.3


def test_bytes_of_masked_rows_are_those_of_their_targets(
  workdir, folder, capsys
):
  """BOS is no target then, and stands for no text."""
  about = data_lib.open_corpus(
    trained.config_of(folder).data
  ).fingerprint['validation']  # fmt: skip
  found = run_evaluate(capsys, workdir, '--data.mask_documents=true')
  assert found['split'] == 'validation'
  n_targets = about['tokens'] - about['documents']
  assert found['tokens'] <= n_targets
  expected = about['bytes'] * found['tokens'] / n_targets
  assert found['bytes'] == round(expected)


def test_another_text_is_measured_whole(workdir, tmp_path, capsys):
  path = tmp_path / 'book.txt'
  path.write_text('import os\nimport sys\n' * 40)
  found = run_evaluate(capsys, workdir, f'--data.path={path}', '--documents')
  assert (found['split'], found['documents']) == ('all', 1)
  text = path.read_text()
  assert found['bytes'] == len(text)
  assert evaluate.main([str(workdir), f'--data.path={path}']) == 0
  out = capsys.readouterr().out
  assert 'Bits per byte' in out and max(map(len, out.splitlines())) < 80


def test_prepared_tokens_need_the_tokenizer_of_the_model(
  workdir, folder, tmp_path, capsys
):
  from jax_sparse_pretrain.prepare import __main__ as prepare

  path = trained.tokenizer_file(folder, tmp_path / 'tokenizer.json')
  argv = [str(folder), '--validation_fraction=0.3', '--workers=1']
  for name, tokenizer in (('bytes', 'bytes'), ('bpe', path)):
    out = tmp_path / name
    assert (
      prepare.main([*argv, f'--out={out}', f'--tokenizer={tokenizer}']) == 0
    )
  capsys.readouterr()
  same = run_evaluate(capsys, workdir, f'--data.path={tmp_path / "bytes"}')
  assert same['split'] == 'all' and same['rows'] > 100
  assert evaluate.main([str(workdir), f'--data.path={tmp_path / "bpe"}']) == 2
  assert 'needs the tokenizer of the model' in capsys.readouterr().err


@pytest.mark.parametrize(
  'command, argv, status, message',
  [
    (evaluate, ['--rows=0'], 2, 'error: --rows = 0: must be at least 1'),
    (evaluate, ['--rows=9', '--split=all'], 2, 'error: --rows: needs --split'),
    (evaluate, ['--rows=9999'], 2, 'error: evaluation.rows = 9999: must be'),
    (evaluate, ['--step=7'], 2, 'has no checkpoint of step 7; there are 10, '),
    (evaluate, ['--data.paht=x'], 2, 'data.paht: unknown key; did you mean'),
    (evaluate, ['--data.tokenizer=bytes'], 2, 'is that of the model'),
    (evaluate, ['--data.path=none.txt'], 2, 'error: data.path = none.txt'),
    (evaluate, ['--nonsense'], 2, 'error: --nonsense: is not an argument'),
    (generate, [], 2, 'error: --prompt: must be given, or --prompt_file'),
    (generate, ['--prompt_file=none'], 2, 'error: --prompt_file = none: '),
    (generate, ['--prompt=a', '--top_p=2'], 2, 'error: top_p = 2.0: must be'),
    (generate, ['--prompt=a', '--seed=x'], 2, '--seed: invalid int value'),
    (generate, ['--prompt=a', '--seed=3000000000'], 2, 'seed = 3000000000: '),
    (generate, ['--prompt=\udcff'], 2, "'\\udcff': is not UTF-8"),
    (generate, ['--prompt=a', '--engine=sparse'], 2, 'with --format=sparse'),
  ],
)
def test_bad_arguments_are_one_line(
  command, argv, status, message, workdir, capsys, recwarn
):
  assert command.main([str(workdir), *argv]) == status
  [line] = capsys.readouterr().err.splitlines()
  assert message in line


def test_the_command_writes_text(workdir, model, tmp_path, capsys):
  argv = [str(workdir), '--temperature=0', '--max_tokens=9']
  assert generate.main([*argv, '--prompt=import os']) == 0
  expected = model.generate(['import os'], max_tokens=9, temperature=0.0)[0]
  assert capsys.readouterr().out == f'import os{expected}\n'
  prompts = tmp_path / 'prompts.txt'
  prompts.write_text('import os\ndef f(\n')
  assert generate.main([*argv, f'--prompt_file={prompts}']) == 0
  out = capsys.readouterr().out
  assert f'--- 1 ---\nimport os{expected}\n\n--- 2 ---\ndef f(' in out
