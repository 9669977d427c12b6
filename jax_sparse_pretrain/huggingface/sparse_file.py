"""A sparse model in one safetensors file: a bitmap and the kept values.

Tensors have the names and the shapes, [out, in], of a Hugging Face state dict.
A tensor NAME that has a mask is stored as two:

  NAME.bitmap  uint8[out, ceil(in / 8)], one bit a weight, the lowest bit first;
               a row is padded to whole bytes with zeros
  NAME.values  bfloat16 or float32, 1-D: the kept weights, row by row

so 1/8 byte a weight and a value for each that is kept. Where the values of a
row begin follows from the bits of the rows above. Other tensors are stored
plainly, under their own names, as values of the same type; but those with one
axis, the scales of norms, always as float32: they are few, and each multiplies
a whole channel. The mask decides what is kept, so a kept weight may be zero.

The metadata of the file are `format` and `version`, and, if some `in` is no
multiple of 8, `columns`: {NAME: in} in JSON. The order of the tensors in the
file is float32, bfloat16, bitmaps, so that all are aligned.
"""

import json
import math
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from jax_sparse_pretrain.schema import ConfigError, one_line

FORMAT = {'format': 'jax_sparse_pretrain.sparse', 'version': '1'}
DTYPES = {
  'float32': np.dtype(np.float32),
  'bfloat16': np.dtype(ml_dtypes.bfloat16),
}
# As safetensors names them, in the order of the file.
_STORED = {'F32': DTYPES['float32'], 'BF16': DTYPES['bfloat16'], 'U8': 'u1'}
_STORED = {code: np.dtype(dtype) for code, dtype in _STORED.items()}
_CODES = {dtype: code for code, dtype in _STORED.items()}
_BITMAP, _VALUES = '.bitmap', '.values'

Named = tuple[str, Any, Any]  # name, array, mask or None


def relative_bytes(
  n_masked: int, n_plain: int, density: float, dtype: str
) -> float:
  """Size of a sparse file over that of a dense float32 one, without headers.

  Args:
    n_masked: weights of the tensors with a mask.
    n_plain: weights of the others.
    density: kept / n_masked.
    dtype: of the values.
  """
  itemsize = DTYPES[dtype].itemsize
  masked = n_masked * (1 / 8 + density * itemsize)
  return (masked + n_plain * itemsize) / (4 * (n_masked + n_plain))


class _Entry(NamedTuple):
  """A tensor in the file; its bytes begin at `start` of the file."""

  dtype: np.dtype
  shape: tuple[int, ...]
  start: int

  @property
  def size(self) -> int:
    return math.prod(self.shape)

  @property
  def end(self) -> int:
    return self.start + self.size * self.dtype.itemsize


def write_sparse(
  path: os.PathLike | str, tensors: Iterable[Named], dtype: str = 'bfloat16'
) -> None:
  """Writes tensors one by one; a reader sees the whole file or none of it.

  Args:
    path: the file, of this machine. Beside it is room for its data once more.
    tensors: (name, array, mask); a mask is bool of the array's shape, which
      must be [out, in], or None. Taken one at a time.
    dtype: of the values, 'bfloat16' or 'float32'.

  Raises:
    ConfigError: names the file and what is wrong.
  """
  path = pathlib.Path(path)
  if dtype not in DTYPES:
    raise ConfigError(f'{path}: dtype = {dtype!r}: must be one of {[*DTYPES]}')
  columns: dict[str, int] = {}
  placed: dict[str, _Entry] = {}  # starts are within the parts
  try:
    parts = {
      dtype: tempfile.TemporaryFile(dir=path.parent)
      for dtype in _STORED.values()
    }
  except OSError as error:
    raise ConfigError(f'{path}: {one_line(error)}') from None
  try:
    for name, array, mask in tensors:
      for stored_name, stored in _stored(path, name, array, mask, dtype):
        if stored_name in placed:
          raise ConfigError(f'{path}: {name}: comes twice')
        part = parts[stored.dtype]
        placed[stored_name] = _Entry(stored.dtype, stored.shape, part.tell())
        part.write(stored.reshape(-1).view(np.uint8).data)
      if mask is not None and np.shape(mask)[1] % 8:
        columns[name] = np.shape(mask)[1]
    starts, start = {}, 0
    for part_dtype, part in parts.items():
      starts[part_dtype] = start
      start += part.tell()
    placed = {
      name: entry._replace(start=starts[entry.dtype] + entry.start)
      for name, entry in placed.items()
    }
    _assemble(path, _header(placed, columns), parts.values())
  finally:
    for part in parts.values():
      part.close()


