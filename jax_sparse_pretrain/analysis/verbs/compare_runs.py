"""Compares laws, pruning schedules, and the arms of an experiment."""

import csv
import dataclasses
import pathlib
import textwrap
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

from jax_sparse_pretrain import analysis, storage, text
from jax_sparse_pretrain.analysis.command import (
  Answer,
  From,
  Level,
  Repeated,
  verb,
)
from jax_sparse_pretrain.analysis.comparison import results
from jax_sparse_pretrain.analysis.comparison.results import ERRORS
from jax_sparse_pretrain.analysis.runs_table import Runs
from jax_sparse_pretrain.analysis.verbs.arguments import (
  AskedRuns,
  check_delta,
  check_level,
)
from jax_sparse_pretrain.text import UNKNOWN, known


@verb('compare runs.csv --out compare.csv', '.csv', '.json')
def compare(
  runs: AskedRuns,
  solver: Annotated[dict, From('compare_laws', without=('carried',))],
  carried: Repeated = (),
) -> Answer:
  """Compare what N may count, and a richer law, on the runs.

  Args:
    carried: COUNT=VALUE, the coefficient of a count that was found on other
      runs, with which dense runs predict sparse ones, such as "moment=1.075".
  """
  check_delta(**solver)
  found = runs.load()
  values = _carried(carried)
  comparison = analysis.compare_laws(found, **solver, carried=values)
  data = {
    **comparison.as_dict(),
    'verdict': [results.verdict(comparison)],
    'fingerprint': found.fingerprint,
  }
  return Answer(
    data,
    render(comparison),
    results.warnings(comparison),
    {'.csv': lambda path: _write_laws(path, comparison)},
  )


def _carried(texts: Sequence[str]) -> dict[str, float]:
  values = {}
  for each in texts:
    name, _, value = map(str.strip, each.partition('='))
    if name in values:
      raise ValueError(f'--carried {each!r}: is there twice')
    try:
      values[name] = float(value)
    except ValueError:
      raise ValueError(f'--carried {each!r}: must be COUNT=VALUE') from None
  return values


def render(comparison) -> str:
  """Tables of the errors and the biases, and the fitted laws."""
  errors = [
    [
      law.name,
      str(law.n_coefficients),
      *(known(getattr(law, key), '{:.4f}'.format) for key in ERRORS),
      *(known(value, '{:.1f}'.format) for value in (law.aicc, law.bic)),
    ]
    for law in comparison.laws
  ]
  header = ['', 'k', *ERRORS.values(), 'AICc', 'BIC']
  title = f'Error of log loss (RMSE), of {comparison.n_runs} runs'
  about = [
    'k: coefficients. AICc, BIC: lower is better; with log errors taken as '
    'normal and independent, at the Huber fit.',
    *(f'{ERRORS[key]}: {about}.' for key, about in comparison.tests.items()),
    *(f'{UNKNOWN} {note}.' for note in comparison.notes),
  ]
  parts = [text.table(title, header, errors), '\n'.join(map(_filled, about))]
  if comparison.laws[0].bias:
    parts.append(_biases(comparison))
  laws = []
  for law in comparison.laws:
    values = law.coefficients.items()
    pairs = (f'{name}={text.significant(value)}' for name, value in values)
    laws += [f'{law.name}: L = {law.formula}', '  ' + ', '.join(pairs)]
  parts.append('\n'.join(map(_filled, laws)))
  return '\n\n'.join([*parts, _filled(results.verdict(comparison))])


def _biases(comparison) -> str:
  header = [f's {each.sparsity:g}' for each in comparison.laws[0].bias]
  n_runs = [str(each.n_runs) for each in comparison.laws[0].bias]
  rows = [
    [law.name, *(f'{each.in_sample:+z.3f}' for each in law.bias)]
    for law in comparison.laws
  ]
  title = 'Bias over sparsity: mean of log predicted - log measured loss'
  return text.table(title, ['', *header], [['runs', *n_runs], *rows])


def _filled(line: str) -> str:
  indent = ' ' * (len(line) - len(line.lstrip()) + 2)
  options = {'subsequent_indent': indent, 'break_on_hyphens': False}
  return textwrap.fill(line, text.terminal_width(), **options)


