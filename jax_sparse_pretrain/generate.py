"""Writes text with a model: a workdir, or a directory that export has made.

Exit status: 0 done, 1 the checkpoint cannot be read, 2 bad input.
"""

import argparse
import importlib.util
import pathlib
import sys
from collections.abc import Sequence

from jax_sparse_pretrain import command_line
from jax_sparse_pretrain.config import ConfigError
from jax_sparse_pretrain.huggingface import model_directory

_SAMPLING = (
  (
    '--max_tokens',
    int,
    None,
    'default: what the context still holds, up to 256',
  ),
  ('--temperature', float, 1.0, 'divides the logits; 0: the likeliest token'),
  ('--top_k', int, 0, 'sample from so many of the likeliest tokens; 0: all'),
  (
    '--top_p',
    float,
    1.0,
    'sample from the likeliest tokens of this probability',
  ),
  ('--seed', int, 0, 'of the samples'),
  ('--samples', int, 1, 'texts for each prompt'),
)


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command and returns its exit status."""
  return command_line.status_of(lambda: _generate(_parser().parse_args(argv)))


def _parser() -> argparse.ArgumentParser:
  parser = command_line.make_parser('generate', __doc__)
  command_line.add_model(parser)
  parser.add_argument(
    '--prompt',
    action='append',
    default=[],
    metavar='TEXT',
    help='how a text begins; may be given several times',
  )
  parser.add_argument(
    '--prompt_file', metavar='FILE', help='a file with a prompt on each line'
  )
  for name, kind, default, words in _SAMPLING:
    more = '' if default is None else '; default %(default)s'
    parser.add_argument(name, type=kind, default=default, help=words + more)
  parser.add_argument(
    '--engine',
    choices=('auto', 'jax', 'sparse'),
    default='auto',
    help='sparse: straight from the bits and values of a sparse export, on the '
    'CPU; needs Numba. auto: that for such an export, if there is no other '
    'device; else jax',
  )
  return parser


def _generate(args: argparse.Namespace) -> None:
  # Imported here, so that --help and bad arguments answer at once.
  from jax_sparse_pretrain.inference import generation, language_model

  prompts = args.prompt + _lines(args.prompt_file)
  if not prompts:
    raise ConfigError('--prompt: must be given, or --prompt_file')
  names = [name.removeprefix('--') for name, *_ in _SAMPLING]
  options = {name: getattr(args, name) for name in names}
  if _is_for_sparse_engine(args):
    for name in ('step', 'compute_dtype'):
      if getattr(args, name) is not None:
        raise ConfigError(f'--{name}: not with the sparse engine')
    if not model_directory.is_sparse(args.model):
      raise ConfigError(
        f'--engine=sparse: {args.model} is no directory that export has made '
        'with --format=sparse'
      )
    model = language_model.without_weights(args.model)
    options['engine'] = 'sparse'
  else:
    model = language_model.load_model(
      args.model, args.step, compute_dtype=args.compute_dtype
    )
  if len(prompts) * args.samples > 1:
    written = generation.generate(model, prompts, **options)
    for index, text in enumerate(written):
      print(f'{"" if not index else chr(10)}--- {index + 1} ---')
      print(prompts[index // args.samples] + text)
    return
  before = [prompts[0]]  # Written once it is clear that there is a model.

  def write(index: int, text: str) -> None:
    del index
    sys.stdout.write((before.pop() if before else '') + text)
    sys.stdout.flush()

  generation.generate(model, prompts, on_text=write, **options)
  print(*before)


def _is_for_sparse_engine(args: argparse.Namespace) -> bool:
  """Whether the sparse engine is asked for, or serves best."""
  if args.engine != 'auto':
    return args.engine == 'sparse'
  if (
    args.compute_dtype or args.step or not model_directory.is_sparse(args.model)
  ):
    return False
  import jax

  is_here = importlib.util.find_spec('numba') is not None
  return is_here and jax.default_backend() == 'cpu'


def _lines(name: str | None) -> list[str]:
  if name is None:
    return []
  try:
    return (
      pathlib.Path(name).read_text(encoding='utf-8').rstrip('\n').split('\n')
    )
  except (OSError, UnicodeDecodeError) as error:
    raise ConfigError(f'--prompt_file = {name}: {error}') from None


if __name__ == '__main__':
  command_line.run_and_exit(main)
