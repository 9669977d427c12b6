"""How often a program runs each of its instructions."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from jax_sparse_pretrain.compile_ahead.hlo.instructions import (
  ENTRY,
  Computation,
  Instruction,
  Program,
)


class Executed(NamedTuple):
  """An instruction that a call of the program runs.

  Attributes:
    instruction: the instruction.
    computation: the computation that holds it.
    times: how often it runs.
    is_update: whether it runs only on a step with a mask update. Such
      instructions stand in a branch of a conditional other than the first.
    is_fused: whether it is part of a fusion, so that its result stays on chip.
    loops: loops around it whose length the text does not tell. Each counts as
      one iteration.
  """

  instruction: Instruction
  computation: Computation
  times: int
  is_update: bool = False
  is_fused: bool = False
  loops: tuple[str, ...] = ()


def walk(program: Program) -> Iterator[Executed]:
  """What one call runs, loops and branches followed.

  Every branch of a conditional is followed, as if each were taken.
  """
  yield from _walk(program, Executed(None, program[ENTRY], 1))


def _walk(program: Program, around: Executed) -> Iterator[Executed]:
  for instruction in around.computation.instructions.values():
    here = around._replace(instruction=instruction)
    yield here
    for name, inside in _called(program, here):
      yield from _walk(program, inside._replace(computation=program[name]))


def _called(program: Program, here: Executed) -> Iterator[tuple[str, Executed]]:
  """Computations that an instruction runs as programs of their own."""
  instruction = here.instruction
  if instruction.opcode == 'while':
    n = trip_count(program, here)
    loops = here.loops if n else (*here.loops, instruction.name)
    inside = here._replace(times=here.times * (n or 1), loops=loops)
    yield from ((name, inside) for name in instruction.called('body'))
  elif instruction.opcode == 'conditional':
    # In the order of the index; of a boolean, false is 0.
    branches = instruction.called('branch_computations') or [
      *instruction.called('false_computation'),
      *instruction.called('true_computation'),
    ]
    for index, name in enumerate(branches):
      yield name, here._replace(is_update=here.is_update or index > 0)
  elif instruction.opcode == 'fusion':
    inside = here._replace(is_fused=True)
    yield from ((name, inside) for name in instruction.called('calls'))
  elif instruction.opcode in ('call', 'async-start'):
    for attribute in ('to_apply', 'calls'):
      yield from ((name, here) for name in instruction.called(attribute))


def trip_count(program: Program, at: Executed) -> int | None:
  """Iterations of a while loop; None if the text does not tell them.

  Either the compiler says the number, or the loop has a plain counter, as
  those of `scan` and `fori_loop` have: it begins at the constant 0, grows by
  the constant 1, and is compared with a constant.
  """
  loop = at.instruction
  told = re.search(r'"known_trip_count":\s*\{"n":\s*"?(\d+)', loop.attributes)
  if told:
    return int(told[1])
  [condition] = [program[name] for name in loop.called('condition')]
  [body] = [program[name] for name in loop.called('body')]
  compare = condition.root
  if compare.opcode != 'compare' or 'direction=LT' not in compare.attributes:
    return None
  counter, limit = compare.operands
  index = _element(condition.instructions.get(counter))
  if index is None or body.root.opcode != 'tuple':
    return None
  start = at.computation.instructions.get(loop.operands[0])
  if start is None or start.opcode != 'tuple':
    return None
  first = _constant(at.computation, start.operands[index])
  if first != 0 or not _grows_by_one(body, index):
    return None
  return _constant(condition, limit)


def _grows_by_one(body: Computation, index: int) -> bool:
  """Whether an iteration adds 1 to an element of the loop's state."""
  add = _source(body, body.root.operands[index])
  if add is None or add.opcode != 'add':
    return False
  elements = [_element(_source(body, name)) for name in add.operands]
  constants = [_constant(body, name) for name in add.operands]
  return index in elements and 1 in constants


def _element(instruction: Instruction | None) -> int | None:
  """The index of the element of the loop's state that an instruction reads."""
  if instruction is None or instruction.opcode != 'get-tuple-element':
    return None
  return int(re.search(r'index=(\d+)', instruction.attributes)[1])


def _constant(computation: Computation, name: str) -> int | None:
  """The value of an instruction that is a constant integer."""
  instruction = _source(computation, name)
  if instruction is None or instruction.opcode != 'constant':
    return None
  [literal] = instruction.operands
  return int(literal) if re.fullmatch(r'-?\d+', literal) else None


def _source(computation: Computation, name: str) -> Instruction | None:
  """The instruction whose result is copied to this name."""
  instruction = computation.instructions.get(name)
  while instruction and instruction.opcode in ('copy', 'bitcast'):
    instruction = computation.instructions.get(instruction.operands[0])
  return instruction
