"""Packing against whole documents concatenated and cut with numpy."""

import contextlib
import itertools
import json
import time

import grain
import numpy as np
import pytest

from jax_sparse_pretrain import config, data

BYTES = data.load_tokenizer(config.Data(tokenizer='bytes'))
BATCH_SIZE, CONTEXT_LENGTH = 8, 16

# All different, shorter and longer than a row, one of them without a token.
DOCUMENTS = [f'{i}:' + 'abcdefg' * (i * i % 11) for i in range(36)] + ['']


def open_batches(documents=DOCUMENTS, tokenizer=BYTES, **changes):
  arguments = {
    'batch_size': BATCH_SIZE,
    'context_length': CONTEXT_LENGTH,
    'streams': BATCH_SIZE,
    'seed': 1,
    'prefetch': 0,
  } | changes
  batches = data.train_batches(documents, tokenizer, **arguments)
  return contextlib.closing(batches)  # Stops the thread of a prefetch.


def take(n_batches, **changes):
  with open_batches(**changes) as batches:
    return np.stack(list(itertools.islice(batches, n_batches)))


def through_json(state):
  return json.loads(json.dumps(state))


def merged(*states):
  return {'streams': {k: v for s in states for k, v in s['streams'].items()}}


def reference_line(stream, streams, n_epochs, seed=1):
  """All tokens of a stream, from whole documents."""
  order = grain.MapDataset.source(DOCUMENTS).seed(seed).shuffle().repeat()
  positions = range(stream, n_epochs * len(DOCUMENTS), streams)
  texts = [order[position].encode() for position in positions]
  line = b''.join(b'\xfe' + text + b'\xff' for text in texts)
  return np.frombuffer(line, np.uint8).astype(np.int32)


@pytest.mark.parametrize('streams', [1, 2, 8])
def test_rows_are_the_documents_end_to_end_over_three_epochs(streams):
  lines = [reference_line(s, streams, n_epochs=4) for s in range(streams)]
  n_batches = min(line.size for line in lines) * streams
  n_batches //= BATCH_SIZE * CONTEXT_LENGTH
  batches = take(n_batches, streams=streams)
  one_epoch = reference_line(0, 1, n_epochs=1).size
  assert batches[..., 1:].size > 3 * one_epoch
  for s, line in enumerate(lines):
    rows = batches[:, s::streams].reshape(-1, CONTEXT_LENGTH + 1)
    n_targets = len(rows) * CONTEXT_LENGTH
    np.testing.assert_array_equal(rows[:, :-1].ravel(), line[:n_targets])
    # Every token but the first is a target, once.
    np.testing.assert_array_equal(rows[:, 1:].ravel(), line[1 : n_targets + 1])


def test_batches_are_int32_rows_of_the_context_and_one_token():
  batches = take(2)
  assert batches.dtype == np.int32
  assert batches.shape == (2, BATCH_SIZE, CONTEXT_LENGTH + 1)


def test_an_epoch_holds_every_document_once_and_the_next_is_reshuffled():
  targets = take(50, streams=1)[..., :-1].astype(np.uint8).tobytes()
  texts = [part[1:].decode() for part in targets.split(b'\xff')]
  n = len(DOCUMENTS)
  first, second = texts[:n], texts[n : 2 * n]
  assert sorted(first) == sorted(second) == sorted(DOCUMENTS)
  assert first != second


def test_the_seed_decides_the_order():
  np.testing.assert_array_equal(take(3, seed=1), take(3, seed=1))
  assert not np.array_equal(take(3, seed=1), take(3, seed=2))


@pytest.mark.parametrize('prefetch', [0, 3])
@pytest.mark.parametrize('streams', [1, 2, 4, 8])
@pytest.mark.parametrize(
  'shares',
  [
    [range(0, 4), range(4, 8)],
    [range(0, 8, 2), range(1, 8, 2)],
    [[5], [0, 1, 2, 3, 4, 6, 7]],
  ],
)
def test_batches_do_not_depend_on_how_processes_share_them(
  shares, streams, prefetch
):
  whole = take(20, streams=streams)
  for rows in shares:
    share = take(20, streams=streams, rows=rows, prefetch=prefetch)
    np.testing.assert_array_equal(share, whole[:, list(rows)])


@pytest.mark.parametrize('streams', [2, 4, 8])
def test_merged_states_restore_into_another_division(streams):
  whole = take(20, streams=streams)
  states = []
  for rows in (range(0, 4), range(4, 8)):
    with open_batches(streams=streams, rows=rows) as batches:
      for _ in range(7):
        next(batches)
      states.append(through_json(batches.get_state()))
  for rows in ([0, 1], [2, 3, 4], [5, 6, 7], range(8)):
    with open_batches(streams=streams, rows=rows) as batches:
      batches.set_state(merged(*states))
      rest = np.stack(list(itertools.islice(batches, 13)))
    np.testing.assert_array_equal(rest, whole[7:, list(rows)])


@pytest.mark.parametrize('streams', [1, 8])
@pytest.mark.parametrize('prefetch', [0, 1, 3])
def test_resuming_from_any_state_equals_not_stopping(prefetch, streams):
  n_batches = 25
  whole = take(n_batches + 3, streams=streams)
  states = []
  with open_batches(streams=streams, prefetch=prefetch) as batches:
    for _ in range(n_batches):
      states.append(through_json(batches.get_state()))
      next(batches)
  with open_batches(streams=streams, prefetch=prefetch) as batches:
    # Backwards, so that no state is where the iterator already is.
    for n, state in reversed(list(enumerate(states))):
      batches.set_state(state)
      assert batches.get_state() == state
      rest = np.stack(list(itertools.islice(batches, 3)))
      np.testing.assert_array_equal(rest, whole[n : n + 3])


