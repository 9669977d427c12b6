"""The corpus: tokens to train on, tokens held out, and what identifies them."""

import collections
import contextlib
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from jax_sparse_pretrain import config, storage
from jax_sparse_pretrain.data import (
  documents,
  encoding,
  files,
  rows,
  shards,
  tfds,
  tokenizers,
)
from jax_sparse_pretrain.schema import one_line
from jax_sparse_pretrain.text import count, known, size

# More text than this is tokenized once by `prepare`, not at each start.
_LARGEST_IN_MEMORY = 2 << 30


class Corpus(NamedTuple):
  """Two splits, neither empty, and what identifies them.

  Attributes:
    train: the tokens of each set; one, if there is no mixture.
    weights: of the sets.
    validation: the tokens held out, of all sets.
    tokenizer: made the tokens; None if only its boundaries are known.
    vocab_size: every id is below it.
    document_end: the id that closes a document.
    fingerprint: values for JSON. They are equal for equal tokens in equal
      order, wherever they lie.
    notes: lines for a person: what was read, and what was left out.
  """

  train: tuple[rows.Tokens, ...]
  weights: tuple[float, ...]
  validation: rows.Tokens
  tokenizer: tokenizers.Tokenizer | None
  vocab_size: int
  document_end: int
  fingerprint: dict[str, Any]
  notes: tuple[str, ...]


def open_corpus(
  data: config.Data,
  tokenizer: tokenizers.Tokenizer | None = None,
  is_whole: bool = False,
) -> Corpus:
  """Opens the corpus that `data` names.

  Args:
    data: the checked section of a config.
    tokenizer: to be used instead of the one that `data` names; prepared tokens
      have one already.
    is_whole: whether all text is wanted, not two splits: nothing is held out
      that is not so already, and one of the splits may be empty.

  Raises:
    ConfigError: if it is missing or malformed, or a split of it is empty.
  """
  if data.source == 'tokens':
    corpus = _open_tokens(data)
  else:
    tokenizer = tokenizer or tokenizers.load_tokenizer(data)
    corpus = _open_in_memory(data, tokenizer, is_whole)
  _check_not_empty(corpus.fingerprint, data, is_whole)
  return corpus


def describe(data: config.Data) -> list[str]:
  """Lines about the corpus for a person, as far as they can be told at once."""
  try:
    if data.source == 'tokens':
      return list(_open_tokens(data).notes)
    sources, notes = sources_of(data)
    return notes or [f'data: {source.name}' for source, _ in sources]
  except Exception as error:  # Object stores raise many kinds.
    return [f'data: not here: {one_line(error)}']


def open_evaluation_set(corpus: Corpus, path: str) -> Corpus:
  """A prepared directory whose validation split a run of `corpus` evaluates.

  Raises:
    ConfigError: if it was prepared with another tokenizer.
  """
  opened = _open_tokens(config.Data(source='tokens', path=path))
  if opened.fingerprint['tokenizer'] != corpus.fingerprint['tokenizer']:
    raise config.ConfigError(
      f'evaluation.sets: {path}: was prepared with another tokenizer than the '
      'data'
    )
  return opened


def _open_tokens(data: config.Data) -> Corpus:
  mixture = data.mixture or ((data.path, 1.0),)
  if not data.path and not data.mixture:
    raise config.ConfigError(
      "data.path = '': must name a directory that prepare has made"
    )
  sets = [prepared_directories(path) for path, _ in mixture]
  directories = [directory for each in sets for directory in each]
  manifests = {d: shards.read_manifest(d) for d in directories}
  about = _common_tokenizer(manifests)
  if data.tokenizer != 'auto':
    _check_tokenizer(data, about)
  splits = {s: _describe(manifests.values(), s) for s in encoding.SPLITS}
  fingerprint = {
    'source': 'tokens',
    'tokenizer': _same_tokens(about),
    **splits,
  }
  if data.mixture:
    fingerprint['mixture'] = [
      {'weight': weight, **_describe([manifests[d] for d in each], 'train')}
      for (_, weight), each in zip(mixture, sets, strict=True)
    ]
  return Corpus(
    train=tuple(shards.open_split(each, manifests, 'train') for each in sets),
    weights=tuple(weight for _, weight in mixture),
    validation=shards.open_split(directories, manifests, 'validation'),
    tokenizer=shards.tokenizer_of(directories[0], about),
    vocab_size=about['vocab_size'],
    document_end=about['eos_id'],
    fingerprint=fingerprint,
    notes=_notes(splits, about),
  )


