"""Files of JSON, Parquet or Arrow -> records, of which a field is a text.

Each function takes a stream and a `Reading`, and yields (place, function that
gives the text); the function may raise ValueError.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

from jax_sparse_pretrain import config

if TYPE_CHECKING:
  from jax_sparse_pretrain.data.documents import Reading

BYTE_ORDER_MARK = b'\xef\xbb\xbf'


def decoding(errors: str) -> str:
  """How Python is to decode, for a value of `Reading.errors`."""
  return 'replace' if errors == 'replace' else 'strict'


def _json_records(stream: BinaryIO, reading: Reading):
  """Yields (place, function that gives the text) of JSON or JSON lines."""
  lines = enumerate(itertools.chain(_first_line(stream), stream), 1)
  start = next((line for line in lines if line[1].strip()), None)
  if start is None:
    return
  if not isinstance(_json_or_none(start[1], reading), dict):
    # An array, an object over several lines, or a first line that is no JSON.
    lines = [start, *lines]
    whole = _json_or_none(b''.join(line for _, line in lines), reading)
    if whole is not None:
      records = whole if isinstance(whole, list) else [whole]
      for number, record in enumerate(records):
        yield (
          f'record {number}',
          functools.partial(field_of, record, reading.text_field),
        )
      return
    start, lines = lines[0], lines[1:]
  for number, line in itertools.chain([start], lines):
    if line.strip():
      yield f'line {number}', functools.partial(_line_text, line, reading)


def _first_line(stream: BinaryIO) -> list[bytes]:
  """The first line in a list, without a mark; none of an empty stream."""
  line = stream.readline().removeprefix(BYTE_ORDER_MARK)
  return [line] if line else []


def _line_text(line: bytes, reading: Reading) -> Any:
  return field_of(_parsed(line, reading), reading.text_field)


def _json_or_none(raw: bytes, reading: Reading) -> Any:
  try:
    return _parsed(raw, reading)
  except (ValueError, RecursionError):
    return None


def _parsed(raw: bytes, reading: Reading) -> Any:
  try:
    return json.loads(raw.decode('utf-8', decoding(reading.errors)))
  except UnicodeDecodeError as error:
    raise ValueError(f'not UTF-8 ({error.reason})') from error
  except ValueError as error:
    raise ValueError(f'not JSON ({error})') from error


def field_of(record: Any, field: str) -> Any:
  """The value of a field `a.b` of nested mappings; None if it is not there."""
  for name in field.split('.'):
    record = record.get(name) if isinstance(record, dict) else None
  return record


def _parquet_records(stream: BinaryIO, reading: Reading):
  pyarrow = _pyarrow()
  from pyarrow import parquet

  file = parquet.ParquetFile(pyarrow.PythonFile(stream, 'r'))
  yield from _table_records(
    file.schema_arrow.names,
    reading.text_field,
    lambda column: file.iter_batches(batch_size=1024, columns=[column]),
  )


def _arrow_records(stream: BinaryIO, reading: Reading):
  pyarrow = _pyarrow()
  if stream.read(6) == b'ARROW1':
    stream.seek(0)
    file = pyarrow.ipc.open_file(stream)
    batches = map(file.get_batch, range(file.num_record_batches))
  else:
    stream.seek(0)
    file = batches = pyarrow.ipc.open_stream(stream)
  yield from _table_records(
    file.schema.names,
    reading.text_field,
    lambda column: (batch.select([column]) for batch in batches),
  )


def _table_records(columns: Sequence[str], field: str, batches_of):
  column, _, below = field.partition('.')
  if column not in columns:
    raise ValueError(
      f'no field {column!r} (the text field); has {", ".join(columns)}'
    )
  number = 0
  for batch in batches_of(column):
    for value in batch.column(0).to_pylist():
      text = field_of(value, below) if below else value
      yield f'record {number}', lambda text=text: text
      number += 1


def _pyarrow():
  try:
    import pyarrow.ipc
  except ImportError as error:
    raise config.ConfigError(
      "Parquet and Arrow need: pip install 'jax_sparse_pretrain[prepare]'"
    ) from error
  return pyarrow


OF_KIND = {
  'json': _json_records,
  'parquet': _parquet_records,
  'arrow': _arrow_records,
}
