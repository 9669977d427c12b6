"""The text of a compiled program -> its instructions.

Format: https://openxla.org/xla/hlo_dumps. Read are names, shapes, operands and
attributes; the rest of a line is ignored.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple


class Instruction(NamedTuple):
  """One line of a computation.

  Attributes:
    name: unique in the program.
    shape: the result's shape, as text.
    opcode: 'all-reduce', 'fusion', ...
    operands: what stands in its parentheses: names, or a literal.
    attributes: the rest of the line.
    is_root: whether the computation returns it.
  """

  name: str
  shape: str
  opcode: str
  operands: tuple[str, ...]
  attributes: str
  is_root: bool

  def called(self, attribute: str) -> list[str]:
    """Names of computations: `body=%a` or `branch_computations={%a, %b}`."""
    found = re.search(rf'\b{attribute}=(\{{[^}}]*\}}|[^\s,]+)', self.attributes)
    return re.findall(r'[\w.\-]+', found[1]) if found else []

  def numbers(self, attribute: str) -> list[int]:
    """`lhs_contracting_dims={1,2}` -> [1, 2]."""
    found = re.search(rf'\b{attribute}=\{{([\d,]*)\}}', self.attributes)
    return [int(n) for n in found[1].split(',') if n] if found else []


class Computation(NamedTuple):
  """Instructions by name, in the order in which they are written."""

  name: str
  instructions: dict[str, Instruction]

  @property
  def root(self) -> Instruction:
    return next(i for i in self.instructions.values() if i.is_root)


Program = dict[str, Computation]
ENTRY = 'ENTRY'  # in a program, the name of the computation that is run


def parse(text: str) -> Program:
  """The computations of `Compiled.as_text()`, by name.

  Raises:
    ValueError: if the text has no entry computation.
  """
  program, current = {}, {}
  for line in text.splitlines():
    if line.endswith('{') and not line.startswith((' ', 'HloModule')):
      is_entry, name = re.match(r'(ENTRY )?%?([\w.\-]+)', line).groups()
      current = {}
      program[ENTRY if is_entry else name] = Computation(name, current)
    elif ' = ' in line and line.startswith(' '):
      instruction = _instruction(line.strip())
      current[instruction.name] = instruction
  if ENTRY not in program:
    raise ValueError('no ENTRY computation: this is not the text of a program')
  return program


def _instruction(line: str) -> Instruction:
  line = re.sub(r'/\*.*?\*/', '', line)
  name, rest = line.split(' = ', 1)
  end = _closing(rest) if rest.startswith('(') else rest.index(' ')
  shape, rest = rest[:end], rest[end:].lstrip()
  start = rest.index('(')
  end = start + _closing(rest[start:])
  return Instruction(
    name=name.removeprefix('ROOT ').lstrip('%'),
    shape=shape,
    opcode=rest[:start],
    # An operand may have its shape before it.
    operands=tuple(
      operand.split()[-1].lstrip('%')
      for operand in rest[start + 1 : end - 1].split(', ')
      if operand.strip()
    ),
    attributes=rest[end:],
    is_root=name.startswith('ROOT '),
  )


def _closing(text: str) -> int:
  """The end of the parentheses with which the text begins."""
  depth = 0
  for match in re.finditer(r'[()]', text):
    depth += 1 if match[0] == '(' else -1
    if not depth:
      return match.end()
  raise ValueError(f'parentheses do not match: {text[:80]}')


def arrays(shape: str) -> Iterator[tuple[str, tuple[int, ...]]]:
  """'(f32[2,3]{1,0}, u32[])' -> ('f32', (2, 3)), ('u32', ())."""
  for dtype, dims in re.findall(r'\b([a-z]\w*)\[([\d,]*)\]', shape):
    yield dtype, tuple(int(n) for n in dims.split(',') if n)


def n_bytes(shape: str) -> int:
  """Bytes of the arrays of a shape, without padding."""
  bits = sum(_bits(dtype) * math.prod(dims) for dtype, dims in arrays(shape))
  return -(-bits // 8)


def _bits(dtype: str) -> int:
  if dtype == 'pred':
    return 8
  width = re.search(r'\d+', dtype)  # 'bf16', 'f8e4m3fn'; a token has none
  return int(width[0]) if width else 0
