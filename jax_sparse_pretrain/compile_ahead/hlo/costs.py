"""FLOPs, bytes and messages of the instructions that a program runs.

XLA's own analysis counts the body of a loop once; here it counts as often as
it runs. FLOPs are those of matrix products; what is left out is a few per cent
at most. Bytes are those read and written in memory, like XLA's "bytes
accessed". Messages are those between devices.
"""

import math
import re
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from jax_sparse_pretrain.compile_ahead.hlo.execution import Executed
from jax_sparse_pretrain.compile_ahead.hlo.instructions import (
  Computation,
  Instruction,
  Program,
  arrays,
  n_bytes,
)

KINDS = (
  'all-reduce',
  'all-gather',
  'reduce-scatter',
  'all-to-all',
  'ragged-all-to-all',
  'collective-permute',
  'collective-broadcast',
)
# The custom call of libtpu that begins a message.
_ASYNC_START = 'AsyncCollectiveStart'
# Instructions that move nothing themselves.
_FREE = {
  *('parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast'),
  *('while', 'conditional', 'call', 'after-all', 'optimization-barrier'),
  *('partition-id', 'replica-id', 'async-start', 'async-update', 'async-done'),
}
_SLICES = ('dynamic-slice', 'slice', 'gather')


# Matrix products.


def flops(executed: Executed) -> int:
  """FLOPs of an instruction, as often as it runs; 0 if it is no product."""
  instruction = executed.instruction
  if instruction.opcode not in ('dot', 'convolution'):
    return 0
  inside = executed.computation.instructions
  lhs, rhs = (_dims(inside[name].shape) for name in instruction.operands)
  if instruction.opcode == 'dot':
    summed = (lhs[axis] for axis in instruction.numbers('lhs_contracting_dims'))
    products = math.prod(_dims(instruction.shape)) * math.prod(summed)
  else:
    products = _products_of_convolution(instruction, lhs, rhs)
  return executed.times * 2 * products


