"""The 48 published T5 runs, as `published_runs/README.md` reads them."""

import pathlib

from jax_sparse_pretrain.analysis import Runs, load_runs

ROOT = pathlib.Path(__file__).parents[1]
PATH = ROOT / 'published_runs' / 't5_c4_sparse_runs.csv'
COLUMNS = {
  'initial_parameters': 'scale * 169869312',
  'average_parameters': 'initial_parameters * (1 - 0.625 * sparsity)',
  'final_parameters': 'initial_parameters * (1 - sparsity)',
  'tokens': 'steps * 128 * 512',
  'loss': "'val-loss'",
}


def t5_runs() -> Runs:
  return load_runs(PATH, columns=COLUMNS)


ACTUAL = ROOT / 'published_runs' / 't5_actual_runs.csv'


def actual_runs() -> Runs:
  """With the parameters that the networks have, not the nominal ones."""
  names = ('average_parameters', 'final_parameters', 'tokens')
  return load_runs(ACTUAL, columns={name: COLUMNS[name] for name in names})
