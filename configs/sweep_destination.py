r"""The deciding experiment: is it the journey, or the destination?

  python -m jax_sparse_pretrain.sweep --config=configs/sweep_destination.py \
    --config.data.path=DIR/tokens --workdir=WORKDIR --jobs 2

Runs of equal tokens and N before pruning, to three sparsities of the body (the
LM head is exempt), by ramps that come early or late, by random weights, and
from step 0. The counts of the laws differ in them:

  paper   geometric, 25/50/25 of compute     random  as middle, random weights
  middle  cubic, 25-75 % of steps            static  magnitude, all at step 0
  early   cubic, 2-22 %                      head    as paper at 80 %, with the
  later   cubic, 40-70 %                             head pruned too
  late    cubic, 60-90 %

What dense models of N_avg, of the L1 mass and of the final count reach is read
off two ladders. One is of six widths. In the other the width is that of the
sparse models, and the inner dimensions are cut (`inner`): embedding and head
are then those of the sparse models, too, which is worth 0.04 to 0.06 nats. A
part is trained four times as long, on 1.7 passes over the text.
results/destination/README.md holds what was predicted before the sparse runs,
the test that decides, and its power.
Cost: seven to eight core-hours.
"""

from collections.abc import Iterator
from typing import Any

import destination

SPARSITIES = (0.5, 0.8, 0.9375)
SEEDS = range(4)
WIDTHS = (18, 22, 28, 34, 40, 48)
# Of the inner dimensions, head_dim and d_ff. A head of two dimensions has one
# rotary frequency, and loses 0.2 nats: hence the smallest.
INNER = {
  '1_27': (4, 4),
  '1_12': (4, 16),
  '1_6': (8, 32),
  '1_3': (16, 64),
  '2_3': (32, 128),
}
LONG = 24_000_000  # tokens
LONG_ARMS, LONG_SPARSITIES = ('paper', 'middle', 'later'), (0.8, 0.9375)
LONG_WIDTHS, LONG_SEEDS = (22, 34, 48), range(2)


def get_config():
  return destination.get_config()


def get_runs() -> Iterator[tuple[str, dict[str, Any]]]:
  yield from _seeded(dict(dense()))
  yield from _seeded(dict(sparse()))
  for seed in LONG_SEEDS:
    for name, changes in _long():
      yield f'{name}_{seed}', {'seed': seed, **changes}


def _seeded(arms: dict[str, dict[str, Any]]):
  """All arms of one seed before those of the next."""
  for seed in SEEDS:
    for name, changes in arms.items():
      yield f'{name}_{seed}', {'seed': seed, **changes}


def dense() -> Iterator[tuple[str, dict[str, Any]]]:
  """(name, what it changes): the ladder, and its check."""
  for width in WIDTHS:
    yield f'd{width}', destination.size(width)
  for name, (head_dim, d_ff) in INNER.items():
    yield f'inner{name}', destination.size(destination.WIDTH, d_ff, head_dim)


def sparse() -> Iterator[tuple[str, dict[str, Any]]]:
  """(name, what it changes)."""
  for sparsity in SPARSITIES:
    for arm, changes in ARMS.items():
      yield f's{sparsity:g}_{arm}', {**_to(sparsity), **changes}
  yield 's0.8_head', {**_to(0.8), 'pruning.exempt': ()}


def _long() -> Iterator[tuple[str, dict[str, Any]]]:
  longer = {'duration.value': LONG}
  for width in LONG_WIDTHS:
    yield f'long_d{width}', {**destination.size(width), **longer}
  for sparsity in LONG_SPARSITIES:
    for arm in LONG_ARMS:
      changes = {**_to(sparsity), **ARMS[arm], **longer}
      yield f'long_s{sparsity:g}_{arm}', changes


def _to(sparsity: float) -> dict[str, Any]:
  rate = destination.peak_lr(sparsity)
  return {'pruning.sparsity': sparsity, 'optimizer.peak_lr': rate}


def _cubic(start: float, end: float) -> dict[str, Any]:
  return {
    'pruning.schedule': 'cubic',
    'pruning.unit': 'step_fraction',
    'pruning.start': start,
    'pruning.end': end,
  }


ARMS = {
  'paper': {},
  'middle': _cubic(0.25, 0.75),
  'early': _cubic(0.02, 0.22),
  'later': _cubic(0.4, 0.7),
  'late': _cubic(0.6, 0.9),
  'random': {**_cubic(0.25, 0.75), 'pruning.algorithm': 'random'},
  'static': {
    'pruning.schedule': 'one_shot',
    'pruning.unit': 'steps',
    'pruning.start': 0,
    'pruning.end': 0,
  },
}
