"""FLOPs of a program: those of its matrix products.

XLA's own analysis counts a loop's body once; here it counts as often as it
runs. What is not a product is left out, a few per cent at most.
"""

import math
import re

import numpy as np

from jax_sparse_pretrain.compile_ahead.execution import Executed
from jax_sparse_pretrain.compile_ahead.hlo import Instruction, arrays


def flops(executed: Executed) -> int:
  """Of an instruction as often as it runs; 0 if it is no product."""
  instruction = executed.instruction
  if instruction.opcode not in ('dot', 'convolution'):
    return 0
  of_one = _of_dot if instruction.opcode == 'dot' else _of_convolution
  shapes = executed.computation.instructions
  operands = [_dims(shapes[name].shape) for name in instruction.operands]
  return executed.times * of_one(instruction, *operands)


def _of_dot(dot: Instruction, lhs, rhs) -> int:
  del rhs
  summed = (lhs[axis] for axis in dot.numbers('lhs_contracting_dims'))
  return 2 * math.prod(_dims(dot.shape)) * math.prod(summed)


def _of_convolution(convolution: Instruction, lhs, rhs) -> int:
  """On TPU matrix products are convolutions; only real products count.

  A batch axis is a spatial one, dilated so that all but one product per
  output fall on padding or between the elements.
  """
  labels = re.search(r'dim_labels=(\w+)_(\w+)->(\w+)', convolution.attributes)
  inputs, kernel, output = (
    dict(zip(names, dims, strict=True))
    for names, dims in zip(
      labels.groups(), (lhs, rhs, _dims(convolution.shape)), strict=True
    )
  )
  products = output['b'] * output['f'] * kernel['i']
  for axis, window in enumerate(_windows(convolution.attributes)):
    at = str(axis)
    products *= _pairs(inputs[at], output[at], **window)
  return 2 * products


def _windows(attributes: str) -> list[dict[str, int]]:
  """`window={size=1x8 pad=0_0x7_7}` -> of each spatial axis, its numbers."""
  found = re.search(r'window=\{([^}]*)\}', attributes)
  if not found:
    return []
  given = dict(item.split('=') for item in found[1].split())
  n_axes = len(given['size'].split('x'))
  given['pad'] = re.sub(r'_-?\d+', '', given.get('pad', 'x'.join('0' * n_axes)))
  defaults = {'size': 1, 'stride': 1, 'pad': 0, 'lhs_dilate': 1}
  defaults['rhs_dilate'] = 1
  ones = {name: 'x'.join([str(n)] * n_axes) for name, n in defaults.items()}
  columns = {name: given.get(name, ones[name]).split('x') for name in defaults}
  return [
    {name: int(column[axis]) for name, column in columns.items()}
    for axis in range(n_axes)
  ]


def _pairs(n_in, n_out, size, stride, pad, lhs_dilate, rhs_dilate) -> int:
  """(output, window) positions that meet an element of the input."""
  at = stride * np.arange(n_out)[:, None] - pad
  at = at + rhs_dilate * np.arange(size)
  inside = (at >= 0) & (at <= (n_in - 1) * lhs_dilate)
  return int((inside & (at % lhs_dilate == 0)).sum())


def _dims(shape: str) -> tuple[int, ...]:
  [(_, dims)] = arrays(shape)
  return dims
