"""The inner loop of the sparse kernels, as instructions of LLVM.

A tile is the products of a few rows of a weight with a few columns of inputs.
Its loop takes `lanes` weights of each row at a time, expands them to a vector
of float32 with zeros where they are pruned, and multiplies that with each
column. There are two ways to expand:

AVX2, 8 lanes. The byte of the bitmap picks a row of a table of 256. For
bfloat16 it holds the bytes to pick from the next 8 values (`vpshufb`), which
puts each into the upper half of its float32 and zeros all else; for float32
the lanes to pick (`vpermps`), and a sign that says which are kept. Then the
values move on by the number of bits. Up to 8 values past a row are read, and
dropped.

AVX-512, 16 lanes, or 32 for bfloat16. `llvm.masked.expandload`, which is
`vexpandps` and, with VBMI2, `vpexpandw`.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from llvmlite import ir

DENSE_F32, DENSE_BF16, SPARSE_F32, SPARSE_BF16 = range(4)

_I1, _I8, _I16, _I32, _I64 = (ir.IntType(n) for n in (1, 8, 16, 32, 64))
_F32 = ir.FloatType()
_BYTES = ir.PointerType(_I8)


class Row(NamedTuple):
  """Where a row begins, i8*; the bitmap is None for a dense weight."""

  values: ir.Value
  bitmap: ir.Value | None


def shuffle_tables() -> np.ndarray:
  """The tables of AVX2, uint8[2, 256, 32]: for float32, and for bfloat16."""
  mask = np.arange(256)[:, None] >> np.arange(8) & 1
  nth = np.cumsum(mask, axis=1) - 1  # which of the next values is a lane's
  lanes = np.where(mask == 1, nth - 2**31, 0).astype(np.int32)
  picks = np.full((256, 8, 4), 0x80, np.uint8)  # a set top bit picks a zero
  picks[..., 2:] = np.where(
    mask[..., None] == 1, 2 * nth[..., None] + np.arange(2), 0x80
  )
  return np.stack([lanes.view(np.uint8), picks.reshape(256, 32)])


def itemsize(kind: int) -> int:
  """Bytes of a value."""
  return 4 if kind in (DENSE_F32, SPARSE_F32) else 2


def _vector(element: ir.Type, lanes: int) -> ir.VectorType:
  return ir.VectorType(element, lanes)


def _splat(vector: ir.VectorType, value) -> ir.Constant:
  return ir.Constant(vector, [value] * vector.count)


def _load(builder: ir.IRBuilder, type_: ir.Type, start, offset=None):
  """An unaligned load, `offset` bytes after a start."""
  if offset is not None:
    start = builder.gep(start, [offset], source_etype=_I8)
  return builder.load(
    builder.bitcast(start, ir.PointerType(type_)), align=1, typ=type_
  )


def _call(builder: ir.IRBuilder, name: str, result, arguments, **kwargs):
  kind = ir.FunctionType(result, [a.type for a in arguments])
  function = builder.module.globals.get(name)
  function = function or ir.Function(builder.module, kind, name)
  return builder.call(function, arguments, **kwargs)


def _widened(builder: ir.IRBuilder, narrow):
  """bfloat16, as <n x i16> -> <n x float>."""
  wide = _vector(_I32, narrow.type.count)
  bits = builder.shl(builder.zext(narrow, wide), _splat(wide, 16))
  return builder.bitcast(bits, _vector(_F32, narrow.type.count))


def _advance(builder: ir.IRBuilder, position, bits, kind: int):
  """Moves a pointer, kept in memory, by as many values as there are bits."""
  # Counted in 64 bits: LLVM would mask the count of a byte again.
  bits = builder.zext(bits, _I64) if bits.type.width < 64 else bits
  n = _call(builder, 'llvm.ctpop.i64', _I64, [bits])
  n = builder.mul(n, ir.Constant(_I64, itemsize(kind)))
  start = builder.load(position, typ=_BYTES)
  builder.store(builder.gep(start, [n], source_etype=_I8), position)


def _shuffled(builder, kind: int, table, position, bits) -> list:
  """The next 8 weights of a row, by AVX2."""
  start = builder.load(position, typ=_BYTES)
  index = builder.mul(builder.zext(bits, _I64), ir.Constant(_I64, 32))
  if kind == SPARSE_F32:
    picks = _load(builder, _vector(_I32, 8), table, index)
    values = _load(builder, _vector(_F32, 8), start)
    name, result = 'llvm.x86.avx2.permps', _vector(_F32, 8)
    picked = _call(builder, name, result, [values, picks])
    kept = builder.icmp_signed('<', picks, _splat(picks.type, 0))
    weights = builder.select(kept, picked, _splat(result, 0.0))
  else:
    bytes_ = _vector(_I8, 32)
    picks = _load(builder, bytes_, table, index)
    values = _load(builder, _vector(_I64, 2), start)
    both = ir.Constant(_vector(_I32, 4), [0, 1, 0, 1])
    values = builder.shuffle_vector(values, values, both)
    name = 'llvm.x86.avx2.pshuf.b'
    values = builder.bitcast(values, bytes_)
    picked = _call(builder, name, bytes_, [values, picks])
    weights = builder.bitcast(picked, _vector(_F32, 8))
  _advance(builder, position, bits, kind)
  return [weights]


def _expanded(builder, kind: int, position, bits) -> list:
  """The next 16 or 32 weights of a row, by AVX-512."""
  element, code = (_F32, 'f32') if kind == SPARSE_F32 else (_I16, 'i16')
  lanes = bits.type.width
  result = _vector(element, lanes)
  name = f'llvm.masked.expandload.v{lanes}{code}'
  mask = builder.bitcast(bits, _vector(_I1, lanes))
  start = builder.load(position, typ=_BYTES)
  zeros = _splat(result, 0.0 if kind == SPARSE_F32 else 0)
  picked = _call(builder, name, result, [start, mask, zeros])
  _advance(builder, position, bits, kind)
  if kind == SPARSE_F32:
    return [picked]
  halves = (range(16), range(16, 32))
  halves = [ir.Constant(_vector(_I32, 16), list(half)) for half in halves]
  return [
    _widened(builder, builder.shuffle_vector(picked, picked, half))
    for half in halves
  ]


def _dense(builder, kind: int, lanes: int, position, n_valid=None) -> list:
  """The next weights of a dense row; of the last ones only those that are."""
  type_ = _vector(_F32 if kind == DENSE_F32 else _I16, lanes)
  start = builder.load(position, typ=_BYTES)
  values = _load(builder, type_, start)
  if n_valid is not None:
    lane = _vector(_I64, lanes)
    limit = builder.insert_element(
      ir.Constant(lane, ir.Undefined), n_valid, ir.Constant(_I32, 0)
    )
    everywhere = ir.Constant(_vector(_I32, lanes), [0] * lanes)
    limit = builder.shuffle_vector(limit, limit, everywhere)
    valid = builder.icmp_signed(
      '<', ir.Constant(lane, list(range(lanes))), limit
    )
    values = builder.select(valid, values, ir.Constant(type_, None))
  step = ir.Constant(_I64, lanes * itemsize(kind))
  builder.store(builder.gep(start, [step], source_etype=_I8), position)
  return [values] if kind == DENSE_F32 else [_widened(builder, values)]


def emit_tile(
  builder: ir.IRBuilder,
  kind: int,
  lanes: int,
  rows: Sequence[Row],
  n_in: ir.Value,
  table: ir.Value | None,
  columns: ir.Value,
  n_columns: int,
  group_bytes: ir.Value,
) -> list[list[ir.Value]]:
  """Emits the products of some rows with some columns.

  Args:
    builder: where to; left behind the loop.
    kind: of the weight, such as SPARSE_BF16.
    lanes: 8 for AVX2, 16 for AVX-512; of a vector of float32.
    rows: where they begin.
    n_in: length of a row, i64.
    table: i8*, the rows of `shuffle_tables` of this kind; None with 16 lanes.
    columns: i8*, of float32[groups, batch, lanes], at the first of the columns;
      with zeros past n_in up to a whole step (see `step_lanes`).
    n_columns: how many columns.
    group_bytes: from one group to the next, i64.

  Returns:
    Floats, one for each row and column.
  """
  vector = _vector(_F32, lanes)
  zero = _splat(vector, 0.0)
  step = step_lanes(kind, lanes)

  def slot(value):
    at = _alloca(builder, value.type)
    builder.store(value, at)
    return at

  starts = [slot(row.values) for row in rows]
  sums = [[slot(zero) for _ in range(n_columns)] for _ in rows]
  column_at = slot(columns)

  def multiply(weights: Callable[[int], list]) -> None:
    at = builder.load(column_at, typ=_BYTES)
    expanded = [weights(r) for r in range(len(rows))]
    for part in range(len(expanded[0])):
      for c in range(n_columns):
        offset = ir.Constant(_I64, c * lanes * 4)
        x = _load(builder, vector, at, offset)
        for r in range(len(rows)):
          total = builder.load(sums[r][c], typ=vector)
          total = _call(
            builder,
            f'llvm.fmuladd.v{lanes}f32',
            vector,
            [expanded[r][part], x, total],
          )
          builder.store(total, sums[r][c])
      at = builder.gep(at, [group_bytes], source_etype=_I8)
    builder.store(at, column_at)

  def weights_at(group, n_valid=None):
    def weights(r: int) -> list:
      if kind in (DENSE_F32, DENSE_BF16):
        return _dense(builder, kind, lanes, starts[r], n_valid)
      bits = ir.IntType(step)
      offset = builder.mul(group, ir.Constant(_I64, step // 8))
      found = _load(builder, bits, rows[r].bitmap, offset)
      if n_valid is not None:  # bits past the row are those of the next
        one = ir.Constant(bits, 1)
        ones = builder.sub(builder.shl(one, builder.trunc(n_valid, bits)), one)
        found = builder.and_(found, ones)
      if lanes == 8:
        return _shuffled(builder, kind, table, starts[r], found)
      return _expanded(builder, kind, starts[r], found)

    return weights

  whole = builder.udiv(n_in, ir.Constant(_I64, step))
  rest = builder.urem(n_in, ir.Constant(_I64, step))
  _for_range(builder, whole, lambda group: multiply(weights_at(group)))
  has_rest = builder.icmp_unsigned('>', rest, ir.Constant(_I64, 0))
  with builder.if_then(has_rest):
    multiply(weights_at(whole, rest))
  return [
    [_total(builder, builder.load(at, typ=vector)) for at in of_row]
    for of_row in sums
  ]


def step_lanes(kind: int, lanes: int) -> int:
  """Weights of a row that are taken at a time."""
  return 32 if kind == SPARSE_BF16 and lanes == 16 else lanes


def _alloca(builder: ir.IRBuilder, type_: ir.Type):
  """Room in the frame of the function, which becomes a register."""
  with builder.goto_entry_block():
    return builder.alloca(type_)


def _for_range(builder: ir.IRBuilder, n, body: Callable) -> None:
  before, loop = builder.block, builder.append_basic_block('step')
  after = builder.append_basic_block('done')
  zero, one = ir.Constant(_I64, 0), ir.Constant(_I64, 1)
  builder.cbranch(builder.icmp_unsigned('>', n, zero), loop, after)
  builder.position_at_end(loop)
  i = builder.phi(_I64)
  i.add_incoming(zero, before)
  body(i)
  following = builder.add(i, one)
  i.add_incoming(following, builder.block)
  builder.cbranch(builder.icmp_unsigned('<', following, n), loop, after)
  builder.position_at_end(after)


def _total(builder: ir.IRBuilder, vector):
  name = f'llvm.vector.reduce.fadd.v{vector.type.count}f32'
  start = ir.Constant(_F32, -0.0)
  return _call(builder, name, _F32, [start, vector], fastmath=('reassoc',))