def _common_tokenizer(manifests: Mapping[Any, dict]) -> dict[str, Any]:
  """What the manifests, by directory, say of the one tokenizer."""
  (first, manifest), *others = manifests.items()
  about = manifest['tokenizer']
  for directory, other in others:
    if _same_tokens(other['tokenizer']) != _same_tokens(about):
      raise config.ConfigError(
        f'{directory}: was prepared with another tokenizer than {first}'
      )
  return about


def _describe(manifests: Iterable[dict], split: str) -> dict[str, Any]:
  """Counts of a split over directories, and one hash of all its shards."""
  splits = [manifest['splits'][split] for manifest in manifests]
  hashes = [shard['sha256'] for each in splits for shard in each['shards']]
  keys = ('documents', 'tokens', 'bytes')
  # The bytes of adopted tokens are not known.
  counts = {key: [each[key] for each in splits] for key in keys}
  return {
    **{k: None if None in v else sum(v) for k, v in counts.items()},
    'sha256': hashlib.sha256(json.dumps(hashes).encode()).hexdigest(),
  }


def is_prepared(path: str) -> bool:
  """Whether a path or a glob names prepared directories."""
  try:
    directories = prepared_directories(path)
    return bool(directories) and (directories[0] / shards.MANIFEST).exists()
  except Exception:  # Object stores raise many kinds; `open_corpus` tells.
    return False


def prepared_directories(path: str) -> list:
  """The directories that a path or a glob of prepared directories names."""
  root = storage.as_path(path)
  if (root / shards.MANIFEST).exists() or not any(c in path for c in '*?['):
    return [root]
  path = path.rstrip('/')
  found = files.find_files(f'{path}/{shards.MANIFEST}').paths.values()
  # One that was begun and not finished is refused, not left out.
  with contextlib.suppress(config.ConfigError):
    begun = files.find_files(f'{path}/{shards.JOURNAL}').paths.values()
    found = [*found, *begun]
  return sorted({file.parent for file in found})


def _same_tokens(about: dict[str, Any]) -> dict[str, Any]:
  keys = ('kind', 'sha256', 'vocab_size', 'bos_id', 'eos_id')
  return {key: about[key] for key in keys}


def _check_tokenizer(data: config.Data, about: dict[str, Any]) -> None:
  given = tokenizers.identity(tokenizers.load_tokenizer(data))
  if given != _same_tokens(about):
    raise config.ConfigError(
      f'data.tokenizer = {data.tokenizer!r}: is not the tokenizer that '
      f"prepared {data.path!r}; use 'auto'"
    )


def _open_in_memory(
  data: config.Data, tokenizer: tokenizers.Tokenizer, is_whole: bool
) -> Corpus:
  sources, notes = sources_of(data, is_whole)
  stamp = [source.stamp() for source, _ in sources]
  # A sweep opens the same corpus for each run.
  key = (data, is_whole, tokenizer.model, *stamp) if all(stamp) else None
  if key is None or key not in _LAST:
    corpus = _read(data, tokenizer, sources, notes)
    _LAST.clear()
    _LAST[key] = corpus
  return _LAST[key]


_LAST: dict[Any, Corpus] = {}


