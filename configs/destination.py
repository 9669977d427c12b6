r"""The small models of results/destination, and a run of one.

  python -m jax_sparse_pretrain.train --config=configs/destination.py \
    --config.data.path=DIR/tokens --workdir=WORKDIR

Two layers of the paper's architecture on English text in 256 pieces, which
results/destination/prepare.sh makes. The LM head is exempt from pruning: where
ids hardly occur, its columns are outliers that magnitude keeps for nothing.
Models are narrow and runs long, 70 tokens a weight, so that size limits the
loss. The sweeps beside this file begin from `get_config()` and choose models by
`size`.
Cost: two minutes on one CPU core.
"""

from typing import Any

from ml_collections import ConfigDict

from jax_sparse_pretrain.config import defaults

WIDTH = 48
TOKENS = 6_000_000
VOCABULARY = 256
TOKENS_PER_STEP = 2048


def get_config(width: int = WIDTH, tokens: int = TOKENS) -> ConfigDict:
  """The paper's recipe, `jax_sparse_pretrain/config.py`, made small."""
  config = ConfigDict(defaults())
  config.batch_size = 32  # rows; x 64 = 2,048 tokens a step

  config.model.vocab_size = VOCABULARY
  config.model.n_layers = 2
  config.model.context_length = 64  # pieces, some 130 characters
  config.model.compute_dtype = 'float32'  # CPUs have no fast bfloat16
  config.model.scan_layers = False  # on a CPU the loop's body is slower
  config.update_from_flattened_dict(size(width))

  config.data.source = 'tokens'
  config.data.path = 'tokens'

  config.duration.unit = 'tokens'
  config.duration.value = tokens
  config.optimizer.warmup_steps = 100

  config.pruning.exempt = ('lm_head/*',)
  config.pruning.every = 10  # steps
  config.evaluation.every = 0  # at the end
  config.evaluation.rows = 16384  # 1,048,576 tokens
  config.evaluation.batch_size = 128
  config.checkpoint.every = 0  # at the end
  config.logging.every = 50  # steps
  config.logging.tensorboard = False
  return config


def size(d_model: int, d_ff: int = 0, head_dim: int = 0) -> dict[str, Any]:
  """Overrides for a width, and a feed-forward width if not 4 d_model."""
  return {
    'model.d_model': d_model,
    'model.d_ff': d_ff or 4 * d_model,
    # On a CPU attention with two heads takes half the time of a step.
    'model.n_heads': 1,
    'model.head_dim': head_dim,
    'optimizer.peak_lr': peak_lr(),
  }


def peak_lr(sparsity: float = 0.0) -> float:
  """0.0131 for dense models of any width, more for sparse ones.

  By configs/sweep_destination_rates.py, on parabolas in the logarithm of the
  rate, the best is 0.011 at width 20, 0.013 at 48, 0.018 at 80 % sparsity and
  0.027 at 93.75 %. Half an octave off costs 0.003 to 0.006 nats.
  """
  return round(0.0131 * (1 - sparsity) ** -0.25, 5)
