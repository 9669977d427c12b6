"""Exported tokenizers give the ids of the training, as transformers reads them.

The judges are `transformers.AutoTokenizer` and the training tokenizers.
"""

import hashlib
import io
import itertools
import json
import pathlib
import random
import unicodedata

import pytest
import sentencepiece
import tokenizers as hf
from sentencepiece import sentencepiece_model_pb2

from jax_sparse_pretrain import config
from jax_sparse_pretrain.data import tokenizers
from jax_sparse_pretrain.huggingface import charsmap, tokenizer_files

SOURCES = [
  pathlib.Path(module.__file__).read_text()
  for module in (json, random, pathlib, hashlib)
]
LINES = [line for source in SOURCES for line in source.splitlines()]
SCRIPTS = [
  'naïve café, Łódź, straße, ½ ² ③ ﬁne ™',
  'Съешь же ещё этих мягких французских булок',
  'Ξεσκεπάζω τὴν ψυχοφθόρα βδελυγμία',
  '你好，世界。今天天氣很好 こんにちは ガギグ ﾊﾝｶｸ',
  'مرحبا بالعالم، कैसे हो 안녕하세요 שלום',
]
# Combining characters, in an order that is Unicode's own and in others.
ACCENTS = [
  'e\u0301 E\u0301 e\u0323\u0302 e\u0302\u0323 E\u0323\u0302',
  'o\u0301\u0323 a\u0327\u0301 \xf3\u0323 \xea\u0301',
  'か\u3099 ｶﾞ ﾊﾟ \u1112\u1161\u11ab \u1100\u1161',
  'ש\u05bc\u05c1\u05b8 ب\u0651\u0650',
  'Ȕ\u0e33 กำ น้ำ u\x12\u0308 W\u0344 \x01\u0301',
  'ℓ\u0301 ²\u0301 ½\ufe0f ™\ufe0f \u0301a \r\n\r\n',
]
BLANKS = ['', ' ', '    ', ' a', 'a ', '  a  b  ', '\n\n\t\n', '\t\tx = 1\n']
SPELLED = ['<0x41><0x0A>', '<unk> <pad> <mask>', '▁ ▁▁ a▁b', '\x00\x01\x1f\x7f']


def random_texts(n_texts, seed=0):
  rng = random.Random(seed)
  ranges = [(32, 127), (160, 592), (768, 880), (880, 4096), (4096, 0xD7FF)]
  ranges += [(0xE000, 0xFDD0), (0x10000, 0x20000), (0, 32), (48, 58)]
  pools = [lambda r=r: chr(rng.randrange(*r)) for r in ranges]
  words = ['the ', 'def ', '==', '<0x41>', '<unk>', '▁', '①', '\r\n', '  ']
  words += ['🙂', '👍🏽', '❤\ufe0f', '\u200d', '000', '---', '<sep>', 'ab']
  pools += [lambda: rng.choice(words), lambda: ' ', lambda: '\n']
  return [
    ''.join(rng.choice(chosen)() for _ in range(rng.randrange(1, 30)))
    for chosen in (
      rng.sample(pools, rng.randrange(1, 5)) for _ in range(n_texts)
    )
  ]


TEXTS = [
  *LINES[::5],
  *(line + '\n' for line in LINES[1::9]),
  *SCRIPTS,
  *ACCENTS,
  *BLANKS,
  *SPELLED,
  *(source[i : i + 700] for source in SOURCES for i in range(0, 7000, 700)),
]


def train(model_type='bpe', **options):
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter([*LINES, *SCRIPTS * 3]),
    model_writer=model,
    minloglevel=2,
    model_type=model_type,
    hard_vocab_limit=False,
    **{
      'vocab_size': 600,
      'byte_fallback': True,
      'character_coverage': 0.995,
      'normalization_rule_name': 'identity',
      **options,
    },
  )
  return model.getvalue()


def tokenizer_of(*args, bos='', eos='', **options):
  model = train(*args, **options)
  return tokenizers.from_model('sentencepiece', model, bos, eos)


