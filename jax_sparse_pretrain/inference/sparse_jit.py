"""The functions of the sparse engine that Numba compiles, all of them.

`sparse_kernels` and `sparse_engine` load this module when they need it, as it
needs Numba. The argument `tables` says by its type for which instructions to
compile (see `lanes_of`), so that what is compiled for one is not used for
another.

Inputs of a product are packed: float32[groups, batch, lanes], with zeros in
what is padded. The batch is 1, or padded to a multiple of 4.
"""

import hashlib
import os
import pathlib

import numba
import numpy as np
from llvmlite import ir
from numba import njit, prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from jax_sparse_pretrain.inference import sparse_ir
from jax_sparse_pretrain.inference.sparse_ir import Row

_I8, _I64 = ir.IntType(8), ir.IntType(64)
_BYTES, _FLOATS = ir.PointerType(_I8), ir.PointerType(ir.FloatType())
# Sums may be taken in any order; infinities and NaNs stay what they are.
_ANY_ORDER = {'reassoc', 'contract', 'nsz', 'arcp'}
# Columns of a tile -> its rows: enough sums to hide the time of an addition,
# and few enough for 16 registers.
_TILE_ROWS = {1: 4, 4: 2}


def _cache_directory() -> pathlib.Path:
  """One for these sources: Numba looks at the file of each function alone."""
  home = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
  base = os.environ.get('NUMBA_CACHE_DIR') or f'{home}/jax_sparse_pretrain'
  sources = [pathlib.Path(p) for p in (__file__, sparse_ir.__file__)]
  stamp = hashlib.sha256(b''.join(p.read_bytes() for p in sources))
  return pathlib.Path(base).expanduser() / stamp.hexdigest()[:16]


def _compiled(**options):
  """njit, kept on disk where there is a place to write to."""

  def decorate(function):
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(_cache_directory())
    try:
      return njit(cache=True, **options)(function)
    except (RuntimeError, OSError):  # nowhere to write
      return njit(**options)(function)
    finally:
      numba.config.CACHE_DIR = before

  return decorate


def lanes_of(tables) -> int:
  """16 for AVX-512, uint8[0]; 8 for AVX2, uint8[2, 256, 32], or if dense."""
  return 16 if tables.ndim == 1 else 8


def _kinds_of(tables) -> tuple[int, ...]:
  """Where tables are uint8[0, 0] there are no sparse weights."""
  dense = (sparse_ir.DENSE_F32, sparse_ir.DENSE_BF16)
  sparse = (sparse_ir.SPARSE_F32, sparse_ir.SPARSE_BF16)
  return dense if tables.ndim == 2 else dense + sparse


def _beyond(builder, start, *factors):
  """A pointer, moved by the product of some i64 or int."""
  offset = ir.Constant(_I64, 1)
  for factor in factors:
    if isinstance(factor, int):
      factor = ir.Constant(_I64, factor)
    offset = builder.mul(offset, factor)
  return builder.gep(start, [offset], source_etype=_I8)


