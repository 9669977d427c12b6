"""The tokenizer of a run as files that `transformers.AutoTokenizer` opens."""

import json
import math
import random
import re
import unicodedata
from collections.abc import Iterator, Sequence

import tokenizers as hf
from tokenizers import decoders, models, pre_tokenizers, processors

from jax_sparse_pretrain import schema
from jax_sparse_pretrain.data import tokenizers as tokenizers_lib
from jax_sparse_pretrain.data.tokenizers import Tokenizer

# Texts in which tokenizers were found to differ.
_DIFFICULT = (
  '',
  ' ',
  '   ',
  ' a',
  'a ',
  '  two  blanks   and three ',
  'a\nb\n\nc\r\nd\re',
  '\tif x:\n\t\treturn\n        pass  \n',
  'no\u00a0break, thin\u2009blank, \u3000wide, \u200bzero width\ufeff',
  'def f(x):\n  return {"a": [1, 2.5e-3, 0xFF]}  # note\n',
  '<div class="a">&amp;</div> http://example.org/?q=1&r=%20~user',
  '0 00 000 1234567890 3.14159 1,000,000 ½ ² ③ Ⅳ ٣ १',
  'naïve café, ÀÉÎÕÜ, straße, ŁÓDŹ, İstanbul',
  'nai\u0308ve cafe\u0301, E\u0301E\u0300, Vie\u0323\u0302t Nam',
  'Съешь же ещё этих мягких французских булок',
  'Ξεσκεπάζω τὴν ψυχοφθόρα βδελυγμία',
  'مرحبا بالعالم، كيف الحال؟',
  'שָׁלוֹם עוֹלָם',
  'नमस्ते दुनिया, क्षत्रिय',
  'สวัสดีชาวโลก',
  '你好，世界。今天天氣很好',
  'こんにちは、ガギグ カ\u3099 ﾊﾝｶｸ ﾊﾞﾊﾟ ｶﾞ',
  '안녕하세요 \u1112\u1161\u11ab\u1100\u1173\u11af',
  'ﬁne ﬂow Ａｂｃ１２ ™ ℃ ㌔ ﷺ …',
  '🙂 👍🏽 👨\u200d👩\u200d👧 🇩🇪 ❤\ufe0f 1\ufe0f\u20e3',
  '\x00\x01\x07\x08\x0b\x0c\x1b[0m\x7f\x85\u2028\u2029\ufffd',
  '\U0001d54f\U00020000\ue000\U0010fffd',
  '"quoted" \'single\' “curly” ‘so’ — – - ‐ ‑ ~ ～',
  '▁ ▁▁ a▁b ▁a▁',
  '<0x41> <unk> <pad> <mask> [CLS] [UNK] <|im_start|>',
  "I'm, we'll, DON'T; aren't... wait---what?!",
  'aaaaaaa ------- ======= ....... \n\n\n\n\n\n\n',
)
# Characters or ids of a message.
_SHORT = 32
# SentencePiece adds scores as float32.
_ROUNDING = 1e-6


def tokenizer_files(
  tokenizer: Tokenizer, context_length: int, texts: Sequence[str] = ()
) -> dict[str, bytes]:
  """Files by name, for a directory that `AutoTokenizer` opens.

  A prompt gets the ids that a document had in training: BOS, where there is
  one, and those of its text; no EOS, which would end it.

  The ids are compared before: of every piece of the vocabulary, pairs of
  pieces, difficult texts and `texts`; and what they decode to. Differences
  that are known and left out:

  - A text that spells a special token, such as '</s>', has its id in
    `transformers` and had the ids of its characters in training.
  - Where two ways to cut a text have equal scores, as with a row of dashes, a
    Unigram of SentencePiece takes the one that its rounding favours.
  - Some accents: see `charsmap.normalizers_of`; and the private characters
    from U+F0000 on, which stand for the user-defined symbols of SentencePiece.

  A config.json beside them must not name a model type for which transformers 5
  replaces every tokenizer by its own, as it does for qwen2; llama is none.

  Args:
    tokenizer: that of the training.
    context_length: tokens that the model can read.
    texts: more to compare.

  Raises:
    ConfigError: if the ids of a text differ, or for a model that has no such
      files.
  """
  given = _made(tokenizer).to_str(pretty=True)
  made = hf.Tokenizer.from_str(given)
  _compare(tokenizer, made, [*_sample(tokenizer, made), *texts])
  config = {
    'tokenizer_class': 'PreTrainedTokenizerFast',
    'eos_token': made.id_to_token(tokenizer.eos_id),
    'model_max_length': context_length,
    'clean_up_tokenization_spaces': False,
  }
  if tokenizer.bos_id is not None:
    config['bos_token'] = made.id_to_token(tokenizer.bos_id)
  return {
    'tokenizer.json': given.encode(),
    'tokenizer_config.json': (json.dumps(config, indent=2) + '\n').encode(),
  }