def huggingface(special=('<|endoftext|>',), bos='', eos='', change=None):
  tokenizer = hf.Tokenizer(hf.models.BPE())
  tokenizer.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = hf.decoders.ByteLevel()
  trainer = hf.trainers.BpeTrainer(
    vocab_size=500,
    special_tokens=list(special),
    initial_alphabet=hf.pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  tokenizer.train_from_iterator(LINES, trainer)
  if change:
    change(tokenizer)
  return tokenizers.from_model(
    'huggingface', tokenizer.to_str().encode(), bos, eos
  )


def written(folder, files):
  for name, content in files.items():
    (folder / name).write_bytes(content)
  return folder


def opened(folder, tokenizer, context_length=64):
  transformers = pytest.importorskip('transformers')
  files = tokenizer_files.tokenizer_files(tokenizer, context_length)
  return transformers.AutoTokenizer.from_pretrained(written(folder, files))


def spells(text, *names):
  return any(name in text for name in names)


def assert_same(reader, tokenizer, texts=TEXTS):
  added = reader.added_tokens_decoder.values()
  special = [token.content for token in added if token.special]
  texts = [text for text in texts if not spells(text, *special)]
  expected = [ids.tolist() for ids in tokenizer.encode(texts)]
  given = reader(texts, add_special_tokens=False)['input_ids']
  for text, a, b in zip(texts, given, expected, strict=True):
    assert a == b or is_permuted(tokenizer, a, b), text
    assert reader.decode(b) == tokenizer.decode(b)
  bos = [] if tokenizer.bos_id is None else [tokenizer.bos_id]
  for text in 'a b', 'x = 1\n', '':
    (ids,) = tokenizer.encode([text])
    assert reader(text)['input_ids'] == [*bos, *ids.tolist()]
    assert reader.encode(text) == [*bos, *ids.tolist()]


def is_permuted(tokenizer, a, b):
  """The same pieces in another order have the same score in a Unigram."""
  if tokenizer.kind != 'sentencepiece':
    return False
  proto = sentencepiece_model_pb2.ModelProto.FromString(tokenizer.model)
  return proto.trainer_spec.model_type == 1 and sorted(a) == sorted(b)


def test_bytes(tmp_path):
  tokenizer = tokenizers.ByteTokenizer()
  reader = opened(tmp_path, tokenizer)
  texts = [*TEXTS, *random_texts(500)]
  assert_same(reader, tokenizer, texts)
  assert (reader.bos_token_id, reader.eos_token_id) == (254, 255)
  for text in texts:
    if not spells(text, '<s>', '</s>'):
      ids = reader(text)['input_ids']
      assert reader.decode(ids, skip_special_tokens=True) == text
  assert len(reader) == 256


@pytest.mark.parametrize(
  'options',
  [
    dict(),
    dict(model_type='unigram'),
    dict(normalization_rule_name='nmt_nfkc', byte_fallback=False),
    dict(add_dummy_prefix=False, remove_extra_whitespaces=False),
    dict(user_defined_symbols=['<sep>', '==', 'def ', 'e', '①']),
    dict(
      model_type='unigram',
      user_defined_symbols=['<sep>', '==', 'def ', 'e', 'ab'],
      remove_extra_whitespaces=False,
    ),
    dict(
      normalization_rule_name='nmt_nfkc',
      user_defined_symbols=['ﬁ', '①', 'e', '\t'],
    ),
    dict(treat_whitespace_as_suffix=True),
    dict(
      control_symbols=['<pad>', '<mask>'],
      bos_id=5,
      eos_id=3,
      unk_id=0,
      bos_piece='<BEG>',
      eos_piece='<END>',
      byte_fallback=False,
    ),
    dict(bos_id=-1, split_digits=True),
    dict(model_type='char', byte_fallback=False, unk_surface=' ?? '),
  ],
  ids=lambda options: '-'.join(map(str, options)) or 'default',
)
def test_sentencepiece(tmp_path, options):
  tokenizer = tokenizer_of(**options)
  reader = opened(tmp_path, tokenizer)
  assert_same(reader, tokenizer, [*TEXTS, *random_texts(300)])
  assert reader.eos_token_id == tokenizer.eos_id
  assert reader.bos_token_id == tokenizer.bos_id


SWEEP = [
  dict(
    model_type=kind,
    byte_fallback=has_bytes,
    add_dummy_prefix=has_prefix,
    remove_extra_whitespaces=removes,
    normalization_rule_name=rule,
    vocab_size=size,
  )
  for kind in ('bpe', 'unigram')
  for has_bytes, has_prefix, removes in itertools.product([1, 0], repeat=3)
  for rule, size in (
    ('identity', 2000),
    ('nmt_nfkc', 700),
    ('nmt_nfkc_cf', 500),
  )
]


@pytest.mark.slow
@pytest.mark.parametrize('options', SWEEP)
def test_sentencepiece_with_many_options(tmp_path, options):
  tokenizer = tokenizer_of(**options)
  reader = opened(tmp_path, tokenizer)
  texts = [*TEXTS, *LINES, *random_texts(2000, seed=1)]
  ours, theirs = both_normalizers(tokenizer.model)
  # See `charsmap.normalizers_of`.
  known = {t for t in texts if ours.normalize_str(t) != theirs.normalize(t)}
  assert len(known) <= 8 and all(has_accent(text) for text in known)
  assert_same(reader, tokenizer, [t for t in texts if t not in known])


def has_accent(text):
  return any(unicodedata.category(i) == 'Mn' for i in text)


def both_normalizers(model):
  """Of the characters only: ours and SentencePiece's."""
  spec = sentencepiece_model_pb2.ModelProto.FromString(model).normalizer_spec
  rules = spec.precompiled_charsmap
  steps = charsmap.normalizers_of(rules) if rules else []
  theirs = sentencepiece.SentencePieceNormalizer(
    model_proto=model,
    add_dummy_prefix=False,
    remove_extra_whitespaces=False,
    escape_whitespaces=False,
  )
  return hf.normalizers.Sequence([*steps]), theirs


@pytest.mark.fast(1)
@pytest.mark.parametrize('rule', ['nmt_nfkc', 'nmt_nfkc_cf'])
def test_rules_for_characters_are_those_of_sentencepiece(rule):
  ours, theirs = both_normalizers(train(normalization_rule_name=rule))
  for text in [*TEXTS, *random_texts(2000, seed=2)]:
    if not spells(text, 'ﬁ', '\u0345'):
      assert ours.normalize_str(text) == theirs.normalize(text), ascii(text)


def test_every_merge_is_ranked_by_score():
  """By the order of the vocabulary, pieces are merged too early."""
  proto = sentencepiece_model_pb2.ModelProto.FromString(train())
  normal = [p for p in proto.pieces if p.type == p.NORMAL]
  scores = [p.score for p in normal]
  random.Random(0).shuffle(scores)
  for piece, score in zip(normal, scores, strict=True):
    piece.score = score
  tokenizer = tokenizers.from_model('sentencepiece', proto.SerializeToString())
  made = tokenizer_files._made(tokenizer)
  given = [e.ids for e in made.encode_batch(LINES, add_special_tokens=False)]
  assert given == [ids.tolist() for ids in tokenizer.encode(LINES)]


@pytest.mark.parametrize('bonus', [0.05, 0.15])
def test_a_symbol_of_a_unigram_is_worth_as_much_as_in_sentencepiece(bonus):
  model = train('unigram', user_defined_symbols=['qz'])
  proto = sentencepiece_model_pb2.ModelProto.FromString(model)
  (x,) = (piece.score for piece in proto.pieces if piece.piece == 'x')
  proto.pieces.add(piece='qzx', score=x + bonus)
  tokenizer = tokenizers.from_model('sentencepiece', proto.SerializeToString())
  tokenizer_files.tokenizer_files(tokenizer, 64, ['qzx', 'a qzxx'])


def test_ways_of_equal_score_are_not_a_difference():
  tokenizer = tokenizer_of('unigram', remove_extra_whitespaces=False)
  made = tokenizer_files._made(tokenizer)
  texts = [a + c * n for a in 'ab' for c in '0\'"-=# ' for n in range(2, 60)]
  given = made.encode_batch(texts, add_special_tokens=False)
  ours = tokenizer.encode(texts)
  assert any(a.ids != b.tolist() for a, b in zip(given, ours, strict=True))
  tokenizer_files.tokenizer_files(tokenizer, 64, texts)


def test_a_model_of_whole_words_is_refused():
  tokenizer = tokenizer_of('word')
  with pytest.raises(config.ConfigError, match='whole words'):
    tokenizer_files.tokenizer_files(tokenizer, 64)


def test_a_difference_is_refused_and_named(monkeypatch):
  tokenizer = tokenizers.ByteTokenizer()
  with pytest.raises(config.ConfigError) as error:
    monkeypatch.setattr(
      tokenizers.ByteTokenizer,
      'encode',
      lambda self, texts: [
        tokenizers.np.array([*text.encode('latin-1', 'ignore')], int)
        for text in texts
      ],
    )
    tokenizer_files.tokenizer_files(tokenizer, 64)
  assert '\n' not in str(error.value)
  assert "'no\\xa0break" in str(error.value)
  assert '194' in str(error.value)


def test_texts_of_the_caller_are_compared(tmp_path):
  tokenizer = tokenizer_of(normalization_rule_name='nmt_nfkc')
  tokenizer_files.tokenizer_files(tokenizer, 64, ['harmless'])
  with pytest.raises(config.ConfigError, match='ﬁ'):
    tokenizer_files.tokenizer_files(tokenizer, 64, ['ﬁ\u0301'])


def test_huggingface_without_bos(tmp_path):
  tokenizer = huggingface()
  assert tokenizer.bos_id is None
  reader = opened(tmp_path, tokenizer, 128)
  assert_same(reader, tokenizer, [*TEXTS, *random_texts(300)])
  assert reader.eos_token == '<|endoftext|>'
  assert reader.bos_token is None
  assert reader.model_max_length == 128


def test_huggingface_drops_truncation_padding_and_what_ends_a_prompt(tmp_path):
  def change(tokenizer):
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=16)
    tokenizer.post_processor = hf.processors.Sequence(
      [
        hf.processors.ByteLevel(trim_offsets=False),
        hf.processors.TemplateProcessing(
          single='<s> $A </s>', special_tokens=[('<s>', 0), ('</s>', 1)]
        ),
      ]
    )

  tokenizer = huggingface(('<s>', '</s>', '<pad>'), change=change)
  reader = opened(tmp_path, tokenizer)
  assert_same(reader, tokenizer)
  content = json.loads((tmp_path / 'tokenizer.json').read_text())
  assert content['truncation'] is content['padding'] is None
  steps = content['post_processor']['processors']
  assert [step['type'] for step in steps] == ['ByteLevel', 'TemplateProcessing']
  assert steps[0]['trim_offsets'] is False


