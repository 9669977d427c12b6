"""Counts beyond 2^32, as (high, low) pairs of uint32, without 64-bit mode."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Wide(NamedTuple):
  """The integer high * 2^32 + low."""

  high: jax.Array
  low: jax.Array


def wide(value: int) -> Wide:
  """An integer below 2^64, on the host."""
  return Wide(np.uint32(value >> 32), np.uint32(value & 0xFFFFFFFF))


def total(counts: jax.Array) -> Wide:
  """Exact sum of uint32[n], n at most 65,536.

  The 16-bit halves are summed apart, so that no sum can overflow.
  """
  if counts.size > 1 << 16:
    raise ValueError(f'{counts.size} counts: at most 65,536 can be summed')
  low = jnp.sum(counts & 0xFFFF, dtype=jnp.uint32)
  high = jnp.sum(counts >> 16, dtype=jnp.uint32) + (low >> 16)
  return Wide(high >> 16, (high << 16) | (low & 0xFFFF))


def at_least(a: Wide, b: Wide) -> jax.Array:
  """a >= b."""
  return (a.high > b.high) | ((a.high == b.high) & (a.low >= b.low))


def subtract(a: Wide, b: Wide) -> Wide:
  """a - b for a >= b."""
  return Wide(a.high - b.high - (a.low < b.low), a.low - b.low)


def smaller(a: Wide, b: jax.Array) -> jax.Array:
  """min(a, b) for b uint32."""
  return jnp.where(a.high > 0, b, jnp.minimum(a.low, b))
