"""What to say along with a prediction of a fitted law."""

from collections.abc import Iterator, Sequence

import numpy as np

from jax_sparse_pretrain.analysis.fitting.bootstrap import Bootstrap
from jax_sparse_pretrain.analysis.fitting.fit import ScalingLawFit
from jax_sparse_pretrain.analysis.runs_table import NAMES
from jax_sparse_pretrain.text import short, span

FAR = 3.0  # times the largest fitted N or D, or below the smallest


def caveats(
  fit: ScalingLawFit,
  resamples: Bootstrap | None,
  parameters: Sequence[float],
  tokens: Sequence[float],
  level: float,
  kind: str = 'average',
) -> tuple[str, ...]:
  """Sentences on what the law does not know, and where it was not fitted.

  Args:
    fit: a law of parameters of this kind.
    resamples: what intervals come from.
    parameters: N of each prediction.
    tokens: D of each prediction.
    level: the level of the intervals.
    kind: which parameters N counts, of `KINDS`.
  """
  return (
    *fit.warnings_at(level),
    *(resamples.warnings_at(level) if resamples else ()),
    *_beyond(NAMES[kind], parameters, fit.parameters),
    *_beyond('D', tokens, fit.tokens),
  )


def _beyond(
  name: str, asked: Sequence[float], known: np.ndarray
) -> Iterator[str]:
  """A law is known where its runs are."""
  for way, value, factor in (
    ('up', max(asked), max(asked) / known.max()),
    ('down', min(asked), known.min() / min(asked)),
  ):
    if factor > 1:
      far = 'far beyond' if factor > FAR else 'beyond'
      yield (
        f'{name} {way} to {short(value)} is {far} the fitted runs, '
        f'{span(known)}, by a factor of {factor:.3g}'
      )
