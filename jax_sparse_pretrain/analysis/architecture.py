"""The model that has as many linear parameters as a law asks for.

Shapes are those of the family of arXiv 2501.12486: d_ff is 4 d_model, d_model
is 128/3 to 128 times the number of layers, as in its four models, and head_dim
is 64 or near it.
"""

import dataclasses
import math
from collections.abc import Iterator
from fractions import Fraction

from jax_sparse_pretrain.config import Model
from jax_sparse_pretrain.model import counts

# d_model / n_layers. The paper's: 85 and 64, 128/3 at 468M, 128 at 1.2B.
WIDEST, DEEPEST = 128, Fraction(128, 3)
USUAL_ASPECT, USUAL_HEAD = 64, 64
HEADS = (48, 96)  # head_dim, from and to, of models that are wide enough
# Hardware likes multiples of 64, but small models would be few.
GRID = ((512, 16), (1024, 32), (math.inf, 64))  # d_model below, its multiples
# Sizes that differ by less are the same to a law: 2e-4 nats at 1B.
ALIKE = 0.0025
# No larger model has been trained; beyond it a budget is a slip of units.
MAX_PARAMETERS = 1e14


def choose_architecture(
  linear_parameters: float, vocab_size: int, context_length: int
) -> Model:
  """The member of the family nearest to a count of linear parameters.

  Of those within 0.25 %, the one whose aspect ratio is nearest to 64, unless
  one is met exactly.

  Args:
    linear_parameters: wanted, the LM head included.
    vocab_size: of the LM head.
    context_length: in tokens; it does not enter the count.

  Returns:
    The shape; its exact count is `counts.linear_parameters`.

  Raises:
    ValueError: if it is below the smallest such model, or above
      `MAX_PARAMETERS`.
  """
  base = Model(vocab_size=vocab_size, context_length=context_length)
  smallest = counts.linear_parameters(_shaped(base, GRID[0][1], 1))
  if not smallest <= linear_parameters <= MAX_PARAMETERS:
    form = ',.0f' if linear_parameters < MAX_PARAMETERS else '.3g'
    raise ValueError(
      f'{linear_parameters:{form}} linear parameters: must be at least '
      f'{smallest:,}, the smallest model with a vocabulary of {vocab_size:,}, '
      f'and at most {MAX_PARAMETERS:.0e}'
    )

  def distance(model: Model) -> tuple[float, float]:
    off = abs(counts.linear_parameters(model) / linear_parameters - 1)
    aspect = model.d_model / model.n_layers
    return (
      max(off, ALIKE) if off else 0.0,
      abs(math.log(aspect / USUAL_ASPECT)),
    )

  return min(_near(base, linear_parameters), key=distance)


def depths(d_model: int) -> range:
  """Numbers of layers that the family has at this width."""
  fewest = math.ceil(d_model / WIDEST)
  return range(fewest, max(fewest, math.floor(d_model / DEEPEST)) + 1)


def widths() -> Iterator[int]:
  """The d_model that the family has, increasing, without end."""
  d_model = 0
  while True:
    d_model += next(step for below, step in GRID if d_model < below)
    if HEADS[0] <= head_dim(d_model) <= HEADS[1] or d_model < HEADS[0]:
      yield d_model


def head_dim(d_model: int) -> int:
  """The divisor nearest to 64 among multiples of 8."""
  divisors = (n for n in range(8, 2 * USUAL_HEAD, 8) if d_model % n == 0)
  return min(divisors, key=lambda n: abs(math.log(n / USUAL_HEAD)))


def _near(base: Model, wanted: float) -> Iterator[Model]:
  """Of each width, the depths next to the wanted size."""
  for d_model in widths():
    allowed = depths(d_model)
    shallow = _shaped(base, d_model, allowed[0])
    yield shallow
    if counts.linear_parameters(shallow) > wanted:
      return
    head = d_model * base.vocab_size
    layer = counts.linear_parameters(_shaped(base, d_model, 1)) - head
    n_layers = math.floor((wanted - head) / layer)
    for each in (n_layers, n_layers + 1):
      yield _shaped(base, d_model, min(max(each, allowed[0]), allowed[-1]))


def _shaped(base: Model, d_model: int, n_layers: int) -> Model:
  return dataclasses.replace(
    base,
    n_layers=n_layers,
    d_model=d_model,
    n_heads=d_model // head_dim(d_model),
    d_ff=4 * d_model,
  )
