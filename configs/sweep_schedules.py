r"""Claim 1: where in a run to prune. 84 schedules of equal compute.

  python -m jax_sparse_pretrain.sweep --config=configs/sweep_schedules.py \
    --workdir=DIR

Every run has the compute of 24 tokens a dense parameter, so that early or deep
pruning means more tokens. Starts and ends are fractions of that compute; no run
can prune in its very last step, so the last end is at 97 %. Seeds of the dense
run and of 25-75 % to 80 % are the noise floor.
Cost: twenty-five minutes on two CPU cores.
"""

import itertools

import small

SPARSITIES = (0.2, 0.4, 0.6, 0.8)
FRACTIONS = (0, 0.125, 0.25, 0.5, 0.75, 0.875, 0.97)
SEEDS = range(4)
DENSE_TOKENS = 1_000_000


def get_config():
  config = small.get_config(width=32)
  config.duration.unit = 'dense_steps'
  config.duration.value = DENSE_TOKENS // small.TOKENS_PER_STEP
  return config


def get_runs():
  ramps = itertools.combinations(FRACTIONS, 2)
  for (start, end), sparsity in itertools.product(ramps, SPARSITIES):
    yield _run(sparsity, start, end, SEEDS[0])
  for seed in SEEDS[1:]:
    yield _run(0.8, 0.25, 0.75, seed)
  for seed in SEEDS:
    yield f'dense_seed{seed}', {'seed': seed}


def _run(sparsity: float, start: float, end: float, seed: int):
  return (
    f's{sparsity:g}_start{start:g}_end{end:g}_seed{seed}',
    {
      'seed': seed,
      'pruning.sparsity': sparsity,
      'pruning.start': start,
      'pruning.end': end,
    },
  )
