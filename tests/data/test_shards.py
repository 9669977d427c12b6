"""Prepared directories as training opens them, against what was written."""

import json
import shutil

import bucket
import numpy as np
import pytest

from jax_sparse_pretrain import config, data
from jax_sparse_pretrain.data import shards
from jax_sparse_pretrain.data.rows import ShuffledRows
from jax_sparse_pretrain.prepare import __main__ as prepare

DOCUMENTS = [f'document {i} ' + 'é' * (i * 7 % 40) for i in range(300)]


def prepared(folder, out='out', documents=DOCUMENTS, arguments=()):
  path = folder / f'{out}.jsonl'
  path.write_text('\n'.join(json.dumps({'text': t}) for t in documents))
  argv = [str(path), f'--out={folder / out}', '--workers=0']
  argv += ['--validation_fraction=0.2', '--shard_tokens=500']
  argv += arguments or ['--tokenizer=bytes']
  assert prepare.main(argv) == 0
  return folder / out


@pytest.fixture(scope='module')
def made(tmp_path_factory):
  return prepared(tmp_path_factory.mktemp('made'))


@pytest.fixture
def damaged(made, tmp_path):
  """A copy, to be changed."""
  return shutil.copytree(made, tmp_path / 'out')


def open_tokens(path, **changes):
  return data.open_corpus(
    config.Data(source='tokens', path=str(path), **changes)
  )


def open_mixture(*pairs):
  mixture = tuple((str(path), weight) for path, weight in pairs)
  return data.open_corpus(config.Data(source='tokens', mixture=mixture))


def line_of(tokens):
  ids = np.empty(len(tokens), np.int32)
  tokens.read(0, ids)
  return ids


def texts_of(tokens):
  raw = line_of(tokens).astype(np.uint8).tobytes()
  return [text[1:].decode() for text in raw.split(b'\xff')[:-1]]


def in_memory(folder):
  return data.open_corpus(
    config.Data(
      source='text',
      path=str(folder.with_suffix('.jsonl')),
      tokenizer='bytes',
      validation_fraction=0.2,
    )
  )


def manifest_of(folder):
  return json.loads((folder / 'manifest.json').read_text())


def take(corpus, n=20, **changes):
  arguments = {'batch_size': 4, 'context_length': 32, 'seed': 3} | changes
  batches = data.train_batches(corpus, **arguments)
  return np.stack([next(batches) for _ in range(n)])


def test_prepared_tokens_are_those_of_the_same_text_in_memory(made):
  here, there = in_memory(made), open_tokens(made)
  for a, b in [
    (here.train[0], there.train[0]),
    (here.validation, there.validation),
  ]:
    np.testing.assert_array_equal(line_of(a), line_of(b))
  for split in ('train', 'validation'):
    expected = dict(here.fingerprint[split])
    found = dict(there.fingerprint[split])
    # Of ids there, of shards here.
    assert expected.pop('sha256') != found.pop('sha256')
    assert found == expected
  assert there.fingerprint['tokenizer'] == here.fingerprint['tokenizer']
  assert sorted(texts_of(there.train[0]) + texts_of(there.validation)) == (
    sorted(DOCUMENTS)
  )


def test_any_stretch_of_tokens_may_be_read_across_shards(made):
  manifest = manifest_of(made)
  found = manifest['splits']['train']['shards']
  assert len(found) > 10
  line = np.concatenate([np.load(made / shard['file']) for shard in found])
  tokens = open_tokens(made).train[0]
  assert len(tokens) == len(line)
  rng = np.random.default_rng(0)
  edges = np.cumsum([shard['tokens'] for shard in found])[:-1]
  for start in [0, *edges, *(edges - 1), *rng.integers(0, len(line), 50)]:
    for size in (1, 17, 1300):
      out = np.empty(min(size, len(line) - start), np.int32)
      tokens.read(int(start), out)
      np.testing.assert_array_equal(out, line[start : start + size])


def test_batches_do_not_depend_on_how_tokens_are_cut_into_shards(
  made, tmp_path
):
  other = prepared(
    tmp_path, arguments=['--tokenizer=bytes', '--shard_tokens=90']
  )
  many, few = (
    len(manifest_of(each)['splits']['train']['shards'])
    for each in (other, made)
  )
  assert many > 2 * few
  batches = [take(open_tokens(each)) for each in (made, other)]
  np.testing.assert_array_equal(*batches)
  np.testing.assert_array_equal(take(in_memory(made)), batches[0])


def test_rows_of_tokens_in_a_bucket_are_the_same(made, store):
  remote = bucket.upload(made, store('tokens'))
  here, there = open_tokens(made), open_tokens(remote)
  assert there.fingerprint == here.fingerprint
  for mask in (False, True):
    rows = [take(each, mask_documents=mask) for each in (here, there)]
    np.testing.assert_array_equal(*rows)
    rows = [
      data.evaluation_rows(
        each, n_rows=9, context_length=32, mask_documents=mask
      )
      for each in (here, there)
    ]
    np.testing.assert_array_equal(*rows)
  (remote / 'train-00000.npy').unlink()
  with pytest.raises(config.ConfigError, match='train-00000.npy: a shard is'):
    open_tokens(remote)


