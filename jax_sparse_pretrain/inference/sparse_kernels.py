"""Products with the weights of a sparse file, straight from bitmap and values.

A product reads 1/8 byte a weight and one value for each that is kept, and
expands them in registers, once for all inputs of a batch: `sparse_ir` says how.
What is compiled depends on the machine; where it has neither AVX-512 with VBMI2
nor AVX2, the weights are expanded once, when they are loaded.

Needs Numba: pip install 'jax_sparse_pretrain[sparse]'. It is not imported
before weights are loaded.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import numpy as np

from jax_sparse_pretrain.huggingface.sparse_file import DTYPES, SparseFile
from jax_sparse_pretrain.schema import ConfigError

# In place of what the machine offers: avx512, avx2 or dense.
OVERRIDE = 'JAX_SPARSE_PRETRAIN_KERNEL'
PAST_END = 64  # bytes past the last value that a kernel may read
_NEEDS = {
  'avx512': ('avx512f', 'avx512bw', 'avx512vbmi2'),
  'avx2': ('avx2', 'fma', 'popcnt'),
  'dense': (),
}
_MEANS = {
  'avx512': '16 or 32 weights at a time by vexpandps and vpexpandw',
  'avx2': '8 weights at a time by vpermps and vpshufb',
  'dense': 'the weights are expanded once, and take the memory of dense ones',
}


class Kernel(NamedTuple):
  """What multiplies here.

  Attributes:
    name: 'avx512', 'avx2' or 'dense'.
    reason: why this one.
  """

  name: str
  reason: str

  def describe(self) -> str:
    """One line for a person."""
    return f'{self.name}: {_MEANS[self.name]} ({self.reason})'


def compiled():
  """The module of the compiled functions.

  Raises:
    ConfigError: if Numba is not installed.
  """
  try:
    from jax_sparse_pretrain.inference import sparse_jit
  except ImportError as error:
    raise ConfigError(
      "the sparse engine needs Numba: pip install 'jax_sparse_pretrain[sparse]'"
      f' ({error})'
    ) from None
  return sparse_jit


def host_features() -> Mapping[str, bool]:
  """What the processor can do, as LLVM names it."""
  compiled()
  from llvmlite import binding

  return binding.get_host_cpu_features()


def choose_kernel(
  name: str | None = None, features: Mapping[str, bool] | None = None
) -> Kernel:
  """The best kernel for this machine, or the one that is asked for.

  Args:
    name: 'avx512', 'avx2' or 'dense'; by default what the environment says in
      JAX_SPARSE_PRETRAIN_KERNEL, or the first that the machine can run.
    features: of the processor; by default of this one.

  Raises:
    ConfigError: for another name, or one that the machine cannot run.
  """
  name = name or os.environ.get(OVERRIDE) or None
  features = host_features() if features is None else features
  lacking = {
    kernel: [feature for feature in needs if not features.get(feature)]
    for kernel, needs in _NEEDS.items()
  }
  if name is None:
    name = next(kernel for kernel in _NEEDS if not lacking[kernel])
    better = [k for k in list(_NEEDS)[: list(_NEEDS).index(name)]]
    missing = {f'no {lacking[k][0]}' for k in better}
    return Kernel(name, ', '.join(sorted(missing)) or 'the best there is')
  if name not in _NEEDS:
    raise ConfigError(f'kernel = {name!r}: must be one of {[*_NEEDS]}')
  if lacking[name]:
    raise ConfigError(
      f'kernel = {name!r}: this processor lacks {", ".join(lacking[name])}'
    )
  return Kernel(name, 'as asked for')


def padded(batch: int) -> int:
  """Columns of a product for that many inputs: 1, or a multiple of 4."""
  return batch if batch < 2 else -(-batch // 4) * 4


class Weights:
  """Tensors of a sparse file in memory, ready to be multiplied with.

  Attributes:
    kernel: what multiplies with them.
    memory: uint8[:], the bytes of the tensors.
    table: int64[n, 6], a row for each of the tensors, as
      `sparse_jit.multiply` takes them.
    offsets: int64[:], how many values there are before each row.
    marker: tells the compiled functions which kernel it is.
  """

  def __init__(
    self, file: SparseFile, names: Iterable[str], kernel: str | None = None
  ):
    """Reads tensors with two axes, [out, in].

    Raises:
      ConfigError: if a tensor is not there, or the kernel is not to be had.
    """
    self.jit = compiled()
    self.kernel = choose_kernel(kernel)
    self.names = list(names)
    self.marker = self._marker()
    self._places: list[tuple[int, Callable[[], np.ndarray]]] = []
    self._end = 0
    rows, counts = [], [np.zeros(0, np.int64)]
    for name in self.names:
      row, of_rows = self._place(file, name)
      rows.append((*row, sum(map(len, counts))))
      counts.append(of_rows)
    self.table = np.array(rows, np.int64).reshape(-1, 6)
    self.offsets = np.concatenate([np.cumsum(n) - n for n in counts])
    self.memory = _aligned(self._end + PAST_END)
    for start, read in self._places:
      raw = np.ascontiguousarray(read()).reshape(-1).view(np.uint8)
      self.memory[start : start + raw.size] = raw
    self._places.clear()  # and with it what was read

  def _place(self, file: SparseFile, name: str):
    """Finds room for a tensor: its row of the table, and values of each row."""
    n_out, n_in = file.shape(name)
    values = file.values(name)
    is_narrow = values.dtype == DTYPES['bfloat16']
    if not file.is_sparse(name) or self.kernel.name == 'dense':
      n_bytes = n_out * n_in * values.dtype.itemsize
      start = self._reserve(n_bytes, lambda: file.dense(name))
      row = int(is_narrow), start, 0, n_in, n_out
      return row, np.zeros(0, np.int64)
    bitmap = file.bitmap(name)
    at_bitmap = self._reserve(bitmap.nbytes, lambda: bitmap)
    at_values = self._reserve(values.nbytes, lambda: values)
    row = 2 + int(is_narrow), at_values, at_bitmap, n_in, n_out
    return row, np.bitwise_count(bitmap).sum(axis=1, dtype=np.int64)

  def _reserve(self, n_bytes: int, read: Callable[[], np.ndarray]) -> int:
    start = -(-self._end // 64) * 64
    self._places.append((start, read))
    self._end = start + n_bytes
    return start

  def _marker(self) -> np.ndarray:
    if self.kernel.name == 'avx2':
      from jax_sparse_pretrain.inference.sparse_ir import shuffle_tables

      tables = shuffle_tables()
      marker = _aligned(tables.size).reshape(tables.shape)
      marker[:] = tables
      return marker
    return np.zeros(0 if self.kernel.name == 'avx512' else (0, 0), np.uint8)

  def describe(self) -> str:
    """One line for a person: which kernel, and why."""
    return self.kernel.describe()

  def packed(self, x: np.ndarray) -> np.ndarray:
    """float32[B, in] -> float32[groups, padded batch, lanes]."""
    packed = self.jit.empty_packed(self.marker, padded(len(x)), x.shape[1])
    self.jit.pack(np.ascontiguousarray(x, np.float32), packed)
    return packed

  def multiply(self, name: str, x: np.ndarray) -> np.ndarray:
    """x float32[B, in] -> x W^T, float32[B, out], summed in float32."""
    i = self.names.index(name)
    if x.ndim != 2 or x.shape[1] != self.table[i, 3]:
      raise ValueError(
        f'{name}: the input is {list(x.shape)}, must be [B, {self.table[i, 3]}]'
      )
    y = np.empty((padded(len(x)), self.table[i, 4]), np.float32)
    self.multiply_packed(i, i + 1, self.packed(x), y)
    return y[: len(x)]

  def multiply_packed(
    self, first: int, last: int, x: np.ndarray, y: np.ndarray
  ) -> None:
    """Writes the products of some tensors with a packed x, side by side."""
    args = self.marker, self.memory, self.table
    self.jit.multiply(*args, first, last, self.offsets, self.n_parts, x, y)

  @property
  def n_parts(self) -> int:
    """Into how many parts to divide a product."""
    return self.jit.numba.get_num_threads()


def _aligned(n_bytes: int) -> np.ndarray:
  """Zeros that begin with a line of the cache."""
  raw = np.zeros(n_bytes + 64, np.uint8)
  start = -raw.ctypes.data % 64
  return raw[start : start + n_bytes]