def difference(ours: Tokenizer, theirs: Tokenizer) -> str:
  """What keeps two tokenizers apart, in words; empty if nothing was found.

  Boundaries are compared, and the ids of difficult texts and of all pieces. One
  may have no BOS where the other has: documents begin without it, too.
  """
  if tokenizers_lib.identity(ours) == tokenizers_lib.identity(theirs):
    return ''
  for name in ('bos_id', 'eos_id'):
    a, b = getattr(ours, name), getattr(theirs, name)
    if a != b and None not in (a, b):
      return f'{name} is {b}, not {a}'
  made = [_made(each) for each in (ours, theirs)]
  texts = [*dict.fromkeys(_sample(ours, made[0]))]
  encoded = [
    each.encode_batch_fast(texts, add_special_tokens=False) for each in made
  ]
  for text, a, b in zip(texts, *encoded, strict=True):
    if a.ids != b.ids:
      return f'{_cut(text)} has the ids {_cut(b.ids)}, not {_cut(a.ids)}'
  return ''


def _made(tokenizer: Tokenizer) -> hf.Tokenizer:
  ends = [i for i in (tokenizer.bos_id, tokenizer.eos_id) if i is not None]
  if tokenizer.kind == 'bytes':
    made = _of_bytes(tokenizer)
  elif tokenizer.kind == 'sentencepiece':
    from jax_sparse_pretrain.huggingface import sentencepiece_files

    made = sentencepiece_files.converted(tokenizer.model, ends)
  else:
    made = hf.Tokenizer.from_str(tokenizer.model.decode())
    made.no_truncation()
    made.no_padding()
  names = [made.id_to_token(i) for i in ends]
  made.add_special_tokens(
    [hf.AddedToken(name, special=True, normalized=False) for name in names]
  )
  steps = _offsets(json.loads(made.to_str()))
  if tokenizer.bos_id is not None:
    bos = names[0]
    steps.append(
      processors.TemplateProcessing(
        single=[bos, '$A'],
        pair=[bos, '$A', '$B:1'],
        special_tokens=[(bos, tokenizer.bos_id)],
      )
    )
  made.post_processor = processors.Sequence(steps) if steps else None
  return made


def _of_bytes(tokenizer: Tokenizer) -> hf.Tokenizer:
  """Byte-level BPE without merges."""
  printed = {*range(33, 127), *range(161, 173), *range(174, 256)}
  others = [i for i in range(256) if i not in printed]
  vocab = {chr(i): i for i in printed}
  vocab |= {chr(256 + n): i for n, i in enumerate(others)}
  for name, i in ('<s>', tokenizer.bos_id), ('</s>', tokenizer.eos_id):
    del vocab[chr(i)]
    vocab[name] = i
  made = hf.Tokenizer(models.BPE(vocab, []))
  made.pre_tokenizer = pre_tokenizers.ByteLevel(
    add_prefix_space=False, use_regex=False
  )
  made.decoder = decoders.ByteLevel()
  return made


def _offsets(content: dict) -> list[processors.PostProcessor]:
  """The steps of a post-processor that change no ids, only offsets."""
  processor = content.get('post_processor') or {}
  for step in processor.get('processors', [processor]):
    if step.get('type') in ('ByteLevel', 'RobertaProcessing'):
      return [processors.ByteLevel(trim_offsets=step['trim_offsets'])]
  return []


def _sample(tokenizer: Tokenizer, made: hf.Tokenizer) -> Iterator[str]:
  yield from _DIFFICULT
  ids = sorted(made.get_vocab().values())
  for i in ids:
    yield tokenizer.decode([i])
    name = made.id_to_token(i)
    if not any(unicodedata.category(c) == 'Co' for c in name):
      yield name
  others = random.Random(0).sample(ids, len(ids))
  for pair in zip(ids, others, strict=True):
    yield tokenizer.decode(pair)


def _compare(
  tokenizer: Tokenizer, made: hf.Tokenizer, sample: Sequence[str]
) -> None:
  added = made.get_added_tokens_decoder().values()
  special = re.compile(
    '|'.join(re.escape(token.content) for token in added if token.special)
  )
  texts = [text for text in dict.fromkeys(sample) if not special.search(text)]
  expected = tokenizer.encode(texts)
  encodings = made.encode_batch_fast(texts, add_special_tokens=False)
  scores = _scores(made)
  for text, array, encoding in zip(texts, expected, encodings, strict=True):
    ids = array.tolist()
    if encoding.ids != ids and not _is_tie(scores, encoding.ids, ids):
      raise schema.ConfigError(
        f'the tokenizer.json gives other ids than the training: {_cut(text)}: '
        f'{_cut(encoding.ids)}, not {_cut(ids)}'
      )
    given = made.decode(ids, skip_special_tokens=False)
    if given != tokenizer.decode(ids):
      raise schema.ConfigError(
        f'the tokenizer.json decodes {_cut(ids)} otherwise than the training: '
        f'{_cut(given)}, not {_cut(tokenizer.decode(ids))}'
      )


def _scores(made: hf.Tokenizer) -> list[float]:
  """The scores of a Unigram, else none."""
  model = json.loads(made.to_str())['model']
  is_unigram = model['type'] == 'Unigram'
  return [score for _, score in model['vocab']] if is_unigram else []


def _is_tie(scores: list[float], given: list[int], ids: list[int]) -> bool:
  """Whether two ways to cut a text are equal but for rounding."""
  if not scores:
    return False
  a, b = (math.fsum(scores[i] for i in row) for row in (given, ids))
  return math.isclose(a, b, rel_tol=_ROUNDING)


def _cut(value: str | list[int]) -> str:
  if len(value) <= _SHORT:
    return repr(value)
  return f'{value[:_SHORT]!r}...'
