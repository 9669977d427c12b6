"""Tables of numbers as CSV files: every complaint names file, row, column."""

import csv
import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Table:
  """Cells of a CSV file as they are written.

  Attributes:
    path: of the file.
    columns: name -> cells.
    lines: line of the file that each row ends on, counted from 1.
  """

  path: pathlib.Path
  columns: Mapping[str, Sequence[str]]
  lines: Sequence[int]

  def where(self, row: int, column: str) -> str:
    return f'{self.path}, row {self.lines[row]}, {column}'

  def numbers(self, name: str, empty: float | None = None) -> np.ndarray:
    """A column as float64[n], with `empty` for its empty cells if allowed.

    Raises:
      ValueError: if there is no such column, or one of its cells is not a
        finite number.
    """
    if name not in self.columns:
      raise ValueError(
        f'{self.path}: no column {name!r}; there are {quoted(self)}'
      )
    return np.array(
      [
        empty
        if empty is not None and not cell.strip()
        else _number(cell, self.where(row, name))
        for row, cell in enumerate(self.columns[name])
      ]
    )


def _number(cell: str, where: str) -> float:
  try:
    value = float(cell)
  except ValueError:
    what = repr(cell) if cell.strip() else 'nothing'
    raise ValueError(f'{where}: {what} is not a number') from None
  if not math.isfinite(value):
    raise ValueError(f'{where}: {cell.strip()} is not finite')
  return value


def quoted(table: Table) -> str:
  """Its columns, for a message."""
  return ', '.join(map(repr, table.columns)) or 'none'


def read(path: pathlib.Path) -> Table:
  """Reads a CSV file whose first line names its columns.

  Columns without a name are left out, and so are empty lines.

  Raises:
    ValueError: if it is not such a file, naming it and the row.
  """
  try:
    # With or without the byte-order mark that spreadsheets write.
    text = path.read_text(encoding='utf-8-sig')
  except UnicodeDecodeError:
    raise ValueError(f'{path}: not a CSV file: no UTF-8 text') from None
  reader = csv.reader(text.splitlines(keepends=True), strict=True)
  try:
    rows = [(reader.line_num, row) for row in reader if any(row)]
  except csv.Error as error:
    line = reader.line_num
    raise ValueError(f'{path}, row {line}: not CSV: {error}') from None
  if not rows:
    raise ValueError(f'{path}: is empty; its first line must name columns')
  (_, header), *body = rows
  names = _checked_header([name.strip() for name in header], path)
  for line, row in body:
    if len(row) != len(names):
      raise ValueError(
        f'{path}, row {line}: {len(row)} cells, but {len(names)} columns'
      )
  columns = {
    name: [row[i] for _, row in body] for i, name in enumerate(names) if name
  }
  if not body:
    raise ValueError(f'{path}: names columns but has no rows')
  return Table(path, columns, [line for line, _ in body])


def _checked_header(names: list[str], path: pathlib.Path) -> list[str]:
  twice = sorted({name for name in names if name and names.count(name) > 1})
  if twice:
    raise ValueError(f'{path}: column {twice[0]!r} is there twice')
  if len(names) == 1 and any(mark in names[0] for mark in ';\t|'):
    raise ValueError(
      f'{path}: columns must be separated by commas; the first line is '
      f'{names[0]!r}'
    )
  return names
