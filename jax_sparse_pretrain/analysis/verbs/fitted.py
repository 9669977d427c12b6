"""Runs, their law and its intervals, as the arguments of `fit` ask."""

import argparse
from collections.abc import Mapping
from typing import NamedTuple

from jax_sparse_pretrain.analysis.fitting.bootstrap import (
  Bootstrap,
  check_level,
)
from jax_sparse_pretrain.analysis.fitting.fit import (
  ScalingLawFit,
  fit_scaling_law,
)
from jax_sparse_pretrain.analysis.runs.table import Runs
from jax_sparse_pretrain.analysis.verbs import fit as fit_verb
from jax_sparse_pretrain.analysis.verbs.arguments import check_not_negative


class Fitted(NamedTuple):
  """A law and how well it is known.

  Attributes:
    fit: the law.
    resamples: None if none were asked for.
    intervals: of each coefficient, by how they were found.
    warnings: of the fit and of the resamples.
  """

  fit: ScalingLawFit
  resamples: Bootstrap | None
  intervals: Mapping[str, Mapping[str, tuple[float, float]]]
  warnings: tuple[str, ...]


class PathsOptional:
  """A parser to hand to `add_arguments`, so that a path may be left out."""

  def __init__(self, parser: argparse.ArgumentParser):
    self._parser = parser
    self.add_argument_group = parser.add_argument_group

  def add_argument(self, name: str, **options) -> None:
    if name == 'paths':
      options['nargs'] = '*'
    self._parser.add_argument(name, **options)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Those of `fit`, of which paths may be left out."""
  fit_verb.add_arguments(PathsOptional(parser))


def check(arguments: argparse.Namespace) -> None:
  check_level(arguments.level)
  check_not_negative(arguments, 'bootstrap', 'seed')


def fit_runs(
  arguments: argparse.Namespace, runs: Runs, kind: str | None = None
) -> ScalingLawFit:
  """The law of these runs, of parameters of a kind, or of `--parameters`."""
  return fit_scaling_law(
    runs.parameters(kind or arguments.parameters),
    runs.tokens,
    runs.loss,
    delta=arguments.delta,
    method=arguments.method,
  )


def resample(
  arguments: argparse.Namespace, runs: Runs, fit: ScalingLawFit
) -> Bootstrap | None:
  """As `--bootstrap`, `--seed` and `--group` ask; None for no resamples."""
  if not arguments.bootstrap:
    return None
  groups = runs.labels(arguments.group) if arguments.group else None
  return fit.bootstrap(arguments.bootstrap, arguments.seed, groups)


def fit_with_intervals(arguments: argparse.Namespace, runs: Runs) -> Fitted:
  """The law of these runs, of `--parameters`, at `--level`."""
  fit = fit_runs(arguments, runs)
  intervals = {'profile': fit.intervals(arguments.level)}
  resamples = resample(arguments, runs, fit)
  if resamples is None:
    return Fitted(fit, None, intervals, fit.warnings)
  intervals['bootstrap'] = resamples.intervals(arguments.level)
  warnings = (*fit.warnings, *resamples.warnings)
  return Fitted(fit, resamples, intervals, warnings)
