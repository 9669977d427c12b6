"""What a train step takes on devices that are not here: numbers and a table."""

import math
import re
import textwrap
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from jax_sparse_pretrain import hardware, sharding
from jax_sparse_pretrain.compile_ahead import topology as topology_lib
from jax_sparse_pretrain.compile_ahead.hlo import costs as costs_lib
from jax_sparse_pretrain.compile_ahead.hlo import execution, instructions
from jax_sparse_pretrain.config import Config
from jax_sparse_pretrain.text import Line, listing, size
from jax_sparse_pretrain.training import recipe, setup

_WIDTH = 80  # columns


class Memory(NamedTuple):
  """The compiler's account, in bytes of one device.

  Attributes:
    arguments: the state and the batch, as they are laid out.
    outputs: the state and the metrics.
    reused: the part of the outputs that is written over the arguments.
    temporaries: activations, gradients, copies.
    code: the program, where it lies in the device's memory.
  """

  arguments: int
  outputs: int
  reused: int
  temporaries: int
  code: int

  @property
  def total(self) -> int:
    fresh = self.outputs - self.reused
    return self.arguments + fresh + self.temporaries + self.code


class Cost(NamedTuple):
  """What one device does.

  Attributes:
    flops: FLOPs of matrix products.
    n_bytes: bytes read and written in its memory.
    collectives: messages, by kind.
    loops: loops of unknown length in which a part of it stands; each is counted
      as one iteration.
  """

  flops: int
  n_bytes: int
  collectives: tuple[costs_lib.Collective, ...]
  loops: tuple[str, ...]


class CompiledStep(NamedTuple):
  """A train step, compiled.

  Attributes:
    topology: the devices.
    mesh: the number of devices along each axis.
    state: bytes of one device's part of the inputs, without padding: 'params',
      'optimizer', 'masks' and 'batch'.
    memory: the compiler's account; None if it refused.
    refusal: why the program does not fit the chip, in the compiler's words.
    step: what a device does in a step without a mask update.
    update: what a mask update adds, if every search for ties is made.
    seconds: to lower and compile.
  """

  topology: topology_lib.Topology
  mesh: dict[str, int]
  state: dict[str, int]
  memory: Memory | None
  refusal: str
  step: Cost | None
  update: Cost | None
  seconds: float

  @property
  def fits(self) -> bool | None:
    """Whether the chip can hold it; None where no chip is named."""
    if self.memory is None:
      return False
    chip = self.topology.chip
    return chip and self.memory.total <= chip.memory


def compile_train_step(
  config: Config, topology: topology_lib.Topology
) -> CompiledStep:
  """Lowers and compiles the train step of a run; allocates no arrays.

  Raises:
    ConfigError: for a config that the run would refuse. Its data are not
      looked at.
  """
  parts = setup.make_parts(config, topology_lib.devices(topology))
  start = time.perf_counter()
  lowered = lower_train_step(config, parts)
  compiled, refusal = _compile(lowered)
  seconds = time.perf_counter() - start
  step = update = None
  if compiled:
    step, update = costs(compiled, topology.n_devices)
  state = parts.programs.abstract_state
  return CompiledStep(
    topology=topology,
    mesh=dict(parts.mesh.shape),
    state={
      'params': shard_bytes(state.params),
      'optimizer': shard_bytes(state.opt_state),
      'masks': shard_bytes(state.masks),
      'batch': shard_bytes(_rows(config, parts)),
    },
    memory=compiled and _memory(compiled),
    refusal=refusal,
    step=step,
    update=update,
    seconds=seconds,
  )


def lower_train_step(config: Config, parts: setup.Parts) -> jax.stages.Lowered:
  """The train step of the run, given shapes in place of arrays."""
  # Only the type of the rates is in the program.
  rates = np.zeros(parts.plan.steps, np.float32)
  controls = recipe.make_controls(config, parts.plan, parts.pruner, rates)
  return parts.programs.train_step.lower(
    parts.programs.abstract_state, _rows(config, parts), controls(0)
  )


def _rows(config: Config, parts: setup.Parts) -> jax.ShapeDtypeStruct:
  """The shape of a global batch."""
  planes = (2,) if config.data.mask_documents else ()  # tokens, documents
  shape = config.batch_size, *planes, config.model.context_length + 1
  where = sharding.batch_sharding(parts.mesh)
  return jax.ShapeDtypeStruct(shape, np.int32, sharding=where)


def _compile(
  lowered: jax.stages.Lowered,
) -> tuple[jax.stages.Compiled | None, str]:
  """The program, or None and why it does not fit the device."""
  try:
    return lowered.compile(), ''
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    said = re.search(r'Ran out of memory[^\n]*', str(error))
    return None, said[0].strip() if said else str(error).splitlines()[0]


def shard_bytes(tree: Any) -> int:
  """Bytes that one device holds of a tree of abstract arrays with shardings."""
  return sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(tree)
  )


def _memory(compiled: jax.stages.Compiled) -> Memory:
  stats = compiled.memory_analysis()
  return Memory(
    arguments=stats.argument_size_in_bytes,
    outputs=stats.output_size_in_bytes,
    reused=stats.alias_size_in_bytes,
    temporaries=stats.temp_size_in_bytes,
    code=stats.generated_code_size_in_bytes,
  )


def costs(compiled: jax.stages.Compiled, n_devices: int) -> tuple[Cost, Cost]:
  """Costs of a step without a mask update, and what an update adds."""
  program = instructions.parse(compiled.as_text())
  everything = list(execution.walk(program))
  both = []
  for is_update in (False, True):
    executed = [e for e in everything if e.is_update == is_update]
    both.append(
      Cost(
        flops=sum(map(costs_lib.flops, executed)),
        n_bytes=sum(costs_lib.traffic(program, e) for e in executed),
        collectives=costs_lib.collectives(executed, n_devices),
        loops=tuple(sorted({name for e in executed for name in e.loops})),
      )
    )
  return tuple(both)


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
  remark = ''
  if chip := compiled.topology.chip:
    verdict = 'fits' if compiled.fits else 'DOES NOT FIT'
    share = memory.total / chip.memory
    remark = f'{verdict}: {share:.1%} of {chip.memory // hardware.GIB} GiB'
  yield Line('All memory', size(memory.total), remark)


def _cost_lines(cost: Cost, chip: hardware.Chip | None) -> Iterator[Line]:
  if cost.flops:
    remark = 'of matrix products'
    if chip:
      seconds = cost.flops / chip.peak_flops
      shown = f'{seconds:.2f} s' if seconds >= 1 else f'{1e3 * seconds:.3g} ms'
      remark = f'{shown} at the peak'
    yield Line('  FLOPs', f'{cost.flops:.4g}', remark)
  yield Line('  bytes', size(cost.n_bytes), 'read and written in memory')
  for sent in cost.collectives:
    remark = f'{sent.count:,} messages, sends {size(sent.sent)} in a ring'
    yield Line(f'  {sent.kind}', size(sent.n_bytes), remark)
  if not cost.collectives:
    yield Line('  collectives', 'none')


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
