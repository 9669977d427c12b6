"""The sparse file, its kernels and its engine: by NumPy and transformers."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from jax_sparse_pretrain.huggingface.sparse_file import (
  DTYPES,
  read_sparse,
  relative_bytes,
  write_sparse,
)
from jax_sparse_pretrain.inference.sparse_engine import (
  SparseEngine,
  rotary_frequencies,
)
from jax_sparse_pretrain.inference.sparse_kernels import (
  OVERRIDE,
  Weights,
  choose_kernel,
)
from jax_sparse_pretrain.schema import ConfigError

ROOT = pathlib.Path(__file__).parents[1]
# Read when the compiled functions are loaded; kept from one run to the next.
os.environ.setdefault('NUMBA_CACHE_DIR', str(ROOT / '.pytest_cache/numba'))

# [out, in]: smaller than a step, in between steps, whole steps, many rows.
SHAPES = [(1, 1), (5, 13), (9, 8), (3, 257), (64, 96), (37, 64), (130, 100)]


def masked(shape, density=0.3, seed=0):
  """A weight and a mask that has an empty row and a full one, if it can."""
  rng = np.random.default_rng(seed)
  weight = rng.standard_normal(shape).astype(np.float32)
  mask = rng.random(shape) < density
  mask[-1] = True
  if shape[0] > 1:
    mask[shape[0] // 2] = False
  return weight, mask


def write_one(path, weight, mask, dtype='float32', name='a.weight'):
  write_sparse(path, [(name, weight, mask)], dtype)
  return read_sparse(path)


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('shape', SHAPES)
def test_what_is_read_is_what_was_written(tmp_path, shape, dtype):
  weight, mask = masked(shape)
  weight[-1, ::2] = -0.0  # kept all the same: the mask decides
  file = write_one(tmp_path / 'a.safetensors', weight, mask, dtype)
  expected = np.where(mask, weight, np.float32(0)).astype(DTYPES[dtype])
  assert file.dtype == dtype
  assert file.shape('a.weight') == shape
  assert np.array_equal(file.mask('a.weight'), mask)
  assert file.dense('a.weight').tobytes() == expected.tobytes()
  assert file.values('a.weight').tobytes() == expected[mask].tobytes()
  packed = np.packbits(mask, axis=1, bitorder='little')
  assert np.array_equal(file.bitmap('a.weight'), packed)


def test_norms_are_float32_and_others_of_the_type_of_the_values(tmp_path):
  path = tmp_path / 'a.safetensors'
  weight, mask = masked((6, 8))
  norm = np.full(8, 1.001, np.float32)
  write_sparse(
    path, [('a', weight, mask), ('norm', norm, None), ('b', weight, None)]
  )
  file = read_sparse(path)
  assert sorted(file.names()) == ['a', 'b', 'norm']
  assert file.mask('b') is None and file.bitmap('b') is None
  assert file.dense('norm').tobytes() == norm.tobytes()
  assert file.dense('b').dtype == DTYPES['bfloat16']


def test_safetensors_reads_the_file(tmp_path):
  safetensors = pytest.importorskip('safetensors')
  path = tmp_path / 'a.safetensors'
  weight, mask = masked((5, 13))
  ours = write_one(path, weight, mask)
  with safetensors.safe_open(path, 'np') as file:
    assert file.metadata() == {
      'format': 'jax_sparse_pretrain.sparse',
      'version': '1',
      'columns': '{"a.weight": 13}',
    }
    for suffix, expected in (
      ('.bitmap', ours.bitmap('a.weight')),
      ('.values', ours.values('a.weight')),
    ):
      found = file.get_tensor('a.weight' + suffix)
      assert found.dtype == expected.dtype
      assert np.array_equal(found, expected)


def rewritten(raw, change):
  """The bytes of a file whose header has been changed."""
  n = int.from_bytes(raw[:8], 'little')
  header = json.loads(raw[8 : 8 + n])
  change(header)
  header = json.dumps(header).encode()
  return len(header).to_bytes(8, 'little') + header + raw[8 + n :]


def flipped(raw, at):
  return raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]


def another_version(header):
  header['__metadata__']['version'] = '2'


def another_shape(header):
  header['a.weight.values']['shape'] = [1]


DAMAGE = {
  'empty': (lambda raw: b'', ''),
  'short': (lambda raw: raw[:6], ''),
  'header cut': (lambda raw: raw[:60], ''),
  'data cut': (lambda raw: raw[:-1], 'a.weight.bitmap'),
  'no header': (lambda raw: raw[:8] + b'x' * (len(raw) - 8), ''),
  'other version': (lambda raw: rewritten(raw, another_version), ''),
  'no metadata': (lambda raw: rewritten(raw, lambda h: h.clear()), ''),
  'shape': (lambda raw: rewritten(raw, another_shape), 'a.weight.values'),
  'a bit more': (lambda raw: flipped(raw, len(raw) - 2), 'a.weight'),
  'past the row': (
    lambda raw: raw[:-1] + bytes([raw[-1] | 128]),
    'a.weight: its bitmap has bits past',
  ),
  'no values': (
    lambda raw: rewritten(raw, lambda h: h.pop('a.weight.values')),
    'a.weight: has a bitmap and no values',
  ),
  'no bitmap': (
    lambda raw: rewritten(raw, lambda h: h.pop('a.weight.bitmap')),
    'a.weight: has values and no bitmap',
  ),
}


@pytest.mark.parametrize('damage', DAMAGE)
def test_a_damaged_file_is_refused_in_one_line(tmp_path, damage):
  path = tmp_path / 'a.safetensors'
  write_one(path, *masked((5, 13)))
  change, told = DAMAGE[damage]
  path.write_bytes(change(path.read_bytes()))
  with pytest.raises(ConfigError) as refused:
    read_sparse(path)
  line = str(refused.value)
  assert str(path) in line and told in line and '\n' not in line


def test_a_failed_write_leaves_what_was_there(tmp_path):
  path = tmp_path / 'a.safetensors'
  weight, mask = masked((5, 13))
  write_one(path, weight, mask)
  before = path.read_bytes()
  with pytest.raises(ConfigError, match='b: the mask is'):
    write_sparse(path, [('a', weight, mask), ('b', weight, mask[:2])])
  with pytest.raises(ConfigError, match='a: comes twice'):
    write_sparse(path, [('a', weight, mask), ('a', weight, mask)])
  assert path.read_bytes() == before
  assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_tensors_are_taken_one_at_a_time(tmp_path):
  """The array that is asked for next finds the one before let go."""
  alive = []

  class Watched(np.ndarray):
    def __del__(self):
      alive.remove(id(self))

  def tensors():
    for i in range(4):
      array = np.ones((8, 8), np.float32).view(Watched)
      alive.append(id(array))
      yield f'{i}', array, np.ones((8, 8), bool)
      del array
      assert len(alive) <= 1

  write_sparse(tmp_path / 'a.safetensors', tensors())


# Linear maps with a mask, and the embedding without (configs/c4_162m, c4_1b).
SIZES = {'162m': (137_822_208, 24_576_000), '1b': (1_139_277_824, 65_536_000)}


@pytest.mark.parametrize(
  ('size', 'dtype', 'aim'),
  [
    *(('162m', 'bfloat16', 0.20), ('162m', 'float32', 0.38)),
    *(('1b', 'bfloat16', 0.20), ('1b', 'float32', 0.31)),
  ],
)
def test_a_model_at_80_percent_is_as_small_as_aimed_at(size, dtype, aim):
  assert relative_bytes(*SIZES[size], 0.2, dtype) <= aim


@pytest.mark.parametrize('dtype', DTYPES)
def test_a_file_is_as_large_as_said(tmp_path, dtype):
  rng = np.random.default_rng(0)
  weight = rng.standard_normal((256, 512), np.float32)
  mask = np.zeros(weight.size, bool)
  mask[rng.permutation(weight.size)[: weight.size // 5]] = True
  path = tmp_path / 'a.safetensors'
  tensors = [('a', weight, mask.reshape(256, 512)), ('b', weight[:64], None)]
  write_sparse(path, tensors, dtype)
  expected = relative_bytes(256 * 512, 64 * 512, 0.2, dtype)
  n_header = 8 + int.from_bytes(path.read_bytes()[:8], 'little')
  found = (path.stat().st_size - n_header) / (4 * (256 + 64) * 512)
  assert found == pytest.approx(expected, rel=1e-4)
  assert n_header < 600


def kernel_or_skip(kernel):
  pytest.importorskip('numba')
  try:
    choose_kernel(kernel)
  except ConfigError as error:
    pytest.skip(str(error))


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('kernel', ['avx512', 'avx2', 'dense'])
def test_products_are_those_of_numpy(tmp_path, kernel, dtype):
  kernel_or_skip(kernel)
  path = tmp_path / 'a.safetensors'
  tensors = []
  for i, shape in enumerate(SHAPES):
    weight, mask = masked(shape, seed=i)
    tensors += [(f'{i} sparse', weight, mask), (f'{i} dense', weight, None)]
  write_sparse(path, tensors, dtype)
  file = read_sparse(path)
  weights = Weights(file, file.names(), kernel)
  for name in file.names():
    dense = file.dense(name).astype(np.float64)
    for batch in (1, 3, 4, 16):
      rng = np.random.default_rng(batch)
      x = rng.standard_normal((batch, dense.shape[1])).astype(np.float32)
      y = weights.multiply(name, x)
      assert y.dtype == np.float32
      # Sums of up to 257 float32 terms of size 1.
      np.testing.assert_allclose(y, x @ dense.T, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('kernel', ['avx512', 'avx2'])
def test_a_row_is_not_touched_by_its_neighbours(tmp_path, kernel, dtype):
  """A kernel may read values of the next rows, but must drop them."""
  kernel_or_skip(kernel)
  weight, mask = masked((40, 45))
  weight[1::2] = np.nan
  mask[1::2, 0] = True
  file = write_one(tmp_path / 'a.safetensors', weight, mask, dtype)
  for sparse in (True, False):
    if not sparse:
      write_sparse(tmp_path / 'b', [('a.weight', weight, None)], dtype)
      file = read_sparse(tmp_path / 'b')
    weights = Weights(file, ['a.weight'], kernel)
    for batch in (1, 4):
      y = weights.multiply('a.weight', np.ones((batch, 45), np.float32))
      assert np.isfinite(y[:, ::2]).all()
      assert np.isnan(y[:, 1::2]).all()


def test_the_input_must_fit_the_weight(tmp_path):
  kernel_or_skip('dense')
  file = write_one(tmp_path / 'a.safetensors', *masked((5, 13)))
  weights = Weights(file, ['a.weight'])
  with pytest.raises(ValueError, match=r'a.weight: the input is \[1, 12\]'):
    weights.multiply('a.weight', np.ones((1, 12), np.float32))


AVX2 = dict.fromkeys(['avx2', 'fma', 'popcnt'], True)
AVX512 = AVX2 | dict.fromkeys(['avx512f', 'avx512bw', 'avx512vbmi2'], True)


def test_the_kernel_is_the_best_that_the_processor_has(monkeypatch):
  monkeypatch.delenv(OVERRIDE, raising=False)
  assert choose_kernel(features=AVX512).name == 'avx512'
  found = choose_kernel(features=AVX512 | {'avx512vbmi2': False})
  assert found.name == 'avx2'
  assert 'no avx512vbmi2' in found.describe()
  found = choose_kernel(features={})
  assert found.name == 'dense'
  assert 'expanded once' in found.describe() and '\n' not in found.describe()
  monkeypatch.setenv(OVERRIDE, 'avx2')
  assert choose_kernel(features=AVX512).name == 'avx2'
  assert choose_kernel('dense', AVX512).name == 'dense'
  with pytest.raises(ConfigError, match='lacks avx2, fma, popcnt'):
    choose_kernel(features={})
  with pytest.raises(ConfigError, match="'neon': must be one of"):
    choose_kernel('neon', AVX512)


def test_without_numba_one_line_says_what_to_install():
  code = (
    'import sys; sys.modules["numba"] = None\n'
    'from jax_sparse_pretrain.inference import sparse_engine, sparse_kernels\n'
    'try:\n  sparse_kernels.choose_kernel()\n'
    'except sparse_kernels.ConfigError as error:\n  print(error)'
  )
  done = subprocess.run(
    [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True
  )
  assert done.stdout.count('\n') == 1, done.stderr
  assert "pip install 'jax_sparse_pretrain[sparse]'" in done.stdout


def assembly(kind, lanes, n_columns, cpu):
  """A tile of two rows, compiled for a processor that need not be here."""
  from llvmlite import binding, ir

  from jax_sparse_pretrain.inference import sparse_ir

  binding.initialize_all_targets()
  binding.initialize_all_asmprinters()
  module, pointer = ir.Module(), ir.PointerType(ir.IntType(8))
  n_pointers, integer = 7, ir.IntType(64)
  arguments = [*[pointer] * n_pointers, integer, integer]
  kind_of = ir.FunctionType(ir.VoidType(), arguments)
  function = ir.Function(module, kind_of, 'tile')
  builder = ir.IRBuilder(function.append_basic_block())
  a, b, bits_a, bits_b, table, x, y, n_in, group_bytes = function.args
  rows = [sparse_ir.Row(a, bits_a), sparse_ir.Row(b, bits_b)]
  sums = sparse_ir.emit_tile(
    builder, kind, lanes, rows, n_in, table, x, n_columns, group_bytes
  )
  for i, value in enumerate(v for of_row in sums for v in of_row):
    place = builder.gep(y, [integer(4 * i)], source_etype=ir.IntType(8))
    builder.store(value, builder.bitcast(place, ir.PointerType(ir.FloatType())))
  builder.ret_void()
  target = binding.Target.from_triple('x86_64-unknown-linux-gnu')
  machine = target.create_target_machine(cpu=cpu, opt=3)
  parsed = binding.parse_assembly(str(module))
  parsed.verify()
  options = binding.create_pipeline_tuning_options(3)
  passes = binding.create_pass_builder(machine, options)
  passes.getModulePassManager().run(parsed, passes)
  return machine.emit_assembly(parsed)


@pytest.mark.parametrize('cpu', ['icelake-server', 'znver4'])
@pytest.mark.parametrize('n_columns', [1, 4])
def test_avx512_expands_in_one_instruction(cpu, n_columns):
  """Compiled here, run only where a processor has it (the tests above)."""
  pytest.importorskip('llvmlite')
  from jax_sparse_pretrain.inference import sparse_ir

  for kind, instruction in (
    (sparse_ir.SPARSE_F32, 'vexpandps'),
    (sparse_ir.SPARSE_BF16, 'vpexpandw'),
  ):
    text = assembly(kind, 16, n_columns, cpu)
    expanded = [line for line in text.splitlines() if instruction in line]
    assert expanded and all('zmm' in line for line in expanded)
    assert 'vfmadd' in text and 'popcnt' in text


def test_avx2_expands_by_shuffles():
  pytest.importorskip('llvmlite')
  from jax_sparse_pretrain.inference import sparse_ir

  assert 'vperm' in assembly(sparse_ir.SPARSE_F32, 8, 1, 'haswell')
  assert 'vpshufb' in assembly(sparse_ir.SPARSE_BF16, 8, 1, 'haswell')


LLAMA3 = {
  'rope_type': 'llama3',
  'rope_theta': 500_000.0,
  'factor': 8.0,
  'low_freq_factor': 1.0,
  'high_freq_factor': 4.0,
  'original_max_position_embeddings': 16,
}
MODELS = {
  'plain': {},
  'grouped, tied': {'num_key_value_heads': 2, 'tie_word_embeddings': True},
  'llama3': {
    'head_dim': 12,
    'num_key_value_heads': 1,
    'rope_parameters': LLAMA3,
  },
}
WIDTHS = {
  'hidden_size': 36,
  'intermediate_size': 84,
  'num_hidden_layers': 2,
  'num_attention_heads': 6,
  'vocab_size': 97,
  'rms_norm_eps': 1e-5,
  'max_position_embeddings': 128,
}


@pytest.fixture(scope='module')
def llama(tmp_path_factory):
  """(changes, dtype) -> a random model, the path of its sparse file, config."""
  pytest.importorskip('numba')
  torch = pytest.importorskip('torch')
  transformers = pytest.importorskip('transformers')
  made = {}

  def make(name, dtype='float32'):
    if (name, dtype) in made:
      return made[name, dtype]
    config = transformers.LlamaConfig(**(WIDTHS | MODELS[name]))
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).eval()
    tensors = []
    with torch.no_grad():
      for key, weight in model.named_parameters():
        mask = None
        if weight.ndim == 1:
          weight.normal_(1, 0.2)
        elif key.endswith('_proj.weight') or key == 'lm_head.weight':
          weight.normal_(0, 0.3)
          mask = torch.rand(weight.shape) < 0.4
          weight *= mask
        else:
          weight.normal_(0, 0.5)
        if dtype == 'bfloat16' and weight.ndim == 2:
          weight.copy_(weight.bfloat16())
        mask = None if mask is None else mask.numpy()
        tensors.append((key, weight.numpy().copy(), mask))
    path = tmp_path_factory.mktemp('llama') / 'model.safetensors'
    write_sparse(path, tensors, dtype)
    made[name, dtype] = model, path, config.to_dict()
    return made[name, dtype]

  return make


def reference(model, tokens):
  import torch

  with torch.no_grad():
    return model(torch.as_tensor(tokens)).logits.numpy()


@pytest.mark.parametrize(
  ('name', 'dtype'),
  [*((name, 'float32') for name in MODELS), ('grouped, tied', 'bfloat16')],
)
def test_logits_are_those_of_transformers(llama, name, dtype):
  """Rows of different lengths, of which the longest comes in two pieces."""
  model, path, config = llama(name, dtype)
  engine = SparseEngine(read_sparse(path), config)
  lengths = np.array([30, 7, 19])
  rows = np.arange(3)
  rng = np.random.default_rng(0)
  tokens = rng.integers(0, WIDTHS['vocab_size'], (3, 36)).astype(np.int32)
  expected = reference(model, tokens)
  engine.reset(3, 40)
  found = [engine.prefill(tokens[:, :30], lengths)]
  found += [engine.step(tokens[rows, lengths + i]) for i in range(5)]
  for i, logits in enumerate(found):
    wanted = expected[rows, lengths - 1 + i]
    # Relative to the largest: float32 in another order, twice the layers.
    assert logits.dtype == np.float32
    assert abs(logits - wanted).max() <= 1e-4 * max(1, abs(wanted).max())


def test_greedy_tokens_are_those_of_transformers(llama):
  model, path, config = llama('llama3')
  engine = SparseEngine(read_sparse(path), config)
  prompt = np.array([[5, 17, 3, 42]], np.int32)
  engine.reset(1, 44)
  logits, tokens = engine.prefill(prompt, np.array([4])), prompt
  for _ in range(40):
    best = logits.argmax(axis=1).astype(np.int32)
    tokens = np.append(tokens, best[None], axis=1)
    logits = engine.step(best)
  # What transformers would choose after each prefix, in one pass.
  theirs = reference(model, tokens[:, :-1]).argmax(axis=-1)
  assert np.array_equal(tokens[:, 4:], theirs[:, 3:])


def test_weights_that_were_expanded_give_the_same_logits(llama):
  _, path, config = llama('plain')
  tokens = np.arange(12, dtype=np.int32).reshape(2, 6)
  found = []
  for kernel in (None, 'dense'):
    engine = SparseEngine(read_sparse(path), config, kernel)
    engine.reset(2, 6)
    found.append(engine.prefill(tokens, np.array([6, 6])))
  np.testing.assert_allclose(found[0], found[1], rtol=1e-4, atol=1e-5)
  assert 'dense' in engine.describe()


def test_a_prompt_may_come_in_pieces(llama):
  _, path, config = llama('plain')
  engine = SparseEngine(read_sparse(path), config)
  tokens = np.arange(9, dtype=np.int32)[None]
  engine.reset(1, 9)
  whole = engine.prefill(tokens, np.array([9]))
  engine.reset(1, 9)
  engine.prefill(tokens[:, :4], np.array([4]))
  pieces = engine.prefill(tokens[:, 4:], np.array([5]))
  np.testing.assert_allclose(whole, pieces, rtol=1e-4, atol=1e-5)
  with pytest.raises(ValueError, match='10 tokens: the cache holds 9'):
    engine.step(np.array([1]))


def test_what_does_not_fit_is_refused(llama):
  _, path, config = llama('plain')
  file = read_sparse(path)
  for change, told in (
    ({'hidden_size': 48}, 'its shape is'),
    ({'num_hidden_layers': 3}, 'layers.2.self_attn.q_proj.weight: not in'),
    ({'hidden_act': 'gelu'}, "hidden_act = 'gelu': must be silu"),
    ({'rope_parameters': {'rope_type': 'yarn'}}, "rope_type = 'yarn'"),
    ({'num_key_value_heads': 4}, '6 heads in 4 groups'),
  ):
    with pytest.raises(ConfigError, match=told):
      SparseEngine(file, config | change)
  del config['rms_norm_eps']
  with pytest.raises(ConfigError, match="no 'rms_norm_eps'"):
    SparseEngine(file, config)


def test_the_older_names_of_the_rotary_scaling_mean_the_same():
  older = {
    'rope_theta': LLAMA3['rope_theta'],
    'rope_scaling': {k: v for k, v in LLAMA3.items() if k != 'rope_theta'},
  }
  newer = {'rope_parameters': LLAMA3}
  assert np.array_equal(
    rotary_frequencies(older, 64), rotary_frequencies(newer, 64)
  )


@pytest.mark.slow
def test_the_benchmark_runs():
  """It also checks that its programs agree."""
  command = [sys.executable, '-m', 'benchmarks.decode', '--small']
  done = subprocess.run(
    [*command, '--rounds', '2'], cwd=ROOT, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  assert '| sparse bf16 |' in done.stdout
