"""Plans runs that a law asks for, and draws runs from a law."""

import itertools
import os
from collections.abc import Sequence
from typing import Annotated

import numpy as np

from jax_sparse_pretrain import analysis
from jax_sparse_pretrain.analysis.command import (
  Answer,
  AnyInteger,
  From,
  verb,
)
from jax_sparse_pretrain.analysis.runs_table import NUMBERS, Runs, as_csv
from jax_sparse_pretrain.analysis.verbs.arguments import (
  AskedSchedule,
  check_not_negative,
)
from jax_sparse_pretrain.analysis.verbs.given_law import AskedLaw

# The mean density is the same for any length, here to four digits.
STEPS = 100_000
LARGEST_NOISE = 1.0
PLAN_RUN = From(
  'plan_run',
  without=('n_resamples', 'seed', 'groups'),  # The file of a law has them.
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
  from jax_sparse_pretrain.analysis.plans.text import plan_text

  given = law.read()
  if given.kind != 'average':
    raise ValueError(
      f'--law = {law.law}: its N counts {given.kind} parameters; a plan needs '
      'a fit with --parameters average'
    )
  config = planned['base']
  is_file = config and config.endswith('.py') and os.path.isfile(config)
  if config is not None and not is_file:
    raise ValueError(f'--config = {config}: must be a file, FILE.py')
  plans = analysis.plan_run(
    given.fit or given.law,
    **planned,
    **((given.fit and given.resampling) or {}),
  )
  shown = plan_text(plans, given.fit is not None, twins)
  return Answer(plans.as_dict(), shown, plans.warnings)


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
  density = {
    each: AskedSchedule(sparsity=each, steps=STEPS).plan().mean_density
    for each in sparsity
  }
  cells = itertools.product(linear_parameters, sparsity, tokens)
  n, s, d = np.array(list(cells), dtype=np.float64).T
  sizes = {
    'average': np.rint(n * [density[each] for each in s.tolist()]),
    'initial': n,
    'final': np.rint(n * (1 - s)),
  }
  runs = Runs(
    tuple(f'simulated-{i + 1}' for i in range(len(n))),
    **{f'{kind}_parameters': values for kind, values in sizes.items()},
    sparsity=s,
    tokens=d,
    loss=analysis.simulate_runs(
      given.law, sizes[given.kind], d, noise=noise, seed=seed
    ),
  )
  columns = {name: getattr(runs, name) for name in NUMBERS}
  return Answer(
    {'law': given.law.as_dict(), 'run': runs.run, **columns},
    # Without a file the table itself is printed, so that it can be piped.
    f'{len(runs)} runs' if out else as_csv(runs),
    writers={'.csv': lambda path: path.write_text(as_csv(runs))},
  )
