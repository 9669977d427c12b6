"""Numbers, durations and tables as people read them: one of each.

Plain text, for a terminal of 80 columns or more. Standard library only.
"""

import math
import shutil
from collections.abc import Callable, Sequence
from typing import NamedTuple

NARROWEST, WIDEST = 60, 120  # columns
GAP = '  '
UNKNOWN = '–'


class Line(NamedTuple):
  """A row of a listing; one without a label and a value is empty."""

  label: str = ''
  value: str = ''
  remark: str = ''


def listing(title: str, lines: Sequence[Line]) -> str:
  """Labels, values and remarks in columns, between rules."""
  return _ruled(title, _aligned(lines, right={1}))


def table(
  title: str,
  header: Sequence[str],
  rows: Sequence[Sequence[str]],
  width: int | None = None,
) -> str:
  """A table whose first column is text and whose others are numbers.

  Args:
    title: the line above.
    header: names of the columns.
    rows: cells, as many in each row as there are names.
    width: columns to stay within, of the terminal by default. Text in the
      first column is cut in its middle to fit.
  """
  cells = [header, *rows]
  widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
  room = (width or terminal_width()) - sum(len(GAP) + n for n in widths[1:])
  cells = [[cut(row[0], max(room, 8)), *row[1:]] for row in cells]
  lines = _aligned(cells, right=set(range(1, len(header))))
  return _ruled(title, lines[1:], head=lines[:1])


def _aligned(rows: Sequence[Sequence[str]], right: set[int]) -> list[str]:
  # The last column may be of remarks, which end anywhere.
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return [
    GAP.join(
      f'{cell:>{n}}' if i in right else f'{cell:<{n}}'
      for i, (cell, n) in enumerate(zip(row, widths, strict=True))
    ).rstrip()
    for row in rows
  ]


def _ruled(title: str, lines: list[str], head: Sequence[str] = ()) -> str:
  title = cut(title, terminal_width())
  rule = '-' * max(map(len, [title, *head, *lines]))
  return '\n'.join([title, rule, *head, *lines, rule])


def terminal_width() -> int:
  """Columns to fill; 80 where there is no terminal to ask."""
  columns = shutil.get_terminal_size((80, 24)).columns
  return min(max(columns, NARROWEST), WIDEST)


def cut(text: str, width: int) -> str:
  """Leaves out the middle: names of runs differ at their ends."""
  if len(text) <= width:
    return text
  kept = width - 2
  return f'{text[: kept - kept // 2]}..{text[len(text) - kept // 2 :]}'


def listed(names: Sequence[str]) -> str:
  """'a', 'a and b', 'a, b and c'."""
  *before, last = names
  return f'{", ".join(before)} and {last}' if before else last


def count(value: float) -> str:
  """A whole number: 1,139,277,824."""
  return f'{round(value):,}'


def short(value: float, digits: int = 4) -> str:
  """A count in a few digits and a unit: 1.139B."""
  value = float(f'{value:.{digits}g}')
  for scale, unit in ((1e12, 'T'), (1e9, 'B'), (1e6, 'M'), (1e3, 'K')):
    if abs(value) >= scale:
      return f'{value / scale:.{digits}g}{unit}'
  return f'{value:.{digits}g}'


def significant(value: float, digits: int = 4) -> str:
  """As many digits as said, zeros at the end too: 1.010, 8.677e+04."""
  return f'{value:#.{digits}g}'.rstrip('.') if value else '0'


def power(value: float, digits: int = 4) -> str:
  """A number of any size without leading zeros in its exponent: 3e18."""
  return f'{value:.{digits}g}'.replace('e+0', 'e').replace('e+', 'e')


def percent(value: float, form: str = '.3g') -> str:
  """A fraction as 80 % or 87.5 %; with '.2f' as 2.74 %."""
  return f'{100 * value:{form}} %'


def signed(value: float, form: str) -> str:
  """With a minus as wide as a plus, and no sign on a zero."""
  text = f'{value:{form}}'
  return text.replace('-', '\u2212') if float(text) else text.lstrip('+-')


def known(value: float | None, write: Callable[[float], str]) -> str:
  """A value as `write` has it; a dash for None and NaN."""
  return UNKNOWN if value is None or math.isnan(value) else write(value)


def span(values: Sequence[float]) -> str:
  """The least and the largest; one of them if both are written alike."""
  ends = dict.fromkeys([short(min(values)), short(max(values))])
  return ' to '.join(ends)


def duration(seconds: float) -> str:
  """Two units at most: 8s, 1m12s, 2h05m, 3d04h."""
  minutes, s = divmod(round(seconds), 60)
  hours, m = divmod(minutes, 60)
  days, h = divmod(hours, 24)
  if days:
    return f'{days}d{h:02}h'
  if hours:
    return f'{h}h{m:02}m'
  return f'{m}m{s:02}s' if minutes else f'{s}s'


def size(n_bytes: float) -> str:
  """'1,234.5 MiB', or bytes below a tenth of one."""
  mib = n_bytes / (1 << 20)
  return f'{mib:,.1f} MiB' if mib >= 0.1 else f'{math.ceil(n_bytes):,} B'


OPEN = 'open'
ABOUT_OPEN = 'open: on that side the data set no end to the interval.'


def interval(ends: tuple[float, float], write: Callable[[float], str]) -> str:
  """An interval; its open sides are 0 or -infinity, and infinity."""
  low, high = ends
  if math.isinf(high):
    return OPEN if low in (0, -high) else f'{write(low)} to {OPEN}'
  return f'{write(low)} to {write(high)}'


def is_open(ends: tuple[float, float] | None) -> bool:
  """Whether the data do not bound an interval from above."""
  return ends is not None and math.isinf(ends[1])


def closed(ends: tuple[float, float]) -> list[float | None]:
  """For JSON, which has no infinity: an open upper side is null."""
  return [end if math.isfinite(end) else None for end in ends]
