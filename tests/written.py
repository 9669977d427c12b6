"""Workdirs of runs, written by hand as training writes them."""

import json
import pathlib

import numpy as np

from jax_sparse_pretrain import history

DENSE, STEPS, TOKENS_PER_STEP = 100_000, 20, 8_192
# (first step, nonzero linear parameters)
COUNTS = ((0, 100_000), (5, 70_001), (8, 40_003), (11, 20_000))


def per_step(counts=COUNTS, steps=STEPS) -> np.ndarray:
  """The oracle: nonzero parameters in each step."""
  starts = [step for step, _ in counts]
  last = np.searchsorted(starts, np.arange(steps), side='right') - 1
  return np.array([n for _, n in counts])[last]


def write_run(
  workdir: pathlib.Path,
  counts=COUNTS,
  steps=STEPS,
  planned=None,
  **summary,
) -> pathlib.Path:
  """A finished run, unless the summary is told otherwise."""
  workdir.mkdir(parents=True)
  layers = {'a/kernel': DENSE - 10, 'b/kernel': 10}
  header = history.Header(DENSE, DENSE + 500, TOKENS_PER_STEP, layers)
  past = workdir / 'mask_history.jsonl'
  history.write(past, header)
  for step, n in counts:
    by_leaf = {'a/kernel': n - 10, 'b/kernel': 10}
    history.append(past, history.Row(step, n, by_leaf))
  used = per_step(counts, steps)
  told = {
    'steps': steps,
    'tokens': steps * TOKENS_PER_STEP,
    'eval_loss': 2.5,
    'train_loss': 2.4,
    'linear_parameters': DENSE,
    'total_parameters': DENSE + 500,
    'final_parameters': int(used[-1]),
    'average_parameters': float(used.mean()),
    'sparsity': 1 - used[-1] / DENSE,
    'completed': True,
    **summary,
  }
  (workdir / 'summary.json').write_text(json.dumps(told))
  mean = used.mean() / DENSE if planned is None else planned
  plan = {'steps': steps, 'mean_density': float(mean)}
  (workdir / 'config.json').write_text(json.dumps({'plan': plan}))
  return workdir


def write_table(path: pathlib.Path, rows) -> pathlib.Path:
  """A table of runs from mappings; N of all of them is `DENSE`."""
  filled = [
    {
      'average_parameters': DENSE,
      'initial_parameters': DENSE,
      'final_parameters': DENSE * (1 - row.get('sparsity', 0)),
      'sparsity': 0,
      'tokens': 1e6,
      **row,
    }
    for row in rows
  ]
  lines = [list(filled[0]), *(each.values() for each in filled)]
  path.write_text('\n'.join(','.join(map(str, line)) for line in lines))
  return path
