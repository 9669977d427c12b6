"""TFDS data sets, on one that is prepared here, without TensorFlow."""

import contextlib
import io
import json
import shutil
import sys

import bucket
import numpy as np
import pytest
import tensorflow_datasets as tfds

from jax_sparse_pretrain import config, data
from jax_sparse_pretrain.prepare import __main__ as prepare

VERSION = 'little_notes/en/1.0.0'
TEXTS = {
  'train': [f'note {i} é' for i in range(30)],
  'validation': [f'held out {i}' for i in range(5)],
}


class LittleNotes(tfds.core.GeneratorBasedBuilder):
  """A few lines of text."""

  VERSION = tfds.core.Version('1.0.0')
  BUILDER_CONFIGS = [tfds.core.BuilderConfig(name='en')]

  def _info(self):
    features = {
      'text': tfds.features.Text(),
      'label': tfds.features.ClassLabel(num_classes=2),
    }
    return tfds.core.DatasetInfo(
      builder=self, features=tfds.features.FeaturesDict(features)
    )

  def _split_generators(self, dl_manager):
    return {name: self._generate_examples(name) for name in TEXTS}

  def _generate_examples(self, name):
    for i, text in enumerate(TEXTS[name]):
      yield i, {'text': text, 'label': i % 2}


@pytest.fixture(scope='session')
def data_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp('tfds')
  builder = LittleNotes(
    data_dir=folder, config='en', file_format='array_record'
  )
  with contextlib.redirect_stderr(io.StringIO()):  # Progress bars.
    builder.download_and_prepare()
  return folder


@pytest.fixture
def damaged(data_dir, tmp_path):
  """A copy of the prepared data set, to be changed."""
  return shutil.copytree(data_dir / VERSION, tmp_path / VERSION)


def open_tfds(path, **changes):
  changes = {'tokenizer': 'bytes'} | changes
  return data.open_corpus(config.Data(source='tfds', path=str(path), **changes))


def texts_of(tokens):
  raw = tokens.ids.astype(np.uint8).tobytes()
  return [text[1:].decode() for text in raw.split(b'\xff')[:-1]]


def train(corpus):
  return texts_of(corpus.train[0])


def validation(corpus):
  return texts_of(corpus.validation)


def test_a_prepared_data_set_is_read_from_its_directory(data_dir):
  corpus = open_tfds(data_dir / VERSION)
  assert sorted(train(corpus)) == sorted(TEXTS['train'])
  assert sorted(validation(corpus)) == sorted(TEXTS['validation'])


def test_a_prepared_data_set_is_found_by_name_and_version(data_dir):
  by_name = open_tfds('little_notes/en:1.0.0', data_dir=str(data_dir))
  by_directory = open_tfds(data_dir / VERSION)
  assert train(by_name) == train(by_directory)
  assert by_name.fingerprint == by_directory.fingerprint


def test_a_data_set_in_a_bucket_is_the_same(data_dir, store):
  remote = bucket.upload(data_dir, store('tfds'))
  there = open_tfds('little_notes/en:1.0.0', data_dir=str(remote))
  here = open_tfds('little_notes/en:1.0.0', data_dir=str(data_dir))
  assert train(there) == train(here)
  assert there.fingerprint == here.fingerprint


def test_no_tensorflow_is_imported(data_dir):
  corpus = open_tfds(data_dir / VERSION)
  assert train(corpus)[0] in TEXTS['train']
  assert 'tensorflow' not in sys.modules


def test_a_split_may_be_a_slice(data_dir):
  corpus = open_tfds(
    data_dir / VERSION,
    train_split='train[:20]',
    validation_split='train[20:]',
  )
  assert len(train(corpus)) == 20
  assert len(validation(corpus)) == 10
  texts = [*train(corpus), *validation(corpus)]
  assert sorted(texts) == sorted(TEXTS['train'])


def test_the_fingerprint_tells_slices_apart(data_dir):
  whole = open_tfds(data_dir / VERSION).fingerprint
  assert whole['source'] == 'tfds'
  assert whole['train']['documents'] == 30
  assert json.loads(json.dumps(whole)) == whole
  slices = [
    open_tfds(data_dir / VERSION, train_split=split).fingerprint['train']
    for split in ('train[:50%]', 'train[50%:]')
  ]
  assert slices[0]['documents'] == slices[1]['documents'] == 15
  assert slices[0] != slices[1]


