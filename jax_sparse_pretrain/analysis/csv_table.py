"""CSV files of named columns, and expressions on these columns.

Every complaint names file, row and column, which polars and pandas do not.

Expressions are `6 * scale ** 2`, `'Training FLOP' / (6 * parameters)` or
`sparsity == 0`, read without `eval`. Names stand for columns, and so do quoted
strings: some names have spaces or dashes.
"""

import ast
import csv
import dataclasses
import functools
import math
import operator
import pathlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

Column = Callable[[str], np.ndarray]

ALLOWED = (
  'numbers, column names (quoted where they hold spaces or dashes), '
  '+ - * / ** ( ), comparisons such as ==, and, or, not'
)
_OPERATORS = {
  ast.Add: operator.add,
  ast.Sub: operator.sub,
  ast.Mult: operator.mul,
  ast.Div: operator.truediv,
  ast.Pow: operator.pow,
  ast.USub: operator.neg,
  ast.UAdd: operator.pos,
  ast.Not: np.logical_not,
  ast.Eq: operator.eq,
  ast.NotEq: operator.ne,
  ast.Lt: operator.lt,
  ast.LtE: operator.le,
  ast.Gt: operator.gt,
  ast.GtE: operator.ge,
  ast.And: np.logical_and,
  ast.Or: np.logical_or,
}


def evaluate(expression: str, column: Column) -> np.ndarray:
  """The value of an expression; `column` gives float64[n] for a name.

  Raises:
    ValueError: for text outside the grammar `ALLOWED`, naming it.
  """
  try:
    body = ast.parse(expression.strip(), mode='eval').body
  except (SyntaxError, ValueError):
    raise ValueError(
      f'{expression!r}: not an expression of {ALLOWED}'
    ) from None
  # Who uses the values refuses those that are not finite, and names the row.
  with np.errstate(all='ignore'):
    return np.asarray(_value(body, expression, column))


def names(expression: str) -> set[str]:
  """The columns that an expression reads."""
  found = set()
  evaluate(expression, lambda name: found.add(name) or np.ones(1))
  return found


def _value(node: ast.expr, whole: str, column: Column):
  match node:
    case ast.Constant(value=str(name)) | ast.Name(id=name):
      return column(name)
    case ast.Constant(value=int() | float() as number) if not isinstance(
      number, bool
    ):
      return _literal(number)
    case ast.UnaryOp(op=op, operand=operand):
      operands = [operand]
    case ast.BinOp(left=left, op=op, right=right):
      operands = [left, right]
    case ast.Compare(left=left, ops=[op], comparators=[right]):
      operands = [left, right]
    case ast.BoolOp(op=op, values=operands):
      pass
    case _:
      op, operands = None, []
  if type(op) not in _OPERATORS:
    part = ast.get_source_segment(whole.strip(), node)
    raise ValueError(f'{part!r}: not an expression of {ALLOWED}')
  apply = _OPERATORS[type(op)]
  values = [_value(each, whole, column) for each in operands]
  return functools.reduce(apply, values) if values[1:] else apply(*values)


def _literal(value: int | float) -> np.float64:
  # As floats, so that 9**9**9 is infinite and not a day's work.
  try:
    return np.float64(value)
  except OverflowError:
    return np.float64('inf')


@dataclasses.dataclass(frozen=True)
class Table:
  """The cells of a CSV file, and the line of the file where each row ends."""

  path: pathlib.Path
  columns: Mapping[str, Sequence[str]]
  lines: Sequence[int]

  @property
  def names(self) -> str:
    """The names of its columns, for a message."""
    return ', '.join(map(repr, self.columns)) or 'none'

  def where(self, row: int, column: str) -> str:
    return f'{self.path}, row {self.lines[row]}, {column}'

  def numbers(self, name: str, empty: float | None = None) -> np.ndarray:
    """A column as float64[n]; `empty` is the value of empty cells, if allowed.

    Raises:
      ValueError: if there is no such column, or one of its cells is not a
        finite number.
    """
    if name not in self.columns:
      raise ValueError(
        f'{self.path}: no column {name!r}; there are {self.names}'
      )
    values = np.empty(len(self.lines))
    for row, cell in enumerate(self.columns[name]):
      if empty is not None and not cell.strip():
        values[row] = empty
      else:
        values[row] = _number(cell, self.where(row, name))
    return values


def _number(cell: str, where: str) -> float:
  try:
    value = float(cell)
  except ValueError:
    what = repr(cell) if cell.strip() else 'nothing'
    raise ValueError(f'{where}: {what} is not a number') from None
  if not math.isfinite(value):
    raise ValueError(f'{where}: {cell.strip()} is not finite')
  return value


def read(path: pathlib.Path) -> Table:
  """Reads a CSV file whose first line names its columns.

  Empty lines and columns without a name are left out.

  Raises:
    ValueError: if the file is not such a table, naming the file and the row.
  """
  try:
    # Spreadsheets write a byte-order mark.
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
  names = [name.strip() for name in header]
  _check_header(names, path)
  for line, row in body:
    if len(row) != len(names):
      raise ValueError(
        f'{path}, row {line}: {len(row)} cells, but {len(names)} columns'
      )
  if not body:
    raise ValueError(f'{path}: names columns but has no rows')
  columns = {
    name: [row[i] for _, row in body] for i, name in enumerate(names) if name
  }
  return Table(path, columns, [line for line, _ in body])


def _check_header(names: Sequence[str], path: pathlib.Path) -> None:
  twice = sorted({name for name in names if name and names.count(name) > 1})
  if twice:
    raise ValueError(f'{path}: column {twice[0]!r} is there twice')
  if len(names) == 1 and any(mark in names[0] for mark in ';\t|'):
    raise ValueError(
      f'{path}: columns must be separated by commas; the first line is '
      f'{names[0]!r}'
    )
