"""A Llama-2 style decoder: RMSNorm, rotary embeddings, SwiGLU, no biases.

Options add what later Llamas have: grouped queries, a tied head, scaled rotary
frequencies. Every parameter carries logical axis names; `sharding.py` maps them
to mesh axes. Kernels are initialised with fan-in variance scaling (normal), and
attention divides by sqrt(head_dim) (arXiv 2307.09288).

Dims: B batch, L length, D model, H heads, K head_dim, F feed-forward, V vocab,
M places of a cache.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from jax_sparse_pretrain import config as config_lib

Constrain = Callable[[jax.Array, tuple[str, ...]], jax.Array]

_FAN_IN = nn.initializers.variance_scaling(1.0, 'fan_in', 'normal')
_FAN_IN_ROWS = nn.initializers.variance_scaling(
  1.0, 'fan_in', 'normal', out_axis=0
)


def unconstrained(x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
  """Leaves the sharding of activations to the compiler."""
  del axes
  return x


def _linear(
  name: str, axes: tuple[str, ...], features, n_in: int = 1, **kwargs
):
  return nn.DenseGeneral(
    features,
    axis=tuple(range(-n_in, 0)),
    use_bias=False,
    kernel_init=nn.with_logical_partitioning(_FAN_IN, axes),
    name=name,
    **kwargs,
  )


class RMSNorm(nn.Module):
  """x / rms(x) * scale, computed in float32."""

  eps: float
  dtype: str

  @nn.compact
  def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
    init = nn.with_logical_partitioning(nn.initializers.ones, ('norm',))
    scale_D = self.param('scale', init, x_BxLxD.shape[-1:])
    x_BxLxD = x_BxLxD.astype(jnp.float32)
    variance = jnp.mean(jnp.square(x_BxLxD), axis=-1, keepdims=True)
    x_BxLxD = x_BxLxD * jax.lax.rsqrt(variance + self.eps)
    return (x_BxLxD * scale_D).astype(self.dtype)


def rotary_frequencies(config: config_lib.Model) -> jax.Array:
  """Radians that each pair of dimensions turns a position, float32[K / 2].

  base^(-2i/K). The scaling of Llama 3 divides those by a factor that turn less
  than `rope_low_frequency_factor` times over the original context, keeps those
  that turn more than `rope_high_frequency_factor` times, and goes from one to
  the other linearly in the number of turns (arXiv 2407.21783, and the code
  published with it).
  """
  half = config.head_size // 2
  frequency = config.rope_base ** (-jnp.arange(half, dtype=jnp.float32) / half)
  if config.rope_scaling == 'none':
    return frequency
  low = config.rope_low_frequency_factor
  high = config.rope_high_frequency_factor
  turns = config.rope_original_length * frequency / (2 * jnp.pi)
  kept = jnp.clip((turns - low) / (high - low), 0, 1)
  return frequency * (kept + (1 - kept) / config.rope_factor)


def rotate(
  x_BxLxHxK: jax.Array, frequency: jax.Array, positions_BxL=None
) -> jax.Array:
  """Rotary position embedding: pairs (i, i + K/2) turn by position x frequency.

  Positions are 0, 1, ... unless they are given.
  """
  if positions_BxL is None:
    positions_BxL = jnp.arange(x_BxLxHxK.shape[1])[None]
  angle = positions_BxL[..., None].astype(jnp.float32) * frequency
  sin, cos = jnp.sin(angle)[:, :, None, :], jnp.cos(angle)[:, :, None, :]
  a, b = jnp.split(x_BxLxHxK.astype(jnp.float32), 2, axis=-1)
  turned = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
  return turned.astype(x_BxLxHxK.dtype)


def attention_implementation(
  config: config_lib.Model, masks_documents: bool = False
) -> str:
  """'cudnn' where its fused kernel applies and is not ruled out, or 'xla'.

  The kernel needs bfloat16, compute capability 8.0 and a head dimension that
  is a multiple of 8, up to 128, or to 256 from 9.0 on. It takes no mask of
  documents.
  """
  if config.attention != 'auto':
    return config.attention
  if masks_documents:
    return 'xla'
  device = jax.devices()[0]
  if device.platform != 'gpu' or config.compute_dtype != 'bfloat16':
    return 'xla'
  capability = float(device.compute_capability)
  largest = 256 if capability >= 9 else 128
  fits = config.head_size % 8 == 0 and config.head_size <= largest
  return 'cudnn' if fits and capability >= 8 else 'xla'


def check_attention(config: config_lib.Model) -> None:
  """Raises ConfigError for an attention kernel that this machine lacks."""
  if config.attention == 'cudnn' and jax.default_backend() != 'gpu':
    raise config_lib.ConfigError(
      "model.attention = 'cudnn': needs an NVIDIA GPU; use 'auto' or 'xla'"
    )


class Attention(nn.Module):
  """Causal attention, within documents if these are given.

  With positions, it decodes: keys and values go into the cache at their
  positions, and a query sees all places up to its own.
  """

  config: config_lib.Model
  constrain: Constrain

  @nn.compact
  def __call__(
    self,
    x_BxLxD: jax.Array,
    documents_BxL: jax.Array | None = None,
    positions_BxL: jax.Array | None = None,
  ) -> jax.Array:
    cfg = self.config
    frequency = rotary_frequencies(cfg)

    def project(name: str, heads: str, n_heads: int) -> jax.Array:
      linear = _linear(
        name,
        axes=('embed', heads, 'head_dim'),
        features=(n_heads, cfg.head_size),
        dtype=cfg.compute_dtype,
      )
      return self.constrain(linear(x_BxLxD), ('batch', 'length', heads, ''))

    q_BxLxHxK = project('query', 'heads', cfg.n_heads)
    k_BxLxHxK = project('key', 'kv_heads', cfg.kv_heads)
    v_BxLxHxK = project('value', 'kv_heads', cfg.kv_heads)
    q_BxLxHxK = rotate(q_BxLxHxK, frequency, positions_BxL)
    k_BxLxHxK = rotate(k_BxLxHxK, frequency, positions_BxL)
    mask = None
    if documents_BxL is not None:
      mask = documents_BxL[:, None, :, None] == documents_BxL[:, None, None, :]
    if positions_BxL is not None:
      k_BxLxHxK = self._cached('keys', k_BxLxHxK, positions_BxL)
      v_BxLxHxK = self._cached('values', v_BxLxHxK, positions_BxL)
      places_M = jnp.arange(k_BxLxHxK.shape[1])
      mask = places_M <= positions_BxL[:, None, :, None]
    implementation = 'xla'
    if positions_BxL is None:
      implementation = attention_implementation(cfg, documents_BxL is not None)
    mixed_BxLxHxK = jax.nn.dot_product_attention(
      q_BxLxHxK,
      k_BxLxHxK,
      v_BxLxHxK,
      mask=mask,
      is_causal=positions_BxL is None,
      implementation=implementation,
    )
    return _linear(
      'out',
      ('heads', 'head_dim', 'embed'),
      cfg.d_model,
      n_in=2,
      dtype=cfg.compute_dtype,
    )(mixed_BxLxHxK)

  def _cached(self, name: str, new_BxLxHxK, positions_BxL) -> jax.Array:
    """Puts keys or values into the cache, and returns all of it, [B, M, H, K].

    Places past the cache are dropped.
    """
    cache = self.variable('cache', name, lambda: new_BxLxHxK)
    rows = jnp.arange(new_BxLxHxK.shape[0])[:, None]
    cache.value = cache.value.at[rows, positions_BxL].set(
      new_BxLxHxK, mode='drop'
    )
    return cache.value


class FeedForward(nn.Module):
  """SwiGLU: down(silu(gate(x)) * up(x))."""

  config: config_lib.Model
  constrain: Constrain

  @nn.compact
  def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
    cfg = self.config
    widen = functools.partial(
      _linear,
      axes=('embed', 'mlp'),
      features=cfg.d_ff,
      dtype=cfg.compute_dtype,
    )
    h_BxLxF = nn.silu(widen('gate')(x_BxLxD)) * widen('up')(x_BxLxD)
    h_BxLxF = self.constrain(h_BxLxF, ('batch', 'length', 'mlp'))
    return _linear(
      'down', ('mlp', 'embed'), cfg.d_model, dtype=cfg.compute_dtype
    )(h_BxLxF)


class Block(nn.Module):
  """Pre-norm attention and feed-forward with residuals; a body for `scan`."""

  config: config_lib.Model
  constrain: Constrain

  @nn.compact
  def __call__(
    self,
    x_BxLxD: jax.Array,
    documents_BxL: jax.Array | None = None,
    positions_BxL: jax.Array | None = None,
  ) -> tuple[jax.Array, None]:
    cfg = self.config
    norm = functools.partial(RMSNorm, cfg.norm_eps, cfg.compute_dtype)
    h_BxLxD = norm(name='attention_norm')(x_BxLxD)
    attention = Attention(cfg, self.constrain, name='attention')
    x_BxLxD += attention(h_BxLxD, documents_BxL, positions_BxL)
    h_BxLxD = norm(name='mlp_norm')(x_BxLxD)
    x_BxLxD += FeedForward(cfg, self.constrain, name='mlp')(h_BxLxD)
    return self.constrain(x_BxLxD, ('batch', 'length', 'features')), None


class Embed(nn.Module):
  """Token embedding: a lookup, so not a linear parameter."""

  config: config_lib.Model
  constrain: Constrain

  def setup(self):
    cfg = self.config
    init = nn.with_logical_partitioning(_FAN_IN_ROWS, ('vocab', 'embed'))
    shape = (cfg.vocab_size, cfg.d_model)
    self.embedding = self.param('embedding', init, shape)

  def __call__(self, tokens_BxL: jax.Array) -> jax.Array:
    # Gathering the table over fsdp first keeps the compiler from replicating
    # the looked-up activations instead.
    table_VxD = self.embedding.astype(self.config.compute_dtype)
    table_VxD = self.constrain(table_VxD, ('vocab', 'features'))
    x_BxLxD = jnp.take(table_VxD, tokens_BxL, axis=0)
    return self.constrain(x_BxLxD, ('batch', 'length', 'features'))

  def logits(self, x_BxLxD: jax.Array) -> jax.Array:
    """The head of a model that ties it to its embedding, float32[B, L, V]."""
    return wide_matmul(
      x_BxLxD, self.embedding.T.astype(self.config.compute_dtype)
    )


@jax.custom_vjp
def wide_matmul(x_BxLxD: jax.Array, kernel_DxV: jax.Array) -> jax.Array:
  """A product with float32 result, whose backward products stay narrow.

  By default the float32 cotangent would make both products of the backward
  pass float32, twice as slow or more on a GPU.
  """
  return jnp.einsum(
    'bld,dv->blv', x_BxLxD, kernel_DxV, preferred_element_type=jnp.float32
  )


def _wide_matmul_forward(x_BxLxD, kernel_DxV):
  return wide_matmul(x_BxLxD, kernel_DxV), (x_BxLxD, kernel_DxV)


def _wide_matmul_backward(residuals, g_BxLxV):
  x_BxLxD, kernel_DxV = residuals
  g_BxLxV = g_BxLxV.astype(x_BxLxD.dtype)
  return (
    jnp.einsum('blv,dv->bld', g_BxLxV, kernel_DxV),
    jnp.einsum('bld,blv->dv', x_BxLxD, g_BxLxV),
  )


wide_matmul.defvjp(_wide_matmul_forward, _wide_matmul_backward)


class LMHead(nn.Module):
  """Logits in float32, with a kernel of its own."""

  config: config_lib.Model

  @nn.compact
  def __call__(self, x_BxLxD: jax.Array) -> jax.Array:
    cfg = self.config
    init = nn.with_logical_partitioning(_FAN_IN, ('embed', 'vocab'))
    shape = (cfg.d_model, cfg.vocab_size)
    kernel_DxV = self.param('kernel', init, shape)
    return wide_matmul(x_BxLxD, kernel_DxV.astype(cfg.compute_dtype))


class Decoder(nn.Module):
  """Tokens int[B, L] -> next-token logits float32[B, L, V].

  Given the number of each token's document, int[B, L], attention stays within
  documents. Given positions, int[B, L], the decoder keeps keys and values in
  the collection 'cache', which `empty_cache` makes.

  Attributes:
    config: sizes and options.
    constrain: pins an activation's sharding by logical axis names.
  """

  config: config_lib.Model
  constrain: Constrain = unconstrained

  @nn.compact
  def __call__(
    self,
    tokens_BxL: jax.Array,
    documents_BxL: jax.Array | None = None,
    positions_BxL: jax.Array | None = None,
  ) -> jax.Array:
    cfg = self.config
    embed = Embed(cfg, self.constrain, name='embed')
    x_BxLxD = self._blocks(embed(tokens_BxL), documents_BxL, positions_BxL)
    x_BxLxD = RMSNorm(cfg.norm_eps, cfg.compute_dtype, name='final_norm')(
      x_BxLxD
    )
    if cfg.tie_embeddings:
      logits_BxLxV = embed.logits(x_BxLxD)
    else:
      logits_BxLxV = LMHead(cfg, name='lm_head')(x_BxLxD)
    return self.constrain(logits_BxLxV, ('batch', 'length', 'vocab'))

  def _blocks(
    self, x_BxLxD: jax.Array, documents_BxL, positions_BxL
  ) -> jax.Array:
    cfg = self.config
    block = Block
    if cfg.remat:
      # Inside a scan nothing can be shared across iterations anyway.
      block = nn.remat(block, prevent_cse=not cfg.scan_layers)
    if not cfg.scan_layers:
      for i in range(cfg.n_layers):
        layer = block(cfg, self.constrain, name=f'layer_{i}')
        x_BxLxD, _ = layer(x_BxLxD, documents_BxL, positions_BxL)
      return x_BxLxD
    layers = nn.scan(
      block,
      variable_axes={'params': 0, 'cache': 0},
      split_rngs={'params': True},
      in_axes=nn.broadcast,
      length=cfg.n_layers,
      metadata_params={nn.PARTITION_NAME: 'layers'},
    )
    layers = layers(cfg, self.constrain, name='layers')
    x_BxLxD, _ = layers(x_BxLxD, documents_BxL, positions_BxL)
    return x_BxLxD


def empty_cache(config: config_lib.Model, batch_size: int, capacity: int):
  """The collection 'cache' for so many rows and places, all zeros."""
  shape = (batch_size, capacity, config.kv_heads, config.head_size)
  layers = (config.n_layers,) if config.scan_layers else ()

  def zeros() -> dict[str, jax.Array]:
    return {
      name: jnp.zeros((*layers, *shape), config.compute_dtype)
      for name in ('keys', 'values')
    }

  if config.scan_layers:
    return {'layers': {'attention': zeros()}}
  return {f'layer_{i}': {'attention': zeros()} for i in range(config.n_layers)}
