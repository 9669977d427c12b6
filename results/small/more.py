"""Numbers of README.md that no verb of the analysis prints.

  python results/small/more.py [DIR]

From the CSV files here; with DIR of train.sh, also from its last checkpoints.
"""

import json
import pathlib
import sys

import numpy as np

from jax_sparse_pretrain.analysis import (
  ScalingLaw,
  load_runs,
  replicate_noise,
)

HERE = pathlib.Path(__file__).parent
ARMS = ('geometric_0', 'uniform_0', 'random_0')
# Printable ASCII, tab, line ends; 254 and 255 are BOS and EOS.
COMMON = [*range(32, 127), *b'\t\n\r', 254, 255]


def print_rates() -> None:
  """The least loss of a parabola through the best rate and its neighbours."""
  runs = load_runs(HERE / 'rates.csv')
  widths = np.array(list(map(int, runs.labels('model.d_model'))))
  rates = np.array(list(map(float, runs.labels('optimizer.peak_lr'))))
  for width in np.unique(widths):
    rows = np.flatnonzero(widths == width)
    rows = rows[np.argsort(rates[rows])]
    best = int(np.argmin(runs.loss[rows]))
    if best in (0, len(rows) - 1):
      rate, how = rates[rows[best]], 'at the end of those tried'
    else:
      near = rows[best - 1 : best + 2]
      a, b, _ = np.polyfit(np.log(rates[near]), runs.loss[near], 2)
      rate, how = np.exp(-b / (2 * a)), 'by a parabola'
    print(f'width {width}: rate x width {rate * width:.2f}, {how}')


def print_noise() -> None:
  for name in ('schedules', 'pairs'):
    noise = replicate_noise(load_runs(HERE / f'{name}.csv'))
    print(f'{name}: noise {noise.sd:.4f}, {noise.dof} degrees of freedom')


def print_residuals() -> None:
  """Log measured less log predicted loss of schedules, by law.json."""
  law = ScalingLaw.from_dict(json.loads((HERE / 'law.json').read_text())['law'])
  runs = load_runs(HERE / 'schedules.csv', where='sparsity > 0')
  left = np.log(runs.loss / law.loss(runs.parameters(), runs.tokens))
  is_late = np.array([float(end) > 0.9 for end in runs.labels('pruning.end')])
  sparsity = np.round(runs.sparsity, 2)
  for value in np.unique(sparsity):
    for name, rows in (('to 97 %', is_late), ('earlier', ~is_late)):
      those = left[(sparsity == value) & rows]
      print(f'{value:.0%} {name}: {those.min():+.3f} to {those.max():+.3f}')


def print_heads(directory: pathlib.Path) -> None:
  """Of the weights that LM heads have left, those of bytes hardly used."""
  import orbax.checkpoint as ocp

  rare = ~np.isin(np.arange(256), COMMON)
  for arm in ARMS:
    checkpoints = directory / 'shapes' / 'runs' / arm / 'checkpoints'
    newest = max(checkpoints.iterdir(), key=lambda path: int(path.name))
    state = ocp.PyTreeCheckpointer().restore(newest.absolute() / 'state')
    head = np.asarray(state['params']['lm_head']['kernel'])
    kept = head != 0
    size = np.abs(head[:, rare]).mean() / np.abs(head[:, ~rare]).mean()
    print(
      f'{arm}: {kept[:, rare].sum():,} of {kept.sum():,} weights left in the '
      f'head, {kept[:, rare].sum() / kept.sum():.0%}, are of {rare.mean():.0%} '
      f'of the vocabulary, {size:.1f} times as large as the others'
    )


def main() -> None:
  print_rates()
  print_noise()
  print_residuals()
  if len(sys.argv) > 1:
    print_heads(pathlib.Path(sys.argv[1]))


if __name__ == '__main__':
  main()
