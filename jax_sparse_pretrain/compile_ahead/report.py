"""A table for a person: what a train step takes on each device."""

import math
import textwrap
from collections.abc import Iterator

from jax_sparse_pretrain import hardware
from jax_sparse_pretrain.compile_ahead.collectives import Collective
from jax_sparse_pretrain.compile_ahead.program import Ahead, Cost
from jax_sparse_pretrain.text import Line
from jax_sparse_pretrain.text import listing as table

WIDTH = 80  # columns
_MIB = 1 << 20


def ahead_table(ahead: Ahead) -> str:
  """At most 80 columns wide; everything is of one device."""
  lines = [*_state_lines(ahead), Line(), *_memory_lines(ahead)]
  for title, cost in (('A step', ahead.step), ('A mask update', ahead.update)):
    if cost and (cost.n_bytes or cost.collectives):
      lines += [Line(), *_cost_lines(title, cost, ahead.topology.chip)]
  lines += [Line(), Line('Compiled in', f'{ahead.seconds:.1f} s')]
  notes = (textwrap.wrap(note, WIDTH) for note in _notes(ahead))
  return '\n'.join([table(_title(ahead), lines), *sum(notes, [])])


def _title(ahead: Ahead) -> str:
  where = ahead.topology
  mesh = ', '.join(f'{axis} {n}' for axis, n in ahead.mesh.items())
  what = where.kind or 'CPU'
  return f'One of {where.n_devices} x {what} ({where.name}): {mesh}'


def _state_lines(ahead: Ahead) -> Iterator[Line]:
  state = ahead.state
  yield Line('Parameters', size(state.params))
  yield Line('Optimizer', size(state.optimizer))
  yield Line('Masks', size(state.masks))
  yield Line('Batch', size(state.batch))


def _memory_lines(ahead: Ahead) -> Iterator[Line]:
  memory = ahead.memory
  if memory is None:
    yield Line('Memory', 'too much', 'the compiler refused, see below')
    return
  yield Line('Arguments', size(memory.arguments), 'those above, as laid out')
  yield Line('  results', size(memory.outputs))
  yield Line('  in place', size(memory.reused), 'of the results')
  yield Line(
    'Temporaries', size(memory.temporaries), 'activations, gradients, copies'
  )
  if memory.code:
    yield Line('Program', size(memory.code))
  yield Line('All memory', size(memory.total), _fit(ahead))


def _fit(ahead: Ahead) -> str:
  chip = ahead.topology.chip
  if chip is None:
    return ''
  share = ahead.memory.total / chip.memory
  verdict = 'fits' if ahead.fits else 'DOES NOT FIT'
  gib = chip.memory // hardware.GIB
  return f'{verdict}: {share:.1%} of {gib} GiB'


def _cost_lines(title: str, cost: Cost, chip) -> Iterator[Line]:
  yield Line(title)
  if cost.flops:
    peak = chip and f'{_seconds(cost.flops / chip.peak_flops)} at the peak'
    yield Line('  FLOPs', f'{cost.flops:.4g}', peak or 'of matrix products')
  yield Line('  bytes', size(cost.n_bytes), 'read and written in memory')
  for collective in cost.collectives:
    yield _collective_line(collective)
  if not cost.collectives:
    yield Line('  collectives', 'none')


def _seconds(seconds: float) -> str:
  return f'{seconds:.2f} s' if seconds >= 1 else f'{1e3 * seconds:.3g} ms'


def _collective_line(collective: Collective) -> Line:
  times = f'{collective.count:,} messages'
  remark = f'{times}, sends {size(collective.sent)} in a ring'
  return Line(f'  {collective.kind}', size(collective.n_bytes), remark)


def _notes(ahead: Ahead) -> Iterator[str]:
  where, chip = ahead.topology, ahead.topology.chip
  if ahead.refusal:
    yield f'The compiler: {ahead.refusal}'
  if where.is_fake:
    yield (
      'Compiled by XLA for CPU on fake devices: temporaries, bytes and '
      'messages are estimates, mostly too high, as bfloat16 is widened there.'
    )
  if where.is_fake and chip:
    yield "With libtpu (pip install '.[tpu]') it is the compiler of TPUs."
  if where.is_fake and not chip and ahead.memory:
    yield f'By this estimate it fits {_chips_that_fit(ahead.memory.total)}.'
  if ahead.update and ahead.update.n_bytes:
    yield 'A mask update comes on top, counted as if every tie were searched.'
  for title, cost in (('step', ahead.step), ('update', ahead.update)):
    if cost and cost.loops:
      yield (
        f'{len(cost.loops)} loops of the {title} have no length that could be '
        'read: they count as one iteration.'
      )


def _chips_that_fit(n_bytes: int) -> str:
  sizes = {}
  for name, chip in hardware.CHIPS.items():
    sizes.setdefault(chip.memory // hardware.GIB, []).append(name)
  least = [gib for gib in sorted(sizes) if n_bytes <= gib * hardware.GIB]
  if not least:
    return 'none of the chips known'
  return f'a chip of {least[0]} GiB ({", ".join(sizes[least[0]])})'


def size(n_bytes: float) -> str:
  """'1,234.5 MiB', or bytes below a tenth of one."""
  if n_bytes < _MIB / 10:
    return f'{math.ceil(n_bytes):,} B'
  return f'{n_bytes / _MIB:,.1f} MiB'
