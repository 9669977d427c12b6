"""Masks at one bit a weight: the same pruner, with an eighth of the memory.

Bits are packed along the last axis of a leaf, so that the packed mask splits
over devices like its parameter.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from jax_sparse_pretrain.pruning.distribution import Kernel
from jax_sparse_pretrain.pruning.pruner import Masks, Pruner


def packed(pruner: Pruner, kernels: Mapping[str, Kernel]) -> Pruner:
  """The pruner with its masks packed wherever a step leaves them.

  Args:
    pruner: one whose masks are {kernel: bool[shape]}.
    kernels: those that it prunes.
  """

  def unpack(bits: Masks) -> Masks:
    return {
      name: jnp.unpackbits(b, axis=-1, count=kernels[name].shape[-1]).astype(
        bool
      )
      for name, b in bits.items()
    }

  def update(params, bits, due, budget):
    # Unpacked only where an update is due.
    def prune(params, bits, budget):
      params, masks = pruner.update(params, unpack(bits), True, budget)
      return params, pack(masks)

    return jax.lax.cond(
      due, prune, lambda p, b, _: (p, b), params, bits, budget
    )

  def optimize(apply, grads, opt_state, params, bits, due, budget):
    updates, opt_state, masks = pruner.optimize(
      apply, grads, opt_state, params, unpack(bits), due, budget
    )
    # Packed only where an update is due.
    bits = jax.lax.cond(due, lambda m, _: pack(m), lambda _, b: b, masks, bits)
    return updates, opt_state, bits

  # A verb that the pruner leaves at its default passes the bits as they are.
  verbs = {'update': update, 'optimize': optimize}
  given = {
    name: verb
    for name, verb in verbs.items()
    if getattr(pruner, name) is not Pruner._field_defaults[name]
  }
  return pruner._replace(
    **given,
    init=lambda params, step=0: pack(pruner.init(params, step)),
    forward=lambda params, bits: pruner.forward(params, unpack(bits)),
    mask_gradients=lambda grads, bits: pruner.mask_gradients(
      grads, unpack(bits)
    ),
    mask=lambda params, bits: pruner.mask(params, unpack(bits)),
    kept=lambda params, bits: pruner.kept(params, unpack(bits)),
  )


def pack(masks: Masks) -> Masks:
  """{kernel: bool[..., d]} -> {kernel: uint8[..., ceil(d / 8)]}."""
  return {name: jnp.packbits(mask, axis=-1) for name, mask in masks.items()}
