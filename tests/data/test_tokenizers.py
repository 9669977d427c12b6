"""Tokenizers, on models trained here."""

import io

import numpy as np
import pytest
import sentencepiece
import tokenizers

from jax_sparse_pretrain import config, data

TEXTS = ['the cat sat on the mat', 'a dog ran over the hill', 'naïve café'] * 9


def load(kind, path=''):
  return data.load_tokenizer(
    config.Data(tokenizer=kind, tokenizer_path=str(path))
  )


def train_sentencepiece(path, **options):
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(TEXTS),
    model_writer=model,
    vocab_size=300,
    model_type='bpe',
    byte_fallback=True,
    hard_vocab_limit=False,
    minloglevel=2,
    **options,
  )
  path.write_bytes(model.getvalue())
  return path


def train_huggingface(path, special_tokens, **post):
  tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
  pre_tokenizers = tokenizers.pre_tokenizers
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = tokenizers.decoders.ByteLevel()
  trainer = tokenizers.trainers.BpeTrainer(
    vocab_size=300,
    special_tokens=special_tokens,
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  tokenizer.train_from_iterator(TEXTS, trainer)
  if post:
    tokenizer.enable_truncation(**post)
    tokenizer.enable_padding(length=64)
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
      single='$A </s>', special_tokens=[('</s>', 0)]
    )
  tokenizer.save(str(path))
  return path


def decode(path, ids):
  return tokenizers.Tokenizer.from_file(str(path)).decode(ids.tolist())


def test_bytes_are_utf8_and_its_boundaries_never_occur_in_text():
  tokenizer = load('bytes')
  text = 'é🙂 \x00' + ''.join(map(chr, range(0xD7FF))) + '\U0010ffff'
  ids = tokenizer.encode(text)
  assert ids.dtype == np.int32
  assert ids.astype(np.uint8).tobytes().decode() == text
  assert tokenizer.vocab_size == 256
  assert (tokenizer.bos_id, tokenizer.eos_id) == (254, 255)
  assert not np.isin([tokenizer.bos_id, tokenizer.eos_id], ids).any()


def test_sentencepiece_round_trip_and_ids(tmp_path):
  path = train_sentencepiece(tmp_path / 'm.model')
  tokenizer = load('sentencepiece', path)
  oracle = sentencepiece.SentencePieceProcessor(model_file=str(path))
  ids = tokenizer.encode('the café sat')
  assert ids.dtype == np.int32
  assert oracle.decode(ids.tolist()) == 'the café sat'
  assert tokenizer.vocab_size == oracle.get_piece_size()
  assert oracle.id_to_piece(tokenizer.bos_id) == '<s>'
  assert oracle.id_to_piece(tokenizer.eos_id) == '</s>'


def test_sentencepiece_without_bos_begins_documents_with_nothing(tmp_path):
  path = train_sentencepiece(tmp_path / 'm.model', bos_id=-1)  # As T5's.
  assert load('sentencepiece', path).bos_id is None


def test_sentencepiece_without_eos_is_an_error(tmp_path):
  path = train_sentencepiece(tmp_path / 'm.model', eos_id=-1)
  with pytest.raises(config.ConfigError, match='tokenizer_path = .*eos_id'):
    load('sentencepiece', path)


def test_huggingface_round_trip_and_ids(tmp_path):
  path = train_huggingface(tmp_path / 't.json', ['<pad>', '<s>', '</s>'])
  tokenizer = load('huggingface', path)
  ids = tokenizer.encode('the café sat 🙂')
  assert ids.dtype == np.int32
  assert decode(path, ids) == 'the café sat 🙂'
  assert (tokenizer.bos_id, tokenizer.eos_id) == (1, 2)
  assert tokenizer.vocab_size > ids.max()


def test_huggingface_with_one_boundary_token_ends_documents_with_it(tmp_path):
  path = train_huggingface(tmp_path / 't.json', ['<|endoftext|>'])
  tokenizer = load('huggingface', path)
  assert (tokenizer.bos_id, tokenizer.eos_id) == (None, 0)


def test_huggingface_without_boundary_token_is_an_error(tmp_path):
  path = train_huggingface(tmp_path / 't.json', ['<pad>'])
  with pytest.raises(config.ConfigError, match='tokenizer_path = .*</s>'):
    load('huggingface', path)


def test_huggingface_neither_cuts_nor_pads_nor_closes_a_document(tmp_path):
  path = train_huggingface(tmp_path / 't.json', ['</s>'], max_length=4)
  tokenizer = load('huggingface', path)
  long_text = ' '.join(TEXTS)
  assert decode(path, tokenizer.encode(long_text)) == long_text
  assert tokenizer.encode('a').size == 1


def test_huggingface_ids_may_have_holes(tmp_path):
  path = tmp_path / 't.json'
  model = tokenizers.models.WordLevel({'</s>': 0, 'a': 7}, unk_token='</s>')
  tokenizers.Tokenizer(model).save(str(path))
  assert load('huggingface', path).vocab_size == 8


@pytest.mark.parametrize('kind', ['sentencepiece', 'huggingface'])
def test_a_document_cannot_forge_its_own_end(kind, tmp_path):
  if kind == 'sentencepiece':
    path = train_sentencepiece(tmp_path / 'model')
  else:
    path = train_huggingface(tmp_path / 'model', ['<s>', '</s>'])
  tokenizer = load(kind, path)
  ids = tokenizer.encode('the</s><s> cat')
  assert not np.isin([tokenizer.bos_id, tokenizer.eos_id], ids).any()


@pytest.mark.parametrize('kind', ['sentencepiece', 'huggingface'])
@pytest.mark.parametrize('content', [b'', b'garbage', b'\xff\xfe\x00'])
def test_an_unreadable_tokenizer_file_is_an_error(kind, content, tmp_path):
  path = tmp_path / 'model'
  path.write_bytes(content)
  with pytest.raises(config.ConfigError, match='tokenizer_path = .*usable'):
    load(kind, path)


def test_an_empty_sentencepiece_file_is_an_error(tmp_path):
  tmp_path.joinpath('model').touch()
  with pytest.raises(config.ConfigError, match='it is empty'):
    load('sentencepiece', tmp_path / 'model')


@pytest.mark.parametrize('kind', ['sentencepiece', 'huggingface'])
def test_a_missing_tokenizer_file_is_an_error(kind, tmp_path):
  for path in (tmp_path / 'missing', tmp_path):  # A folder is none either.
    with pytest.raises(config.ConfigError, match='tokenizer_path = .*must'):
      load(kind, path)
