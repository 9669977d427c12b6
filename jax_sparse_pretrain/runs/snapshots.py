"""Masks at chosen steps, one bit a weight, and how they compare.

`mask_snapshots/K.npz` holds the masks after K finished steps, each packed to
bits beside its shape. Training writes, analysis reads.
"""

import io
import os
from collections.abc import Mapping

import numpy as np

from jax_sparse_pretrain import storage

Masks = Mapping[str, np.ndarray]  # {kernel: bool[shape]}


def write(path: os.PathLike | str, masks: Masks) -> None:
  """Replaces the file in one step."""
  path = storage.as_path(path)
  path.parent.mkdir(exist_ok=True)
  arrays = {f'{name}:bits': np.packbits(mask) for name, mask in masks.items()}
  shapes = {f'{name}:shape': mask.shape for name, mask in masks.items()}
  content = io.BytesIO()
  np.savez(content, **arrays, **shapes)
  storage.replace(path, content.getvalue())


def read(path: os.PathLike | str) -> dict[str, np.ndarray]:
  """The masks of a snapshot, {kernel: bool[shape]}."""
  with np.load(io.BytesIO(storage.as_path(path).read_bytes())) as file:
    names = [name[: -len(':bits')] for name in file if name.endswith(':bits')]
    return {
      name: _unpack(file[f'{name}:bits'], file[f'{name}:shape'])
      for name in names
    }


def overlap(a: Masks, b: Masks) -> float:
  """Jaccard index of the kept weights: |a and b| / |a or b|."""
  both, either = _counts(a, b, np.logical_and), _counts(a, b, np.logical_or)
  return both / either if either else 1.0


def survival(earlier: Masks, later: Masks) -> float:
  """Share of the weights kept earlier that are kept later."""
  kept = sum(int(mask.sum()) for mask in earlier.values())
  return _counts(earlier, later, np.logical_and) / kept if kept else 1.0


def _unpack(bits: np.ndarray, shape: np.ndarray) -> np.ndarray:
  size = int(np.prod(shape))
  return np.unpackbits(bits, count=size).astype(bool).reshape(shape)


def _counts(a: Masks, b: Masks, how) -> int:
  if a.keys() != b.keys():
    raise ValueError(
      f'masks of different kernels: {sorted(a.keys() ^ b.keys())}'
    )
  for name in a:
    if a[name].shape != b[name].shape:
      raise ValueError(
        f'masks of different shapes: {name}: {a[name].shape}, {b[name].shape}'
      )
  return sum(int(how(a[name], b[name]).sum()) for name in a)
