"""Rows and batches, against rows cut and ordered with NumPy."""

import contextlib
import hashlib
import itertools
import json
import time

import numpy as np
import pytest

from jax_sparse_pretrain import config, data
from jax_sparse_pretrain.data import rows as rows_lib

BATCH_SIZE, CONTEXT_LENGTH = 8, 16
# Each token is its own position, so that a row tells where it comes from.
IDS = np.arange(100 * CONTEXT_LENGTH + 8, dtype=np.int32)
N_ROWS = 100


def corpus_of(*lines, weights=None, validation=IDS, end=0):
  return data.Corpus(
    train=tuple(map(rows_lib.ArrayTokens, lines)),
    weights=weights or (1.0,) * len(lines),
    validation=rows_lib.ArrayTokens(validation),
    tokenizer=None,
    vocab_size=1 << 20,
    document_end=end,
    fingerprint={},
    notes=(),
  )


def open_batches(*lines, weights=None, end=0, **changes):
  arguments = {
    'batch_size': BATCH_SIZE,
    'context_length': CONTEXT_LENGTH,
    'seed': 1,
  } | changes
  corpus = corpus_of(*(lines or (IDS,)), weights=weights, end=end)
  batches = data.train_batches(corpus, **arguments)
  return contextlib.closing(batches)  # Stops the thread of a prefetch.


def take(n_batches, *lines, start=0, **changes):
  with open_batches(*lines, **changes) as batches:
    if start:
      batches.set_state({'step': start})
    return np.stack(list(itertools.islice(batches, n_batches)))


def shuffled(n_rows=N_ROWS, seed=1, group_rows=None):
  tokens = rows_lib.ArrayTokens(IDS[: n_rows * CONTEXT_LENGTH + 1])
  return rows_lib.ShuffledRows(tokens, CONTEXT_LENGTH, seed, group_rows)


def order(each, n, start=0):
  return [each.row_at(position) for position in range(start, start + n)]


def reference_permutation(n, *key):
  """By the hash of a key, a counter-based generator, and a sort."""
  digest = hashlib.sha256(' '.join(map(str, key)).encode()).digest()
  key = np.frombuffer(digest[:16], '<u8')
  return np.argsort(np.random.Philox(key=key).random_raw(n), kind='stable')


def reference_order(n_rows, group_rows, seed, epoch):
  groups = [
    range(n_rows)[start : start + group_rows]
    for start in range(0, n_rows, group_rows)
  ]
  return [
    groups[g][i]
    for g in reference_permutation(len(groups), seed, epoch)
    for i in reference_permutation(len(groups[g]), seed, epoch, g)
  ]


def test_rows_overlap_by_one_token_and_are_int32():
  batches = take(3)
  assert batches.dtype == np.int32
  assert batches.shape == (3, BATCH_SIZE, CONTEXT_LENGTH + 1)
  rows = batches.reshape(-1, CONTEXT_LENGTH + 1)
  np.testing.assert_array_equal(rows[:, 0] % CONTEXT_LENGTH, 0)
  np.testing.assert_array_equal(rows - rows[:, :1], [range(17)] * len(rows))


def test_every_token_but_the_first_and_the_rest_is_a_target_once_an_epoch():
  # An epoch is 100 rows, so 25 batches of 8 are two.
  targets = take(25)[..., 1:].reshape(2, -1)
  for epoch in targets:
    np.testing.assert_array_equal(
      np.sort(epoch), IDS[1 : N_ROWS * CONTEXT_LENGTH + 1]
    )


def test_each_epoch_has_a_new_order():
  each = shuffled()
  epochs = [order(each, N_ROWS, e * N_ROWS) for e in range(4)]
  assert all(sorted(epoch) == list(range(N_ROWS)) for epoch in epochs)
  assert len({tuple(epoch) for epoch in epochs}) == 4


@pytest.mark.parametrize('n_rows, group_rows', [(100, 7), (100, 1), (5, 10)])
def test_groups_of_rows_and_rows_in_a_group_are_shuffled(n_rows, group_rows):
  each = shuffled(n_rows, group_rows=group_rows)
  for epoch in (0, 1, 10**6):
    expected = reference_order(n_rows, group_rows, 1, epoch)
    assert order(each, n_rows, epoch * n_rows) == expected


