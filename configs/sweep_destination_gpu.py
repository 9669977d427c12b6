r"""The deciding experiment for a GPU: models a hundred times larger.

  results/destination/gpu.sh DIR TEXT...

Four layers of width 256, 4.2M weights in the body, on 200M tokens of 4,096
pieces: 38 tokens a weight. At 93.75 % sparsity by a cubic ramp N_avg and the
L1 mass then differ by some 0.2 nats. The dense ladder cuts inner dimensions, as
in configs/sweep_destination.py, to which the arms belong.
Cost: 4.2B tokens; not run yet.
"""

from collections.abc import Iterator
from typing import Any

import sweep_destination
from ml_collections import ConfigDict

from jax_sparse_pretrain.config import defaults

WIDTH, TOKENS = 256, 200_000_000
# Of the inner dimensions: head_dim of 4 heads, and d_ff.
INNER = {'1_16': (4, 64), '1_8': (8, 128), '1_4': (16, 256), '1_2': (32, 512)}
SPARSITIES = (0.5, 0.75, 0.875, 0.9375)


def get_config() -> ConfigDict:
  config = ConfigDict(defaults())
  config.batch_size = 128  # rows; x 256 = 32,768 tokens a step
  config.model.update(
    vocab_size=4096,
    n_layers=4,
    d_model=WIDTH,
    d_ff=4 * WIDTH,
    n_heads=4,
    context_length=256,
  )
  config.data.source = 'tokens'
  config.data.path = 'tokens'
  config.duration.unit = 'tokens'
  config.duration.value = TOKENS
  # By 1 / d_model from the small models; to be tuned first.
  config.optimizer.peak_lr = 4e-3
  config.optimizer.warmup_steps = 200
  config.pruning.exempt = ('lm_head/*',)
  config.pruning.every = 20  # steps
  config.evaluation.every = 0  # at the end
  config.evaluation.rows = 8192  # 2.1M tokens
  config.checkpoint.every = 1000  # steps
  config.logging.tensorboard = False
  return config


def get_runs() -> Iterator[tuple[str, dict[str, Any]]]:
  for seed in range(2):
    yield f'd{WIDTH}_{seed}', {'seed': seed}
    for name, (head_dim, d_ff) in INNER.items():
      inner = {'model.head_dim': head_dim, 'model.d_ff': d_ff}
      yield f'inner{name}_{seed}', {'seed': seed, **inner}
  for name, changes, n_seeds in _sparse():
    for seed in range(n_seeds):
      yield f'{name}_{seed}', {'seed': seed, **changes}


def _sparse() -> Iterator[tuple[str, dict[str, Any], int]]:
  """(name, what it changes, number of seeds)."""
  arms = sweep_destination.ARMS
  for sparsity in SPARSITIES:
    for arm in ('paper', 'middle'):
      n_seeds = 2 if sparsity == 0.875 else 1
      changes = {'pruning.sparsity': sparsity, **arms[arm]}
      yield f's{sparsity:g}_{arm}', changes, n_seeds
  yield 's0.875_late', {'pruning.sparsity': 0.875, **arms['late']}, 2
  yield 's0.875_random', {'pruning.sparsity': 0.875, **arms['random']}, 1