@intrinsic
def _multiply_tile(
  typing,
  tables,
  memory,
  weight,
  offsets,
  at,
  row,
  stride,
  last,
  x,
  column,
  y,
  first,
):
  """Products of a few rows of a weight with a few columns of x.

  Args:
    tables: see `lanes_of`.
    memory: uint8[:], which holds the weight.
    weight: a tuple, (kind, start of values, start of bitmap, n_in).
    offsets: int64[:], how many values there are before each row.
    at: where the weight begins in offsets.
    row, stride, last: rows row, row + stride, ..., but none after the last; as
      many as `_TILE_ROWS` says.
    x: float32[groups, batch, lanes], packed.
    column: the first column; alone if the batch is 1, or else with three more.
    y: float32[batch, :], where to write.
    first: where the first row of the weight belongs in y.
  """
  arguments = (tables, memory, weight, offsets, at, row, stride, last)
  signature = types.void(*arguments, x, column, y, first)

  def generate(context, builder, signature, args):
    _, _, weight, _, at, row, stride, last, _, column, _, first = args

    def array(i):
      return context.make_array(signature.args[i])(context, builder, args[i])

    def pointer(i):
      return builder.bitcast(array(i).data, _BYTES)

    def length(i, axis):
      return cgutils.unpack_tuple(builder, array(i).shape)[axis]

    kind, values, bitmap, n_in = cgutils.unpack_tuple(builder, weight)
    lanes, batch, width = lanes_of(tables), length(8, 1), length(10, 1)
    n_bytes = builder.udiv(
      builder.add(n_in, ir.Constant(_I64, 7)), ir.Constant(_I64, 8)
    )
    values = _beyond(builder, pointer(1), values)
    bitmap = _beyond(builder, pointer(1), bitmap)
    inputs = _beyond(builder, pointer(8), column, 4 * lanes)

    def begin(kind, number):
      itemsize = sparse_ir.itemsize(kind)
      if kind in (sparse_ir.DENSE_F32, sparse_ir.DENSE_BF16):
        return Row(_beyond(builder, values, number, n_in, itemsize), None)
      before = builder.bitcast(
        _beyond(builder, pointer(3), builder.add(at, number), 8),
        ir.PointerType(_I64),
      )
      before = builder.load(before, typ=_I64)
      return Row(
        _beyond(builder, values, before, itemsize),
        _beyond(builder, bitmap, number, n_bytes),
      )

    def emit(kind, n_columns):
      numbers = []
      for r in range(_TILE_ROWS[n_columns]):
        number = builder.mul(stride, ir.Constant(_I64, r))
        number = builder.add(row, number)
        past = builder.icmp_signed('>', number, last)
        numbers.append(builder.select(past, last, number))
      table = None
      if lanes == 8 and kind >= sparse_ir.SPARSE_F32:
        plane = kind - sparse_ir.SPARSE_F32
        table = _beyond(builder, pointer(0), plane * 256 * 32)
      sums = sparse_ir.emit_tile(
        builder,
        kind,
        lanes,
        [begin(kind, number) for number in numbers],
        n_in,
        table,
        inputs,
        n_columns,
        builder.mul(batch, ir.Constant(_I64, 4 * lanes)),
      )
      for c in range(n_columns):
        line = builder.add(column, ir.Constant(_I64, c))
        line = _beyond(builder, pointer(10), line, width, 4)
        for number, of_row in zip(numbers, sums, strict=True):
          place = _beyond(builder, line, builder.add(first, number), 4)
          builder.store(of_row[c], builder.bitcast(place, _FLOATS))

    for each in _kinds_of(tables):
      is_kind = builder.icmp_signed('==', kind, ir.Constant(_I64, each))
      with builder.if_then(is_kind):
        for n_columns in _TILE_ROWS:
          compared = '==' if n_columns < 4 else '>='
          n = ir.Constant(_I64, n_columns)
          with builder.if_then(builder.icmp_signed(compared, batch, n)):
            emit(each, n_columns)
    return context.get_dummy_value()

  return signature, generate


@_compiled()
def _multiply_rows(
  tables, memory, weight, offsets, at, begin, end, x, y, first
):
  """Rows begin..end - 1 of a weight, read as two or four long streams."""
  batch = x.shape[1]
  n_streams = 4 if batch == 1 else 2
  stride = (end - begin + n_streams - 1) // n_streams
  for row in range(begin, begin + stride):
    for column in range(0, batch, 4):
      _multiply_tile(
        *(tables, memory, weight, offsets, at, row, stride, end - 1),
        *(x, column, y, first),
      )