def test_a_run_needs_one_group_at_a_time():
  each = shuffled(group_rows=10)
  groups = [row // 10 for row in order(each, N_ROWS)]
  assert len([*itertools.groupby(groups)]) == 10


def test_the_order_is_what_it_was_when_runs_began():
  # Golden: a run that resumes with a newer version reads on in this order.
  golden = '0 1 3 2 4 10 11 7 6 9 8 5  3 4 2 1 0 11 10 6 9 8 5 7'
  each = shuffled(12, seed=7, group_rows=5)
  assert order(each, 24) == [int(row) for row in golden.split()]


def test_the_seed_decides_the_order():
  np.testing.assert_array_equal(take(3, seed=1), take(3, seed=1))
  assert not np.array_equal(take(3, seed=1), take(3, seed=2))


def test_a_batch_is_a_function_of_seed_and_step():
  whole = take(40)
  for step in (0, 1, 17, 39):
    np.testing.assert_array_equal(take(1, start=step)[0], whole[step])


def test_the_first_batch_may_be_that_of_a_late_step():
  step = 10**6
  batch = take(1, start=step)[0]
  each = shuffled()
  expected = order(each, BATCH_SIZE, step * BATCH_SIZE)
  np.testing.assert_array_equal(batch[:, 0] // CONTEXT_LENGTH, expected)


@pytest.mark.parametrize('prefetch', [0, 3])
@pytest.mark.parametrize(
  'shares',
  [
    [range(0, 4), range(4, 8)],
    [range(0, 8, 2), range(1, 8, 2)],
    [[5], np.array([0, 1, 2, 3, 4, 6, 7])],
  ],
)
def test_batches_do_not_depend_on_how_processes_share_them(shares, prefetch):
  whole = take(20)
  for rows in shares:
    share = take(20, rows=rows, prefetch=prefetch)
    np.testing.assert_array_equal(share, whole[:, list(rows)])


def test_a_process_reads_only_its_own_rows():
  class Recorded(rows_lib.ArrayTokens):
    def read(self, start, out):
      read.append(start)
      super().read(start, out)

  read = []
  corpus = corpus_of(IDS)._replace(train=(Recorded(IDS),))
  with contextlib.closing(
    data.train_batches(
      corpus,
      batch_size=BATCH_SIZE,
      context_length=CONTEXT_LENGTH,
      seed=1,
      rows=[1, 5],
    )
  ) as batches:
    for _ in range(3):
      next(batches)
  assert read == take(3)[:, [1, 5], 0].ravel().tolist()


@pytest.mark.parametrize('prefetch', [0, 1, 3])
def test_resuming_from_any_state_equals_not_stopping(prefetch):
  n_batches = 25
  whole = take(n_batches + 3)
  states = []
  with open_batches(prefetch=prefetch) as batches:
    for _ in range(n_batches):
      states.append(json.loads(json.dumps(batches.get_state())))
      next(batches)
  with open_batches(prefetch=prefetch) as batches:
    # Backwards, so that no state is where the iterator already is.
    for n, state in reversed(list(enumerate(states))):
      batches.set_state(state)
      assert batches.get_state() == state
      rest = np.stack(list(itertools.islice(batches, 3)))
      np.testing.assert_array_equal(rest, whole[n : n + 3])


def test_the_state_is_the_number_of_batches_taken():
  for prefetch in (0, 4):
    for rows in (None, [3]):
      with open_batches(prefetch=prefetch, rows=rows) as batches:
        for step in range(5):
          assert batches.get_state() == {'step': step}
          next(batches)


def test_the_state_of_an_earlier_version_is_an_error_that_says_so():
  with open_batches() as batches:
    with pytest.raises(config.ConfigError, match='earlier version'):
      batches.set_state({'streams': {'0': [0, 0]}})


@pytest.mark.parametrize('state', [{}, {'step': -1}, {'step': 1.5}])
def test_a_state_that_is_no_step_is_an_error(state):
  with open_batches() as batches:
    with pytest.raises(config.ConfigError, match='is no step'):
      batches.set_state(state)


def test_a_thread_prepares_batches_ahead():
  class Recorded(rows_lib.ArrayTokens):
    def read(self, start, out):
      read.append(start)
      super().read(start, out)

  def read_after_one_batch(prefetch):
    read.clear()
    corpus = corpus_of(IDS)._replace(train=(Recorded(IDS),))
    with contextlib.closing(
      data.train_batches(
        corpus,
        batch_size=BATCH_SIZE,
        context_length=CONTEXT_LENGTH,
        seed=1,
        prefetch=prefetch,
      )
    ) as batches:
      next(batches)
      deadline = time.monotonic() + 10
      while (
        prefetch and len(read) <= BATCH_SIZE and time.monotonic() < deadline
      ):
        time.sleep(0.01)
      return len(read)

  read = []
  assert read_after_one_batch(0) == BATCH_SIZE
  assert read_after_one_batch(8) > BATCH_SIZE


# Lines of which the first thousands tell the set.
SETS = [IDS, IDS[:400] + 10_000, IDS[:900] + 20_000]


@pytest.mark.parametrize('weights', [(1, 1, 1), (0.7, 0.2, 0.1), (3, 5, 1e-3)])
def test_a_mixture_is_exact_in_each_block_of_ten_thousand_rows(weights):
  sets = [
    rows_lib.ShuffledRows(rows_lib.ArrayTokens(line), CONTEXT_LENGTH, 1)
    for line in SETS
  ]
  mixed = rows_lib.MixedRows(sets, weights, 1)
  shares = np.array(weights) / sum(weights) * 10_000
  blocks = [
    [mixed.which(p)[0] for p in range(b * 10_000, (b + 1) * 10_000)]
    for b in (0, 1, 5)
  ]
  for block in blocks:
    counts = np.bincount(block, minlength=3)
    assert counts.sum() == 10_000
    assert (abs(counts - shares) < 1).all()
  assert blocks[0] != blocks[1]
  # Mixed, not one set after the other.
  assert len([*itertools.groupby(blocks[0][:100])]) > 5 or weights[0] > 0.9


def test_a_set_that_would_never_be_read_is_an_error():
  with pytest.raises(config.ConfigError, match='none of 10,000 rows'):
    open_batches(*SETS, weights=(1, 1, 1e-6))


def test_each_set_of_a_mixture_is_read_once_before_it_is_read_twice():
  rows = take(30, *SETS, weights=(0.6, 0.3, 0.1)).reshape(-1, 17)
  for index, line in enumerate(SETS):
    starts = rows[:, 0][rows[:, 0] // 10_000 == index] % 10_000
    n_rows = (len(line) - 1) // CONTEXT_LENGTH
    assert len(starts) > 20
    for epoch in np.split(starts, range(n_rows, len(starts), n_rows)):
      assert len(set(epoch)) == len(epoch)
    alone = take(len(starts) // 8 + 1, line)[..., 0].ravel()
    np.testing.assert_array_equal(alone[: len(starts)] % 10_000, starts)


def test_a_mixture_does_not_depend_on_processes():
  whole = take(5, *SETS, start=3000)
  share = take(5, *SETS, start=3000, rows=[6, 2], prefetch=2)
  np.testing.assert_array_equal(share, whole[:, [6, 2]])


def test_each_token_gets_the_number_of_its_document_in_the_row():
  rng = np.random.default_rng(0)
  ids = rng.integers(0, 4, 2000).astype(np.int32)
  plain = take(5, ids, end=3)
  batches = take(5, ids, end=3, mask_documents=True)
  assert batches.shape == (5, BATCH_SIZE, 2, CONTEXT_LENGTH + 1)
  assert batches.dtype == np.int32
  np.testing.assert_array_equal(batches[:, :, 0], plain)
  for tokens, numbers in batches.reshape(-1, 2, CONTEXT_LENGTH + 1):
    number, expected = 0, []
    for token in tokens:
      expected.append(number)  # The end of a document belongs to it.
      number += token == 3
    assert numbers.tolist() == expected


def test_fewer_tokens_than_a_row_is_an_error():
  assert take(1, IDS[: CONTEXT_LENGTH + 1]).shape[1] == BATCH_SIZE
  match = rf'context_length = {CONTEXT_LENGTH}: must be below .* {16}$'
  for lines in ([IDS[:CONTEXT_LENGTH]], [IDS, IDS[:CONTEXT_LENGTH]]):
    with pytest.raises(config.ConfigError, match=match):
      open_batches(*lines)


@pytest.mark.parametrize('rows', [[7, 8], [], [-1]])
def test_rows_that_are_not_of_the_batch_are_an_error(rows):
  with pytest.raises(ValueError, match='must be rows of a batch of 8'):
    open_batches(rows=rows)


def evaluation_rows(n_rows, **changes):
  return data.evaluation_rows(
    corpus_of(IDS), n_rows=n_rows, context_length=CONTEXT_LENGTH, **changes
  )


def test_evaluation_rows_are_rows_of_one_shuffled_epoch():
  rows = evaluation_rows(N_ROWS)
  assert rows.dtype == np.int32
  whole = IDS[: N_ROWS * CONTEXT_LENGTH].reshape(N_ROWS, CONTEXT_LENGTH)
  in_order = rows[np.argsort(rows[:, 0])]
  np.testing.assert_array_equal(in_order[:, :-1], whole)
  assert not np.array_equal(rows, in_order)


def test_evaluation_rows_do_not_depend_on_how_many_are_taken():
  np.testing.assert_array_equal(evaluation_rows(5), evaluation_rows(40)[:5])


def test_evaluation_rows_come_with_documents_if_asked():
  rows = evaluation_rows(4, mask_documents=True)
  assert rows.shape == (4, 2, CONTEXT_LENGTH + 1)


def test_too_many_evaluation_rows_is_an_error_that_says_how_many_there_are():
  message = rf'evaluation\.rows = {N_ROWS + 1}: must be at most {N_ROWS},'
  with pytest.raises(config.ConfigError, match=message):
    evaluation_rows(N_ROWS + 1)