def test_documents_that_both_splits_hold_are_a_warning(data_dir):
  with pytest.warns(UserWarning, match='10 of 20 training documents are held'):
    open_tfds(
      data_dir / VERSION,
      train_split='train[:20]',
      validation_split='train[10:]',
    )


def test_rows_come_out_of_a_prepared_data_set(data_dir):
  corpus = open_tfds(data_dir / VERSION)
  rows = data.evaluation_rows(corpus, n_rows=4, context_length=12)
  line = b''.join(
    b'\xfe' + text.encode() + b'\xff' for text in validation(corpus)
  )
  assert all(row.astype('uint8').tobytes() in line for row in rows)


def prepared_texts(out, *arguments):
  assert prepare.main([*map(str, arguments), f'--out={out}']) == 0
  corpus = data.open_corpus(config.Data(source='tokens', path=str(out)))
  texts = []
  for tokens in (corpus.train[0], corpus.validation):
    ids = np.empty(len(tokens), np.int32)
    tokens.read(0, ids)
    ends = np.flatnonzero(ids == corpus.document_end) + 1
    texts.append([corpus.tokenizer.decode(i) for i in np.split(ids, ends)[:-1]])
  return list(map(sorted, texts))


def test_a_split_is_prepared_as_it_is_and_may_train_a_tokenizer(
  data_dir, tmp_path
):
  """Then its documents are read more than once."""
  found = prepared_texts(
    tmp_path / 'out',
    data_dir / VERSION,
    '--workers=0',
    '--train_tokenizer=bpe',
    '--vocab_size=280',
  )
  assert found == [sorted(TEXTS['train']), sorted(TEXTS['validation'])]


def test_inputs_to_hold_out_take_the_place_of_the_split_of_a_data_set(
  data_dir, tmp_path
):
  other = tmp_path / 'other.jsonl'
  other.write_text('{"text": "another"}')
  options = ['--workers=0', '--tokenizer=bytes', '--validation']
  whole = data_dir / VERSION
  found = prepared_texts(tmp_path / 'a', whole, *options, other)
  assert found == [sorted(TEXTS['train']), ['another']]
  found = prepared_texts(tmp_path / 'b', other, *options, whole)
  assert found == [['another'], sorted(TEXTS['validation'])]


@pytest.mark.parametrize('key', ['train_split', 'validation_split'])
@pytest.mark.parametrize('split', ['test', 'train[:', 'train[:0]', ''])
def test_an_unknown_or_empty_split_is_an_error(key, split, data_dir):
  with pytest.raises(
    config.ConfigError, match=rf"data\.{key} = '.*: .*train, validation"
  ):
    open_tfds(data_dir / VERSION, **{key: split})


@pytest.mark.parametrize('feature', ['body', 'label'])
def test_a_feature_that_is_no_text_is_an_error(feature, data_dir):
  with pytest.raises(
    config.ConfigError, match=rf"data\.text_feature = '{feature}': .*: text$"
  ):
    open_tfds(data_dir / VERSION, text_feature=feature)


@pytest.mark.parametrize(
  'path',
  [
    'missing/en:1.0.0',
    'little_notes/de:1.0.0',
    'little_notes/en:2.0.0',
    'little_notes/en',  # Without a version.
    'c4/en:3.0.1',  # Known to TFDS, not prepared.
  ],
)
def test_a_data_set_that_is_not_prepared_is_an_error(path, data_dir):
  with pytest.raises(config.ConfigError, match=rf"data\.path = '{path}'") as e:
    open_tfds(path, data_dir=str(data_dir))
  assert '--file_format=array_record' in str(e.value)


def test_a_damaged_description_is_an_error(damaged):
  damaged.joinpath('dataset_info.json').write_text('{')
  with pytest.raises(config.ConfigError, match='data.path = '):
    open_tfds(damaged)


def test_another_file_format_is_an_error_that_says_how_to_convert(damaged):
  for path in list(damaged.glob('*array_record*')):
    path.rename(str(path).replace('array_record', 'tfrecord'))
  info = damaged / 'dataset_info.json'
  info.write_text(info.read_text().replace('array_record', 'tfrecord'))
  with pytest.raises(
    config.ConfigError, match='tfrecord; must be array_record.*convert_format'
  ):
    open_tfds(damaged)


def test_a_missing_file_is_an_error_that_names_it(damaged):
  next(damaged.glob('*train.array_record*')).unlink()
  with pytest.raises(
    config.ConfigError, match='lacks 1 files, among them little_notes-train'
  ):
    open_tfds(damaged)