def _stored(path, name: str, array, mask, dtype: str):
  """The arrays that stand for one tensor, each with its name."""
  array = np.asarray(array)
  if mask is None:
    kept_as = DTYPES['float32' if array.ndim == 1 else dtype]
    yield name, np.ascontiguousarray(array, kept_as)
    return
  mask = np.asarray(mask)
  if mask.dtype != bool or mask.shape != array.shape or mask.ndim != 2:
    raise ConfigError(
      f'{path}: {name}: the mask is {mask.dtype}{list(mask.shape)}, must be '
      f'bool[out, in] like the tensor, {list(array.shape)}'
    )
  yield name + _BITMAP, np.packbits(mask, axis=1, bitorder='little')
  yield name + _VALUES, array[mask].astype(DTYPES[dtype], copy=False)


def _header(placed: dict[str, _Entry], columns: dict[str, int]) -> bytes:
  metadata = {'columns': json.dumps(columns)} if columns else {}
  header: dict[str, Any] = {'__metadata__': {**FORMAT, **metadata}}
  codes = [*_CODES]
  in_order = sorted(
    placed.items(), key=lambda item: (codes.index(item[1].dtype), item[1].start)
  )
  for name, entry in in_order:
    header[name] = {
      'dtype': _CODES[entry.dtype],
      'shape': entry.shape,
      'data_offsets': [entry.start, entry.end],
    }
  text = json.dumps(header, separators=(',', ':')).encode()
  return text + b' ' * (-len(text) % 8)


def _assemble(path: pathlib.Path, header: bytes, parts) -> None:
  temporary = path.with_name(f'{path.name}.tmp')
  try:
    with temporary.open('wb') as file:
      file.write(len(header).to_bytes(8, 'little') + header)
      for part in parts:
        part.seek(0)
        shutil.copyfileobj(part, file, 1 << 20)
    temporary.replace(path)
  finally:
    temporary.unlink(missing_ok=True)


