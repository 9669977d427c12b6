"""Bytes on one device: what shapes say, and what the compiler says."""

import math
from typing import Any, NamedTuple

import jax

from jax_sparse_pretrain.training.step import TrainState


class StateBytes(NamedTuple):
  """Bytes of one device's part of the inputs of a step, without padding."""

  params: int
  optimizer: int
  masks: int
  batch: int


def state_bytes(state: TrainState, rows: jax.ShapeDtypeStruct) -> StateBytes:
  """Of abstract arrays with shardings."""
  return StateBytes(
    params=shard_bytes(state.params),
    optimizer=shard_bytes(state.opt_state),
    masks=shard_bytes(state.masks),
    batch=shard_bytes(rows),
  )


def shard_bytes(tree: Any) -> int:
  """Bytes that one device holds of a tree."""
  return sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(tree)
  )


class Memory(NamedTuple):
  """The compiler's account, in bytes of one device.

  Attributes:
    arguments: the state and the batch, as they are laid out.
    outputs: the state and the metrics.
    reused: of the outputs, what is written over the arguments.
    temporaries: activations, gradients, copies.
    code: of the program, where it lies in the device's memory.
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


def compiled_memory(compiled: jax.stages.Compiled) -> Memory:
  """Of a compiled program."""
  stats = compiled.memory_analysis()
  return Memory(
    arguments=stats.argument_size_in_bytes,
    outputs=stats.output_size_in_bytes,
    reused=stats.alias_size_in_bytes,
    temporaries=stats.temp_size_in_bytes,
    code=stats.generated_code_size_in_bytes,
  )
