"""The mask history of a run: how many linear parameters are nonzero, and when.

`mask_history.jsonl` has a header line, one row for step 0, and one row for each
mask update. The `step` of a row is the first step whose forward pass uses its
counts. Counts are whole numbers, so N_avg is exact up to one last division.
A row of an update says, too, how much of the sum of magnitudes was kept; those
are floats, and differ by rounding between meshes. Training writes the file, the
analysis reads it.
"""

import dataclasses
import json
import math
import os
import statistics
import warnings
from collections.abc import Iterator, Mapping, Sequence

from jax_sparse_pretrain import storage

VERSION = 2
# Without `mass`.
_READABLE = (1, 2)

# {kernel: (sum of |w| before a cut, sum of |w| that it kept), of each layer}.
Mass = Mapping[str, Sequence[Sequence[float]]]


@dataclasses.dataclass(frozen=True)
class Header:
  """What the counts refer to.

  Attributes:
    linear_parameters: size of all matmul kernels, the dense N.
    total_parameters: size of the whole model, with embedding and norms.
    tokens_per_step: how many tokens a step predicts.
    layers: size of each kernel, by its name.
  """

  linear_parameters: int
  total_parameters: int
  tokens_per_step: int
  layers: Mapping[str, int]
  version: int = VERSION


@dataclasses.dataclass(frozen=True)
class Row:
  """How many linear parameters are nonzero from `step` (0-based) on.

  Attributes:
    step: the first step whose forward pass uses these counts.
    nonzero: the count of all kernels together.
    by_leaf: the count of each kernel, by its name.
    mass: of the cut that led to these counts; None where there was none, and
      in files of version 1.
  """

  step: int
  nonzero: int
  by_leaf: Mapping[str, int]
  mass: Mass | None = None


@dataclasses.dataclass(frozen=True)
class History:
  """A mask history: N_avg follows from it."""

  header: Header
  rows: Sequence[Row]

  def average_parameters(self, steps: int) -> float:
    """N_avg: the mean over the first `steps` steps of the nonzero count.

    Raises:
      ValueError: if there are no steps to average over.
    """
    if steps < 1:
      raise ValueError(f'steps = {steps}: N_avg needs at least one step')
    rows = [row for row in self.rows if row.step < steps]
    ends = [row.step for row in rows[1:]] + [steps]
    total = sum(
      row.nonzero * (end - row.step)
      for row, end in zip(rows, ends, strict=True)
    )
    return total / steps

  def kept_mass(self) -> dict[str, list[float]]:
    """{kernel: the share of its sum of |w| that all cuts left, of each layer}.

    The product of the shares of the cuts: between them the weights that are
    left grow. A kernel that was never cut is left out. Masks of step 0 say no
    mass: what they drop counts by number, as if random weights had gone. An
    update after which a kernel has as many weights as before is no cut, though
    some may have gone and others returned.

    Raises:
      ValueError: if a cut was not measured; see `is_measured`.
    """
    kept: dict[str, list[float]] = {}
    for name, count, size, row in self._cuts():
      if row.mass and name in row.mass:
        shares = [_share(*each) for each in zip(*row.mass[name], strict=True)]
      elif row.step == 0:
        shares = [count / size]
      else:
        raise ValueError(f'step {row.step}: {name} was cut, and not measured')
      past = kept.get(name, [1.0])
      n = max(len(past), len(shares))  # One share may stand for all layers.
      kept[name] = [
        a * b for a, b in zip(_spread(past, n), _spread(shares, n), strict=True)
      ]
    return kept

  @property
  def is_measured(self) -> bool:
    """Whether every cut says its mass.

    Not in files of version 1, of runs without `pruning.measure_mass`, and of
    updaters of jaxpruner that hold no masks.
    """
    return all(
      row.step == 0 or (row.mass and name in row.mass)
      for name, _, _, row in self._cuts()
    )

  def _cuts(self) -> Iterator[tuple[str, int, int, Row]]:
    """(kernel, its count, the count before, row) wherever a count falls."""
    before = self.header.layers
    for row in self.rows:
      for name, count in row.by_leaf.items():
        if count < before[name]:
          yield name, count, before[name], row
      before = row.by_leaf

  def measured_mass(self) -> float | None:
    """The mean of `kept_mass` over all weights, each layer by its size.

    By layer, since the scale of a layer means nothing: norms undo it. Dense
    kernels count whole; a dense run has 1. None if a cut was not measured.
    """
    if not self.is_measured:
      return None
    kept = self.kept_mass()
    total = sum(
      size * statistics.fmean(kept.get(name, [1.0]))
      for name, size in self.header.layers.items()
    )
    return total / self.header.linear_parameters

  def measured_parameters(self) -> float | None:
    """N_eff: the linear parameters times `measured_mass`."""
    mass = self.measured_mass()
    return None if mass is None else mass * self.header.linear_parameters


