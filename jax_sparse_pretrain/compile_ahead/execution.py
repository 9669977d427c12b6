"""How often each instruction of a program runs."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from jax_sparse_pretrain.compile_ahead.hlo import (
  Computation,
  Instruction,
  Program,
)


class Executed(NamedTuple):
  """An instruction that a call of the program runs.

  Attributes:
    instruction: the instruction.
    computation: that it stands in.
    times: how often it runs.
    is_update: whether only a step of a mask update runs it: it stands in a
      branch of a conditional other than the first.
    is_fused: whether it is a part of a fusion, and its results stay on chip.
    loops: around it whose length the text does not tell. They count as one
      iteration.
  """

  instruction: Instruction
  computation: Computation
  times: int
  is_update: bool = False
  is_fused: bool = False
  loops: tuple[str, ...] = ()


def walk(program: Program) -> Iterator[Executed]:
  """What one call runs, loops and branches followed.

  Of the branches of a conditional all are followed, as if each were taken.
  """
  entry = program.computations[program.entry]
  yield from _walk(program, Executed(None, entry, 1))


def _walk(program: Program, around: Executed) -> Iterator[Executed]:
  for instruction in around.computation.instructions.values():
    here = around._replace(instruction=instruction)
    yield here
    for name, inside in _called(program, here):
      computation = program.computations[name]
      yield from _walk(program, inside._replace(computation=computation))


def _called(program: Program, here: Executed) -> Iterator[tuple[str, Executed]]:
  """Computations that an instruction runs as programs of their own."""
  instruction = here.instruction
  if instruction.opcode == 'while':
    n = trip_count(program, here)
    loops = here.loops if n else (*here.loops, instruction.name)
    inside = here._replace(times=here.times * (n or 1), loops=loops)
    yield from ((name, inside) for name in instruction.called('body'))
  elif instruction.opcode == 'conditional':
    for index, name in enumerate(_branches(instruction)):
      yield name, here._replace(is_update=here.is_update or index > 0)
  elif instruction.opcode == 'fusion':
    inside = here._replace(is_fused=True)
    yield from ((name, inside) for name in instruction.called('calls'))
  elif instruction.opcode in ('call', 'async-start'):
    for attribute in ('to_apply', 'calls'):
      yield from ((name, here) for name in instruction.called(attribute))


def _branches(conditional: Instruction) -> list[str]:
  """In the order of the index; false is 0."""
  return conditional.called('branch_computations') or [
    *conditional.called('false_computation'),
    *conditional.called('true_computation'),
  ]


def trip_count(program: Program, at: Executed) -> int | None:
  """Iterations of a while loop: as the compiler says, or of a plain counter.

  A counter begins at the constant 0, grows by the constant 1 and is compared
  with a constant, as those of `scan` and `fori_loop` are.
  """
  loop = at.instruction
  told = re.search(r'"known_trip_count":\s*\{"n":\s*"?(\d+)', loop.attributes)
  if told:
    return int(told[1])
  [condition] = loop.called('condition')
  [body] = loop.called('body')
  return _counted(
    at.computation,
    loop,
    program.computations[condition],
    program.computations[body],
  )


def _counted(around, loop, condition, body) -> int | None:
  compare = condition.root
  if compare.opcode != 'compare' or 'direction=LT' not in compare.attributes:
    return None
  counter, limit = (condition.instructions.get(n) for n in compare.operands)
  index = _index(counter)
  if index is None or body.root.opcode != 'tuple':
    return None
  state = around.instructions.get(loop.operands[0])
  if state is None or state.opcode != 'tuple':
    return None
  first = _constant(around, state.operands[index])
  if first != 0 or not _grows_by_one(body, index):
    return None
  return _constant(condition, limit.name if limit else '')


def _grows_by_one(body: Computation, index: int) -> bool:
  add = _source(body, body.root.operands[index])
  if add is None or add.opcode != 'add':
    return False
  of = [_index(_source(body, name)) for name in add.operands]
  return index in of and 1 in [_constant(body, name) for name in add.operands]


def _index(element: Instruction | None) -> int | None:
  """Of the loop's state, which element this is."""
  if element is None or element.opcode != 'get-tuple-element':
    return None
  return int(re.search(r'index=(\d+)', element.attributes)[1])


def _constant(computation: Computation, name: str) -> int | None:
  """The integer that an instruction is."""
  instruction = _source(computation, name)
  if instruction is None or instruction.opcode != 'constant':
    return None
  [literal] = instruction.operands
  return int(literal) if re.fullmatch(r'-?\d+', literal) else None


def _source(computation: Computation, name: str) -> Instruction | None:
  """What an instruction is a copy of."""
  instruction = computation.instructions.get(name)
  while instruction and instruction.opcode in ('copy', 'bitcast'):
    instruction = computation.instructions.get(instruction.operands[0])
  return instruction
