"""The search for one end of a profile interval.

A side walks away from the optimum of one coefficient until the height is one:
the root of what the objective has risen by, over the threshold.
"""

import numpy as np

from jax_sparse_pretrain.analysis.fitting.objective import MAX_EXPONENT

# First distance tried: part of the typical loss for E, logarithm for A and
# B, units for exponents; and the farthest, past which a side counts as open.
FIRST = np.array([0.02, 0.2, 0.2, 0.02, 0.02])
FARTHEST = np.array([3.0, 120.0, 120.0, MAX_EXPONENT, MAX_EXPONENT])
ACCURACY = 1e-4
MAX_ROUNDS = 40


class Side:
  """One end: the distance at which the height is one.

  Attributes:
    column: of the coefficient. A and B move by factors, the others by steps.
    finished: whether the search is over.
  """

  def __init__(self, start: np.ndarray, column: int, sign: int):
    self.start, self.column, self.sign = start, column, sign
    self.point = self.kept = start
    self.room = self._room()
    self.distance = min(FIRST[column], self.room)
    self.inner, self.outer = (0.0, 0.0), None
    self.open = self.finished = self.room == 0

  def _room(self) -> float:
    """Distance to the bound, or as far as it makes sense to look."""
    value, farthest = self.start[self.column], FARTHEST[self.column]
    if self.column in (1, 2):
      return farthest
    if self.sign < 0:
      return value
    return farthest - value if self.column > 2 else farthest

  def value(self) -> float:
    """The coefficient at the present distance."""
    value, move = self.start[self.column], self.sign * self.distance
    if self.column in (1, 2):
      return value * np.exp(move)
    return max(value + move, 0.0)

  def trials(self, others: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """The coefficient at its next value; the rest from answers so far.

    From the last one, from the last that was not refused and from the others.
    A trial far too far may lose a term, and with it all gradient to find it
    again: its answer alone is no place to go on from.
    """
    column = self.column
    theta = np.vstack([self.point, self.kept, others])
    value = self.value()
    if column in (1, 2):
      # The exponent goes along: the term stays as it was at the centre of
      # the data, and the solver begins close by.
      sizes = theta[:, column]
      shift = np.log(value) - np.log(np.where(sizes > 0, sizes, value))
      exponents = theta[:, column + 2] + shift / centres[column]
      theta[:, column + 2] = np.clip(exponents, 0, MAX_EXPONENT)
    theta[:, column] = value
    if column == 0:
      # Without E a law of no other terms would predict a loss of zero.
      theta[:, 1] = np.maximum(theta[:, 1], 0.001)
    return theta

  def take(self, point: np.ndarray, height: float) -> None:
    """The best point with the coefficient held there, and its height."""
    self.point = point
    if height < 1:
      self.inner, self.kept = (self.distance, height), point
      self.open = self.distance >= self.room
    else:
      self.outer = (self.distance, height)
    # The height may jump, from one local optimum to another.
    narrow = self.outer and self.outer[0] - self.inner[0] < (
      ACCURACY * self.outer[0]
    )
    self.finished = bool(self.open or narrow or abs(height - 1) < ACCURACY)
    if not self.finished:
      self.distance = self._next(height)

  def _next(self, height: float) -> float:
    near, low = self.inner
    if self.outer is None:
      factor = np.clip(1.1 / max(height, 0.01), 1.5, 8.0)
      return min(self.room, factor * self.distance)
    far, high = self.outer
    part = (1 - low) / (high - low)
    # Off the ends of the bracket, so that both of them move.
    return near + float(np.clip(part, 0.05, 0.95)) * (far - near)

  def end(self) -> float:
    """The value at the end; 0 or inf if open."""
    open_end = 0.0 if self.sign < 0 else np.inf
    if self.open or not self.finished:
      return open_end
    # An end that an exponent at its bound has made is not the data's.
    pinned = (self.point[3:] <= 0) | (self.point[3:] >= MAX_EXPONENT)
    if self.column in (1, 2) and pinned[self.column - 1]:
      return open_end
    if self.column == 0 and self.sign < 0 and (self.point[3:] <= 0).any():
      return open_end
    return self.value()
