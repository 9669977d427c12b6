"""Tokenizers, on models trained here."""

import io

import numpy as np
import pytest
import sentencepiece
import tokenizers

from jax_sparse_pretrain import config, data

TEXTS = ['the cat sat on the mat', 'a dog ran over the hill', 'naïve café'] * 9


def load(kind, path='', **names):
  return data.load_tokenizer(
    config.Data(tokenizer=kind, tokenizer_path=str(path), **names)
  )


def one(tokenizer, text):
  (ids,) = tokenizer.encode([text])
  return ids


def train_sentencepiece(path, **options):
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(TEXTS),
    model_writer=model,
    vocab_size=300,
    model_type='bpe',
    hard_vocab_limit=False,
    minloglevel=2,
    **{'byte_fallback': True, **options},
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
  ids = one(tokenizer, text)
  assert ids.dtype == np.int32
  assert ids.astype(np.uint8).tobytes().decode() == text
  assert tokenizer.vocab_size == 256
  assert (tokenizer.bos_id, tokenizer.eos_id) == (254, 255)
  assert not np.isin([tokenizer.bos_id, tokenizer.eos_id], ids).any()


def test_sentencepiece_round_trip_and_ids(tmp_path):
  path = train_sentencepiece(tmp_path / 'm.model')
  tokenizer = load('sentencepiece', path)
  oracle = sentencepiece.SentencePieceProcessor(model_file=str(path))
  ids = one(tokenizer, 'the café sat')
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
  with pytest.raises(config.ConfigError, match='tokenizer_path = .*data.eos'):
    load('sentencepiece', path)


def test_huggingface_round_trip_and_ids(tmp_path):
  path = train_huggingface(tmp_path / 't.json', ['<pad>', '<s>', '</s>'])
  tokenizer = load('huggingface', path)
  ids = one(tokenizer, 'the café sat 🙂')
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
  assert decode(path, one(tokenizer, long_text)) == long_text
  assert one(tokenizer, 'a').size == 1


def test_huggingface_ids_may_have_holes(tmp_path):
  path = tmp_path / 't.json'
  model = tokenizers.models.WordLevel({'</s>': 0, 'a': 7}, unk_token='</s>')
  tokenizers.Tokenizer(model).save(str(path))
  assert load('huggingface', path, eos='</s>').vocab_size == 8


@pytest.mark.parametrize('kind', ['sentencepiece', 'huggingface'])
def test_a_document_cannot_forge_its_own_end(kind, tmp_path):
  if kind == 'sentencepiece':
    path = train_sentencepiece(tmp_path / 'model')
  else:
    path = train_huggingface(tmp_path / 'model', ['<s>', '</s>'])
  tokenizer = load(kind, path)
  text = 'the</s><s> cat'
  ids = one(tokenizer, text)
  assert not np.isin([tokenizer.bos_id, tokenizer.eos_id], ids).any()
  assert tokenizer.decode(ids) == text


def words(path, vocabulary, special=(), added=(), template=None):
  """A tokenizer of whole words."""
  ids = {word: i for i, word in enumerate(vocabulary)}
  model = tokenizers.models.WordLevel(ids, unk_token=vocabulary[0])
  tokenizer = tokenizers.Tokenizer(model)
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  tokenizer.add_special_tokens([*special])
  tokenizer.add_tokens([*added])
  if template:
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
      single=template,
      special_tokens=[(name, tokenizer.token_to_id(name)) for name in special],
    )
  tokenizer.save(str(path))
  return path


def test_an_ordinary_word_is_never_taken_for_a_boundary(tmp_path):
  path = words(
    tmp_path / 't.json', ['?', '<s>', '</s>', 'a'], ['<bos>', '<eos>']
  )
  tokenizer = load('huggingface', path)
  assert (tokenizer.bos_id, tokenizer.eos_id) == (4, 5)
  assert one(tokenizer, '<s> a </s>').tolist() == [1, 3, 2]


def test_the_post_processor_decides_before_known_names_do(tmp_path):
  path = words(
    tmp_path / 't.json',
    ['?', 'a'],
    ['<s>', '</s>', '<in>', '<out>'],
    template='<in> $A <out>',
  )
  tokenizer = load('huggingface', path)
  assert (tokenizer.bos_id, tokenizer.eos_id) == (4, 5)


@pytest.mark.parametrize('processor', ['BertProcessing', 'RobertaProcessing'])
def test_older_post_processors_are_understood(processor, tmp_path):
  path = train_huggingface(tmp_path / 't.json', ['[X]', '[CLS]', '[SEP]'])
  tokenizer = tokenizers.Tokenizer.from_file(str(path))
  make = getattr(tokenizers.processors, processor)
  tokenizer.post_processor = make(('[SEP]', 2), ('[CLS]', 1))
  tokenizer.save(str(path))
  tokenizer = load('huggingface', path)
  assert (tokenizer.bos_id, tokenizer.eos_id) == (1, 2)


