r"""Peak learning rates of dense runs of every width of configs/small.py.

  python -m jax_sparse_pretrain.sweep --config=configs/sweep_rates.py \
    --workdir=DIR

`small.peak_lr`, which the other sweeps use, follows the best of each width.
Cost: about six minutes on two CPU cores.
"""

import small

RATES = (1.5e-3, 3e-3, 6e-3, 1.2e-2, 2.4e-2)


def get_config():
  return small.get_config(tokens=500_000)


def get_runs():
  for width in small.WIDTHS:
    for rate in RATES:
      yield (
        f'd{width}_lr{rate:g}',
        {**small.size(width), 'optimizer.peak_lr': rate},
      )