class SparseFile:
  """A sparse file, mapped to memory; arrays are read when they are asked for.

  Attributes:
    path: where it is.
    dtype: of the values, 'bfloat16' or 'float32'.
  """

  def __init__(self, path: os.PathLike | str):
    self.path = pathlib.Path(path)
    try:
      self._bytes = np.memmap(self.path, np.uint8, 'r').view(np.ndarray)
    except (OSError, ValueError) as error:
      raise ConfigError(f'{self.path}: {one_line(error)}') from None
    self._entries, self._columns = self._read_header()
    self._check_values()
    kinds = {e.dtype for e in self._entries.values() if len(e.shape) == 2}
    kinds |= {e.dtype for n, e in self._entries.items() if n.endswith(_VALUES)}
    is_narrow = DTYPES['bfloat16'] in kinds
    self.dtype = 'bfloat16' if is_narrow else 'float32'

  def names(self) -> list[str]:
    """The tensors, in the order of the file."""
    names = (n.removesuffix(_VALUES) for n in self._entries)
    return [name for name in names if not name.endswith(_BITMAP)]

  def __contains__(self, name: str) -> bool:
    return name in self._entries or self.is_sparse(name)

  def is_sparse(self, name: str) -> bool:
    """Whether the tensor has a mask."""
    return name + _BITMAP in self._entries

  def shape(self, name: str) -> tuple[int, ...]:
    if not self.is_sparse(name):
      return self._entry(name).shape
    n_out, n_bytes = self._entry(name + _BITMAP).shape
    return n_out, self._columns.get(name, 8 * n_bytes)

  def bitmap(self, name: str) -> np.ndarray | None:
    """uint8[out, ceil(in / 8)], or None if the tensor has no mask."""
    return self._array(name + _BITMAP) if self.is_sparse(name) else None

  def values(self, name: str) -> np.ndarray:
    """The stored values, 1-D; of a tensor without a mask all."""
    sparse = self.is_sparse(name)
    return self._array(name + _VALUES * sparse).reshape(-1)

  def mask(self, name: str) -> np.ndarray | None:
    """bool[out, in], or None if the tensor has no mask."""
    bitmap = self.bitmap(name)
    if bitmap is None:
      return None
    n_in = self.shape(name)[1]
    bits = np.unpackbits(bitmap, axis=1, count=n_in, bitorder='little')
    return bits.view(bool)

  def dense(self, name: str) -> np.ndarray:
    """The tensor with zeros where it is pruned, in the type it is stored in."""
    mask = self.mask(name)
    if mask is None:
      return self._array(name)
    values = self.values(name)
    dense = np.zeros(mask.shape, values.dtype)
    dense[mask] = values
    return dense

  @property
  def n_bytes(self) -> int:
    return self._bytes.size

  def _entry(self, name: str) -> _Entry:
    if name not in self._entries:
      raise ConfigError(f'{self.path}: {name}: not in this file')
    return self._entries[name]

  def _array(self, name: str) -> np.ndarray:
    entry = self._entry(name)
    raw = self._bytes[entry.start : entry.end]
    return raw.view(entry.dtype).reshape(entry.shape)

  def _refuse(self, reason: str, name: str = ''):
    where = f'{self.path}: {name}: ' if name else f'{self.path}: '
    return ConfigError(where + reason)

  def _read_header(self) -> tuple[dict[str, _Entry], dict[str, int]]:
    n_header = int.from_bytes(self._bytes[:8].tobytes(), 'little')
    begin = 8 + n_header
    if self._bytes.size < 8 or begin > self._bytes.size:
      raise self._refuse('not a safetensors file, or cut short')
    try:
      header = json.loads(self._bytes[8:begin].tobytes())
      metadata = header.pop('__metadata__', None) or {}
      columns = json.loads(metadata.get('columns', '{}'))
    except (ValueError, AttributeError):
      raise self._refuse('not a safetensors file') from None
    if {key: metadata.get(key) for key in FORMAT} != FORMAT:
      raise self._refuse(
        f'not a sparse file of version {FORMAT["version"]}: its metadata must '
        f'hold {FORMAT}'
      )
    entries = {}
    for name, told in header.items():
      try:
        dtype, shape = _STORED[told['dtype']], tuple(told['shape'])
        start, end = (begin + offset for offset in told['data_offsets'])
        entries[name] = _Entry(dtype, shape, start)
      except (KeyError, TypeError, ValueError):
        raise self._refuse('its entry in the header is wrong', name) from None
      if not begin <= start <= end == entries[name].end:
        raise self._refuse('its shape and its place do not agree', name)
      if end > self._bytes.size:
        raise self._refuse('cut short', name)
    return entries, columns

  def _check_values(self) -> None:
    """Every bitmap has as many bits as there are values."""
    for name in [n for n in self._entries if n.endswith(_BITMAP)]:
      name = name.removesuffix(_BITMAP)
      if name + _VALUES not in self._entries:
        raise self._refuse('has a bitmap and no values', name)
      bitmap, n_in = self._array(name + _BITMAP), self._columns.get(name)
      if bitmap.ndim != 2 or bitmap.dtype != np.uint8:
        raise self._refuse('its bitmap must be uint8[out, in / 8]', name)
      if n_in is not None and -(-n_in // 8) != bitmap.shape[1]:
        raise self._refuse(f'its bitmap does not fit {n_in} columns', name)
      if n_in is not None and (bitmap[:, -1] >> (n_in - 1) % 8 + 1).any():
        raise self._refuse('its bitmap has bits past its columns', name)
      n_bits = int(np.bitwise_count(bitmap).sum(dtype=np.int64))
      n_values = self._entries[name + _VALUES].size
      if n_bits != n_values:
        raise self._refuse(f'{n_bits} bits and {n_values} values', name)
    for name in [n for n in self._entries if n.endswith(_VALUES)]:
      if name.removesuffix(_VALUES) + _BITMAP not in self._entries:
        raise self._refuse(
          'has values and no bitmap', name.removesuffix(_VALUES)
        )


def read_sparse(path: os.PathLike | str) -> SparseFile:
  """Opens a sparse file.

  Raises:
    ConfigError: for a file that is cut short, of another kind, or whose
      bitmaps and values do not agree. Names the file and the tensor.
  """
  return SparseFile(path)
