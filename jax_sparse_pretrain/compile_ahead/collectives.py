"""Messages between devices: which, how many, how large."""

import math
import re
from collections.abc import Iterable
from typing import NamedTuple

from jax_sparse_pretrain.compile_ahead.execution import Executed
from jax_sparse_pretrain.compile_ahead.hlo import (
  Computation,
  Instruction,
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
ASYNC_START = 'AsyncCollectiveStart'


class Collective(NamedTuple):
  """One kind of message, of one device.

  Attributes:
    kind: of `KINDS`.
    count: messages; several arrays may go in one.
    n_bytes: of the arrays as they are where they are whole: the operands, or
      what is gathered.
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
    of_kind = [c for c in found if c and c.kind == kind and c.sent]
    if of_kind:
      sums = (
        sum(numbers) for numbers in zip(*(c[1:] for c in of_kind), strict=True)
      )
      totals.append(Collective(kind, *sums))
  return tuple(totals)


def _collective(executed: Executed, n_devices: int) -> Collective | None:
  """The messages of an instruction, if it is one; those begun, not awaited."""
  instruction = executed.instruction
  kind = instruction.opcode.removesuffix('-start')
  if kind not in KINDS or is_under_way(executed.computation, instruction):
    return None
  kind = _fused_kind(kind, executed)
  size = sum(
    n_bytes(executed.computation.instructions[name].shape)
    for name in instruction.operands
  )
  group = group_size(instruction.attributes, n_devices)
  if kind == 'all-gather':
    size *= group
  sent = math.ceil(size * _ring(kind, group))
  n = executed.times
  return Collective(kind, n, n * size, n * sent)


def is_under_way(around: Computation, instruction: Instruction) -> bool:
  """Whether it repeats a message that an instruction elsewhere has begun.

  On TPU, a message that passes behind products stands in a chain of fusions:
  that which begins it, each that it passes behind, and that which awaits it.
  """
  if 'chain_id=' not in instruction.attributes:
    return False
  return ASYNC_START not in around.root.attributes


def _fused_kind(kind: str, executed: Executed) -> str:
  """On TPU, a reduce-scatter is a fusion of an all-reduce and a slice."""
  scatters = executed.computation.name.startswith('all-reduce-scatter')
  return 'reduce-scatter' if scatters else kind


def _ring(kind: str, group: int) -> float:
  """What a device sends, as a part of the whole array."""
  if kind == 'collective-permute':
    return 1.0
  return (group - 1) / group * (2 if kind == 'all-reduce' else 1)


def group_size(attributes: str, n_devices: int) -> int:
  """Devices that take part in one message.

  Reads the forms `{{0,1},{2,3}}`, `[2,4]<=[8]`, `mesh['a'=2,'b'=4] {'a'}`, the
  order of whose devices may stand before the axes, and `{}`, which is all.

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
