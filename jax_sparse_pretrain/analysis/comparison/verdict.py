"""A comparison of laws in words, from its numbers."""

from collections.abc import Iterator

from jax_sparse_pretrain.analysis.comparison.results import (
  Bias,
  ComparedLaw,
  Comparison,
)

TESTS = {
  'one_sparsity_out': 'with one sparsity left out',
  'largest_compute_out': 'with the largest compute left out',
  'dense_to_sparse': 'from dense to sparse runs',
}
# Errors that agree to this part of themselves are of laws that coincide.
SAME = 1e-6


def verdict(comparison: Comparison) -> list[str]:
  """Sentences: which law predicts best, its bias, what coefficients buy."""
  k = min(law.n_coefficients for law in comparison.laws)
  plain = [law for law in comparison.laws if law.n_coefficients == k]
  rich = [law for law in comparison.laws if law.n_coefficients > k]
  winners = {key: ranked[0] for key, ranked in _ranked(plain).items()}
  best = _only(list(winners.values())) or min(plain, key=lambda x: x.in_sample)
  return [
    *_best_out_of_sample(plain, winners),
    *_bias(best),
    *(_bought(law, best) for law in rich),
  ]


def _ranked(laws: list[ComparedLaw]) -> dict[str, list[ComparedLaw]]:
  """By each test out of sample that tells laws apart, best first."""
  tests = {}
  for key in TESTS:
    known = [law for law in laws if getattr(law, key) is not None]
    known.sort(key=lambda law: getattr(law, key))
    errors = [getattr(law, key) for law in known]
    if len(errors) > 1 and errors[1] > errors[0] * (1 + SAME):
      tests[key] = known
  return tests


def _only(laws: list[ComparedLaw]) -> ComparedLaw | None:
  return laws[0] if len({law.name for law in laws}) == 1 else None


def _best_out_of_sample(plain, winners) -> Iterator[str]:
  if not winners:
    yield (
      'No test out of sample tells the laws apart.'
      if len(plain) > 1
      else f'{plain[0].name} is alone: there is no law to compare it with.'
    )
    return
  ranked = _ranked(plain)
  best = _only(list(winners.values()))
  who = f'{best.name} is best' if best else 'none is always best'
  parts = [
    f'{TESTS[key]} {_number(laws[0], key, named=best is None)} '
    f'({", ".join(_number(law, key) for law in laws[1:])})'
    for key, laws in ranked.items()
  ]
  yield (
    f'Of the laws without an extra coefficient, {who} out of sample. '
    f'Log RMSE: {_listed(parts)}.'
  )


def _number(law: ComparedLaw, key: str, named: bool = True) -> str:
  value = f'{getattr(law, key):.4f}'
  return f'{law.name} {value}' if named else value


def _bias(law: ComparedLaw) -> Iterator[str]:
  if not law.bias:
    return
  off = [each for each in law.bias if each.is_systematic]
  high = [each for each in off if each.in_sample > 0]
  low = [each for each in off if each.in_sample < 0]
  ends = [max(each, key=_size) for each in (high, low) if each]
  if ends:
    yield (
      f'Over sparsity {law.name} is not perfect: fitted to all runs, it '
      f'predicts a log loss {_listed(list(map(_shown, ends)))}.'
    )
  else:
    yield f'No bias of {law.name} over sparsity stands out of its scatter.'


def _size(bias: Bias) -> float:
  return abs(bias.in_sample)


def _shown(bias: Bias) -> str:
  side = 'high' if bias.in_sample > 0 else 'low'
  return f'{_size(bias):.3f} too {side} at sparsity {bias.sparsity:g}'


def _bought(law: ComparedLaw, best: ComparedLaw) -> str:
  """Where more coefficients help, and where they do not."""
  extra = law.n_coefficients - best.n_coefficients
  lower, higher = [], []
  for key, words in {'in_sample': 'in sample', **TESTS}.items():
    mine, other = getattr(law, key), getattr(best, key)
    if None not in (mine, other):
      (lower if mine < other else higher).append(words)
  parts = [
    f'{side} {_listed(words)}'
    for side, words in (('lower', lower), ('no lower', higher))
    if words
  ]
  plural = 's' if extra > 1 else ''
  return (
    f'{law.name}, with {extra} coefficient{plural} more than {best.name}, has '
    f'an error that is {", but ".join(parts)}.'
  )


def _listed(parts: list[str]) -> str:
  *most, last = parts
  return f'{", ".join(most)} and {last}' if most else last
