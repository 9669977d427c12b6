"""Writes the model of a workdir for other software to open.

  python -m jax_sparse_pretrain.export WORKDIR --out DIR

DIR opens in `transformers` with AutoModelForCausalLM and AutoTokenizer. With
--format=sparse it holds a bitmap and the weights that were kept, which
`load_model`, generate and evaluate read. Beside the weights are the tokenizer,
the masks and a model card. Exit status: 0 done, 1 failed, 2 bad input.
"""

import argparse
from collections.abc import Sequence

from jax_sparse_pretrain import command_line, storage
from jax_sparse_pretrain.text import size


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command and returns its exit status."""
  return command_line.status_of(lambda: _export(_parser().parse_args(argv)))


def _parser() -> argparse.ArgumentParser:
  parser = command_line.make_parser('export', __doc__)
  command_line.add_model(parser, computes=False)
  parser.add_argument(
    '--out', required=True, metavar='DIR', help='the directory to make'
  )
  parser.add_argument(
    '--format',
    choices=('huggingface', 'sparse'),
    default='huggingface',
    help='default: %(default)s',
  )
  parser.add_argument(
    '--dtype',
    choices=('float32', 'bfloat16'),
    help='of the weights; default: float32, and bfloat16 if sparse',
  )
  parser.add_argument(
    '--overwrite', action='store_true', help='replace DIR if it is there'
  )
  parser.add_argument(
    '--without_tokenizer',
    action='store_true',
    help='leave the tokenizer out, if there is none or it cannot be exported',
  )
  return parser


def _export(args: argparse.Namespace) -> None:
  # Imported here, so that --help and bad arguments answer at once.
  from jax_sparse_pretrain.inference import exporting

  target = exporting.export_model(
    args.model,
    args.out,
    step=args.step,
    dtype=args.dtype,
    format=args.format,
    overwrite=args.overwrite,
    without_tokenizer=args.without_tokenizer,
  )
  for path in sorted(target.iterdir()):
    about = path.stat()  # Object stores name it in another way.
    n_bytes = about.length if storage.is_remote(path) else about.st_size
    print(f'{size(n_bytes):>10}  {path.name}')


if __name__ == '__main__':
  command_line.run_and_exit(main)
