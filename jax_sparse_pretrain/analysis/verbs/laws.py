"""A law on the command line: a file that `fit` wrote, or five numbers."""

import argparse
import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from jax_sparse_pretrain import text as tables
from jax_sparse_pretrain.analysis.fitting.bootstrap import Bootstrap
from jax_sparse_pretrain.analysis.fitting.fit import ScalingLawFit
from jax_sparse_pretrain.analysis.fitting.law import ScalingLaw
from jax_sparse_pretrain.analysis.runs_table import KINDS
from jax_sparse_pretrain.analysis.verbs.fitted import MAX_RESAMPLES

# Of fits that `ScalingLawFit.to_json` has written.
DEFAULT_RESAMPLING = {'n_resamples': 4000, 'seed': 0}
NUMBERS = 'E=1.8,A=480,B=2100,alpha=0.35,beta=0.37'


@dataclasses.dataclass(frozen=True)
class GivenLaw:
  """A law, and what is known of where it comes from.

  Attributes:
    law: the coefficients.
    kind: of parameters that its N counts.
    fit: None for a law given as numbers.
    resampling: of `ScalingLawFit.bootstrap`; None if it was left out.
  """

  law: ScalingLaw
  kind: str = 'average'
  fit: ScalingLawFit | None = None
  resampling: Mapping[str, Any] | None = None

  def bootstrap(self) -> Bootstrap | None:
    """The resamples of the fit, drawn once more as they were."""
    if self.fit is None or self.resampling is None:
      return None
    return self.fit.bootstrap(**self.resampling)


def add_law(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    '--law',
    required=True,
    metavar='LAW',
    help=f'a file that fit has written, or numbers: {NUMBERS}',
  )


def read_law(text: str) -> GivenLaw:
  """What `--law` stands for.

  Raises:
    ValueError: naming the file, or the number.
  """
  if os.path.isfile(text):
    return _from_file(pathlib.Path(text))
  if '=' not in text:
    raise ValueError(f'--law = {text}: no such file, nor numbers: {NUMBERS}')
  pairs = [part.partition('=') for part in text.split(',')]
  names = [name.strip() for name, _, _ in pairs]
  try:
    values = [float(value) for _, _, value in pairs]
    if len(set(names)) < len(names):
      raise ValueError('a coefficient is there twice')
    law = ScalingLaw.from_dict(dict(zip(names, values, strict=True)))
    return GivenLaw(law)
  except ValueError as error:
    raise ValueError(
      f'--law = {text}: {error}; expected numbers: {NUMBERS}'
    ) from None


def _from_file(path: pathlib.Path) -> GivenLaw:
  try:
    text = path.read_text()
    fit, about = ScalingLawFit.from_json(text), json.loads(text)
  except ValueError as error:
    raise ValueError(
      f'--law = {path}: must be a file that fit has written: {error}'
    ) from None
  kind = about.get('kind', 'average')
  resampling = about.get('resampling', DEFAULT_RESAMPLING)
  for name, is_right in (
    ('kind', kind in KINDS),
    ('resampling', _is_resampling(resampling, len(fit.loss))),
  ):
    if not is_right:
      value = tables.cut(repr(about.get(name)), 60)
      raise ValueError(
        f'--law = {path}: {name} = {value}: is not what fit has written, or '
        'the file was altered'
      )
  return GivenLaw(fit.law, kind, fit, resampling)


def _is_resampling(value: Any, n_runs: int) -> bool:
  match value:
    case None:
      return True
    case {'n_resamples': int(n), 'seed': int(seed), **others}:
      groups = others.pop('groups', None)
      is_right = 0 < n <= MAX_RESAMPLES and seed >= 0 and not others
      return is_right and (groups is None or _are_labels(groups, n_runs))
  return False


def _are_labels(groups: Any, n_runs: int) -> bool:
  if not isinstance(groups, list) or len(groups) != n_runs:
    return False
  return all(isinstance(x, str) for x in groups) and len(set(groups)) > 1
