r"""The small models of the experiments in results/small, and a run of one.

  python -m jax_sparse_pretrain.train --config=configs/small.py --workdir=DIR

Two layers of the paper's architecture on the standard library's sources as
bytes. Widths of 32 to 128 are 41k to 557k linear parameters. The sweeps beside
this file begin from `get_config()` and choose models by `size`.
Cost: one minute on one CPU core.
"""

from typing import Any

from ml_collections import ConfigDict

from jax_sparse_pretrain.config import defaults

WIDTHS = (32, 48, 64, 96, 128)
TOKENS_PER_STEP = 2048


def get_config(width: int = 48, tokens: int = 1_000_000) -> ConfigDict:
  """The paper's recipe, `jax_sparse_pretrain/config.py`, made small."""
  config = ConfigDict(defaults())
  config.batch_size = 32  # rows; x 64 = 2,048 tokens a step

  config.model.vocab_size = 256  # bytes
  config.model.n_layers = 2
  config.model.n_heads = 2
  config.model.context_length = 64
  config.model.compute_dtype = 'float32'  # CPUs have no fast bfloat16
  config.model.scan_layers = False  # on a CPU the loop's body is slower
  config.update_from_flattened_dict(size(width))

  config.data.source = 'stdlib'
  config.data.path = ''
  config.data.tokenizer = 'bytes'
  # Of whole modules a run of a million tokens would see some fifty, and which
  # would matter more than how it is pruned.
  config.data.piece_bytes = 512

  config.duration.unit = 'tokens'
  config.duration.value = tokens
  config.optimizer.warmup_fraction = 0.05  # 1 % would be 3 to 20 steps

  config.pruning.every = 5  # steps
  config.evaluation.every = 0  # at the end
  config.evaluation.rows = 2048  # 131,072 validation bytes
  config.checkpoint.every = 0  # at the end
  config.logging.every = 20  # steps
  config.logging.tensorboard = False
  return config


def size(d_model: int, d_ff: int = 0) -> dict[str, Any]:
  """Overrides for a width, and a feed-forward width if not 4 d_model."""
  return {
    'model.d_model': d_model,
    'model.d_ff': d_ff or 4 * d_model,
    'optimizer.peak_lr': peak_lr(d_model),
  }


def peak_lr(d_model: int) -> float:
  """0.45 over d_model.

  The best rates of configs/sweep_rates.py are 0.40 to 0.52 over it at widths
  from 48. At 32 the highest of them is best, 0.77 over it.
  """
  return round(0.45 / d_model, 5)