def _products_of_convolution(convolution: Instruction, lhs, rhs) -> int:
  """Multiplications of two elements; those with padding do not count.

  Matrix products are convolutions on TPU. There a batch axis is a spatial one,
  dilated so that all but one product of an output fall on padding or between
  the elements.
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
  return products


def _windows(attributes: str) -> list[dict[str, int]]:
  """`window={size=1x8 pad=0_0x7_7}` -> the numbers of each spatial axis."""
  found = re.search(r'window=\{([^}]*)\}', attributes)
  if not found:
    return []
  given = {
    key: [int(re.match(r'-?\d+', n)[0]) for n in numbers.split('x')]
    for key, numbers in (item.split('=') for item in found[1].split())
  }
  defaults = {'size': 1, 'stride': 1, 'pad': 0, 'lhs_dilate': 1}
  defaults['rhs_dilate'] = 1
  return [
    {
      key: given[key][axis] if key in given else n
      for key, n in defaults.items()
    }
    for axis in range(len(given['size']))
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


# Memory.


def traffic(program: Program, executed: Executed) -> int:
  """Bytes that an instruction reads and writes, as often as it runs.

  Of an array that is only sliced or updated in place, the slice counts.
  """
  instruction = executed.instruction
  if executed.is_fused or instruction.opcode in _FREE:
    return 0
  if instruction.opcode == 'fusion':
    inside = _fused(program, instruction)
    n = sum(_reads(program, inside).values()) + _written(inside, inside.root)
  else:
    n = _moved_alone(executed.computation, instruction)
  return executed.times * n


def _moved_alone(around: Computation, instruction: Instruction) -> int:
  """Bytes that an instruction outside a fusion reads and writes."""
  operands = [
    n_bytes(around.instructions[name].shape) for name in instruction.operands
  ]
  result = n_bytes(instruction.shape)
  if instruction.opcode in _SLICES or instruction.opcode.endswith('-done'):
    return 2 * result
  if instruction.opcode == 'dynamic-update-slice':
    return 2 * operands[1]
  is_buffer = 'AllocateBuffer' in instruction.attributes
  if instruction.opcode.endswith('-start') or is_buffer:
    return 0
  return sum(operands) + result


def _fused(program: Program, fusion: Instruction) -> Computation:
  [called] = fusion.called('calls')
  return program[called]


def _reads(program: Program, fused: Computation) -> dict[int, int]:
  """Bytes that a fusion reads of each of its parameters, by index."""
  reads = {}
  for parameter in fused.instructions.values():
    if parameter.opcode == 'parameter':
      read = _read(program, fused, parameter)
      [index] = parameter.operands
      reads[int(index)] = min(n_bytes(parameter.shape), read)
  return reads


def _read(program: Program, fused: Computation, array: Instruction) -> int:
  """Bytes that all users of an array in a fusion take of it."""
  return sum(
    _read_by(user, array, program, fused)
    for user in fused.instructions.values()
    if array.name in user.operands
  )


def _read_by(
  user: Instruction, array: Instruction, program: Program, fused: Computation
) -> int:
  if user.opcode == 'bitcast':
    return _read(program, fused, user)
  if user.opcode == 'fusion':
    inside = _reads(program, _fused(program, user))
    return sum(
      inside.get(index, 0)
      for index, name in enumerate(user.operands)
      if name == array.name
    )
  is_first = user.operands[0] == array.name
  if user.opcode in _SLICES and is_first:
    return n_bytes(user.shape)
  if user.opcode == 'dynamic-update-slice' and is_first:
    return 0
  # A message under way is handed on from fusion to fusion.
  if user.opcode == 'tuple' or _is_under_way(fused, user):
    return 0
  return n_bytes(array.shape)


def _written(fused: Computation, result: Instruction) -> int:
  """Bytes that a fusion writes for its result, or for an element of it."""
  inside = fused.instructions
  if result.opcode == 'tuple':
    return sum(_written(fused, inside[name]) for name in result.operands)
  # What a message brings is written where the message is awaited.
  is_message = _is_under_way(fused, result)
  if is_message or _ASYNC_START in result.attributes:
    return 0
  if result.opcode == 'parameter':
    return 0
  if result.opcode == 'bitcast':
    return _written(fused, inside[result.operands[0]])
  if result.opcode == 'dynamic-update-slice':
    return n_bytes(inside[result.operands[1]].shape)
  return n_bytes(result.shape)


# Messages.


class Collective(NamedTuple):
  """All messages of one kind that one device takes part in.

  Attributes:
    kind: one of `KINDS`.
    count: the number of messages; several arrays may go in one.
    n_bytes: size of the arrays where they are whole: the operands, or what is
      gathered.
    sent: bytes that the device sends if the algorithm is a ring.
  """

  kind: str
  count: int
  n_bytes: int
  sent: int


def collectives(
  executed: Iterable[Executed], n_devices: int
) -> tuple[Collective, ...]:
  """Totals of each kind that occurs, in the order of `KINDS`."""
  found = [_collective(e, n_devices) for e in executed]
  totals = []
  for kind in KINDS:
    counted = [c[1:] for c in found if c and c.kind == kind and c.sent]
    if counted:
      totals.append(Collective(kind, *map(sum, zip(*counted, strict=True))))
  return tuple(totals)


def _collective(executed: Executed, n_devices: int) -> Collective | None:
  """The messages that an instruction begins, as often as it runs."""
  instruction, around = executed.instruction, executed.computation
  kind = instruction.opcode.removesuffix('-start')
  if kind not in KINDS or _is_under_way(around, instruction):
    return None
  # On TPU a reduce-scatter is a fusion of an all-reduce and a slice.
  if around.name.startswith('all-reduce-scatter'):
    kind = 'reduce-scatter'
  size = sum(
    n_bytes(around.instructions[name].shape) for name in instruction.operands
  )
  group = group_size(instruction.attributes, n_devices)
  if kind == 'all-gather':
    size *= group
  # What a device sends, as a part of the whole array.
  share = (group - 1) / group * (2 if kind == 'all-reduce' else 1)
  if kind == 'collective-permute':
    share = 1.0
  n = executed.times
  return Collective(kind, n, n * size, n * math.ceil(size * share))


def _is_under_way(around: Computation, instruction: Instruction) -> bool:
  """Whether it repeats a message that another instruction has begun.

  On TPU a message that passes behind products is a chain of fusions: one
  begins it, it passes behind others, and the last awaits it.
  """
  if 'chain_id=' not in instruction.attributes:
    return False
  return _ASYNC_START not in around.root.attributes


def group_size(attributes: str, n_devices: int) -> int:
  """The number of devices that take part in one message.

  Reads `{{0,1},{2,3}}`, `[2,4]<=[8]`, `mesh['a'=2,'b'=4] {'a'}`, where the
  order of the devices may stand before the axes, and `{}`, which is all.

  Raises:
    ValueError: for any other form.
  """
  groups = re.search(r'replica_groups=(.*)', attributes)
  if not groups:
    return n_devices
  text = groups[1]
  if named := re.match(r'mesh\[(.*?)\][^{]*\{(.*?)\}', text):
    sizes = dict(re.findall(r"'([^']+)'=(\d+)", named[1]))
    return math.prod(
      int(part or sizes[name])
      for name, part in re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", named[2])
    )
  if listed := re.match(r'\[\d+,(\d+)\]<=', text):
    return int(listed[1])
  if listed := re.match(r'\{\{([\d,]+)\}', text):
    return len(listed[1].split(','))
  if text.startswith('{}'):
    return n_devices
  raise ValueError(f'cannot read the groups of a message: {text[:80]}')
