"""Plans runs that a law asks for, and draws runs from a law."""

import itertools
import os
import shlex
import textwrap
from collections.abc import Sequence
from typing import Annotated

import numpy as np

from jax_sparse_pretrain import analysis, text
from jax_sparse_pretrain.analysis.command import Answer, AnyInteger, From, verb
from jax_sparse_pretrain.analysis.effective import EFFECTIVE
from jax_sparse_pretrain.analysis.runs_table import (
  KINDS,
  NUMBERS,
  Runs,
  as_csv,
)
from jax_sparse_pretrain.analysis.train_command import NextRun
from jax_sparse_pretrain.analysis.verbs.arguments import (
  AskedLaw,
  AskedSchedule,
  check_not_negative,
)
from jax_sparse_pretrain.text import count, short

NOTES = (
  'Off: by how much whole layers, steps and updates miss what the law wants.',
  'Twin: the dense run of the same {symbol}, tokens and steps; --twins prints '
  'its command.',
  'Saved: linear parameters, and so the FLOPs of their products, 2 a parameter '
  'and token. Unstructured zeros save them only with kernels that skip zeros.',
  'All: with input embedding and norm scales, which stay dense.',
)
NO_INTERVALS = {
  False: 'No intervals: a law in numbers does not say how sure it is.',
  True: 'No intervals: the fit was made without a bootstrap.',
}
# The mean density is the same for any length, here to four digits.
STEPS = 100_000
LARGEST_NOISE = 1.0
PLAN_RUN = From(
  'plan_run',
  # The file of a law has them.
  without=('kind', 'n_resamples', 'seed', 'groups'),
  flags={'sparsities': 'sparsity', 'base': 'config'},
)


@verb('plan --law fit.json --compute 1e20 --sparsity 0.5 0.8', '.json')
def plan(
  law: AskedLaw, planned: Annotated[dict, PLAN_RUN], twins: bool = False
) -> Answer:
  """Plan runs for a budget, a loss to reach, or a size to deploy.

  Args:
    twins: print the commands of the dense twins as well.
  """
  given = law.read()
  config = planned['base']
  is_file = config and config.endswith('.py') and os.path.isfile(config)
  if config is not None and not is_file:
    raise ValueError(f'--config = {config}: must be a file, FILE.py')
  resampling = (given.fit and given.resampling) or {}
  plans = analysis.plan_run(
    given.fit or given.law, kind=given.kind, **planned, **resampling
  )
  shown = _plan_text(plans, given.fit is not None, twins)
  return Answer(plans.as_dict(), shown, plans.warnings)


def _plan_text(plans, is_fitted: bool, with_twins: bool) -> str:
  """Sizes, steps, what inference saves, and a command for each run."""
  symbol = EFFECTIVE[plans.kind].symbol
  notes = [note.format(symbol=symbol) for note in NOTES]
  notes += [] if plans.level else [NO_INTERVALS[is_fitted]]
  if any(text.is_open(run.interval) for run in plans.runs):
    notes.append(text.ABOUT_OPEN)
  width = text.terminal_width()
  runs = {'dense': plans.dense}
  twins = {}
  for each in plans.sparse:
    name = f'{each.run.sparsity * 100:g} %'
    runs[name] = each.run
    twins[f'{name}, twin'] = each.twin
  commanded = {**runs, **twins} if with_twins else runs
  return '\n\n'.join(
    [
      _sizes(plans, runs),
      *([_effective(plans, runs)] if has_own_count(plans) else []),
      _steps(plans, runs),
      _inference(plans, list(runs)[1:]),
      '\n'.join(textwrap.fill(note, width) for note in notes),
      *(f'# {name}\n{_command(run, width)}' for name, run in commanded.items()),
    ]
  )


def has_own_count(plans) -> bool:
  """Whether N of the law is none of the sizes that are shown in any case."""
  return plans.kind not in KINDS


def _sizes(plans, runs: dict[str, NextRun]) -> str:
  header = ['', 'N', 'N_avg', 'N final', 'D', 'FLOPs', 'loss']
  if plans.level:
    header.append(f'{plans.level * 100:g} % of law')
  rows = []
  for name, run in runs.items():
    sizes = (run.linear_parameters, run.average_parameters)
    row = [name, *map(short, (*sizes, run.final_parameters, run.tokens))]
    row += [f'{run.compute_flops:.3e}', f'{run.loss:.4f}']
    if run.interval:
      row.append(text.interval(run.interval, '{:.4f}'.format))
    rows.append(row)
  words = {
    'compute': '{:.4g} FLOPs',
    'loss': 'a loss of {:.4g}',
    'final_parameters': '{:,.0f} parameters at the end',
  }
  aim = ', '.join(words[name].format(x) for name, x in plans.given.items())
  return text.table(f'Runs for {aim}', header, rows)


