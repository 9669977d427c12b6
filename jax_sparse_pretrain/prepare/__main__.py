"""Turns text into token shards, once, which any number of runs then read.

  python -m jax_sparse_pretrain.prepare INPUT... --out DIR --tokenizer FILE

An INPUT is a file, a directory or a glob, here or gs://: text, JSON or JSON
lines, Parquet, Arrow, also with gzip, zstd or bzip2; or the directory of a data
set of TFDS or of Hugging Face's datasets, or hf:NAME[:CONFIG][@SPLIT]. Run it
again with the same arguments to continue one that was stopped: it ends with the
same bytes, whatever the number of workers.
Exit status: 0 done, 1 failed, 2 bad input, 75 stopped on request.
"""

import argparse
import collections
import contextlib
import importlib.metadata
import itertools
import math
import os
import pathlib
import sys
import time
import warnings
from collections.abc import Sequence

import tqdm

from jax_sparse_pretrain import command_line, storage
from jax_sparse_pretrain.config import ConfigError
from jax_sparse_pretrain.data import documents, encoding, shards, tokenizers
from jax_sparse_pretrain.prepare import (
  adopting,
  pipeline,
  vocabulary,
  writing,
)
from jax_sparse_pretrain.prepare import statistics as statistics_lib
from jax_sparse_pretrain.prepare.inputs import Input, find_inputs
from jax_sparse_pretrain.schema import one_line
from jax_sparse_pretrain.text import percent, short