def _read(data: config.Data, tokenizer, sources, notes: list[str]) -> Corpus:
  dropped: collections.Counter = collections.Counter()

  def pieces(counts: collections.Counter):
    for source, reading in sources:
      yield from source.pieces(reading, counts)

  encoding.warn_of_lost_text(tokenizer, pieces(collections.Counter()))
  splits = encoding.encode_in_memory(
    pieces(dropped), tokenizer, _check_fits_in_memory
  )
  held_out = set(splits['validation'].digests)
  digests = splits['train'].digests
  n_shared = sum(digest in held_out for digest in digests)
  encoding.warn_of_shared_documents(n_shared, len(digests))
  about = {name: _about(split) for name, split in splits.items()}
  identity = tokenizers.identity(tokenizer)
  return Corpus(
    train=(rows.ArrayTokens(splits['train'].ids),),
    weights=(1.0,),
    validation=rows.ArrayTokens(splits['validation'].ids),
    tokenizer=tokenizer,
    vocab_size=tokenizer.vocab_size,
    document_end=tokenizer.eos_id,
    fingerprint={'source': data.source, 'tokenizer': identity, **about},
    notes=(
      *notes,
      *(
        f'data: {n:,} documents left out ({what})'
        for what, n in sorted(dropped.items())
      ),
      *_notes(about, identity),
    ),
  )


def _about(split: encoding.EncodedSplit) -> dict[str, Any]:
  return {
    'documents': len(split.digests),
    'tokens': len(split.ids),
    'bytes': split.n_bytes,
    'sha256': hashlib.sha256(split.ids).hexdigest(),
  }


def sources_of(
  data: config.Data, is_whole: bool = False
) -> tuple[list[tuple[documents.Source, documents.Reading]], list[str]]:
  """What to read and how, for all sources but prepared tokens; and notes."""
  fraction = 0.0 if is_whole else data.validation_fraction
  reading = documents.Reading(
    text_field=data.text_feature,
    # A few modules of Python's library are not UTF-8.
    errors='replace' if data.source == 'stdlib' else data.errors,
    validation_fraction=fraction,
    piece_bytes=data.piece_bytes,
    split='train' if is_whole and data.source != 'tfds' else None,
  )
  if data.source == 'tfds':
    return tfds.open_tfds(data, reading), []
  if data.source == 'stdlib':
    found = files.stdlib_files()
  else:
    try:
      found = files.find_files(data.path)
    except config.ConfigError as error:
      raise config.ConfigError(f'data.path = {error}') from error
  sources = documents.file_sources(found, fraction)
  n_bytes = sum(source.size() for source in sources)
  n = len(found.paths)
  notes = [f'data: {n:,} file{"s" * (n != 1)}, {size(n_bytes)}']
  if found.n_repeated:
    notes[0] += f'; {found.n_repeated:,} more names lead to the same files'
  notes += [f'data: {note}' for note in documents.notes_on(found)]
  return [(source, reading) for source in sources], notes


def _check_fits_in_memory(n_bytes: int) -> None:
  if n_bytes > _LARGEST_IN_MEMORY:
    raise config.ConfigError(
      'data.path: holds more than 2 GiB of text, which would be tokenized at '
      'each start; tokenize it once with python -m jax_sparse_pretrain.prepare '
      "and set data.source = 'tokens'"
    )


def _notes(splits: dict[str, Any], tokenizer: dict[str, Any]) -> tuple:
  begin = tokenizer['bos_id']
  opens = 'nothing opens one' if begin is None else f'id {begin} opens one'
  return (
    *(
      f'data: {name}: {count(split["documents"])} documents, '
      f'{count(split["tokens"])} tokens, {known(split["bytes"], count)} bytes'
      for name, split in splits.items()
    ),
    f'data: {tokenizer["kind"]} tokenizer of {tokenizer["vocab_size"]:,} ids; '
    f'id {tokenizer["eos_id"]} closes a document, {opens}',
  )


def _check_not_empty(
  fingerprint: dict[str, Any], data: config.Data, is_whole: bool
) -> None:
  where = f'data.path = {data.path!r}'
  empty = [s for s in encoding.SPLITS if not fingerprint[s]['tokens']]
  if len(empty) == 2:
    raise config.ConfigError(f'{where}: holds no text')
  if not empty or is_whole:
    return
  hint = f'change data.validation_fraction = {data.validation_fraction}'
  if data.source == 'tokens':
    hint = 'prepare them with another --validation_fraction, or --validation'
  if data.source == 'tfds':
    hint = f'change data.{empty[0]}_split'
  raise config.ConfigError(
    f'{where}: the {empty[0]} split is empty; add documents, or {hint}'
  )