def _write_laws(path: pathlib.Path, comparison) -> None:
  """A row for each law; unknown values are empty cells."""
  fields = ('name', 'formula', 'n_coefficients', *ERRORS, 'aicc', 'bic')
  records = [
    {
      **{name: getattr(law, name) for name in (*fields, 'objective')},
      **{f'bias_at_{each.sparsity:g}': each.in_sample for each in law.bias},
      **law.coefficients,
    }
    for law in comparison.laws
  ]
  names = list(dict.fromkeys(name for record in records for name in record))
  with path.open('w', newline='') as file:
    writer = csv.DictWriter(file, names, lineterminator='\n')
    writer.writeheader()
    writer.writerows(records)


@verb('rank runs.csv --start 0.25 --end 0.75', '.json')
def rank(
  runs: AskedRuns,
  start: float = 0.25,
  end: float = 0.75,
  noise: float | None = None,
  level: Level = 0.95,
) -> Answer:
  """Rank of a pruning schedule among others, against the noise floor.

  Args:
    runs: one table: the runs.csv of a sweep, or one with the columns start,
      end, sparsity, loss.
    start: the start of the schedule to rank, as a fraction of compute.
    end: the end of the schedule to rank, as a fraction of compute.
    noise: standard deviation of the loss of one run, in nats; by default from
      runs that are alike in all but their seed.
    level: the level at which a schedule is told from the best.
  """
  check_level(level)
  rankings, floor = rank_runs(runs, noise, level, (start, end))
  if not any(ranking.asked for ranking in rankings):
    every = {_percents(s) for ranking in rankings for s in ranking.schedules}
    raise ValueError(
      f'--start = {start:g}, --end = {end:g}: no such schedule, in fractions '
      f'of compute; there are, in %, {", ".join(sorted(every))}'
    )
  noise_data = None
  if floor:
    noise_data = dataclasses.asdict(floor)
    noise_data['dof'] = floor.dof if floor.groups else None
  data = {
    'asked': [start, end],
    'level': level,
    'noise': noise_data,
    'rankings': [
      {
        **dataclasses.asdict(ranking),
        'rank': ranking.rank,
        'gap': ranking.gap,
        'not_told_apart': ranking.n_not_told_apart,
      }
      for ranking in rankings
    ],
  }
  shown = _rankings(rankings, f'{100 * start:g}-{100 * end:g}')
  if floor is None:
    return Answer(data, shown, ['no seeds and no --noise: gaps may be chance'])
  return Answer(data, f'{shown}\n{_about_noise(floor, level)}')


def rank_runs(
  asked: AskedRuns,
  noise: float | None,
  level: float,
  schedule: tuple[float, float] = (0.25, 0.75),
) -> tuple[list, Any]:
  """Rankings of the one table given, and the noise of its losses or None."""
  # Only here, so that --help answers at once.
  from jax_sparse_pretrain.analysis.ranking import read_scheduled

  if len(asked.paths) != 1 or storage.as_path(asked.paths[0]).is_dir():
    raise ValueError(
      'PATH: give one table: the runs.csv of a sweep, or one with the columns '
      'start, end, sparsity, loss'
    )
  path = storage.as_path(asked.paths[0])
  derived = [each.partition('=')[0].strip() for each in asked.column]
  columns, runs = read_scheduled(path, asked.load, derived)
  if runs is None:
    for name, value in vars(asked).items():
      if name != 'paths' and value:
        raise ValueError(f'--{name}: {path} is no table of runs')
  floor = None
  if noise is not None:
    try:
      floor = analysis.Noise(noise)
    except ValueError as error:
      raise ValueError(f'--noise: {error}') from None
  elif runs is not None:
    floor = analysis.replicate_noise(runs)
  return analysis.rank_schedules(*columns, schedule, floor, level), floor