@_compiled(parallel=True)
def multiply(tables, memory, weights, first, last, offsets, n_parts, x, y):
  """Products of weights first..last - 1 with the same input, side by side.

  Args:
    tables: see `lanes_of`.
    memory: uint8[:], which holds the weights.
    weights: int64[n, 6], of each (kind, start of values, start of bitmap,
      n_in, n_out, start in offsets).
    first, last: which of them.
    offsets: int64[:], values before each row of the sparse ones.
    n_parts: into how many to divide the work, one for each thread.
    x: float32[groups, batch, lanes], packed.
    y: float32[batch, sum of n_out], where to write.
  """
  n_rows = 0
  for i in range(first, last):
    n_rows += weights[i, 4]
  for part in prange(n_parts):
    begin, end = n_rows * part // n_parts, n_rows * (part + 1) // n_parts
    at = 0  # rows of the weights before
    for i in range(first, last):
      weight = (weights[i, 0], weights[i, 1], weights[i, 2], weights[i, 3])
      own_begin, own_end = max(begin - at, 0), min(end - at, weights[i, 4])
      if own_begin < own_end:
        _multiply_rows(
          *(tables, memory, weight, offsets, weights[i, 5]),
          *(own_begin, own_end, x, y, at),
        )
      at += weights[i, 4]


