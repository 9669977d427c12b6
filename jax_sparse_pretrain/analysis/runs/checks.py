"""Refuses runs that cannot be right, by file, row and column."""

import pathlib
from collections.abc import Sequence

import numpy as np

from jax_sparse_pretrain.analysis.runs.sources import PARAMETERS, Source
from jax_sparse_pretrain.analysis.runs.table import NUMBERS

# Smaller counts in a table are in thousands, millions or billions, larger ones
# have been multiplied once too often. The same of tokens a parameter.
SMALLEST_COUNTS = {
  'average_parameters': 1e3,
  'initial_parameters': 1e3,
  'final_parameters': 1e3,
  'tokens': 1e5,
}
LARGEST_COUNT, FEWEST_TOKENS = 1e16, 1e-2
# ln(1,000,000) nats: no vocabulary starts higher. Perplexities do.
HIGHEST_LOSS = 13.8
# Published counts and sparsities are rounded to two or three digits.
ROUNDING = 1.02


def check_origins(sources: Sequence[Source]) -> None:
  """One file under two names would count every run twice."""
  seen: set[pathlib.Path] = set()
  for source in sources:
    if source.origin in seen:
      raise ValueError(f'{source.origin}: is there twice')
    seen.add(source.origin)


def check_names(names: Sequence[str], places: Sequence[str]) -> None:
  first: dict[str, str] = {}
  for name, place in zip(names, places, strict=True):
    if name in first:
      raise ValueError(
        f'{place}, run: {name!r} is there twice, first at {first[name]}; '
        'rename one of them, or give the directory above both'
      )
    first[name] = place


def check_numbers(source: Source) -> None:
  """NaN is what is not known, and passes every comparison below."""
  numbers = {name: or_unknown(source, name) for name in NUMBERS}

  def refuse(bad: np.ndarray, name: str, why: str) -> None:
    for row in np.flatnonzero(bad)[:1]:
      column = source.columns.get(name, name)
      value = f'{numbers[name][row]:.10g}'
      raise ValueError(f'{source.places[row]}, {column}: {value}: {why}')

  for name, values in numbers.items():
    refuse(np.isinf(values), name, 'must be finite')
    if name != 'sparsity':
      refuse(values <= 0, name, 'must be above 0')
  average, initial, final = (numbers[name] for name in PARAMETERS)
  if not source.is_counted:
    for name, smallest in SMALLEST_COUNTS.items():
      refuse(numbers[name] < smallest, name, _too_few(source, name))
      refuse(numbers[name] > LARGEST_COUNT, name, _TOO_MANY)
    least = np.fmin(np.fmin(average, initial), final)
    few = numbers['tokens'] < FEWEST_TOKENS * least
    refuse(few, 'tokens', f'hardly any for the N; {_too_few(source, "tokens")}')
  sparsity = numbers['sparsity']
  refuse((sparsity < 0) | (sparsity >= 1), 'sparsity', 'must be in [0, 1)')
  why = 'expected nats per token, not a perplexity'
  refuse(numbers['loss'] > HIGHEST_LOSS, 'loss', why)
  why = 'must lie between final_parameters and initial_parameters'
  outside = (average > initial * ROUNDING) | (average * ROUNDING < final)
  refuse(outside, 'average_parameters', why)
  off = np.abs(1 - final / initial - sparsity) > ROUNDING - 1
  why = 'must be 1 - final_parameters / initial_parameters'
  refuse(off, 'sparsity', why)


_TOO_MANY = f'must be at most {LARGEST_COUNT:.0e}'


def _too_few(source: Source, name: str) -> str:
  column = source.columns.get(name, name)
  return (
    'expected a count, not thousands, millions or billions; of millions '
    f"--column '{column} = {column} * 1e6' makes one"
  )


def or_unknown(source: Source, name: str) -> np.ndarray:
  return source.numbers.get(name, np.full(len(source.names), np.nan))