def _effective(plans, runs: dict[str, NextRun]) -> str:
  rows = []
  for name, run in runs.items():
    n = run.effective_parameters
    shares = (n / run.linear_parameters, n / run.average_parameters)
    rows.append([name, short(n), *map('{:.1%}'.format, shares)])
  title = f'N of the law: {EFFECTIVE[plans.kind].formula}'
  return text.table(title, ['', 'N_eff', 'of N', 'of N_avg'], rows)


def _steps(plans, runs: dict[str, NextRun]) -> str:
  # Heads are in the commands.
  header = ['', 'layers', 'd_model', 'steps', 'prune from', 'to']
  header += ['N off', 'FLOPs off']
  rows = []
  for name, run in runs.items():
    model, schedule = run.config.model, run.plan.schedule
    row = [name, str(model.n_layers), str(model.d_model), count(run.plan.steps)]
    ramp = (schedule.start, schedule.end) if run.sparsity else ()
    row += [*map(count, ramp)] or ['', '']
    row += [f'{run.off_parameters:+z.2%}', f'{run.off_compute:+z.2%}']
    rows.append(row)
  tokens = plans.dense.config.tokens_per_step
  every = plans.sparse[0].run.plan.schedule.every
  title = f'Steps of {tokens:,} tokens, masks updated every {every}'
  return text.table(title, header, rows)


def _inference(plans, names: Sequence[str]) -> str:
  header = ['', 'N final', 'all', 'FLOPs/token', 'twin N', 'twin loss']
  header.append('saved')
  # The dense run of a size to deploy has that size itself.
  has_optimum = set(plans.given) != {'final_parameters'}
  if has_optimum:
    header.append('v. dense')
  rows = []
  for name, each in zip(names, plans.sparse, strict=True):
    run, twin = each.run, each.twin
    sizes = (run.final_parameters, run.final_total_parameters)
    row = [name, *map(short, sizes), f'{run.inference_flops:.3e}']
    row += [short(twin.linear_parameters), f'{twin.loss:.4f}']
    row.append(f'{each.fewer_than_twin:.1%}')
    if has_optimum:
      row.append(f'{run.fewer_than(plans.dense):.1%}')
    rows.append(row)
  return text.table('At inference, against dense runs', header, rows)


def _command(run: NextRun, width: int) -> str:
  """The command over lines that a shell joins."""
  lines = ['python -m jax_sparse_pretrain.train']
  for word in map(shlex.quote, run.command):
    if len(lines[-1]) + len(word) + len(' ' + ' \\') > width:
      lines[-1] += ' \\'
      lines.append(f'  {word}')
    else:
      lines[-1] += f' {word}'
  return '\n'.join(lines)


@verb(
  'simulate --law E=1.8,A=480,B=2100,alpha=0.35,beta=0.37 \\\n'
  '    --linear_parameters 1e8 3e8 1e9 --tokens 2e9 8e9 3e10 --out runs.csv',
  '.csv',
  '.json',
)
def simulate(
  law: AskedLaw,
  linear_parameters: Sequence[int],
  tokens: Sequence[int],
  sparsity: Sequence[float] = (0.0,),
  noise: float = 0.005,
  seed: AnyInteger = 0,
  out: str | None = None,
) -> Answer:
  """Draw a table of runs from a law, with noise.

  Args:
    linear_parameters: the dense sizes.
    tokens: D; each is taken with each size.
    sparsity: the final sparsities by the default schedule; each is taken with
      each size.
    noise: the standard deviation of log loss.
    seed: the seed of the noise.
  """
  given = law.read()
  check_not_negative(seed=seed)
  if noise > LARGEST_NOISE:
    raise ValueError(
      f'--noise = {noise}: must be at most {LARGEST_NOISE:g}, of log loss'
    )
  plans = {
    each: AskedSchedule(sparsity=each, steps=STEPS).plan() for each in sparsity
  }
  cells = itertools.product(linear_parameters, sparsity, tokens)
  n, s, d = np.array(list(cells), dtype=np.float64).T
  sizes = {
    'average': np.rint(n * [plans[x].mean_density for x in s.tolist()]),
    'initial': n,
    'final': np.rint(n * (1 - s)),
  }
  if given.kind in sizes:
    counted = sizes[given.kind]
  else:
    effective = EFFECTIVE[given.kind]
    counted = n * [effective.of_plan(plans[x], given.q) for x in s.tolist()]
  loss = analysis.simulate_runs(given.law, counted, d, noise=noise, seed=seed)
  runs = Runs(
    tuple(f'simulated-{i + 1}' for i in range(len(n))),
    **{f'{kind}_parameters': values for kind, values in sizes.items()},
    **{'sparsity': s, 'tokens': d, 'loss': loss},
  )
  columns = {name: getattr(runs, name) for name in NUMBERS}
  return Answer(
    {'law': given.law.as_dict(), 'run': runs.run, **columns},
    # Without a file the table itself is printed, so that it can be piped.
    f'{len(runs)} runs' if out else as_csv(runs),
    writers={'.csv': lambda path: path.write_text(as_csv(runs))},
  )
