"""Tokens a second of one decode step, sparse and dense, on this CPU.

  python -m benchmarks.decode [--sizes 162m 1b] [--sparsity 0 0.5 0.6 0.8 0.9]
    [--batch 1 4 16] [--rounds 9] [--layers N] [--one_core] [--small]

One step for a batch, each of whose rows has 64 tokens in its cache, at the
widths of configs/c4_162m.py and c4_1b.py. Few layers and the head are timed, 3
and 1 by default, and the time is scaled by the linear weights of the whole
model over those that were timed. All in one process, one step of each program
in turn, in an order drawn anew each round; tokens a second are of the median
step, ratios and errors as in `benchmarks.step`.

numpy, torch, scipy CSR, torch CSR: their products, and NumPy for all else.
XLA: the whole step in one jitted function, float32 or bfloat16.
numba dense: our engine and kernels with the dense weights; as these read each
weight once and do little else, they are the floor that memory sets.
sparse: our engine and kernels with the bitmap and the kept values.

--one_core is for a machine on which other work is running: it binds the process
to one core, and counts the time that it has the core, in place of all time.

--small is a quick try: one layer of the 162M model, batch 1, 80 %.
"""

import argparse
import functools
import os
import pathlib
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse

from benchmarks.step import interleaved, ratio
from jax_sparse_pretrain import command_line
from jax_sparse_pretrain.huggingface.sparse_file import (
  read_sparse,
  relative_bytes,
  write_sparse,
)
from jax_sparse_pretrain.inference.sparse_engine import SparseEngine
from jax_sparse_pretrain.inference.sparse_kernels import choose_kernel

try:
  import torch
except ImportError:
  torch = None

CONFIGS = {'162m': 'c4_162m', '1b': 'c4_1b'}
TIMED_LAYERS = {'162m': 3, '1b': 1}
CONTEXT = 64
EPS, BASE = 1e-5, 10_000.0
LINEAR = ('q', 'k', 'v', 'o', 'gate', 'up', 'down')
Product = Callable[[str, np.ndarray], np.ndarray]


def llama_config(size: str) -> dict:
  """The widths of a shipped config, with the keys of Hugging Face."""
  model = command_line.load_config(f'configs/{CONFIGS[size]}.py', []).model
  return {
    'hidden_size': model.d_model,
    'intermediate_size': model.d_ff,
    'num_hidden_layers': model.n_layers,
    'num_attention_heads': model.n_heads,
    'vocab_size': model.vocab_size,
    'rms_norm_eps': EPS,
    'rope_theta': BASE,
  }


def n_linear(config: Mapping, n_layers: int) -> int:
  width, inner = config['hidden_size'], config['intermediate_size']
  layer = 4 * width**2 + 3 * width * inner
  return n_layers * layer + width * config['vocab_size']


def full_name(name: str) -> str:
  """'0.q' -> the name in a state dict."""
  if name == 'head':
    return 'lm_head.weight'
  layer, linear = name.split('.')
  part = 'self_attn' if linear in 'qkvo' else 'mlp'
  return f'model.layers.{layer}.{part}.{linear}_proj.weight'


def make_weights(config: Mapping, rng) -> dict[str, np.ndarray]:
  """Linear maps [out, in]; magnitudes are uniform, so that s are below s."""
  d, f, v = (
    config[f'{key}_size'] for key in ('hidden', 'intermediate', 'vocab')
  )
  shapes = dict.fromkeys('qkvo', (d, d))
  shapes |= {'gate': (f, d), 'up': (f, d), 'down': (d, f)}
  shapes = {
    f'{layer}.{name}': shape
    for layer in range(config['num_hidden_layers'])
    for name, shape in shapes.items()
  } | {'head': (v, d)}
  return {
    name: 2 * rng.random(shape, np.float32) - 1
    for name, shape in shapes.items()
  }


def engine_step(config, weights, sparsity, dtype, batch):
  """A step of our engine; a sparsity of None stores the weights densely."""
  width = config['hidden_size']

  def tensors():
    yield 'model.embed_tokens.weight', embedding(config), None
    yield 'model.norm.weight', np.ones(width), None
    for layer in range(config['num_hidden_layers']):
      for norm in ('input_layernorm', 'post_attention_layernorm'):
        yield f'model.layers.{layer}.{norm}.weight', np.ones(width), None
    for name, weight in weights.items():
      mask = None if sparsity is None else abs(weight) >= sparsity
      yield full_name(name), weight / weight.shape[1] ** 0.5, mask

  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / 'model.safetensors'
    write_sparse(path, tensors(), dtype)
    engine = SparseEngine(read_sparse(path), config)
  engine.reset(batch, CONTEXT + 1)
  tokens = np.arange(batch)

  def step():
    engine.lengths[:] = CONTEXT
    return engine.step(tokens)

  return step


