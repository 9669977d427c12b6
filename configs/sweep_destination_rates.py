r"""Peak learning rates of configs/sweep_destination.py, dense and sparse apart.

  python -m jax_sparse_pretrain.sweep --workdir=WORKDIR \
    --config=configs/sweep_destination_rates.py --config.data.path=DIR/tokens

Dense runs of a narrow and of the widest model, and sparse runs at two
sparsities, each at several multiples of 1 / d_model.
Cost: half a core-hour.
"""

import destination

DENSE = (0.3, 0.6, 1.2)
SPARSE = (0.3, 0.6, 1.2)


def get_config():
  return destination.get_config()


def get_runs():
  for width in (20, 48):
    for share in DENSE:
      rate = round(share / width, 5)
      changes = {**destination.size(width), 'optimizer.peak_lr': rate}
      yield f'd{width}_x{share:g}', changes
  for sparsity in (0.8, 0.9375):
    for share in SPARSE:
      rate = round(share / destination.WIDTH, 5)
      changes = {'pruning.sparsity': sparsity, 'optimizer.peak_lr': rate}
      yield f's{sparsity:g}_x{share:g}', changes
