"""Compiles the train step of a run for devices that are not here."""

import re
import time
from collections.abc import Iterable
from typing import NamedTuple

import jax
import numpy as np

from jax_sparse_pretrain import sharding
from jax_sparse_pretrain.compile_ahead import (
  collectives,
  execution,
  hlo,
  memory,
  topology,
  traffic,
  work,
)
from jax_sparse_pretrain.config import Config
from jax_sparse_pretrain.training import recipe, setup


class Cost(NamedTuple):
  """What one device does.

  Attributes:
    flops: of matrix products.
    n_bytes: read and written in its memory.
    collectives: messages, by kind.
    loops: of unknown length in which some of it stands, counted as one
      iteration.
  """

  flops: int
  n_bytes: int
  collectives: tuple[collectives.Collective, ...]
  loops: tuple[str, ...]


class Ahead(NamedTuple):
  """A train step, compiled.

  Attributes:
    topology: the devices.
    mesh: their number along each axis.
    state: bytes of one device's state and batch.
    memory: the compiler's account; None if it refused.
    refusal: in its words, why the program does not fit the chip.
    step: what a device does in a step without a mask update.
    update: what a mask update adds, if every search for ties is made.
    seconds: to lower and compile.
  """

  topology: topology.Topology
  mesh: dict[str, int]
  state: memory.StateBytes
  memory: memory.Memory | None
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


def compile_ahead(config: Config, where: topology.Topology) -> Ahead:
  """Lowers and compiles the train step of a run; allocates no arrays.

  Raises:
    ConfigError: for input that the run would refuse, its data left aside.
  """
  parts = setup.make_parts(config, topology.devices(where))
  start = time.perf_counter()
  lowered = lower_train_step(config, parts)
  compiled, refusal = _compile(lowered)
  seconds = time.perf_counter() - start
  step, update = costs(compiled, where.n_devices) if compiled else (None, None)
  return Ahead(
    topology=where,
    mesh=dict(parts.mesh.shape),
    state=memory.state_bytes(
      parts.programs.abstract_state, _rows(config, parts)
    ),
    memory=compiled and memory.compiled_memory(compiled),
    refusal=refusal,
    step=step,
    update=update,
    seconds=seconds,
  )


def lower_train_step(config: Config, parts: setup.Parts) -> jax.stages.Lowered:
  """The train step of the run, given shapes in place of arrays."""
  # Only their type is in the program.
  rates = np.zeros(parts.plan.steps, np.float32)
  controls = recipe.make_controls(config, parts.plan, parts.pruner, rates)
  return parts.programs.train_step.lower(
    parts.programs.abstract_state, _rows(config, parts), controls(0)
  )


def _rows(config: Config, parts: setup.Parts) -> jax.ShapeDtypeStruct:
  shape = config.batch_size, config.model.context_length + 1
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


def costs(compiled: jax.stages.Compiled, n_devices: int) -> tuple[Cost, Cost]:
  """Of a step without a mask update, and what an update adds."""
  program = hlo.parse(compiled.as_text())
  executed = list(execution.walk(program))
  return tuple(
    _cost(program, [e for e in executed if e.is_update == update], n_devices)
    for update in (False, True)
  )


def _cost(
  program: hlo.Program,
  executed: Iterable[execution.Executed],
  n_devices: int,
) -> Cost:
  return Cost(
    flops=sum(map(work.flops, executed)),
    n_bytes=sum(traffic.traffic(program, e) for e in executed),
    collectives=collectives.collectives(executed, n_devices),
    loops=tuple(sorted({name for e in executed for name in e.loops})),
  )
