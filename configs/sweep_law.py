r"""Claim 2: one law for dense and sparse runs.

  python -m jax_sparse_pretrain.sweep --config=configs/sweep_law.py \
    --workdir=DIR

A ladder of dense runs, five sizes by four lengths but for the dearest, and
sparse runs over it: two of the sizes, pruned over 25-75 % of compute to each
sparsity, at the lengths of dense runs.
Cost: twenty-five minutes on two CPU cores.
"""

import small

TOKENS = (500_000, 1_000_000, 2_000_000, 4_000_000)
SPARSITIES = (0.4, 0.6, 0.8)
SPARSE = {64: TOKENS[1:], 96: TOKENS[1:3]}  # lengths by width
DEAREST = (128, 4_000_000)


def get_config():
  return small.get_config()


def get_runs():
  for width in small.WIDTHS:
    for tokens in TOKENS:
      if (width, tokens) != DEAREST:
        yield _run(width, tokens, 0.0)
  for width, lengths in SPARSE.items():
    for tokens in lengths:
      for sparsity in SPARSITIES:
        yield _run(width, tokens, sparsity)


def _run(width: int, tokens: int, sparsity: float):
  return (
    f'd{width}_{tokens / 1e6:g}M' + (f'_s{sparsity:g}' if sparsity else ''),
    {
      **small.size(width),
      'duration.value': tokens,
      'pruning.sparsity': sparsity,
    },
  )