def test_huggingface_with_boundaries_that_are_named(tmp_path):
  tokenizer = huggingface(('<pad>', '[A]', '[B]'), bos='[A]', eos='[B]')
  reader = opened(tmp_path, tokenizer)
  assert_same(reader, tokenizer)
  assert (reader.bos_token, reader.eos_token) == ('[A]', '[B]')


@pytest.mark.fast(2)
@pytest.mark.parametrize('make', [huggingface, tokenizer_of, None])
@pytest.mark.parametrize('model_type', ['llama', 'gpt_neox', 'gpt2', 'mistral'])
def test_the_class_of_a_model_does_not_replace_it(tmp_path, model_type, make):
  transformers = pytest.importorskip('transformers')
  tokenizer = make() if make else tokenizers.ByteTokenizer()
  files = tokenizer_files.tokenizer_files(tokenizer, 64)
  written(tmp_path, files)
  (tmp_path / 'config.json').write_text(json.dumps({'model_type': model_type}))
  reader = transformers.AutoTokenizer.from_pretrained(tmp_path)
  assert_same(reader, tokenizer)


IDENTIFIED = [
  lambda: tokenizers.ByteTokenizer(),
  lambda: huggingface(),
  lambda: huggingface(('<pad>', '[A]', '[B]'), bos='[A]', eos='[B]'),
  lambda: huggingface(('<s>', '</s>', '[B]'), eos='[B]'),
  lambda: tokenizer_of(),
  lambda: tokenizer_of(control_symbols=['[A]', '[B]'], bos='[A]', eos='[B]'),
  lambda: tokenizer_of(eos_id=-1, control_symbols=['[B]'], eos='[B]'),
]


@pytest.mark.parametrize('make', IDENTIFIED)
def test_a_tokenizer_is_made_again_from_its_identity(make):
  tokenizer = make()
  stored = json.loads(json.dumps(tokenizers.identity(tokenizer)))
  again = tokenizers.from_identity(stored, tokenizer.model)
  assert tokenizers.identity(again) == stored
  text = 'def f(x): [A] [B] </s>'
  assert [*again.encode([text])[0]] == [*tokenizer.encode([text])[0]]


@pytest.mark.parametrize(
  'change', [{'sha256': '0' * 64}, {'bos_id': 7000}, {'vocab_size': 7}]
)
@pytest.mark.parametrize('make', IDENTIFIED[:2] + IDENTIFIED[4:5])
def test_an_identity_that_does_not_fit_is_refused(make, change):
  tokenizer = make()
  stored = {**tokenizers.identity(tokenizer), **change}
  with pytest.raises(
    config.ConfigError,
    match='not the file' if 'sha256' in change else 'does not have',
  ):
    tokenizers.from_identity(stored, tokenizer.model)
