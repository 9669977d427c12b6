"""What the terminal and the report both say of a comparison of laws."""

from collections.abc import Sequence

from jax_sparse_pretrain.text import listed

# Field of `ComparedLaw` -> the head of its column.
ERRORS = {
  'in_sample': 'in sample',
  'one_sparsity_out': 'sparsity',
  'largest_compute_out': 'compute',
  'dense_to_sparse': 'dense',
}
# Laws coincide if their errors agree to this part of themselves.
SAME = 1e-6


def verdict(comparison) -> str:
  """Which law has the least error in each test, in one sentence.

  First of the laws without an extra coefficient, which can be compared at
  equal freedom, then of all laws if there are others.
  """
  laws = comparison.laws
  if len(laws) == 1:
    return f'{laws[0].name} is alone: there is no law to compare it with.'
  k = min(law.n_coefficients for law in laws)
  plain = [law for law in laws if law.n_coefficients == k]
  parts = [f'with {k} coefficients: {_winners(plain)}']
  if len(plain) < len(laws):
    parts.append(f'of all laws: {_winners(laws)}')
  return f'Least error {"; ".join(parts)}.'


def _winners(laws: Sequence) -> str:
  won: dict[str, list[str]] = {}
  for key, name in ERRORS.items():
    known = [law for law in laws if getattr(law, key) is not None]
    known.sort(key=lambda law: getattr(law, key))
    errors = [getattr(law, key) for law in known]
    if len(errors) > 1 and errors[1] > errors[0] * (1 + SAME):
      won.setdefault(known[0].name, []).append(name)
  parts = [f'{name} ({listed(tests)})' for name, tests in won.items()]
  return ', '.join(parts) or 'no test tells them apart'


def warnings(comparison) -> list[str]:
  """Each warning once, after the names of the laws that it is about."""
  names: dict[str, list[str]] = {}
  for law in comparison.laws:
    for sentence in law.warnings:
      names.setdefault(sentence, []).append(law.name)
  return [f'{", ".join(laws)}: {said}' for said, laws in names.items()]
