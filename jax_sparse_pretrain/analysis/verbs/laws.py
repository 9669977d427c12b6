"""A law on the command line: a file that `fit` wrote, or five numbers."""

import argparse
import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from jax_sparse_pretrain.analysis.fitting.bootstrap import Bootstrap
from jax_sparse_pretrain.analysis.fitting.fit import ScalingLawFit
from jax_sparse_pretrain.analysis.fitting.law import ScalingLaw
from jax_sparse_pretrain.analysis.runs.table import KINDS

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
  path = pathlib.Path(text)
  if path.is_file():
    return _from_file(path)
  if '=' not in text:
    raise ValueError(f'--law = {text}: no such file, nor numbers: {NUMBERS}')
  pairs = [part.partition('=') for part in text.split(',')]
  try:
    values = {name.strip(): float(value) for name, _, value in pairs}
    return GivenLaw(ScalingLaw.from_dict(values))
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
  if kind not in KINDS or not _is_resampling(resampling):
    raise ValueError(
      f'--law = {path}: kind = {kind!r}, resampling = {resampling!r}: must be '
      'as fit has written them'
    )
  return GivenLaw(fit.law, kind, fit, resampling)


def _is_resampling(value: Any) -> bool:
  names = {'n_resamples', 'seed', 'groups'}
  return value is None or (isinstance(value, dict) and value.keys() <= names)
