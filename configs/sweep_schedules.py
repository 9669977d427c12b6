r"""Claim 1: where in a run to prune. 84 schedules of equal compute.

  python -m jax_sparse_pretrain.sweep --config=configs/sweep_schedules.py \
    --workdir=DIR

Every run has the compute of 24 tokens a dense parameter, so that early or deep
pruning means more tokens. Starts and ends are fractions of that compute; no run
can prune in its very last step, so the last end is at 97 %. Six seeds of a
dense and of a sparse run are the noise floor.
Cost: twenty minutes on two CPU cores.
"""

import itertools

import small

SPARSITIES = (0.2, 0.4, 0.6, 0.8)
FRACTIONS = (0, 0.125, 0.25, 0.5, 0.75, 0.875, 0.97)
SEEDS = range(6)
DENSE_TOKENS = 1_000_000


def get_config():
  config = small.get_config()
  config.update_from_flattened_dict(small.size(32))
  config.duration.unit = 'dense_steps'
  config.duration.value = DENSE_TOKENS // small.TOKENS_PER_STEP
  return config


def get_runs():
  for sparsity in SPARSITIES:
    for start, end in itertools.combinations(FRACTIONS, 2):
      yield (
        f's{sparsity:g}_start{start:g}_end{end:g}',
        _schedule(sparsity, start, end),
      )
  for seed in SEEDS:
    yield f'dense_seed{seed}', {'seed': seed}
  for seed in SEEDS[1:]:
    yield (
      f's0.8_start0.25_end0.75_seed{seed}',
      {'seed': seed, **_schedule(0.8, 0.25, 0.75)},
    )


def _schedule(sparsity: float, start: float, end: float) -> dict[str, float]:
  return {
    'pruning.sparsity': sparsity,
    'pruning.start': start,
    'pruning.end': end,
  }
