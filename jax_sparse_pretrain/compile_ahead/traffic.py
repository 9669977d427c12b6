"""Bytes that a program reads and writes, like XLA's "bytes accessed".

XLA's own analysis counts a loop's body once; here it counts as often as it
runs. Of an array that is only sliced or updated in place, the slice counts.
"""

from jax_sparse_pretrain.compile_ahead.collectives import (
  ASYNC_START,
  is_under_way,
)
from jax_sparse_pretrain.compile_ahead.execution import Executed
from jax_sparse_pretrain.compile_ahead.hlo import (
  Computation,
  Instruction,
  Program,
  n_bytes,
)

_FREE = {
  *('parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast'),
  *('while', 'conditional', 'call', 'after-all', 'optimization-barrier'),
  *('partition-id', 'replica-id', 'async-start', 'async-update', 'async-done'),
}
_SLICES = ('dynamic-slice', 'slice', 'gather')


def traffic(program: Program, executed: Executed) -> int:
  """Bytes of an instruction as often as it runs."""
  instruction = executed.instruction
  if executed.is_fused or instruction.opcode in _FREE:
    return 0
  if instruction.opcode == 'fusion':
    inside = _inside(program, instruction)
    n = sum(_reads(program, inside).values()) + _written(inside, inside.root)
  else:
    n = _of_one(executed.computation, instruction)
  return executed.times * n


def _of_one(around: Computation, instruction: Instruction) -> int:
  operands = [
    n_bytes(around.instructions[name].shape) for name in instruction.operands
  ]
  result = n_bytes(instruction.shape)
  if instruction.opcode in _SLICES:
    return 2 * result
  if instruction.opcode == 'dynamic-update-slice':
    return 2 * operands[1]
  if instruction.opcode.endswith('-start') or 'AllocateBuffer' in (
    instruction.attributes
  ):
    return 0
  if instruction.opcode.endswith('-done'):
    return 2 * result
  return sum(operands) + result


def _inside(program: Program, fusion: Instruction) -> Computation:
  [called] = fusion.called('calls')
  return program.computations[called]


def _reads(program: Program, fused: Computation) -> dict[int, int]:
  """Bytes that a fusion reads of each of its parameters."""
  reads = {}
  for parameter in fused.instructions.values():
    if parameter.opcode == 'parameter':
      read = _read(program, fused, parameter)
      [index] = parameter.operands
      reads[int(index)] = min(n_bytes(parameter.shape), read)
  return reads


def _read(program: Program, fused: Computation, array: Instruction) -> int:
  users = fused.instructions.values()
  return sum(
    _part(program, fused, user, array)
    for user in users
    if array.name in user.operands
  )


def _part(program, fused, user: Instruction, array: Instruction) -> int:
  """Bytes that one of its users takes of an array."""
  if user.opcode == 'bitcast':
    return _read(program, fused, user)
  if user.opcode == 'fusion':
    inside = _reads(program, _inside(program, user))
    return sum(
      inside.get(index, 0)
      for index, name in enumerate(user.operands)
      if name == array.name
    )
  first = user.operands[0] == array.name
  if user.opcode in _SLICES and first:
    return n_bytes(user.shape)
  if user.opcode == 'dynamic-update-slice' and first:
    return 0
  # Of a message under way, handed on from fusion to fusion.
  if user.opcode == 'tuple' or is_under_way(fused, user):
    return 0
  return n_bytes(array.shape)


def _written(fused: Computation, result: Instruction) -> int:
  if result.opcode == 'tuple':
    return sum(
      _written(fused, fused.instructions[name]) for name in result.operands
    )
  # What a message brings is written where it is awaited.
  if is_under_way(fused, result) or ASYNC_START in result.attributes:
    return 0
  if result.opcode == 'parameter':
    return 0
  if result.opcode == 'bitcast':
    return _written(fused, fused.instructions[result.operands[0]])
  if result.opcode == 'dynamic-update-slice':
    return n_bytes(fused.instructions[result.operands[1]].shape)
  return n_bytes(result.shape)
