"""Arithmetic and comparisons on named columns, read without `eval`.

Examples are `6 * scale ** 2`, `'Training FLOP' / (6 * parameters)` and
`sparsity == 0`. Names stand for columns, and so do quoted strings: some names
have spaces or dashes. The SQL expressions of polars do not replace this: they
have no `**`, read single quotes as text, and allow functions.
"""

import ast
import functools
import operator
from collections.abc import Callable

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
  """The value of an expression.

  Args:
    expression: text in the grammar `ALLOWED`.
    column: name -> float64[n]; raises a ValueError for an unknown name.

  Raises:
    ValueError: for text outside the grammar, naming it.
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
      return _number(number)
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
  if len(values) == 1:
    return apply(*values)
  return functools.reduce(apply, values)


def _number(value: int | float) -> np.float64:
  # As floats, so that 9**9**9 is infinite and not a day's work.
  try:
    return np.float64(value)
  except OverflowError:
    return np.float64('inf')
