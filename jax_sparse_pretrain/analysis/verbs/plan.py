"""Plans runs that a law says are worth training."""

import argparse
import os

from jax_sparse_pretrain import config as config_lib
from jax_sparse_pretrain.analysis.next_runs import SPARSITIES, plan_run
from jax_sparse_pretrain.analysis.next_runs_text import plan_text
from jax_sparse_pretrain.analysis.verbs import Answer
from jax_sparse_pretrain.analysis.verbs.laws import add_law, read_law
from jax_sparse_pretrain.analysis.verbs.schedules import count
from jax_sparse_pretrain.schedule import SHAPES

SUMMARY = 'plan runs for a budget, a loss to reach, or a size to deploy'
EXAMPLE = 'plan --law fit.json --compute 1e20 --sparsity 0.5 0.8'
SUFFIXES = ('.json',)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  add_law(parser)
  number = {'type': count, 'metavar': 'N'}
  real = {'type': float, 'metavar': 'X'}
  aim = parser.add_argument_group(
    'aim: one of these, or --final_parameters and one of the others'
  )
  aim.add_argument('--compute', help='FLOPs, 6 N_avg D', **real)
  aim.add_argument('--loss', help='to reach, nats per token', **real)
  aim.add_argument(
    '--final_parameters',
    help='nonzero linear parameters at the end; alone, each run has the '
    'compute at which its N_avg is optimal',
    **number,
  )
  group = parser.add_argument_group(
    'runs, with keys of the config and the defaults of the C4 configs'
  )

  def add(name: str, default, text: str, **more) -> None:
    text = f'{text} ({default})'
    group.add_argument(f'--{name}', default=default, help=text, **more)

  asked, model = config_lib.Pruning(), config_lib.Model()
  group.add_argument(
    '--sparsity',
    nargs='+',
    default=SPARSITIES,
    help=f'final ones ({" ".join(map(str, SPARSITIES))})',
    **real,
  )
  tokens = config_lib.Config().tokens_per_step
  add('tokens_per_step', tokens, 'predicted tokens in a batch', **number)
  add('every', asked.every, 'steps between mask updates', **number)
  add('start', asked.start, 'first mask update, of compute', **real)
  add('end', asked.end, 'last mask update, of compute', **real)
  shapes = {'choices': list(SHAPES), 'metavar': 'SHAPE'}
  add('schedule', asked.schedule, ', '.join(SHAPES), **shapes)
  add('power', asked.power, "of the shape 'polynomial'", **real)
  add('vocab_size', model.vocab_size, 'of the models', **number)
  add('context_length', model.context_length, 'in tokens', **number)
  group.add_argument(
    '--config',
    metavar='FILE',
    help='FILE.py that the commands start from, for what a plan does not set '
    '(data, mesh, memory); by default the C4 config nearest in size',
  )
  group.add_argument(
    '--twins', action='store_true', help='print their commands as well'
  )
  group.add_argument(
    '--level', type=float, default=0.95, help='of the intervals (0.95)'
  )


def answer(arguments: argparse.Namespace) -> Answer:
  given = read_law(arguments.law)
  if given.kind != 'average':
    raise ValueError(
      f'--law = {arguments.law}: its N counts {given.kind} parameters; a plan '
      'needs a fit with --parameters average'
    )
  base = arguments.config
  if base is not None and not (base.endswith('.py') and os.path.isfile(base)):
    raise ValueError(f'--config = {base}: must be a file, FILE.py')
  names = (
    *('compute', 'loss', 'final_parameters', 'tokens_per_step', 'every'),
    *('start', 'end', 'schedule', 'power', 'vocab_size', 'context_length'),
    'level',
  )
  plans = plan_run(
    given.fit or given.law,
    sparsities=arguments.sparsity,
    base=base,
    **{name: getattr(arguments, name) for name in names},
    **((given.fit and given.resampling) or {}),
  )
  return Answer(
    plans.as_dict(),
    plan_text(plans, given.fit is not None, arguments.twins),
    plans.warnings,
  )
