"""A mean that is the same to the last bit on any mesh."""

import math

import jax
import jax.numpy as jnp


def exact_mean(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
  """Mean of float32 over the axes, in whatever order devices add up.

  A sum of floats depends on its order, and so on the mesh. Integers do not:
  weights are scaled by the power of two above their window's largest and cut
  into two limbs, as wide as int32 can sum, that are summed apart. What is cut
  off is below 2^-(62 - 2 log2(window)) of the largest weight, or of 2^-94
  where that is larger. Magnitudes beyond 2^124 count as 2^124; NaN stays NaN.
  """
  size = math.prod(x.shape[axis] for axis in axes)
  unit = 2.0 ** (31 - (size - 1).bit_length())
  bound = 2.0**124
  top = jnp.max(jnp.abs(x).clip(max=bound), axis=axes, keepdims=True)
  # Far enough from both ends for the compiler to multiply in any order.
  exponent = jax.lax.bitcast_convert_type(top, jnp.int32) >> 23
  exponent = jnp.clip(exponent, 32, 251)

  def add_up(shift: jax.Array) -> jax.Array:
    # Nothing as large as x is to be kept from one limb to the next.
    again, shift = jax.lax.optimization_barrier((x, shift))
    scaled = jnp.clip(again, -bound, bound) * _power_of_two(253 - exponent)
    scaled *= shift
    limb = jnp.trunc((scaled - jnp.trunc(scaled)) * unit).astype(jnp.int32)
    return jnp.sum(limb, axis=axes, keepdims=True, dtype=jnp.int32)

  high, low = jax.lax.map(add_up, jnp.array([1, unit], jnp.float32))
  total = high.astype(jnp.float32) + low.astype(jnp.float32) / unit
  mean = total / (size * unit) * _power_of_two(exponent + 1)
  return jnp.squeeze(jnp.where(jnp.isnan(top), top, mean), axes)


def _power_of_two(biased: jax.Array) -> jax.Array:
  """2^(biased - 127) for 1 <= biased <= 254, float32."""
  return jax.lax.bitcast_convert_type(biased << 23, jnp.float32)