def gaussian_mass(density: float) -> float:
  """The share of sum |w| in the largest `density` of Gaussian weights.

  exp(-z^2 / 2), where z is the threshold in standard deviations.

  Args:
    density: kept share of the weights, 0 to 1.
  """
  if not 0 < density < 1:
    return float(density >= 1)
  z = statistics.NormalDist().inv_cdf(density / 2)
  return math.exp(-z * z / 2)


def gaussian_parameters(linear: int, exempt: int, nonzero: int) -> float:
  """N_eff by `gaussian_mass`, from counts alone.

  As if magnitude had cut the kernels that are pruned by one threshold, and
  their weights were Gaussian and of one scale.

  Args:
    linear: N, all linear parameters.
    exempt: those in kernels that are never pruned.
    nonzero: those that are left, the exempt ones included.
  """
  prunable = linear - exempt
  if not prunable:
    return float(linear)
  return exempt + prunable * gaussian_mass((nonzero - exempt) / prunable)


def write(
  path: os.PathLike | str, header: Header, rows: Sequence[Row] = ()
) -> None:
  """Writes a whole history file; an existing one is replaced in one step."""
  storage.replace(path, ''.join(map(_line, (header, *rows))))


def append(path: os.PathLike | str, row: Row) -> None:
  """Adds a row, which is on disk when this returns."""
  with open(path, 'a') as file:
    file.write(_line(row))
    file.flush()
    os.fsync(file.fileno())


def truncate(path: os.PathLike | str, step: int) -> None:
  """Drops the rows that a run has not reached after `step` finished steps.

  The rows that follow are of this version, and so is the header from now on.
  """
  history = read(path)
  kept = [row for row in history.rows if row.step < step]
  write(path, dataclasses.replace(history.header, version=VERSION), kept)


def read(path: os.PathLike | str) -> History:
  """Reads and checks a history file.

  A torn last line, left by a killed run, is ignored with a warning.

  Raises:
    ValueError: for anything else malformed, naming the line.
  """
  try:
    lines = storage.as_path(path).read_text().split('\n')
  except UnicodeDecodeError as error:
    raise ValueError(f'{path}: is not text: {error}') from None
  if lines.pop():
    warnings.warn(f'{path}: ignored a torn last line', stacklevel=2)
  if not lines:
    raise ValueError(f'{path}, line 1: the header is missing')
  header = _parse(Header, lines[0], f'{path}, line 1')
  _check_header(header, f'{path}, line 1')
  rows: list[Row] = []
  for number, line in enumerate(lines[1:], start=2):
    row = _parse(Row, line, f'{path}, line {number}')
    _check_row(
      row, rows[-1] if rows else None, header, f'{path}, line {number}'
    )
    rows.append(row)
  _check_layers(rows, path)
  return History(header, rows)


def _line(item: Header | Row) -> str:
  fields = dataclasses.asdict(item)
  if fields.get('mass', 0) is None:
    del fields['mass']
  return json.dumps(fields) + '\n'


