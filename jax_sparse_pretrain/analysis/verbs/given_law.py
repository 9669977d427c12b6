"""A law on the command line: a file that `fit` wrote, or five numbers."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from jax_sparse_pretrain import analysis
from jax_sparse_pretrain import text as text_lib
from jax_sparse_pretrain.analysis.runs_table import KINDS
from jax_sparse_pretrain.analysis.verbs.arguments import MAX_RESAMPLES

# The resampling of files that `ScalingLawFit.to_json` alone has written.
DEFAULT_RESAMPLING = {'n_resamples': 4000, 'seed': 0}
NUMBERS = 'E=1.8,A=480,B=2100,alpha=0.35,beta=0.37'


@dataclasses.dataclass(frozen=True)
class GivenLaw:
  """A law, and what is known of its origin.

  Attributes:
    law: the coefficients.
    kind: the kind of parameters that N counts.
    fit: None for a law given as numbers.
    resampling: the arguments of its bootstrap; None if it had none.
  """

  law: 'analysis.ScalingLaw'
  kind: str = 'average'
  fit: 'analysis.ScalingLawFit | None' = None
  resampling: Mapping[str, Any] | None = None

  def bootstrap(self):
    """The resamples of the fit, drawn once more as they were; or None."""
    if self.fit is None or self.resampling is None:
      return None
    return self.fit.bootstrap(**self.resampling)


@dataclasses.dataclass(frozen=True)
class AskedLaw:
  """The law on the command line.

  Attributes:
    law: a file that fit has written, or numbers:
      E=1.8,A=480,B=2100,alpha=0.35,beta=0.37.
  """

  law: str

  def read(self) -> GivenLaw:
    return read_law(self.law)


def read_law(text: str) -> GivenLaw:
  """The law that `--law` stands for.

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
    return GivenLaw(
      analysis.ScalingLaw.from_dict(dict(zip(names, values, strict=True)))
    )
  except ValueError as error:
    raise ValueError(
      f'--law = {text}: {error}; expected numbers: {NUMBERS}'
    ) from None


def _from_file(path: pathlib.Path) -> GivenLaw:
  try:
    text = path.read_text()
    fit, about = analysis.ScalingLawFit.from_json(text), json.loads(text)
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
      value = text_lib.cut(repr(about.get(name)), 60)
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