def test_given_names_decide_before_all_else(tmp_path):
  path = words(
    tmp_path / 't.json',
    ['?', 'a'],
    ['<s>', '</s>', '<in>', '<out>'],
    template='<s> $A </s>',
  )
  tokenizer = load('huggingface', path, bos='<in>', eos='<out>')
  assert (tokenizer.bos_id, tokenizer.eos_id) == (4, 5)
  model = train_sentencepiece(
    tmp_path / 'm.model', control_symbols='<in>,<out>'
  )
  tokenizer = load('sentencepiece', model, bos='<in>', eos='<out>')
  oracle = sentencepiece.SentencePieceProcessor(model_file=str(model))
  assert oracle.id_to_piece(tokenizer.bos_id) == '<in>'
  assert oracle.id_to_piece(tokenizer.eos_id) == '<out>'


@pytest.mark.parametrize('key', ['bos', 'eos'])
def test_a_given_name_that_is_no_token_is_an_error(key, tmp_path):
  hf = train_huggingface(tmp_path / 't.json', ['</s>'])
  sp = train_sentencepiece(tmp_path / 'm.model')
  for kind, path in (('huggingface', hf), ('sentencepiece', sp)):
    with pytest.raises(config.ConfigError, match=f"data.{key} = '<no>'"):
      load(kind, path, **{key: '<no>'})


def test_boundaries_that_the_model_itself_knows_are_not_encoded(tmp_path):
  """A word of the vocabulary, special or added, that text may spell."""
  special = words(tmp_path / '1', ['?', 'a', '</s>'], ['</s>'])
  added = words(tmp_path / '2', ['?', 'a'], added=['<end>'])
  ordinary = words(tmp_path / '3', ['?', 'a', '<end>'])
  symbol = train_sentencepiece(tmp_path / '4', user_defined_symbols='<end>')
  for kind, path, name, eos in [
    ('huggingface', special, '</s>', ''),
    ('huggingface', added, '<end>', '<end>'),
    ('huggingface', ordinary, '<end>', '<end>'),
    ('sentencepiece', symbol, '<end>', '<end>'),
  ]:
    tokenizer = load(kind, path, eos=eos)
    plain, forged = tokenizer.encode(['a a', f'a {name} a'])
    assert tokenizer.eos_id not in forged
    assert forged.size > plain.size
    assert (forged[0], forged[-1]) == (plain[0], plain[-1])


def test_a_boundary_that_ordinary_text_gives_is_an_error(tmp_path):
  path = words(tmp_path / 't.json', ['?', 'a', 'b'])
  tokenizer = load('huggingface', path, eos='b')
  assert one(tokenizer, 'a a').tolist() == [1, 1]
  with pytest.raises(config.ConfigError, match="'b'.*must be special tokens"):
    tokenizer.encode(['a b'])


@pytest.mark.parametrize('kind', ['bytes', 'sentencepiece', 'huggingface'])
def test_decoding_gives_the_text_without_boundaries(kind, tmp_path):
  path = ''
  if kind == 'sentencepiece':
    path = train_sentencepiece(tmp_path / 'model')
  elif kind == 'huggingface':
    path = train_huggingface(tmp_path / 'model', ['<s>', '</s>'])
  tokenizer = load(kind, path)
  text = 'the café sat 🙂'
  ids = [tokenizer.bos_id, *one(tokenizer, text), tokenizer.eos_id]
  assert tokenizer.decode(ids) == text
  assert tokenizer.decode(np.array(ids, np.uint16)) == text


def test_texts_are_encoded_together_as_alone(tmp_path):
  hf = train_huggingface(tmp_path / 't.json', ['</s>'])
  sp = train_sentencepiece(tmp_path / 'm.model')
  for kind, path in (
    ('bytes', ''),
    ('huggingface', hf),
    ('sentencepiece', sp),
  ):
    tokenizer = load(kind, path)
    together = tokenizer.encode(TEXTS)
    for text, ids in zip(TEXTS, together, strict=True):
      np.testing.assert_array_equal(one(tokenizer, text), ids)


def test_the_share_of_characters_without_a_token_is_told(tmp_path):
  characters = {c: i for i, c in enumerate('abc')}
  tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(characters, []))
  tokenizer.add_special_tokens(['</s>'])
  tokenizer.save(str(tmp_path / 't.json'))
  tokenizer = load('huggingface', tmp_path / 't.json')
  # Blanks have no token here either, and do not count.
  assert tokenizer.unknown_share(['abc  cab', 'xy']) == pytest.approx(2 / 8)
  assert tokenizer.unknown_share(['abc']) == 0
  path = words(tmp_path / 'w.json', ['?', 'abc'], ['</s>'])
  tokenizer = load('huggingface', path)
  assert tokenizer.unknown_share(['abc abc de']) == pytest.approx(2 / 8)
  path = train_huggingface(tmp_path / 'b.json', ['</s>'])
  assert load('huggingface', path).unknown_share(['naïve 🙂 日本']) == 0
  known = ''.join(TEXTS).split()[0]
  for byte_fallback, share in ((True, 0), (False, 2 / (len(known) + 3))):
    path = train_sentencepiece(tmp_path / 'm', byte_fallback=byte_fallback)
    tokenizer = load('sentencepiece', path)
    assert tokenizer.unknown_share([f'{known}  日{known[0]}', '本']) == share


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