def test_the_state_is_that_of_the_last_batch_taken_not_prepared():
  with open_batches() as plain, open_batches(prefetch=4) as prefetched:
    for _ in range(10):
      np.testing.assert_array_equal(next(plain), next(prefetched))
      assert plain.get_state() == prefetched.get_state()


def test_a_thread_prepares_batches_ahead():
  class Recorded(list):
    def __getitem__(self, index):
      read.append(index)
      return super().__getitem__(index)

  def read_after_one_batch(prefetch):
    read.clear()
    with open_batches(Recorded(DOCUMENTS), prefetch=prefetch) as batches:
      next(batches)
      deadline = time.monotonic() + 10
      while prefetch and len(read) <= plain and time.monotonic() < deadline:
        time.sleep(0.01)
      return len(read)

  read = []
  plain = read_after_one_batch(0)
  assert read_after_one_batch(8) > plain


def test_rows_may_be_a_numpy_array():
  rows = np.arange(2, 4)
  with open_batches(rows=rows) as batches:
    state = through_json(batches.get_state())
  assert state == {'streams': {'2': [2, 0], '3': [3, 0]}}


def test_the_state_is_two_integers_a_stream():
  with open_batches(streams=4) as batches:
    assert batches.get_state() == {
      'streams': {'0': [0, 0], '1': [1, 0], '2': [2, 0], '3': [3, 0]}
    }


def test_a_process_reads_only_the_documents_of_its_streams():
  class Recorded(list):
    def __getitem__(self, index):
      read.append(super().__getitem__(index))
      return read[-1]

  read = []
  take(5, documents=Recorded(DOCUMENTS), streams=4, rows=[1, 5])
  order = grain.MapDataset.source(DOCUMENTS).seed(1).shuffle().repeat()
  n_read = len(read)
  assert read == [order[position] for position in range(1, 4 * n_read, 4)]


def test_a_document_begins_with_its_end_where_there_is_no_bos():
  class WithoutBos:
    vocab_size, bos_id, eos_id = 256, None, 0xFF
    encode = staticmethod(BYTES.encode)

  rows = take(1, documents=['ab'], tokenizer=WithoutBos(), streams=1)
  np.testing.assert_array_equal(rows[0, 0, :6], [97, 98, 255, 97, 98, 255])


@pytest.mark.parametrize(
  'state',
  [
    {'streams': {'0': [0, 0]}},  # No stream 1.
    {'streams': {'0': [0, 0], '1': [2, 0]}},  # A document of stream 0.
    {'streams': {'0': [0, 0], '1': [1, 10_000]}},  # Beyond its end.
  ],
)
def test_a_state_of_other_data_is_an_error(state):
  with open_batches(streams=2) as batches:
    with pytest.raises(ValueError, match='state of the data: .*stream 1'):
      batches.set_state(state)


def test_fewer_documents_than_streams_is_an_error():
  with pytest.raises(config.ConfigError, match=r'data\.streams = 8 .*most 7'):
    open_batches(documents=DOCUMENTS[:7])
  assert take(2, documents=DOCUMENTS[:8]).shape[0] == 2


@pytest.mark.parametrize(
  'changes, match',
  [
    ({'streams': 3}, 'streams = 3: must divide batch_size = 8'),
    ({'streams': 0}, 'streams = 0: must divide batch_size = 8'),
    ({'rows': [7, 8]}, r'rows = \[7, 8\]'),
    ({'rows': []}, r'rows = \[\]'),
  ],
)
def test_impossible_layouts_are_errors(changes, match):
  with pytest.raises(ValueError, match=match):
    open_batches(**changes)


def evaluation_rows(n_rows):
  return data.evaluation_rows(
    DOCUMENTS, BYTES, n_rows=n_rows, context_length=CONTEXT_LENGTH
  )


def test_evaluation_rows_are_one_shuffled_epoch_end_to_end():
  n_tokens = sum(len(text) + 2 for text in DOCUMENTS)
  n_rows = (n_tokens - 1) // CONTEXT_LENGTH
  rows = evaluation_rows(n_rows)
  assert rows.shape == (n_rows, CONTEXT_LENGTH + 1)
  assert rows.dtype == np.int32
  np.testing.assert_array_equal(rows[1:, 0], rows[:-1, -1])
  line = np.append(rows[:, :-1].ravel(), rows[-1, -1]).astype(np.uint8)
  texts = [part[1:].decode() for part in line.tobytes().split(b'\xff')]
  whole, cut = texts[:-1], texts[-1]
  assert set(whole) < set(DOCUMENTS) and len(set(whole)) == len(whole)
  assert whole != [text for text in DOCUMENTS if text in whole]
  assert any(text.startswith(cut) for text in set(DOCUMENTS) - set(whole))


def test_evaluation_rows_do_not_depend_on_how_many_are_taken():
  np.testing.assert_array_equal(evaluation_rows(5), evaluation_rows(40)[:5])


def test_too_many_evaluation_rows_is_an_error_that_says_how_many_there_are():
  n_tokens = sum(len(text) + 2 for text in DOCUMENTS)
  n_rows = (n_tokens - 1) // CONTEXT_LENGTH
  message = rf'evaluation\.rows = {n_rows + 1}: must be at most {n_rows},'
  with pytest.raises(config.ConfigError, match=message):
    evaluation_rows(n_rows + 1)
