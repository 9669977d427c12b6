"""Contrasts on the command line: which flags, and what they ask for."""

import argparse
import warnings

from jax_sparse_pretrain.analysis.contrasts.contrast import (
  Contrast,
  contrast_runs,
  read_places,
)
from jax_sparse_pretrain.analysis.runs_table import Runs


def add_arguments(parser: argparse.ArgumentParser) -> None:
  group = parser.add_argument_group('contrasts')
  group.add_argument(
    '--names',
    metavar='PATTERN',
    help='what names of runs say, a regular expression with the group '
    '(?P<arm>...) and, if there are, (?P<block>...) and (?P<seed>...); runs '
    'that do not match are left out. Without a group for them, seeds are in '
    'the column seed',
  )
  group.add_argument(
    '--reference', metavar='ARM', help='the arm to hold the others against'
  )


def read_contrasts(arguments: argparse.Namespace, runs: Runs) -> list[Contrast]:
  """What the flags ask of these runs.

  Raises:
    ValueError: naming the flag.
  """
  for name in ('names', 'reference'):
    if not getattr(arguments, name):
      raise ValueError(f'--{name}: must be given')
  try:
    places = read_places(runs, arguments.names)
  except ValueError as error:
    raise ValueError(f'--names {error}') from None
  left_out = [
    name for name, place in zip(runs.run, places, strict=True) if not place
  ]
  if left_out:
    warnings.warn(
      f'--names matches {len(runs) - len(left_out)} of {len(runs)} runs; left '
      f'out are such as {left_out[0]!r}',
      stacklevel=2,
    )
  return contrast_runs(runs, places, arguments.reference)