@functools.cache
def _embedding(vocab: int, width: int) -> np.ndarray:
  rng = np.random.default_rng(1)
  return rng.standard_normal((vocab, width), np.float32)


def embedding(config: Mapping) -> np.ndarray:
  return _embedding(config['vocab_size'], config['hidden_size'])


def decode(xp, product: Product, config, x, keys, values):
  """The step as one writes it with NumPy or jax.numpy: logits [B, V].

  Args:
    xp: numpy or jax.numpy.
    product: (name, x [B, in]) -> [B, out].
    config: of the model.
    x: [B, D].
    keys, values: [layers, B, H, CONTEXT, K]; the token itself is added.
  """
  batch, n_heads = len(x), config['num_attention_heads']
  half = config['hidden_size'] // n_heads // 2
  angle = CONTEXT * BASE ** (-xp.arange(half, dtype=xp.float32) / half)
  sin, cos = xp.sin(angle).astype(x.dtype), xp.cos(angle).astype(x.dtype)

  def norm(x):
    wide = x.astype(xp.float32)
    root = xp.sqrt((wide * wide).mean(-1, keepdims=True) + EPS)
    return (wide / root).astype(x.dtype)

  def rotate(heads):
    a, b = heads[..., :half], heads[..., half:]
    return xp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

  for layer in range(config['num_hidden_layers']):
    h = norm(x)
    q, k, v = (
      product(f'{layer}.{name}', h).reshape(batch, n_heads, 2 * half)
      for name in 'qkv'
    )
    k = xp.concatenate([keys[layer], rotate(k)[:, :, None]], 2)
    v = xp.concatenate([values[layer], v[:, :, None]], 2)
    scores = xp.einsum('bhk,bhtk->bht', rotate(q), k) / (2 * half) ** 0.5
    shares = xp.exp(scores - scores.max(-1, keepdims=True))
    shares = shares / shares.sum(-1, keepdims=True)
    mixed = xp.einsum('bht,bhtk->bhk', shares, v).reshape(batch, -1)
    x = x + product(f'{layer}.o', mixed)
    h = norm(x)
    gate = product(f'{layer}.gate', h)
    up = product(f'{layer}.up', h)
    x = x + product(f'{layer}.down', gate / (1 + xp.exp(-gate)) * up)
  return product('head', norm(x))


def numpy_step(product: Product, config, batch):
  inputs = decode_inputs(config, batch)
  return lambda: decode(np, product, config, *inputs)


