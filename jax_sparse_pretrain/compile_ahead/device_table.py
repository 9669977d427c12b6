"""A table for a person: what a train step takes on each device."""

import textwrap
from collections.abc import Iterator

from jax_sparse_pretrain import hardware
from jax_sparse_pretrain.compile_ahead.program import CompiledStep, Cost
from jax_sparse_pretrain.text import Line, listing, size

_WIDTH = 80  # columns


def step_table(compiled: CompiledStep) -> str:
  """At most 80 columns; every number is for one device."""
  topology = compiled.topology
  mesh = ', '.join(f'{axis} {n}' for axis, n in compiled.mesh.items())
  what = topology.kind or 'CPU'
  title = f'One of {topology.n_devices} x {what} ({topology.name}): {mesh}'
  costs = {'A step': compiled.step, 'A mask update': compiled.update}
  lines = [*_memory_lines(compiled)]
  for name, cost in costs.items():
    if cost and (cost.n_bytes or cost.collectives):
      lines += [Line(), Line(name), *_cost_lines(cost, topology.chip)]
  lines += [Line(), Line('Compiled in', f'{compiled.seconds:.1f} s')]
  notes = (textwrap.wrap(note, _WIDTH) for note in _notes(compiled))
  return '\n'.join([listing(title, lines), *sum(notes, [])])


def _memory_lines(compiled: CompiledStep) -> Iterator[Line]:
  state, memory = compiled.state, compiled.memory
  yield Line('Parameters', size(state['params']))
  yield Line('Optimizer', size(state['optimizer']))
  yield Line('Masks', size(state['masks']))
  yield Line('Batch', size(state['batch']))
  yield Line()
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
  yield Line('All memory', size(memory.total), _fit(compiled))


def _fit(compiled: CompiledStep) -> str:
  chip = compiled.topology.chip
  if chip is None:
    return ''
  verdict = 'fits' if compiled.fits else 'DOES NOT FIT'
  share = compiled.memory.total / chip.memory
  return f'{verdict}: {share:.1%} of {chip.memory // hardware.GIB} GiB'


def _cost_lines(cost: Cost, chip: hardware.Chip | None) -> Iterator[Line]:
  if cost.flops:
    seconds = chip and cost.flops / chip.peak_flops
    remark = f'{_time(seconds)} at the peak' if chip else 'of matrix products'
    yield Line('  FLOPs', f'{cost.flops:.4g}', remark)
  yield Line('  bytes', size(cost.n_bytes), 'read and written in memory')
  for sent in cost.collectives:
    remark = f'{sent.count:,} messages, sends {size(sent.sent)} in a ring'
    yield Line(f'  {sent.kind}', size(sent.n_bytes), remark)
  if not cost.collectives:
    yield Line('  collectives', 'none')


def _time(seconds: float) -> str:
  return f'{seconds:.2f} s' if seconds >= 1 else f'{1e3 * seconds:.3g} ms'


def _notes(compiled: CompiledStep) -> Iterator[str]:
  topology = compiled.topology
  if compiled.refusal:
    yield f'The compiler: {compiled.refusal}'
  if topology.is_fake:
    yield (
      'Compiled by XLA for CPU on fake devices: temporaries, bytes and '
      'messages are estimates, mostly too high, as bfloat16 is widened there.'
    )
    if topology.chip:
      yield "With libtpu (pip install '.[tpu]') it is the compiler of TPUs."
    elif compiled.memory:
      yield f'By this estimate it fits {_chips(compiled.memory.total)}.'
  if compiled.update and compiled.update.n_bytes:
    yield 'A mask update comes on top, counted as if every tie were searched.'
  for name, cost in (('step', compiled.step), ('update', compiled.update)):
    if cost and cost.loops:
      yield (
        f'{len(cost.loops)} loops of the {name} have no length that could be '
        'read: they count as one iteration.'
      )


def _chips(n_bytes: int) -> str:
  """The smallest chips that hold so many bytes."""
  sizes = {}
  for name, chip in hardware.CHIPS.items():
    sizes.setdefault(chip.memory // hardware.GIB, []).append(name)
  least = [gib for gib in sorted(sizes) if n_bytes <= gib * hardware.GIB]
  if not least:
    return 'none of the chips known'
  return f'a chip of {least[0]} GiB ({", ".join(sizes[least[0]])})'
