"""Memory and messages of the paper's models as the devices grow in number.

  python -m benchmarks.scale v5e-16/data=16 v5e-64/fsdp=64 \\
    v5e-256/fsdp=64,tensor=4

compiles the train step of each model for each mesh, ahead of time, and prints
a table in Markdown. An axis that is not given is 1. Every number is for one
device; messages are the bytes that it sends. A question mark says that the
length of some loop could not be read, so that FLOPs, bytes and messages are too
low. Each case is compiled in a process of its own, which decides how many fake
devices it has.
"""

import argparse
import concurrent.futures
import multiprocessing
from collections.abc import Sequence

from jax_sparse_pretrain import command_line, compile_ahead
from jax_sparse_pretrain.compile_ahead.program import CompiledStep
from jax_sparse_pretrain.text import size

SIZES = ('c4_58m', 'c4_162m', 'c4_468m', 'c4_1b')
# The same for all, so that only the model and the mesh differ.
ALIKE = {'model.remat': True, 'batch_size': 256, 'accumulation_steps': 4}
HEADER = (
  *('model', 'mesh', 'state', 'temporaries', 'all', 'fits', 'FLOPs'),
  *('bytes', 'all-gather', 'reduce-scatter', 'all-reduce', 'others'),
  *('mask update', 'compiled in'),
)
MEASURED = ('all-gather', 'reduce-scatter', 'all-reduce')


def main(argv: Sequence[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('meshes', nargs='+', metavar='TOPOLOGY/AXIS=N,...')
  parser.add_argument('--sizes', nargs='+', choices=SIZES, default=SIZES)
  parser.add_argument(
    '--rows', type=int, help='rows of a step, in place of 256'
  )
  args = parser.parse_args(argv)
  print('|', ' | '.join(HEADER), '|')
  print('|---|---|' + '---:|' * (len(HEADER) - 2))
  for name in args.sizes:
    for mesh in args.meshes:
      print('|', ' | '.join(_apart(name, mesh, args.rows)), '|', flush=True)


def _apart(*case) -> list[str]:
  spawn = multiprocessing.get_context('spawn')
  with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
    return pool.submit(row, *case).result()


def row(name: str, mesh: str, rows: int | None = None) -> list[str]:
  """The cells of one case."""
  where, axes = mesh.split('/')
  keys = {f'mesh.{axis}': 1 for axis in ('data', 'fsdp', 'tensor')}
  keys |= {f'mesh.{a}': n for a, n in (x.split('=') for x in axes.split(','))}
  keys |= ALIKE | ({'batch_size': rows} if rows else {})
  config = command_line.load_config(
    f'configs/{name}.py', [f'--config.{k}={v}' for k, v in keys.items()]
  )
  topology = compile_ahead.parse_topology(where)
  step = compile_ahead.compile_train_step(config, topology)
  return [name.removeprefix('c4_'), mesh, *_cells(step)]


def _cells(step: CompiledStep) -> list[str]:
  state = size(sum(step.state.values()))
  if step.memory is None:
    n = len(HEADER) - 6
    return [state, '', '', step.refusal, *[''] * n, f'{step.seconds:.0f} s']
  sent = {c.kind: c.sent for c in step.step.collectives}
  return [
    state,
    size(step.memory.temporaries),
    size(step.memory.total),
    {True: 'yes', False: 'NO', None: ''}[step.fits],
    f'{step.step.flops:.3g}' + ('?' if step.step.loops else ''),
    size(step.step.n_bytes),
    *(size(sent.pop(kind, 0)) for kind in MEASURED),
    size(sum(sent.values())),
    size(sum(c.sent for c in step.update.collectives)),
    f'{step.seconds:.0f} s',
  ]


if __name__ == '__main__':
  main()