def decode_inputs(config, batch):
  n_heads = config['num_attention_heads']
  cache = (config['num_hidden_layers'], batch, n_heads, CONTEXT)
  cache = np.zeros((*cache, config['hidden_size'] // n_heads), np.float32)
  return embedding(config)[:batch], cache, cache.copy()


def xla_step(weights, config, batch, dtype):
  # [in, out], as our model has them.
  kernels = {
    name: jnp.asarray(weight.T / weight.shape[1] ** 0.5, dtype)
    for name, weight in weights.items()
  }

  @jax.jit
  def step(kernels, x, keys, values):
    def product(name, x):
      return x @ kernels[name]

    return decode(jnp, product, config, x, keys, values).astype(jnp.float32)

  inputs = [jnp.asarray(a, dtype) for a in decode_inputs(config, batch)]
  return functools.partial(step, kernels, *inputs)


def dense_steps(weights, config, batch) -> dict[str, Callable]:
  scaled = {n: w / w.shape[1] ** 0.5 for n, w in weights.items()}
  steps = {
    'numpy fp32': numpy_step(lambda n, x: x @ scaled[n].T, config, batch),
    'XLA fp32': xla_step(weights, config, batch, jnp.float32),
    'XLA bf16': xla_step(weights, config, batch, jnp.bfloat16),
    'numba dense fp32': engine_step(config, weights, None, 'float32', batch),
    'numba dense bf16': engine_step(config, weights, None, 'bfloat16', batch),
  }
  if torch:
    shared = {n: torch.from_numpy(w) for n, w in scaled.items()}

    def product(name, x):
      x = torch.from_numpy(np.ascontiguousarray(x))
      return torch.nn.functional.linear(x, shared[name]).numpy()

    steps['torch fp32'] = numpy_step(product, config, batch)
  return steps


def sparse_steps(weights, config, batch, sparsity) -> dict[str, Callable]:
  rows = {
    name: scipy.sparse.csr_array(
      weight / weight.shape[1] ** 0.5 * (abs(weight) >= sparsity)
    )
    for name, weight in weights.items()
  }
  make = functools.partial(engine_step, config, weights, sparsity, batch=batch)
  steps = {
    'scipy CSR': numpy_step(lambda n, x: (rows[n] @ x.T).T, config, batch),
    'sparse fp32': make('float32'),
    'sparse bf16': make('bfloat16'),
  }
  if torch:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')  # that CSR is in beta
      shared = {
        n: torch.sparse_csr_tensor(
          *map(torch.from_numpy, (w.indptr, w.indices, w.data)), size=w.shape
        )
        for n, w in rows.items()
      }

    def product(name, x):
      columns = torch.from_numpy(np.ascontiguousarray(x.T))
      return (shared[name] @ columns).numpy().T

    steps['torch CSR'] = numpy_step(product, config, batch)
  return steps


def check_agreement(steps: Mapping[str, Callable], against: str) -> None:
  """float32 programs of the same weights give the same logits."""
  expected = np.asarray(steps[against]())
  for name, step in steps.items():
    tolerance = 0.1 if 'bf16' in name else 1e-3
    error = abs(np.asarray(step()) - expected).max() / abs(expected).max()
    if error > tolerance:
      raise AssertionError(f'{name} is {error} from {against}')


def print_sizes(sizes, sparsities) -> None:
  print(
    '| file / dense fp32 |', ' | '.join(f'{s:.0%}' for s in sparsities), '|'
  )
  print('|---|' + '---:|' * len(sparsities))
  for size in sizes:
    config = llama_config(size)
    linear = n_linear(config, config['num_hidden_layers'])
    plain = config['vocab_size'] * config['hidden_size']
    for dtype in ('bfloat16', 'float32'):
      cells = [
        f'{relative_bytes(linear, plain, 1 - s, dtype):.3f}' for s in sparsities
      ]
      print(f'| {size}, {dtype} |', ' | '.join(cells), '|')
  print()


def measure(
  size: str, layers: int, batches, sparsities, rounds: int, clock
) -> None:
  whole = llama_config(size)
  config = {**whole, 'num_hidden_layers': layers}
  share = n_linear(whole, whole['num_hidden_layers'])
  share /= n_linear(config, layers)
  weights = make_weights(config, np.random.default_rng(0))
  print(f'{size}: {layers} layers and the head were timed, time x {share:.2f}')
  print(
    '| batch | sparsity | program | tokens/s | of XLA fp32 | of the floor |'
  )
  print('|---:|---:|---|---:|---:|---:|')
  for batch in batches:
    dense = dense_steps(weights, config, batch)
    check_agreement(dense, 'numpy fp32')
    for sparsity in sparsities:
      sparse = sparse_steps(weights, config, batch, sparsity)
      check_agreement(sparse, 'scipy CSR')
      seconds = interleaved(dense | sparse, rounds, clock)
      for name in sorted(seconds, key=lambda n: statistics.median(seconds[n])):
        times = seconds[name]
        print(
          f'| {batch} | {sparsity:.0%} | {name}',
          f'{batch / statistics.median(times) / share:.2f}',
          ratio(seconds['XLA fp32'], times),
          f'{ratio(seconds["numba dense fp32"], times)} |',
          sep=' | ',
          flush=True,
        )


def _bind_to_one_core() -> None:
  """Starts this program anew, as libraries make their threads when loaded."""
  cores = os.sched_getaffinity(0)
  if len(cores) > 1:
    os.sched_setaffinity(0, {max(cores)})
    os.execv(sys.executable, sys.orig_argv)


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('--sizes', nargs='+', choices=CONFIGS, default=[*CONFIGS])
  parser.add_argument(
    '--sparsity', nargs='+', type=float, default=[0, 0.5, 0.6, 0.8, 0.9]
  )
  parser.add_argument('--batch', nargs='+', type=int, default=[1, 4, 16])
  parser.add_argument('--rounds', type=int, default=9)
  parser.add_argument('--layers', type=int, help='timed, of each size')
  parser.add_argument('--one_core', action='store_true')
  parser.add_argument('--small', action='store_true')
  args = parser.parse_args()
  if args.small:
    args.sizes, args.layers = ['162m'], 1
    args.sparsity, args.batch = [0.8], [1]
  if args.one_core:
    _bind_to_one_core()
  clock = time.process_time if args.one_core else time.perf_counter
  print(choose_kernel().describe(), end='\n\n')
  print_sizes(args.sizes, args.sparsity)
  for size in args.sizes:
    layers = args.layers or TIMED_LAYERS[size]
    measure(size, layers, args.batch, args.sparsity, args.rounds, clock)


if __name__ == '__main__':
  main()
