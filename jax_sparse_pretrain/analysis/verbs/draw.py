"""Draw runs, laws and schedules."""

import contextlib
import dataclasses
from collections.abc import Sequence

from jax_sparse_pretrain import analysis
from jax_sparse_pretrain.analysis.averages import Average, read_averages
from jax_sparse_pretrain.analysis.command import Answer, Level, Words, verb
from jax_sparse_pretrain.analysis.effective import EFFECTIVE
from jax_sparse_pretrain.analysis.runs_table import Runs
from jax_sparse_pretrain.analysis.verbs.arguments import (
  AskedFit,
  AskedResamples,
  AskedRuns,
  AskedSchedule,
  GivenLaw,
  check_level,
  read_law,
)
from jax_sparse_pretrain.analysis.verbs.compare_runs import AskedArms, rank_runs
from jax_sparse_pretrain.model.counts import training_flops

SUFFIXES = ('.png', '.svg')


@dataclasses.dataclass(frozen=True, kw_only=True)
class LawOrFit(AskedFit):
  """The law to draw.

  Attributes:
    parameters: the N of the law; by default the average over training.
    solver: the arguments of `fit_scaling_law`.
    law: draw this law instead of a fit: a file of fit, or numbers as predict
      takes them; coefficients and isoflops need no runs then.
  """

  law: str | None = None

  def __post_init__(self):
    super().__post_init__()
    if self.law:
      refuse_unused(self.changed)

  def find(self, asked: AskedRuns, runs: Runs | None) -> GivenLaw:
    """The law of `--law`, or else that of the runs."""
    if not self.law:
      fit = self.fit(asked, runs)
      return GivenLaw(fit.law, self.parameters, fit)
    given = read_law(self.law)
    if given.fit is None:
      return dataclasses.replace(given, kind=self.parameters)
    return given


def refuse_unused(changed: Sequence[str]) -> None:
  """Refuses flags of a fit where the law is given."""
  for name in changed:
    raise ValueError(f'--{name}: nothing is fitted with --law')


@verb('plot law runs.csv --out law.png', *SUFFIXES)
def law(runs: AskedRuns, fit: LawOrFit, out: str) -> Answer:
  """Loss over N and D, with the law and the residuals."""
  found = runs.load()
  given = fit.find(runs, found)
  figure = analysis.plot_law(found, given.fit or given.law, given.kind)
  return _drawn('law', figure, out, _warnings(given))


@verb('plot predicted runs.csv --out predicted.png', *SUFFIXES)
def predicted(runs: AskedRuns, fit: LawOrFit, out: str) -> Answer:
  """Predicted over measured loss, by each kind of parameters."""
  found, said = runs.load(), ()
  if fit.law:
    given = fit.find(runs, found)
    laws, said = {given.kind: given.fit or given.law}, _warnings(given)
  else:
    laws = {kind: fit.fit(runs, found, kind) for kind in known_kinds(found)}
  return _drawn('predicted', analysis.plot_predicted(found, laws), out, said)


def known_kinds(runs: Runs) -> list[str]:
  """The counts without a coefficient that are known of every run.

  Of equal ones the first.
  """
  different: dict[bytes, str] = {}
  for kind, effective in EFFECTIVE.items():
    if effective.coefficient is None:
      with contextlib.suppress(ValueError):
        different.setdefault(runs.parameters(kind).tobytes(), kind)
  return list(different.values())


@verb('plot coefficients runs.csv --out coefficients.png', *SUFFIXES)
def coefficients(
  runs: AskedRuns,
  fit: LawOrFit,
  resamples: AskedResamples,
  out: str,
  level: Level = 0.95,
) -> Answer:
  """Intervals and correlations of the coefficients."""
  check_level(level)
  if fit.law:
    refuse_unused(resamples.changed)
  found = None if fit.law else runs.load()
  given = fit.find(runs, found)
  if given.fit is None:
    raise ValueError('--law: coefficients need runs, or a file of fit')
  # A file of fit has its own resamples, drawn once more.
  drawn = given.bootstrap() or _resampled(given, found, resamples)
  profile = given.fit.intervals(level)
  figure = analysis.plot_coefficients(given.fit, drawn, profile, level)
  said = (*given.fit.warnings_at(level), *drawn.warnings_at(level))
  return _drawn('coefficients', figure, out, said)


def _resampled(given: GivenLaw, runs: Runs | None, asked: AskedResamples):
  resampling = asked.of(runs)
  if not resampling:
    raise ValueError('--bootstrap = 0: the picture needs resamples')
  return given.fit.bootstrap(**resampling)


