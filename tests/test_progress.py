"""Progress as a pipe and as a terminal of 80 columns see it."""

import contextlib
import fcntl
import io
import os
import re
import struct
import termios
import time

import pytest

from jax_sparse_pretrain.text import duration
from jax_sparse_pretrain.training import progress

SCALARS = {'train_loss': 2.4131, 'density': 0.83, 'tokens_per_second': 41234.0}
WIDEST = {'train_loss': 10.4, 'density': 1.0, 'tokens_per_second': 1.234e6}


class Terminal:
  """A pseudo-terminal of 80 columns and what was written to it."""

  def __init__(self):
    self._reader, writer = os.openpty()
    size = struct.pack('HHHH', 24, 80, 0, 0)
    fcntl.ioctl(writer, termios.TIOCSWINSZ, size)
    self.stream = open(writer, 'w', encoding='utf-8')

  def text(self):
    self.stream.close()
    text = b''
    with contextlib.suppress(OSError):  # Linux: the other end is closed
      while chunk := os.read(self._reader, 65536):
        text += chunk
    os.close(self._reader)
    return text.decode()


def lines_in_pipe(total, calls, start=0):
  stream = io.StringIO()
  with progress.Progress(total, start, stream) as shown:
    for step, scalars in calls:
      shown.advance(step)
      shown.show(step, scalars)
  return stream.getvalue().splitlines()


def test_a_pipe_gets_one_plain_line_for_each_logged_step():
  [line, _] = lines_in_pipe(1370, [(200, SCALARS), (250, SCALARS)])
  assert line == (
    'step   200/1,370  loss  2.413  density 0.830  41.2K tok/s  eta ?'
  )


def test_lines_are_aligned_and_fit_80_columns():
  lines = lines_in_pipe(1_000_000, [(1, WIDEST), (999_000, SCALARS)])
  columns = [[m.start() for m in re.finditer(r'\S+ tok', x)] for x in lines]
  assert columns[0] == columns[1] != []
  assert lines[0].index('density') == lines[1].index('density')
  assert max(map(len, lines)) <= 80


def test_advancing_prints_nothing_in_a_pipe():
  stream = io.StringIO()
  with progress.Progress(10, 0, stream) as shown:
    shown.advance(1)
  assert stream.getvalue() == ''


def test_a_note_is_a_line_in_a_pipe():
  stream = io.StringIO()
  progress.Progress(10, 0, stream).note('step 5: evaluation loss 2.1')
  assert stream.getvalue() == 'step 5: evaluation loss 2.1\n'


def test_time_left_leaves_out_the_first_step_and_earlier_starts(monkeypatch):
  now = [0.0]
  monkeypatch.setattr(time, 'monotonic', lambda: now[0])
  stream = io.StringIO()
  with progress.Progress(1000, 500, stream) as shown:
    now[0] = 50.0  # compilation
    shown.advance(501)
    now[0] = 51.0
    shown.advance(511)
    shown.show(511, SCALARS)
  # 0.1 s a step, 489 steps to go.
  assert stream.getvalue().endswith('eta 49s\n')


def test_progress_goes_to_standard_error(capsys):
  with progress.Progress(10) as shown:
    shown.note('hello')
  captured = capsys.readouterr()
  assert (captured.out, captured.err) == ('', 'hello\n')


def test_a_terminal_gets_a_bar_that_fits():
  terminal = Terminal()
  with progress.Progress(72_200, 12_000, terminal.stream) as shown:
    shown.advance(36_100)
    shown.show(36_100, WIDEST)
  bars = [bar.rstrip() for bar in terminal.text().split('\r') if bar.strip()]
  assert bars[0].startswith('step 12,000/72,200 |')
  assert bars[-1].startswith('step 36,100/72,200 |███')
  assert bars[-1].endswith('| loss 10.400  density 1.000  1.23M tok/s  eta ?')
  assert max(map(len, bars)) <= 80


def test_a_note_leaves_the_bar_whole():
  terminal = Terminal()
  with progress.Progress(10, 0, terminal.stream) as shown:
    shown.advance(5)
    shown.note('evaluation loss 2.1')
  *_, before, after = terminal.text().split('evaluation loss 2.1\r\n')
  # The bar is wiped, the note takes its line, the bar is drawn again.
  assert before.endswith('\r')
  assert 'step  5/10 |' in after


def test_a_terminal_counts_time_down_between_logged_steps(monkeypatch):
  now = [0.0]
  monkeypatch.setattr(time, 'monotonic', lambda: now[0])
  terminal = Terminal()
  with progress.Progress(1000, 0, terminal.stream) as shown:
    shown.advance(1)
    now[0] = 499.0
    shown.advance(500)
  assert re.search(r'step   500/1,000 .*eta 8m20s', terminal.text())


@pytest.mark.parametrize(
  ('seconds', 'text'),
  [
    (0, '0s'),
    (59.4, '59s'),
    (59.6, '1m00s'),
    (72, '1m12s'),
    (7500, '2h05m'),
    (86400 * 3 + 4 * 3600, '3d04h'),
  ],
)
def test_durations_have_two_units_at_most(seconds, text):
  assert duration(seconds) == text


@pytest.mark.parametrize(
  ('rate', 'text'),
  [
    (0, '    0 tok'),
    (950, '  950 tok'),
    (999.7, '   1K tok'),
    (1.2349e6, '1.23M tok'),
    (2.5e9, ' 2.5B tok'),
    (float('nan'), '  nan tok'),
  ],
)
def test_speeds_have_three_digits_at_most(rate, text):
  [line] = lines_in_pipe(10, [(1, SCALARS | {'tokens_per_second': rate})])
  assert text in line
