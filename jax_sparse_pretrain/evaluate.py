"""Measures the loss of a model on text.

  python -m jax_sparse_pretrain.evaluate MODEL
  python -m jax_sparse_pretrain.evaluate MODEL --data.path=book.txt

A MODEL is a workdir, or a directory that export has made. The text is the
validation split of the run, unless keys of the section `data` name another
source: then it is all of that. Bits per byte compare models whose tokenizers
differ. Exit status: 0 done, 1 the checkpoint cannot be read, 2 bad input.
"""

import argparse
import json
import math
from collections.abc import Sequence
from typing import Any

from jax_sparse_pretrain import command_line, schema
from jax_sparse_pretrain import config as config_lib
from jax_sparse_pretrain.config import ConfigError
from jax_sparse_pretrain.text import Line, known, listing

_SPLITS = ('validation', 'train', 'all')


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command and returns its exit status."""
  return command_line.status_of(
    lambda: _evaluate(*_parser().parse_known_args(argv))
  )


def _parser() -> argparse.ArgumentParser:
  parser = command_line.make_parser(
    'evaluate',
    __doc__,
    epilog='Any key of the section `data` of a config: --data.KEY=VALUE',
  )
  command_line.add_model(parser)
  parser.add_argument(
    '--split',
    choices=_SPLITS,
    help='default: validation; all, if another source is named',
  )
  units = parser.add_mutually_exclusive_group()
  units.add_argument(
    '--documents',
    action='store_true',
    help='document by document, instead of rows as training packs them',
  )
  units.add_argument(
    '--rows',
    type=int,
    metavar='N',
    help='only the first N rows of the validation split in the order of a '
    "run's own evaluation; default: all",
  )
  parser.add_argument(
    '--json', action='store_true', help='print one line of JSON'
  )
  return parser


def _evaluate(args: argparse.Namespace, words: list[str]) -> None:
  # Imported here, so that --help and bad arguments answer at once.
  from jax_sparse_pretrain.inference import evaluation, language_model

  overrides = _overrides(words)
  if args.rows is not None and args.rows < 1:
    raise ConfigError(f'--rows = {args.rows}: must be at least 1')
  is_other = not args.rows and {'path', 'source', 'mixture'} & overrides.keys()
  split = args.split or ('all' if is_other else 'validation')
  if args.rows and split != 'validation':
    raise ConfigError('--rows: needs --split=validation')
  model = language_model.load_model(
    args.model, args.step, compute_dtype=args.compute_dtype
  )
  result = evaluation.evaluate_corpus(
    model,
    _data(model, overrides),
    split=split,
    documents=args.documents,
    n_rows=args.rows,
  )
  about = {'model': args.model, 'step': model.step, 'split': split}
  print(_as_json(result, about) if args.json else _table(result, about))


def _overrides(words: Sequence[str]) -> dict[str, Any]:
  found = {}
  for word in words:
    name, equals, value = word.partition('=')
    if not equals or not name.startswith('--data.'):
      raise ConfigError(f'{word}: is not an argument; see --help')
    found[name.removeprefix('--data.')] = schema.literal(value)
  return found


def _data(model, overrides: dict[str, Any]) -> config_lib.Data:
  """The section `data` of the model's run, or what the user names.

  A path is read as prepared tokens if it holds them, else as text. The
  tokenizer is that of the model.
  """
  for name in ('tokenizer', 'tokenizer_path', 'bos', 'eos'):
    if name in overrides:
      raise ConfigError(f'--data.{name}: is that of the model')
  values = dict(model.run['config']['data']) if model.run else {}
  if not values and not overrides:
    raise ConfigError('--data.path: must be given: the model is of no run here')
  if 'path' in overrides:
    from jax_sparse_pretrain import data as data_lib

    is_prepared = data_lib.is_prepared(str(overrides['path']))
    values |= {'mixture': (), 'source': 'tokens' if is_prepared else 'text'}
    if is_prepared:
      values['piece_bytes'] = 0
  values |= overrides
  is_tokens = values.get('source') == 'tokens'
  values['tokenizer'] = 'auto' if is_tokens else model.require_tokenizer().kind
  return config_lib.from_dict({'data': values}).data


def _as_json(result, about: dict[str, Any]) -> str:
  values = {
    'loss': result.loss,
    'standard_error': result.standard_error,
    'perplexity': result.perplexity,
    'bits_per_byte': result.bits_per_byte,
    result.unit: result.n,
    'tokens': result.tokens,
    'bytes': result.n_bytes and round(result.n_bytes),
    'tokens_per_second': result.tokens_per_second,
    **about,
  }
  finite = {
    name: None if isinstance(value, float) and math.isnan(value) else value
    for name, value in values.items()
  }
  return json.dumps(finite)


def _table(result, about: dict[str, Any]) -> str:
  def error(x: float) -> str:
    return '' if math.isnan(x) else f'+- {x:.4f} over {result.unit}'

  step = '' if about['step'] is None else f', step {about["step"]:,}'
  bits = known(result.bits_per_byte, lambda x: f'{x:.4f}')
  speed = known(result.tokens_per_second, lambda x: f'{x:,.0f}')
  return listing(
    f'{about["model"]}{step}',
    [
      Line('Loss', f'{result.loss:.4f}',
           f'nats per token {error(result.standard_error)}'.rstrip()),
      Line('Perplexity', f'{result.perplexity:,.2f}'),
      Line('Bits per byte', bits),
      Line(),
      Line('Split', about['split']),
      Line(result.unit.capitalize(), f'{result.n:,}'),
      Line('Tokens', f'{result.tokens:,}', 'predicted'),
      Line('Bytes', known(result.n_bytes, lambda x: f'{x:,.0f}')),
      Line('Speed', speed, 'tokens per second'),
    ],
  )  # fmt: skip


if __name__ == '__main__':
  command_line.run_and_exit(main)