def _rankings(rankings: Sequence, asked: str) -> str:
  header = ['sparsity', 'best', 'loss', 'worst', f'{asked} ranks', 'gap']
  rows = [
    [
      f'{100 * ranking.sparsity:g} %',
      _percents(ranking.best),
      f'{ranking.best.loss:.4f}',
      f'+{ranking.schedules[-1].loss - ranking.best.loss:.4f}',
      f'{ranking.rank or UNKNOWN} of {len(ranking.schedules)}',
      known(ranking.gap, '{:.4f}'.format),
      known(ranking.margin, '{:.4f}'.format),
      known(ranking.n_not_told_apart, str),
    ]
    for ranking in rankings
  ]
  title = 'Schedules of equal compute: start-end in % of it, losses in nats'
  return text.table(title, [*header, 'margin', 'not told apart'], rows)


def _percents(schedule) -> str:
  return f'{100 * schedule.start:g}-{100 * schedule.end:g}'


def _about_noise(noise, level: float) -> str:
  source = 'as given'
  if noise.groups:
    source = f'groups of seeds: {noise.groups}; degrees of freedom: '
    source += f'{noise.dof:g}'
  return (
    f'Noise of one run: {noise.sd:.4f} nats ({source}).\n'
    f'Not told apart: with {100 * level:g} % confidence the truly best '
    'schedule is among\nthese (Hsu, 1981), if losses of schedules are as '
    'independent as those of seeds.'
  )


@dataclasses.dataclass(frozen=True)
class AskedArms:
  """The arms of an experiment.

  Attributes:
    names: how to read the names of runs, a regular expression with the group
      (?P<arm>...) and, if there are, (?P<block>...) and (?P<seed>...); runs
      that do not match are left out; without a group for them, seeds are in
      the column seed.
    reference: the arm to compare the others with.
  """

  names: str
  reference: str

  def contrasts(self, runs: Runs) -> list:
    """The contrasts of these runs; an error names the flag."""
    from jax_sparse_pretrain.analysis.contrasts import read_places

    for name, value in vars(self).items():
      if not value:
        raise ValueError(f'--{name}: must be given')
    try:
      places = read_places(runs, self.names)
    except ValueError as error:
      raise ValueError(f'--names {error}') from None
    left_out = [
      name for name, place in zip(runs.run, places, strict=True) if not place
    ]
    if left_out:
      warnings.warn(
        f'--names matches {len(runs) - len(left_out)} of {len(runs)} runs; '
        f'left out are such as {left_out[0]!r}',
        stacklevel=2,
      )
    return analysis.contrast_runs(runs, places, self.reference)


@verb(
  "contrast runs.csv --names '(?P<arm>.+)_(?P<seed>\\d+)' --reference x",
  '.json',
)
def contrast(runs: AskedRuns, arms: AskedArms, level: Level = 0.95) -> Answer:
  """Differences of loss between arms of an experiment, over seeds."""
  check_level(level)
  found = arms.contrasts(runs.load())
  data = [
    {
      **{
        name: None if value != value else value  # NaN is not known.
        for name, value in dataclasses.asdict(each).items()
      },
      'difference': each.difference,
      'interval': text.closed(each.interval(level)),
    }
    for each in found
  ]
  said = [
    f'{f"{each.block} {each.arm}".strip()}: one seed, so that nothing is known '
    'of its noise'
    for each in found
    if len(each.seeds) < 2
  ]
  data = {'level': level, 'contrasts': data}
  return Answer(data, _contrasts(found, level), said)


def _contrasts(found: Sequence, level: float) -> str:
  reference = found[0].reference
  header = ['arm', 'seeds', 'N_avg off', 'final N', f'of {reference}', 'loss']
  rows = [
    [
      f'{each.block} {each.arm}'.strip(),
      str(len(each.seeds)),
      f'{each.average_off:+.2%}',
      known(each.final_parameters, text.short),
      known(each.reference_final_parameters, text.short),
      f'{each.difference:+.4f}',
      text.interval(each.interval(level), '{:+.4f}'.format),
    ]
    for each in found
  ]
  title = f'Loss less that of {reference}, in nats, paired by seed'
  table = text.table(title, [*header, f'{level * 100:g} %'], rows)
  return f"{table}\nEach interval on its own, by Student's t."
