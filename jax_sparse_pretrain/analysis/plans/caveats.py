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
    fit: of parameters of this kind.
    resamples: that intervals come from.
    parameters: N of each prediction.
    tokens: D of each.
    level: of the intervals.
    kind: of parameters, of `KINDS`.
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
  high, low = max(asked) / known.max(), known.min() / min(asked)
  if high > 1:
    yield _extrapolated(f'{name} up to {short(max(asked))}', high, known)
  if low > 1:
    yield _extrapolated(f'{name} down to {short(min(asked))}', low, known)


def _extrapolated(what: str, factor: float, known: np.ndarray) -> str:
  far = 'far beyond' if factor > FAR else 'beyond'
  return (
    f'{what} is {far} the fitted runs, {span(known)}, by a factor of '
    f'{factor:.3g}'
  )
