r"""Claim 3: sparse runs against dense twins of equal N_avg and equal tokens.

  python -m jax_sparse_pretrain.sweep --config=configs/sweep_pairs.py \
    --workdir=DIR

For each sparsity a sparse run of one size, and a dense model whose width and
feed-forward width give it that run's N_avg, within 0.25 %. Four seeds each.
Cost: ten minutes on two CPU cores.
"""

import math
from typing import Any

import small

from jax_sparse_pretrain import config as config_lib
from jax_sparse_pretrain.model import counts
from jax_sparse_pretrain.training import recipe

SPARSITIES = (0.2, 0.4, 0.6, 0.8)
SEEDS = range(4)
WIDTH = 48
TOKENS = 1_500_000


def get_config():
  return small.get_config(WIDTH, TOKENS)


def get_runs():
  for seed in SEEDS:
    yield f'dense_{seed}', {'seed': seed}
    for s in SPARSITIES:
      sparse = {'seed': seed, 'pruning.sparsity': s}
      yield f's{s:g}_sparse_{seed}', sparse
      yield f's{s:g}_dense_{seed}', {'seed': seed, **twin(planned_average(s))}


def planned_average(sparsity: float) -> float:
  """N_avg of the sparse run."""
  values = get_config()
  values.pruning.sparsity = sparsity
  config = config_lib.from_dict(values.to_dict())
  dense = counts.linear_parameters(config.model)
  return recipe.make_plan(config).mean_density * dense


def twin(n: float) -> dict[str, Any]:
  """A dense model of n linear parameters, its d_ff as near 4 d_model as can be.

  For a width, d_ff in whole numbers comes within 3 d_model of n, at worst.
  """
  widths = range(16, WIDTH + 1, 4)  # two heads of an even head_dim
  return min(
    (small.size(width, _d_ff(n, width)) for width in widths),
    key=lambda each: abs(
      math.log(each['model.d_ff'] / (4 * each['model.d_model']))
    ),
  )


def _d_ff(n: float, d_model: int) -> int:
  model = small.get_config().model
  rest = n / model.n_layers - 4 * d_model**2
  rest -= d_model * model.vocab_size / model.n_layers
  return max(1, round(rest / (3 * d_model)))