@_compiled()
def empty_packed(tables, batch, width):
  """Zeros, float32[groups, batch, lanes], for inputs of that width."""
  if tables.ndim == 1:  # whole steps of 32
    return np.zeros(((width + 31) // 32 * 2, batch, 16), np.float32)
  return np.zeros(((width + 7) // 8, batch, 8), np.float32)


@_compiled()
def pack(h, x):
  """h float32[batch, width] -> x, packed."""
  lanes = x.shape[2]
  for b in range(h.shape[0]):
    for i in range(h.shape[1]):
      x[i // lanes, b, i % lanes] = h[b, i]


@_compiled(fastmath=_ANY_ORDER)
def _normalise(hidden, scale, eps, x):
  """RMSNorm of hidden float32[batch, D] -> x, packed."""
  lanes = x.shape[2]
  for b in range(hidden.shape[0]):
    total = np.float32(0)
    for i in range(hidden.shape[1]):
      total += hidden[b, i] * hidden[b, i]
    root = np.float32(1 / np.sqrt(total / hidden.shape[1] + eps))
    for i in range(hidden.shape[1]):
      x[i // lanes, b, i % lanes] = hidden[b, i] * root * scale[i]


@_compiled()
def _remember(qkv, n_heads, rows, positions, sin, cos, keys, values, layer):
  """Turns queries and keys in place; puts keys and values into the cache.

  Args:
    qkv: float32[batch, (H + 2 G) K].
    n_heads: H.
    rows, positions: int64[n_tokens], where each belongs.
    sin, cos: float32[capacity, K / 2]; pairs (i, i + K / 2) turn.
    keys, values: float32[layers, rows, G, capacity, K].
    layer: of the cache.
  """
  n_groups, n_dims = keys.shape[2], keys.shape[4]
  half = n_dims // 2
  for n in range(len(rows)):
    row, at = rows[n], positions[n]
    for h in range(n_heads + n_groups):
      for i in range(h * n_dims, h * n_dims + half):
        a, b = qkv[n, i], qkv[n, i + half]
        s, c = sin[at, i - h * n_dims], cos[at, i - h * n_dims]
        qkv[n, i] = a * c - b * s
        qkv[n, i + half] = b * c + a * s
    for g in range(n_groups):
      k, v = (n_heads + g) * n_dims, (n_heads + n_groups + g) * n_dims
      for i in range(n_dims):
        keys[layer, row, g, at, i] = qkv[n, k + i]
        values[layer, row, g, at, i] = qkv[n, v + i]


@_compiled(fastmath=_ANY_ORDER)
def _attend_one(qkv, n, head, keys, values, length, x):
  """A head of a token over the first of keys, values float32[capacity, K]."""
  n_dims, lanes = keys.shape[1], x.shape[2]
  begin = head * n_dims
  scale = np.float32(1 / np.sqrt(n_dims))
  scores = np.empty(length, np.float32)
  largest = np.float32(-np.inf)
  for t in range(length):
    score = np.float32(0)
    for i in range(n_dims):
      score += qkv[n, begin + i] * keys[t, i]
    scores[t] = score * scale
    largest = max(largest, scores[t])
  total = np.float32(0)
  mixed = np.zeros(n_dims, np.float32)
  for t in range(length):
    share = np.exp(scores[t] - largest)
    total += share
    for i in range(n_dims):
      mixed[i] += share * values[t, i]
  for i in range(n_dims):
    x[(begin + i) // lanes, n, (begin + i) % lanes] = mixed[i] / total


@_compiled(parallel=True)
def _attend(qkv, n_heads, rows, positions, keys, values, layer, x):
  """Attention of each token over its row of the cache -> x, packed.

  Args are those of `_remember`.
  """
  n_groups = keys.shape[2]
  for task in prange(len(rows) * n_heads):
    n, head = task // n_heads, task % n_heads
    group = head // (n_heads // n_groups)
    k, v = keys[layer, rows[n], group], values[layer, rows[n], group]
    _attend_one(qkv, n, head, k, v, positions[n] + 1, x)


@_compiled(parallel=True)
def _gate(gate_up, x):
  """silu(gate) * up of float32[batch, 2 F] -> x, packed."""
  lanes, batch = x.shape[2], x.shape[1]
  width = gate_up.shape[1] // 2
  for g in prange(x.shape[0]):
    for b in range(batch):
      for i in range(g * lanes, min(g * lanes + lanes, width)):
        gate = gate_up[b, i]
        up = gate_up[b, width + i]
        x[g, b, i - g * lanes] = gate / (np.float32(1) + np.exp(-gate)) * up


@_compiled()
def _add(hidden, y):
  for b in range(hidden.shape[0]):
    for i in range(hidden.shape[1]):
      hidden[b, i] += y[b, i]


@_compiled()
def run_layers(
  tables,
  memory,
  weights,
  offsets,
  n_parts,
  norms,
  eps,
  hidden,
  rows,
  positions,
  sin,
  cos,
  keys,
  values,
  n_heads,
):
  """Takes hidden states through all layers, in place; writes the cache.

  Args:
    tables: see `lanes_of`.
    memory: uint8[:], which holds the weights.
    weights: int64[7 layers, 6], as `multiply` takes them: query, key, value,
      out, gate, up, down.
    offsets: int64[:].
    n_parts: of each product.
    norms: float32[2 layers, D].
    eps: of the norms.
    hidden: float32[batch, D]; past the tokens it is padding.
    rows, positions: int64[n_tokens], where in the cache each token belongs.
    sin, cos: float32[capacity, K / 2].
    keys, values: float32[layers, rows, G, capacity, K], the cache.
    n_heads: H.
  """
  n_groups, n_dims = keys.shape[2], keys.shape[4]
  batch, width = hidden.shape
  inner, n_queries = weights[4, 4], n_heads * n_dims
  x = empty_packed(tables, batch, width)
  x_mixed = empty_packed(tables, batch, n_queries)
  x_inner = empty_packed(tables, batch, inner)
  qkv = np.empty((batch, n_queries + 2 * n_groups * n_dims), np.float32)
  gate_up = np.empty((batch, 2 * inner), np.float32)
  y = np.empty((batch, width), np.float32)
  for layer in range(keys.shape[0]):
    at = 7 * layer
    args = tables, memory, weights
    _normalise(hidden, norms[2 * layer], eps, x)
    multiply(*args, at, at + 3, offsets, n_parts, x, qkv)
    _remember(qkv, n_heads, rows, positions, sin, cos, keys, values, layer)
    _attend(qkv, n_heads, rows, positions, keys, values, layer, x_mixed)
    multiply(*args, at + 3, at + 4, offsets, n_parts, x_mixed, y)
    _add(hidden, y)
    _normalise(hidden, norms[2 * layer + 1], eps, x)
    multiply(*args, at + 4, at + 6, offsets, n_parts, x, gate_up)
    _gate(gate_up, x_inner)
    multiply(*args, at + 6, at + 7, offsets, n_parts, x_inner, y)
    _add(hidden, y)
