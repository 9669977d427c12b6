"""Runs, their law and its intervals: what `fit`, `plot`, `report` share."""

import argparse
from collections.abc import Mapping
from typing import Any, NamedTuple

from jax_sparse_pretrain.analysis.fitting.bootstrap import (
  Bootstrap,
  check_level,
)
from jax_sparse_pretrain.analysis.fitting.design import N_COEFFICIENTS
from jax_sparse_pretrain.analysis.fitting.fit import (
  METHODS,
  ScalingLawFit,
  fit_scaling_law,
)
from jax_sparse_pretrain.analysis.runs_table import Runs
from jax_sparse_pretrain.analysis.verbs.arguments import (
  add_delta,
  add_parameters,
  add_runs,
  check_delta,
  check_not_negative,
)

# More take hours and fill the memory, and say nothing more.
MAX_RESAMPLES = 100_000


class Fitted(NamedTuple):
  """A law and how well it is known.

  Attributes:
    fit: the law.
    resampling: arguments of `ScalingLawFit.bootstrap`; None if no resamples
      were asked for.
    resamples: None likewise.
    intervals: of each coefficient, by how they were found.
    warnings: of the fit and of the resamples.
  """

  fit: ScalingLawFit
  resampling: Mapping[str, Any] | None
  resamples: Bootstrap | None
  intervals: Mapping[str, Mapping[str, tuple[float, float]]]
  warnings: tuple[str, ...]


def add_arguments(parser: argparse.ArgumentParser, paths: str = '*') -> None:
  """Those of `fit`; by default paths may be left out."""
  add_runs(parser, paths)
  add_parameters(parser)
  group = parser.add_argument_group('fit')
  add_delta(group)
  group.add_argument(
    '--method',
    choices=METHODS,
    default='global',
    help='grid is the published one, a check that takes minutes',
  )
  group.add_argument(
    '--bootstrap',
    type=int,
    default=4000,
    metavar='N',
    help='resamples (4000); 0 for profile intervals alone',
  )
  group.add_argument('--seed', type=int, default=0, help='of the resamples (0)')
  group.add_argument(
    '--group',
    metavar='COLUMN',
    help='resample runs with one value of it together, such as seeds of one '
    'configuration',
  )
  group.add_argument(
    '--level', type=float, default=0.95, help='of the intervals (0.95)'
  )


def check(arguments: argparse.Namespace) -> None:
  check_level(arguments.level)
  check_delta(arguments)
  check_not_negative(arguments, 'bootstrap', 'seed')
  if arguments.bootstrap > MAX_RESAMPLES:
    raise ValueError(
      f'--bootstrap = {arguments.bootstrap}: must be at most {MAX_RESAMPLES:,}'
    )


def fit_runs(
  arguments: argparse.Namespace, runs: Runs, kind: str | None = None
) -> ScalingLawFit:
  """The law of these runs, of N of a kind, or of that of `--parameters`."""
  if len(runs) < N_COEFFICIENTS:
    raise ValueError(
      f'{", ".join(arguments.paths)}: {len(runs)} rows: a law of '
      f'{N_COEFFICIENTS} coefficients needs at least {N_COEFFICIENTS}, after '
      '--where and --drop_highest_loss'
    )
  return fit_scaling_law(
    runs.parameters(kind or arguments.parameters),
    runs.tokens,
    runs.loss,
    delta=arguments.delta,
    method=arguments.method,
  )


def resampling(
  arguments: argparse.Namespace, runs: Runs
) -> dict[str, Any] | None:
  """As `--bootstrap`, `--seed` and `--group` ask; None for no resamples."""
  groups = runs.labels(arguments.group) if arguments.group else None
  if not arguments.bootstrap:
    return None
  return {
    'n_resamples': arguments.bootstrap,
    'seed': arguments.seed,
    'groups': groups,
  }


def fit_with_intervals(arguments: argparse.Namespace, runs: Runs) -> Fitted:
  """The law of these runs, of `--parameters`, at `--level`."""
  asked = resampling(arguments, runs)
  fit = fit_runs(arguments, runs)
  intervals = {'profile': fit.intervals(arguments.level)}
  said = fit.warnings_at(arguments.level)
  if asked is None:
    return Fitted(fit, None, None, intervals, said)
  resamples = fit.bootstrap(**asked)
  intervals['bootstrap'] = resamples.intervals(arguments.level)
  said = (*said, *resamples.warnings_at(arguments.level))
  return Fitted(fit, asked, resamples, intervals, said)