def test_remote_shards_come_a_group_ahead_and_go_when_their_group_is_read(
  made, store
):
  tokens = open_tokens(bucket.upload(made, store('ahead'))).train[0]
  here = open_tokens(made).train[0]
  shards_here = manifest_of(made)['splits']['train']['shards']
  shard_of_token = np.repeat(
    np.arange(len(shards_here)), [shard['tokens'] for shard in shards_here]
  )
  length, n = 32, 40
  there, expected = (
    ShuffledRows(each, length, 3, n) for each in (tokens, here)
  )

  def shards_of(row):
    first = row // n * n
    last = min(first + n, there.n_rows)
    return {*shard_of_token[first * length : last * length + 1]}

  order = [there.row_at(position) for position in range(there.n_rows)]
  out, row_here = np.empty((2, length + 1), np.int32)
  for position, row in enumerate(order):
    there.read(position, out)
    expected.read(position, row_here)
    np.testing.assert_array_equal(out, row_here)
    following = [r for r in order[position:] if r // n != row // n]
    if following:
      assert set(tokens._copies) == shards_of(row) | shards_of(following[0])
  for copy in tokens._copies.values():
    copy.result()
  there.close()
  assert not tokens._copies


def test_the_fingerprint_does_not_depend_on_where_tokens_lie(made, damaged):
  before, after = open_tokens(made), open_tokens(damaged)
  assert after.fingerprint == before.fingerprint
  assert json.loads(json.dumps(after.fingerprint)) == after.fingerprint


def test_the_fingerprint_tells_other_tokens_apart(made, tmp_path):
  other = prepared(tmp_path, documents=[*DOCUMENTS[:-1], 'another'])
  assert open_tokens(other).fingerprint != open_tokens(made).fingerprint


def test_a_glob_names_the_shares_of_many_machines(tmp_path):
  folder = tmp_path / 'texts'
  folder.mkdir()
  for i, text in enumerate(DOCUMENTS):
    (folder / f'{i:03}.txt').write_text(text)
  for index in (1, 0, 2):
    argv = [str(folder), f'--out={tmp_path / "out"}', '--tokenizer=bytes']
    argv += ['--workers=0', '--validation_fraction=0.2']
    assert prepare.main([*argv, f'--index={index}', '--count=3']) == 0
  names = sorted(path.name for path in (tmp_path / 'out').iterdir())
  assert names == [f'{i:05}-of-00003' for i in range(3)]
  corpus = open_tokens(tmp_path / 'out/*')
  shares = [texts_of(open_tokens(tmp_path / 'out' / n).train[0]) for n in names]
  assert texts_of(corpus.train[0]) == sum(shares, [])
  assert sorted(texts_of(corpus.train[0]) + texts_of(corpus.validation)) == (
    sorted(DOCUMENTS)
  )
  # A share that is not finished is not left out in silence.
  (tmp_path / 'out' / names[1] / 'manifest.json').rename(
    tmp_path / 'out' / names[1] / 'progress.json'
  )
  with pytest.raises(config.ConfigError, match='00001-of-00003: is not fin'):
    open_tokens(tmp_path / 'out/*')


def test_a_mixture_has_the_tokens_of_each_set(made, tmp_path):
  other = prepared(tmp_path, documents=[f'other {i} ' * 5 for i in range(99)])
  corpus = open_mixture((made, 3), (other, 1))
  assert corpus.weights == (3, 1)
  for tokens, path in zip(corpus.train, (made, other), strict=True):
    np.testing.assert_array_equal(
      line_of(tokens), line_of(open_tokens(path).train[0])
    )
  held_out = [line_of(open_tokens(p).validation) for p in (made, other)]
  np.testing.assert_array_equal(
    line_of(corpus.validation), np.concatenate(held_out)
  )
  assert [each['weight'] for each in corpus.fingerprint['mixture']] == [3, 1]
  assert corpus.fingerprint != open_mixture((made, 1), (other, 1)).fingerprint


def trained(tmp_path, out, documents=DOCUMENTS, size=300):
  arguments = ['--train_tokenizer=bpe', f'--vocab_size={size}']
  return prepared(tmp_path, out, documents, arguments)


def test_sets_of_other_tokenizers_are_not_mixed(made, tmp_path):
  other = trained(tmp_path, 'other')
  with pytest.raises(config.ConfigError, match='another tokenizer than'):
    open_mixture((made, 1), (other, 1))


def test_the_tokenizer_may_be_named_and_must_be_the_one_that_prepared(
  made, tmp_path
):
  other = trained(tmp_path, 'other')
  path = str(other / 'tokenizer.json')
  assert open_tokens(made, tokenizer='bytes').tokenizer.kind == 'bytes'
  given = open_tokens(other, tokenizer='huggingface', tokenizer_path=path)
  assert given.fingerprint == open_tokens(other).fingerprint
  with pytest.raises(config.ConfigError, match="data.tokenizer = 'bytes'"):
    open_tokens(other, tokenizer='bytes')


def test_the_tokenizer_comes_with_the_tokens(tmp_path):
  corpus = open_tokens(trained(tmp_path, 'out'))
  ids = line_of(corpus.train[0])
  ends = np.flatnonzero(ids == corpus.document_end) + 1
  texts = [corpus.tokenizer.decode(i) for i in np.split(ids, ends)[:-1]]
  assert texts == [text for text in DOCUMENTS if text in set(texts)]
  assert len(texts) > 200
  assert corpus.vocab_size == corpus.tokenizer.vocab_size == 300


def test_another_tokenizer_in_the_directory_is_an_error(tmp_path):
  out = trained(tmp_path, 'out')
  other = trained(tmp_path, 'other', [f'other {i}' for i in range(99)], 290)
  shutil.copy(other / 'tokenizer.json', out)
  with pytest.raises(config.ConfigError, match='tokenizer.json: is not the to'):
    open_tokens(out)
  (out / 'tokenizer.json').unlink()
  with pytest.raises(config.ConfigError, match='tokenizer.json'):
    open_tokens(out)


def test_another_evaluation_set_needs_the_same_tokenizer(made, tmp_path):
  corpus = open_tokens(made)
  same = prepared(tmp_path, documents=[f'text {i}' for i in range(99)])
  opened = data.open_evaluation_set(corpus, str(same))
  np.testing.assert_array_equal(
    line_of(opened.validation), line_of(open_tokens(same).validation)
  )
  other = trained(tmp_path, 'other')
  with pytest.raises(config.ConfigError, match='evaluation.sets: .*another'):
    data.open_evaluation_set(corpus, str(other))


@pytest.mark.parametrize('name', ['train-00001.npy', 'validation-00000.npy'])
def test_a_shard_that_is_missing_or_cut_is_an_error_that_names_it(
  name, damaged
):
  path = damaged / name
  raw = path.read_bytes()
  for content in (raw[:-1], raw + b'\0', b''):
    path.write_bytes(content)
    with pytest.raises(
      config.ConfigError, match=f'{name}: has {len(content)} bytes; the man'
    ):
      open_tokens(damaged)
  path.unlink()
  with pytest.raises(config.ConfigError, match=f'{name}: a shard is missing'):
    open_tokens(damaged)


def test_a_directory_that_is_not_prepared_is_an_error(made, tmp_path):
  with pytest.raises(config.ConfigError, match="data.path = '': must name a"):
    open_tokens('')
  with pytest.raises(config.ConfigError, match='has no manifest.json: make'):
    open_tokens(tmp_path)
  with pytest.raises(config.ConfigError, match='no file|no manifest'):
    open_tokens(tmp_path / '*')
  (tmp_path / 'progress.json').write_text('{}')
  with pytest.raises(config.ConfigError, match='is not finished: run the same'):
    open_tokens(tmp_path)


@pytest.mark.parametrize(
  'content, match',
  [
    ('{', 'cannot be read'),
    ('[]', 'cannot be read'),
    ('{}', 'cannot be read'),
    ('{"format": "x", "version": 1}', 'is x 1; must be token shards 1'),
    ('{"format": "token shards", "version": 9}', 'must be token shards 1'),
  ],
)
def test_a_manifest_that_is_none_is_an_error(content, match, tmp_path):
  (tmp_path / 'manifest.json').write_text(content)
  with pytest.raises(config.ConfigError, match=f'manifest.json: .*{match}'):
    open_tokens(tmp_path)


def test_an_empty_split_is_an_error(tmp_path):
  with pytest.warns(UserWarning, match='the validation split is empty'):
    out = prepared(tmp_path, documents=['only one'])
  with pytest.raises(config.ConfigError, match='empty; .* --validation_frac'):
    open_tokens(out)


def test_a_prepared_corpus_can_be_described_without_reading_it(made, tmp_path):
  described = data.describe(config.Data(source='tokens', path=str(made)))
  manifest = manifest_of(made)
  n_documents = manifest['splits']['train']['documents']
  assert f'train: {n_documents} documents' in '\n'.join(described)
  missing = config.Data(source='tokens', path=str(tmp_path))
  assert 'not here' in data.describe(missing)[0]


def test_the_ids_of_a_large_vocabulary_are_four_bytes(tmp_path):
  ids = np.array([0, 70_000, 1 << 31], np.uint32)
  np.save(tmp_path / 'a.npy', ids)
  found = [(tmp_path / 'a.npy', 128, 'uint32', 3)]
  out = np.empty(2, np.int32)
  shards.TokenShards(found).read(0, out)
  assert out.tolist() == [0, 70_000]
