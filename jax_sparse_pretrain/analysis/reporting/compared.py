"""What the terminal and the page both say of a comparison of laws."""

from jax_sparse_pretrain.analysis.comparison.results import Comparison

# Field of `ComparedLaw` -> head of its column.
ERRORS = {
  'in_sample': 'in sample',
  'one_sparsity_out': 'sparsity',
  'largest_compute_out': 'compute',
  'dense_to_sparse': 'dense',
}


def warnings(comparison: Comparison) -> list[str]:
  """Each once, after the names of the laws that it is about."""
  names: dict[str, list[str]] = {}
  for law in comparison.laws:
    for sentence in law.warnings:
      names.setdefault(sentence, []).append(law.name)
  return [f'{", ".join(laws)}: {said}' for said, laws in names.items()]