def _parse(cls: type, line: str, where: str):
  try:
    return cls(**json.loads(line))
  except (TypeError, ValueError) as error:
    raise ValueError(
      f'{where}: not a {cls.__name__.lower()}: {error}'
    ) from None


def _check_header(header: Header, where: str) -> None:
  if header.version not in _READABLE:
    raise ValueError(
      f'{where}: version {header.version}, expected one of {_READABLE}'
    )
  for name in ('linear_parameters', 'total_parameters', 'tokens_per_step'):
    value = getattr(header, name)
    if type(value) is not int or value < 1:
      raise ValueError(f'{where}: {name} {value!r}: must be a positive count')
  if not isinstance(header.layers, dict):
    raise ValueError(f'{where}: layers must be sizes by name')
  if not _are_counts(header.layers.values(), limit=header.linear_parameters):
    raise ValueError(f'{where}: layer sizes must be counts')
  if sum(header.layers.values()) != header.linear_parameters:
    raise ValueError(f'{where}: layers do not add up to linear_parameters')


def _check_row(
  row: Row, before: Row | None, header: Header, where: str
) -> None:
  if not isinstance(row.by_leaf, dict):
    raise ValueError(f'{where}: by_leaf must be counts by name')
  if row.by_leaf.keys() != header.layers.keys():
    raise ValueError(f'{where}: its layers are not those of the header')
  if type(row.step) is not int or (
    row.step <= before.step if before else row.step
  ):
    raise ValueError(f'{where}: step {row.step}: must start at 0 and increase')
  for name, count in row.by_leaf.items():
    if not _are_counts([count], limit=header.layers[name]):
      raise ValueError(
        f'{where}: {name}: {count} is not a count of its weights'
      )
  if type(row.nonzero) is not int:
    raise ValueError(f'{where}: nonzero {row.nonzero!r} is not a count')
  if sum(row.by_leaf.values()) != row.nonzero:
    raise ValueError(f'{where}: by_leaf does not add up to nonzero')
  if row.mass is not None:
    _check_mass(row.mass, header, where)


def _check_mass(mass: Mass, header: Header, where: str) -> None:
  if not isinstance(mass, dict) or not mass.keys() <= header.layers.keys():
    raise ValueError(f'{where}: mass must be sums of |w| by name')
  for name, sums in mass.items():
    if not _are_sums_of_layers(sums):
      raise ValueError(
        f'{where}: mass of {name}: must be sums of |w| before a cut, and of '
        'what it kept, of each layer'
      )


def _check_layers(rows: Sequence[Row], path: os.PathLike | str) -> None:
  """Each row has as many sums of a kernel as the rows before."""
  n_layers: dict[str, int] = {}
  for number, row in enumerate(rows, start=2):
    for name, (before, _) in (row.mass or {}).items():
      n = n_layers.setdefault(name, len(before))
      if len(before) != n:
        raise ValueError(
          f'{path}, line {number}: mass of {name}: {len(before)} layers, '
          f'{n} before'
        )


def _are_sums_of_layers(sums) -> bool:
  match sums:
    case [[*before], [*kept]] if len(before) == len(kept) > 0:
      return all(map(_are_sums, before, kept))
  return False


def _are_sums(before, kept) -> bool:
  are_numbers = all(
    type(each) in (int, float) and math.isfinite(each)
    for each in (before, kept)
  )
  # Both are rounded.
  return are_numbers and 0 <= kept <= before * 1.001 + 1e-30


def _share(before: float, kept: float) -> float:
  """0 of a layer that had nothing left; never more than all."""
  return min(kept / before, 1.0) if before else 0.0


def _spread(shares: list[float], n: int) -> list[float]:
  return shares * n if len(shares) < n else shares


def _are_counts(values, limit: int) -> bool:
  return all(type(value) is int and 0 <= value <= limit for value in values)
