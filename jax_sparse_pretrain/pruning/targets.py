"""The final sparsity of every kernel: patterns, exemptions, Erdos-Renyi."""

import fnmatch
import math
from collections.abc import Mapping, Sequence

from jax_sparse_pretrain.pruning.distribution import Kernel


def targets(
  kernels: Mapping[str, Kernel],
  sparsity: float,
  distribution: str,
  exempt: Sequence[str] = (),
  sparsities: Sequence[tuple[str, float]] = (),
) -> dict[str, float]:
  """Final sparsity of every kernel that is pruned; exempt ones are left out.

  Args:
    kernels: all linear parameters by path.
    sparsity: of the kernels that no pattern names.
    distribution: 'global', 'uniform' or 'erk'.
    exempt: patterns of kernels to leave dense, `lm_head/*`.
    sparsities: (pattern, sparsity) pairs; not for 'global', which has one
      threshold.

  Raises:
    ValueError: if a pattern matches nothing, if patterns contradict each
      other, if nothing is left to prune, or if a distribution cannot reach
      its sparsity.
  """
  if sparsities and distribution == 'global':
    raise ValueError("sparsities: must be empty for distribution 'global'")
  spared = {name for p in exempt for name in _matching('exempt', p, kernels)}
  given = _given(kernels, sparsities, spared)
  free = {k: v for k, v in kernels.items() if k not in spared | given.keys()}
  if not free and not given:
    raise ValueError(f'exempt = {tuple(exempt)}: must leave kernels to prune')
  shared = (
    erdos_renyi(free, sparsity)
    if distribution == 'erk' and free
    else dict.fromkeys(free, sparsity)
  )
  return {
    name: {**shared, **given}[name] for name in kernels if name not in spared
  }


def erdos_renyi(
  kernels: Mapping[str, Kernel], sparsity: float
) -> dict[str, float]:
  """Densities in proportion to sum(dims) / prod(dims), ERK.

  Kernels that would exceed density 1 stay dense and the others make up for
  it (Evci et al., arXiv 1911.11134). The dims are those of one layer.

  Raises:
    ValueError: if all kernels would have to be dense.
  """
  dims = {n: [k.shape[a] for a in k.layer_axes] for n, k in kernels.items()}
  ratio = {name: sum(d) / math.prod(d) for name, d in dims.items()}
  sizes = {n: k.layer_size * k.n_layers for n, k in kernels.items()}
  zeros = {n: math.floor(sparsity * size) for n, size in sizes.items()}
  sparse = dict(kernels) if any(zeros.values()) else {}
  while sparse:
    dense_zeros = sum(zeros[n] for n in kernels if n not in sparse)
    ones = sum(sizes[n] - zeros[n] for n in sparse) - dense_zeros
    if ones <= 0:
      break
    scale = ones / sum(ratio[n] * sizes[n] for n in sparse)
    largest = max(ratio[n] for n in sparse)
    if scale * largest <= 1:
      density = {n: scale * ratio[n] if n in sparse else 1.0 for n in kernels}
      return {n: 1 - d for n, d in density.items()}
    sparse = {n: k for n, k in sparse.items() if ratio[n] != largest}
  raise ValueError(
    f"sparsity = {sparsity}: cannot be reached by distribution 'erk', which "
    "would leave every kernel dense; must be larger, or use 'uniform'"
  )


def _given(kernels, sparsities, spared: set[str]) -> dict[str, float]:
  given: dict[str, float] = {}
  for pattern, value in sparsities:
    if not 0 <= value < 1:
      raise ValueError(f'sparsities: {pattern!r}, {value}: must be in [0, 1)')
    for name in _matching('sparsities', pattern, kernels):
      if name in spared or given.get(name, value) != value:
        raise ValueError(
          f'sparsities: {pattern!r}: contradicts another at {name}'
        )
      given[name] = value
  return given


def _matching(key: str, pattern: str, kernels) -> list[str]:
  names = fnmatch.filter(kernels, pattern)
  if not names:
    raise ValueError(
      f'{key}: {pattern!r} matches no kernel; there are {", ".join(kernels)}'
    )
  return names