# Between two lines about how far it is, where no bar can be shown.
_LINE_SECONDS = 30.0
_SHARD_BYTES = 256_000_000


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command and returns its exit status."""
  try:
    args = _parser().parse_args(argv)
    _check_numbers(args)
    if args.check:
      return _check(args.check)
    if args.stats:
      directory = _local('--stats', args.stats)
      print(statistics_lib.statistics_text(directory))
      return 0
    if not args.out or not (args.inputs or args.adopt):
      raise ConfigError('needs an INPUT and --out; see --help')
    if args.adopt:
      return _adopt(args)
    with command_line.StopRequest() as stop:
      return _prepare(args, stop)
  except ConfigError as error:
    print(f'error: {error}', file=sys.stderr)
    return command_line.BAD_INPUT
  except PermissionError as error:
    print(f'error: {one_line(error)}', file=sys.stderr)
    return command_line.BAD_INPUT
  except OSError as error:
    print(f'error: {one_line(error)}', file=sys.stderr)
    return command_line.FAILED


def _parser() -> argparse.ArgumentParser:
  parser = command_line.make_parser('prepare', __doc__)
  add = parser.add_argument
  add('inputs', nargs='*', metavar='INPUT')
  add('--out', metavar='DIR', help='where the shards go')
  add(
    '--tokenizer',
    metavar='FILE|bytes',
    help='a tokenizer.json (Hugging Face) or a .model (SentencePiece)',
  )
  add('--bos', default='', help='the token that opens a document')
  add('--eos', default='', help='the token that closes a document')
  add('--train_tokenizer', choices=['bpe'], help='train one on the inputs')
  add('--vocab_size', type=int, metavar='N', help='of the trained tokenizer')
  add(
    '--alphabet',
    choices=['all', 'text'],
    default='all',
    help='bytes that the trained tokenizer can write: all, or those of the '
    'text',
  )
  add(
    '--text_field', default='text', help='the field of a record; a.b if nested'
  )
  add(
    '--errors',
    choices=['strict', 'replace', 'skip'],
    default='strict',
    help='what to do about a document that is not UTF-8 or lacks the field',
  )
  add(
    '--validation_fraction',
    type=float,
    default=0.01,
    metavar='F',
    help='share of the documents to hold out; default %(default)s',
  )
  add(
    '--validation',
    nargs='+',
    metavar='INPUT',
    help='inputs to hold out, in place of a share',
  )
  add(
    '--piece_bytes',
    type=int,
    default=0,
    metavar='N',
    help='cut text files into documents of about N bytes',
  )
  add('--tokens', type=float, metavar='N', help='stop after N training tokens')
  add(
    '--workers',
    type=int,
    default=os.cpu_count() or 1,
    metavar='N',
    help='processes that tokenize; default: all cores',
  )
  add('--shard_tokens', type=int, help=argparse.SUPPRESS)
  share = parser.add_argument_group('a share of the inputs, for many machines')
  share.add_argument('--index', type=int, metavar='I', help='from 0')
  share.add_argument('--count', type=int, metavar='N', help='of shares')
  other = parser.add_argument_group('in place of INPUT')
  other.add_argument(
    '--adopt',
    nargs='+',
    metavar='FILE',
    help='take token files of nanoGPT or llm.c as they lie; needs '
    '--tokenizer, or --vocab_size and --eos_id (GPT-2: 50257 and 50256)',
  )
  other.add_argument('--eos_id', type=int, metavar='ID')
  other.add_argument('--check', metavar='DIR', help='verify all checksums')
  other.add_argument('--stats', metavar='DIR', help='describe what it holds')
  return parser


def _check_numbers(args: argparse.Namespace) -> None:
  lowest = {
    'piece_bytes': 0,
    'workers': 0,
    'tokens': 1,
    'vocab_size': 1,
    'shard_tokens': 1,
    'eos_id': 0,
  }
  for name, low in lowest.items():
    value = getattr(args, name)
    if value is not None and not low <= value < math.inf:
      raise ConfigError(f'--{name} = {value}: must be at least {low}')
  if (args.index is None) != (args.count is None):
    raise ConfigError('--index and --count: must be given together')
  if args.count is not None and not 0 <= args.index < args.count:
    raise ConfigError(f'--index = {args.index}: must be from 0 to --count - 1')
  if not 0 <= args.validation_fraction < 1:
    raise ConfigError(
      f'--validation_fraction = {args.validation_fraction}: must be in [0, 1)'
    )


def _check(name: str) -> int:
  directory = storage.as_path(name)
  n_checked = shards.check_shards(directory, shards.read_manifest(directory))
  print(f'{directory}: the checksums of {n_checked} shards match')
  return 0


def _adopt(args: argparse.Namespace) -> int:
  directory = _directory(args)
  writing.check_place(directory)
  for name in (shards.MANIFEST, shards.JOURNAL):
    if (directory / name).exists():
      raise ConfigError(
        f'--out = {directory}: holds other tokens; must be another directory'
      )
  if args.tokenizer:
    tokenizer = _given_tokenizer(args)
    about = writing.write_tokenizer(directory, tokenizer)
  elif args.vocab_size and args.eos_id is not None:
    about = {
      'kind': 'unknown',
      'sha256': '',
      'vocab_size': args.vocab_size,
      'bos_id': None,
      'eos_id': args.eos_id,
    }
  else:
    raise ConfigError(
      '--adopt: needs --tokenizer, or --vocab_size and --eos_id (GPT-2: 50257 '
      'and 50256)'
    )
  splits = adopting.adopt(args.adopt, about['vocab_size'], about['eos_id'])
  manifest = {'tokenizer': about, 'splits': splits, 'inputs': []}
  shards.write_manifest(directory, manifest)
  print(f'{directory}: {statistics_lib.one_line(manifest)}')
  return 0


def _prepare(args: argparse.Namespace, stop: command_line.StopRequest) -> int:
  inputs, notes = _inputs(args)
  for note in notes:
    print(note, file=sys.stderr)
  directory = _directory(args)
  writing.check_place(directory)
  with writing.only_writer(directory):
    return _write(args, inputs, directory, stop)


def _write(args, inputs, directory: pathlib.Path, stop) -> int:
  # Before the share is taken, so that all shares train the same tokenizer.
  tokenizer = _tokenizer(args, directory, inputs)
  inputs = _share(args, inputs)
  journal = writing.Journal(directory, _identity(args, inputs, tokenizer))
  if (directory / shards.MANIFEST).exists():
    return _already_there(directory, journal)
  journal.read()  # Refuses what another run has begun, and changes nothing.
  itemsize = encoding.token_dtype(tokenizer.vocab_size).itemsize
  job = pipeline.Job(
    inputs=inputs,
    tokenizer=tokenizer,
    directory=directory,
    shard_tokens=args.shard_tokens or _SHARD_BYTES // itemsize,
    max_tokens=None if args.tokens is None else int(args.tokens),
    workers=args.workers,
  )
  about = writing.write_tokenizer(directory, tokenizer)
  with _progress(job) as show:
    made = pipeline.make_shards(job, journal, stop.is_due, show)
  if made is None:
    print(
      f'{stop.name}: stopped; the same command goes on from here',
      file=sys.stderr,
    )
    return command_line.STOPPED
  manifest = _manifest(about, job, made, journal)
  shards.write_manifest(directory, manifest)
  journal.remove()
  _warn(manifest, inputs, tokenizer)
  print(f'{directory}: {statistics_lib.one_line(manifest)}')
  return 0


def _inputs(args: argparse.Namespace) -> tuple[list[Input], list[str]]:
  reading = documents.Reading(
    text_field=args.text_field,
    errors=args.errors,
    validation_fraction=0 if args.validation else args.validation_fraction,
    piece_bytes=args.piece_bytes,
    split='train' if args.validation else None,
  )
  inputs, notes = find_inputs(args.inputs, reading)
  held_out = []
  if args.validation:
    held_out, more = find_inputs(
      args.validation,
      documents.Reading(
        text_field=args.text_field, errors=args.errors, split='validation'
      ),
    )
    notes += more
  return held_out + inputs, notes


def _share(args, inputs: Sequence[Input]) -> list[Input]:
  """The inputs of this machine: each N-th of those of each kind."""
  if args.count is None:
    return list(inputs)
  held_out = [i for i in inputs if i.reading.split == 'validation']
  others = [i for i in inputs if i.reading.split != 'validation']
  share = others[args.index :: args.count]
  if not share:
    raise ConfigError(f'--count = {args.count}: leaves this share no input')
  return held_out[args.index :: args.count] + share


def _directory(args: argparse.Namespace) -> pathlib.Path:
  directory = _local('--out', args.out)
  if args.count is None:
    return directory
  return directory / f'{args.index:05d}-of-{args.count:05d}'


def _local(flag: str, name: str) -> pathlib.Path:
  if '://' in name:
    raise ConfigError(
      f'{flag} = {name}: must be a directory of this machine; copy it to or '
      'from a bucket, for example with gcloud storage cp -r'
    )
  return pathlib.Path(name).expanduser()


def _given_tokenizer(args: argparse.Namespace) -> tokenizers.Tokenizer:
  if args.tokenizer == 'bytes':
    return tokenizers.ByteTokenizer()
  return tokenizers.read_tokenizer(
    tokenizers.kind_of_file(args.tokenizer),
    args.tokenizer,
    f'--tokenizer = {args.tokenizer}',
    args.bos,
    args.eos,
  )


def _tokenizer(args, directory: pathlib.Path, inputs) -> tokenizers.Tokenizer:
  if bool(args.tokenizer) == bool(args.train_tokenizer):
    raise ConfigError(
      'needs --tokenizer FILE, --tokenizer bytes, or --train_tokenizer bpe '
      '--vocab_size N'
    )
  if args.tokenizer:
    return _given_tokenizer(args)
  if not args.vocab_size:
    raise ConfigError('--train_tokenizer: needs --vocab_size')
  if any((directory / n).exists() for n in (shards.JOURNAL, shards.MANIFEST)):
    # Trained when this was begun; the arguments are compared further on.
    path = directory / 'tokenizer.json'
    return tokenizers.read_tokenizer('huggingface', path, f'{path}')
  print('training the tokenizer', file=sys.stderr)
  return vocabulary.train_bpe(inputs, args.vocab_size, alphabet=args.alphabet)


def _identity(args, inputs, tokenizer) -> dict:
  """What decides the bytes."""
  names = (
    'text_field',
    'errors',
    'validation_fraction',
    'piece_bytes',
    'tokens',
    'shard_tokens',
    'train_tokenizer',
    'vocab_size',
    'alphabet',
  )
  return {
    'inputs': [[*i.source.identity(), i.reading.split] for i in inputs],
    'tokenizer': tokenizers.identity(tokenizer),
    **{f'--{name}': getattr(args, name) for name in names},
  }


def _already_there(directory: pathlib.Path, journal: writing.Journal) -> int:
  manifest = shards.read_manifest(directory)
  journal.check(manifest.get('identity', {}))
  journal.remove()
  print(f'{directory}: is prepared: {statistics_lib.one_line(manifest)}')
  return 0


def _manifest(about, job: pipeline.Job, made: pipeline.Made, journal) -> dict:
  packages = ('numpy', 'sentencepiece', 'tokenizers')
  return {
    'tokenizer': about,
    'splits': made.splits,
    'dropped': made.dropped,
    'documents_in_pieces': made.n_cut,
    'documents_in_both_splits': made.n_shared,
    'inputs': [i.source.about() for i in job.inputs[: made.n_inputs]],
    'identity': journal.identity,
    'versions': {name: importlib.metadata.version(name) for name in packages},
  }


def _warn(manifest: dict, inputs, tokenizer: tokenizers.Tokenizer) -> None:
  splits = manifest['splits']
  encoding.warn_of_shared_documents(
    manifest['documents_in_both_splits'], splits['train']['documents']
  )
  for split, found in splits.items():
    if not found['tokens']:
      warnings.warn(f'the {split} split is empty', stacklevel=2)
  encoding.warn_of_lost_text(
    tokenizer,
    itertools.chain.from_iterable(
      source.pieces(reading, collections.Counter())
      for source, reading in inputs
    ),
  )


@contextlib.contextmanager
def _progress(job: pipeline.Job):
  """Yields a function that shows how far it is, on standard error.

  A terminal gets a bar, anything else a line now and then.
  """
  sizes = [i.source.size() for i in job.inputs]
  total = sum(sizes)
  began = said = time.monotonic()
  n_before = None
  with tqdm.tqdm(
    total=total,
    disable=None,  # Only a terminal can show it.
    dynamic_ncols=True,
    mininterval=1.0,
    bar_format='{percentage:3.0f} % |{bar}| {desc} {remaining} left',
  ) as bar:

    def show(place, writers) -> None:
      nonlocal n_before, said
      counts = [writer.counts for writer in writers.values()]
      n_documents, n_tokens = (
        sum(each[name] for each in counts) for name in ('documents', 'tokens')
      )
      now = time.monotonic()
      if n_before is None:  # An earlier start has made these.
        n_before = n_tokens
      speed = (n_tokens - n_before) / max(now - began, 1e-9)
      done = sum(sizes[: place.source])
      if place.source < len(job.inputs):
        done += job.inputs[place.source].source.n_bytes_read
      text = (
        f'{short(n_documents, 3)} documents, {short(n_tokens, 3)} tokens, '
        f'{short(speed, 3)}/s'
      )
      if bar.disable and now > said + _LINE_SECONDS:
        share = percent(min(done / max(total, 1), 1), '.0f')
        print(f'{share} of the input, {text}', file=sys.stderr, flush=True)
        said = now
      bar.set_description_str(text, refresh=False)
      bar.update(min(done, total) - bar.n)

    yield show


if __name__ == '__main__':
  command_line.run_and_exit(main)
