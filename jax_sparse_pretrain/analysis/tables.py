"""Plain-text tables for a terminal of 80 columns or more."""

import math
import shutil
from collections.abc import Callable, Sequence
from typing import NamedTuple

NARROWEST, WIDEST = 60, 120  # columns
GAP = '  '


class Line(NamedTuple):
  """A row of a list; one without a label and a value is empty."""

  label: str = ''
  value: str = ''
  remark: str = ''


def terminal_width() -> int:
  """Columns to fill; 80 where there is no terminal to ask."""
  columns = shutil.get_terminal_size((80, 24)).columns
  return min(max(columns, NARROWEST), WIDEST)


def listing(title: str, lines: Sequence[Line]) -> str:
  """Labels, values and remarks between rules."""
  label = max(len(line.label) for line in lines)
  value = max(len(line.value) for line in lines)
  rows = [
    GAP.join(
      [f'{line.label:<{label}}', f'{line.value:>{value}}', line.remark]
    ).rstrip()
    for line in lines
  ]
  return _ruled(title, [], rows)


def grid(
  title: str,
  header: Sequence[str],
  rows: Sequence[Sequence[str]],
  width: int | None = None,
) -> str:
  """A table whose first column is text, the others numbers.

  Args:
    title: the line above.
    header: names of the columns.
    rows: cells, as many as there are names.
    width: columns to stay within, of the terminal by default. Text in the
      first column is cut in its middle to fit.
  """
  cells = [list(header), *map(list, rows)]
  widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
  rest = sum(widths[1:]) + len(GAP) * (len(widths) - 1)
  widths[0] = min(widths[0], max((width or terminal_width()) - rest, 8))
  laid_out = [_laid_out(row, widths) for row in cells]
  return _ruled(title, laid_out[:1], laid_out[1:])


def _laid_out(row: Sequence[str], widths: Sequence[int]) -> str:
  first = f'{cut(row[0], widths[0]):<{widths[0]}}'
  rest = [f'{x:>{n}}' for x, n in zip(row[1:], widths[1:], strict=True)]
  return GAP.join([first, *rest]).rstrip()


def _ruled(title: str, head: list[str], rows: list[str]) -> str:
  title = cut(title, terminal_width())
  rule = '-' * max(map(len, [title, *head, *rows]))
  return '\n'.join([title, rule, *head, *rows, rule])


def cut(text: str, width: int) -> str:
  """Leaves out the middle: names of runs differ at their ends."""
  if len(text) <= width:
    return text
  kept = width - 2
  return f'{text[: kept - kept // 2]}..{text[len(text) - kept // 2 :]}'


def count(value: float) -> str:
  """A whole number: 1,139,277,824."""
  return f'{round(value):,}'


def short(value: float) -> str:
  """A count in three digits or four: 1.139B."""
  for scale, unit in ((1e12, 'T'), (1e9, 'B'), (1e6, 'M'), (1e3, 'K')):
    if abs(value) >= scale:
      return f'{value / scale:.4g}{unit}'
  return f'{value:.4g}'


def span(values: Sequence[float]) -> str:
  """From the least to the largest; one, if they are written alike."""
  ends = dict.fromkeys([short(min(values)), short(max(values))])
  return ' to '.join(ends)


OPEN = 'open'
ABOUT_OPEN = 'open: on that side the data set no end to the interval.'


def interval(ends: tuple[float, float], write: Callable[[float], str]) -> str:
  """An interval whose open sides are 0 and infinite."""
  low, high = ends
  if math.isinf(high):
    return OPEN if low == 0 else f'{write(low)} to {OPEN}'
  return f'{write(low)} to {write(high)}'


def is_open(ends: tuple[float, float] | None) -> bool:
  return ends is not None and math.isinf(ends[1])


def closed(ends: tuple[float, float]) -> list[float | None]:
  """For JSON, which has no infinity: an open upper side is null."""
  return [end if math.isfinite(end) else None for end in ends]