@verb('plot isoflops runs.csv --out isoflops.png', *SUFFIXES)
def isoflops(
  runs: AskedRuns, fit: LawOrFit, out: str, compute: Sequence[float] = ()
) -> Answer:
  """Loss over N at equal compute, and the optimum.

  Args:
    compute: budgets in FLOPs; by default round ones of the runs.
  """
  found = runs.load() if runs.paths or not fit.law else None
  given = fit.find(runs, found)
  if not compute:
    if found is not None:
      n, d = found.parameters(given.kind, given.q), found.tokens
    elif given.fit is not None:
      n, d = given.fit.parameters, given.fit.tokens
    else:
      raise ValueError('--compute: must be given without runs')
    # Only here, so that --help answers at once.
    from jax_sparse_pretrain.analysis.plots.law_picture import round_budgets

    compute = round_budgets(training_flops(n, d))
  law_or_fit = given.fit or given.law
  figure = analysis.plot_isoflops(law_or_fit, compute, found, given.kind)
  return _drawn('isoflops', figure, out, _warnings(given))


@verb('plot density WORKDIR --out density.png', *SUFFIXES)
def density(
  paths: Words,
  schedule: AskedSchedule,
  out: str,
  sparsities: Sequence[float] = (),
) -> Answer:
  """Density of workdirs, or of a schedule, over tokens and compute.

  Args:
    paths: workdirs, or directories of workdirs.
    sparsities: one schedule for each, in place of --sparsity.
  """
  if (schedule.is_given or sparsities) and paths:
    raise ValueError('density: give workdirs or a schedule, not both')
  averages = _planned(schedule, sparsities) or read_averages(paths)
  if not averages:
    raise ValueError('PATH: must be given: a workdir, or a directory of them')
  return _drawn('density', analysis.plot_density(averages), out)


def _planned(
  schedule: AskedSchedule, sparsities: Sequence[float]
) -> list[Average]:
  if not sparsities:
    planned = schedule.average()
    return [planned] if planned else []
  return [
    dataclasses.replace(
      dataclasses.replace(schedule, sparsity=each).average(),
      run=f'sparsity {100 * each:g} %',
    )
    for each in sparsities
  ]


@verb('plot schedules runs.csv --out schedules.png', *SUFFIXES)
def schedules(
  runs: AskedRuns, out: str, noise: float | None = None, level: Level = 0.95
) -> Answer:
  """Heat map of a sweep, or of a table start, end, sparsity, loss.

  Args:
    noise: standard deviation of the loss of one run, in nats; by default from
      runs that are alike in all but their seed.
    level: the level at which a schedule is told from the best.
  """
  check_level(level)
  figure = heat_map(*rank_runs(runs, noise, level))
  return _drawn('schedules', figure, out)


def heat_map(rankings: Sequence, noise):
  """The picture of what `rank_runs` returns."""
  *columns, margin = zip(
    *(
      (each.start, each.end, ranking.sparsity, each.loss, ranking.margin or 0)
      for ranking in rankings
      for each in ranking.schedules
    ),
    strict=True,
  )
  return analysis.plot_schedules(*columns, margin=margin if noise else None)


@verb(
  "plot contrasts runs.csv --names '(?P<arm>.+)_(?P<seed>\\d+)' \\\n"
  '    --reference x --out arms.png',
  *SUFFIXES,
)
def contrasts(
  runs: AskedRuns, arms: AskedArms, out: str, level: Level = 0.95
) -> Answer:
  """Arms of an experiment against a reference, with intervals."""
  check_level(level)
  found = arms.contrasts(runs.load())
  return _drawn('contrasts', analysis.plot_contrasts(found, level), out)


def _warnings(given: GivenLaw) -> tuple[str, ...]:
  return given.fit.warnings if given.fit else ()


def _drawn(picture: str, figure, out: str, said: Sequence[str] = ()) -> Answer:
  from jax_sparse_pretrain.analysis.plots import style

  return Answer(
    {'picture': picture, 'out': out},
    f'{picture}: {PICTURES[picture].__doc__.splitlines()[0].rstrip(".")}',
    said,
    dict.fromkeys(SUFFIXES, lambda path: style.save(figure, path)),
  )


PICTURES = {
  each.__name__: each
  for each in (
    *(law, predicted, coefficients, isoflops, density),
    *(schedules, contrasts),
  )
}
