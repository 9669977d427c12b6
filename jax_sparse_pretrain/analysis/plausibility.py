"""Refuses numbers of runs that cannot be right, by file, row and column."""

from collections.abc import Mapping, Sequence

import numpy as np

from jax_sparse_pretrain.analysis.runs_table import NUMBERS, Runs

# A smaller count in a table is in thousands, millions or billions.
SMALLEST_COUNTS = {
  'average_parameters': 1e3,
  'initial_parameters': 1e3,
  'final_parameters': 1e3,
  'tokens': 1e5,
}
# A larger count has been multiplied once too often.
LARGEST_COUNT = 1e16
FEWEST_TOKENS = 1e-2  # for each parameter
# ln(1,000,000) nats: no vocabulary starts higher, but perplexities do.
HIGHEST_LOSS = 13.8
# Published counts and sparsities are rounded to two or three digits.
ROUNDING = 1.02


def check_numbers(
  runs: Runs,
  places: Sequence[str],
  called: Mapping[str, str],
  is_counted: bool,
) -> None:
  """Raises a ValueError for the first number that cannot be right.

  Args:
    runs: the runs of one source. NaN, a value not known, passes every check.
    places: the file and row of each run.
    called: name -> the name of this column in the table, where it differs.
    is_counted: whether parameters and tokens are certain to be counts.
  """

  def refuse(bad: np.ndarray, name: str, why: str) -> None:
    for row in np.flatnonzero(bad)[:1]:
      value = f'{getattr(runs, name)[row]:.10g}'
      column = called.get(name, name)
      raise ValueError(f'{places[row]}, {column}: {value}: {why}')

  def too_few(name: str) -> str:
    column = called.get(name, name)
    return (
      'expected a count, not thousands, millions or billions; of millions '
      f"--column '{column} = {column} * 1e6' makes one"
    )

  for name in NUMBERS:
    values = getattr(runs, name)
    refuse(np.isinf(values), name, 'must be finite')
    if name != 'sparsity':
      refuse(values <= 0, name, 'must be above 0')
  average, initial, final = (
    runs.average_parameters,
    runs.initial_parameters,
    runs.final_parameters,
  )
  if not is_counted:
    for name, smallest in SMALLEST_COUNTS.items():
      values, most = getattr(runs, name), f'at most {LARGEST_COUNT:.0e}'
      refuse(values < smallest, name, too_few(name))
      refuse(values > LARGEST_COUNT, name, f'must be {most}')
    few = runs.tokens < FEWEST_TOKENS * np.fmin(
      np.fmin(average, initial), final
    )
    refuse(few, 'tokens', f'hardly any for the N; {too_few("tokens")}')
  sparsity = runs.sparsity
  refuse((sparsity < 0) | (sparsity >= 1), 'sparsity', 'must be in [0, 1)')
  why = 'expected nats per token, not a perplexity'
  refuse(runs.loss > HIGHEST_LOSS, 'loss', why)
  why = 'must lie between final_parameters and initial_parameters'
  outside = (average > initial * ROUNDING) | (average * ROUNDING < final)
  refuse(outside, 'average_parameters', why)
  off = np.abs(1 - final / initial - sparsity) > ROUNDING - 1
  why = 'must be 1 - final_parameters / initial_parameters'
  refuse(off, 'sparsity', why)
