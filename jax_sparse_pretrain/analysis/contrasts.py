"""Differences of loss between arms of an experiment, paired by seed."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from jax_sparse_pretrain.analysis.fitting.design import check_level
from jax_sparse_pretrain.analysis.runs_table import Runs


class Place(NamedTuple):
  """Where a run stands in an experiment: which arm of which block, and seed."""

  block: str
  arm: str
  seed: str


@dataclasses.dataclass(frozen=True)
class Contrast:
  """An arm against the reference of its block.

  Attributes:
    block: its name; empty if the experiment has no blocks.
    arm: its name.
    reference: name of the arm it is held against.
    seeds: the seeds that both arms have.
    differences: loss of the arm less that of the reference, by seed, in nats.
    reference_loss: mean loss of the reference over the seeds, in nats.
    average_off: N_avg of the arm over that of the reference, less 1.
    tokens_off: tokens of the arm over those of the reference, less 1.
    final_parameters: those of the arm; NaN if not known.
    reference_final_parameters: those of the reference, likewise.
  """

  block: str
  arm: str
  reference: str
  seeds: Sequence[str]
  differences: Sequence[float]
  reference_loss: float
  average_off: float
  tokens_off: float
  final_parameters: float
  reference_final_parameters: float

  @property
  def difference(self) -> float:
    """Mean over seeds, in nats."""
    return float(np.mean(self.differences))

  def interval(self, level: float = 0.95) -> tuple[float, float]:
    """The interval of the mean, by Student's t; infinite for one seed.

    It is for one contrast on its own: of several, one in twenty misses at 95 %.

    Raises:
      ValueError: for a level outside (0, 1).
    """
    check_level(level)
    n = len(self.differences)
    if n < 2:
      return -math.inf, math.inf
    half = stats.t.ppf((1 + level) / 2, n - 1) / math.sqrt(n)
    half *= float(np.std(self.differences, ddof=1))
    return self.difference - half, self.difference + half


def read_places(runs: Runs, pattern: str) -> list[Place | None]:
  """Where each run stands, by its name; None for a name that does not match.

  The pattern is a regular expression of whole names with the group `arm` and,
  if there are, `block` and `seed`; else the runs have a column `seed`.

  Raises:
    ValueError: for a pattern that is none, lacks `arm`, has other groups, or
      that no name matches.
  """
  try:
    compiled = re.compile(pattern)
  except re.error as error:
    why = f'not a regular expression: {error}'
    raise ValueError(f'{pattern!r}: {why}') from None
  named = set(compiled.groupindex)
  if 'arm' not in named or named - set(Place._fields):
    raise ValueError(
      f'{pattern!r}: must have the group (?P<arm>...), may have (?P<block>...) '
      'and (?P<seed>...), and no other'
    )
  if 'seed' not in named and 'seed' not in runs.others:
    raise ValueError(
      f'{pattern!r}: has no (?P<seed>...), nor is there a column'
    )
  seeds = None if 'seed' in named else runs.labels('seed')
  places = []
  for i, name in enumerate(runs.run):
    match = compiled.fullmatch(name)
    if match:
      # A group that takes no part in the match is None.
      found = {part: match[part] or '' for part in named}
      given = {} if seeds is None else {'seed': seeds[i]}
      places.append(Place(**{'block': '', **given, **found}))
    else:
      places.append(None)
  if not any(places):
    raise ValueError(
      f'{pattern!r}: matches no run; names are as {runs.run[0]!r}'
    )
  return places


def contrast_runs(
  runs: Runs, places: Sequence[Place | None], reference: str
) -> list[Contrast]:
  """Each arm against the reference of its block, in the order of the runs.

  Raises:
    ValueError: for a block without the reference or without another arm, for
      arms that share no seed with it, and for two runs in one place.
  """
  table: dict[str, dict[str, dict[str, int]]] = {}
  for i, place in enumerate(places):
    if place is None:
      continue
    arm = table.setdefault(place.block, {}).setdefault(place.arm, {})
    if place.seed in arm:
      other = runs.run[arm[place.seed]]
      raise ValueError(
        f'runs {other!r} and {runs.run[i]!r}: both are seed {place.seed!r} of '
        f'arm {place.arm!r}'
      )
    arm[place.seed] = i
  return [
    _contrast(runs, block, name, reference, arms)
    for block, arms in table.items()
    for name in _others(block, arms, reference)
  ]


def _others(block: str, arms: Mapping, reference: str) -> list[str]:
  where = f'block {block!r}: ' if block else ''
  if reference not in arms:
    raise ValueError(
      f'{where}no arm {reference!r} to hold others against; there are '
      f'{", ".join(map(repr, arms))}'
    )
  others = [name for name in arms if name != reference]
  if not others:
    raise ValueError(f'{where}only the arm {reference!r}')
  return others


def _contrast(
  runs: Runs, block: str, name: str, reference: str, arms: Mapping
) -> Contrast:
  seeds = [seed for seed in arms[name] if seed in arms[reference]]
  if not seeds:
    where = f'block {block!r}, ' if block else ''
    raise ValueError(f'{where}arm {name!r}: shares no seed with {reference!r}')
  ours = runs.select(np.array([arms[name][seed] for seed in seeds]))
  theirs = runs.select(np.array([arms[reference][seed] for seed in seeds]))
  n, n_reference = ours.parameters(), theirs.parameters()
  return Contrast(
    block=block,
    arm=name,
    reference=reference,
    seeds=seeds,
    differences=(ours.loss - theirs.loss).tolist(),
    reference_loss=float(theirs.loss.mean()),
    average_off=float(n.mean() / n_reference.mean() - 1),
    tokens_off=float(ours.tokens.mean() / theirs.tokens.mean() - 1),
    final_parameters=float(ours.final_parameters.mean()),
    reference_final_parameters=float(theirs.final_parameters.mean()),
  )
