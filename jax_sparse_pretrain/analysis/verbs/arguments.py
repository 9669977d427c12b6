"""Groups of flags that several verbs share, and what they ask for.

A law is a file that `fit` wrote, or five numbers.
"""

import dataclasses
import inspect
import json
import os
import pathlib
import typing
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

from jax_sparse_pretrain import analysis
from jax_sparse_pretrain import config as config_lib
from jax_sparse_pretrain import text as text_lib
from jax_sparse_pretrain.analysis.command import (
  AnyInteger,
  From,
  Repeated,
  Words,
)
from jax_sparse_pretrain.analysis.effective import EFFECTIVE
from jax_sparse_pretrain.analysis.runs_table import Runs
from jax_sparse_pretrain.planning import Plan, plan

Kind = Literal[tuple(EFFECTIVE)]
# Below it the Huber loss is the absolute loss, and only rounds more.
SMALLEST_DELTA = 1e-12
FEWEST_RUNS = 5  # as many as the law has coefficients
# More resamples take hours, fill the memory, and say nothing more.
MAX_RESAMPLES = 100_000
# The keys of the config, with their types and defaults.
PRUNING = config_lib.Pruning()
KEYS = typing.get_type_hints(config_lib.Pruning)


@dataclasses.dataclass(frozen=True)
class AskedRuns:
  """Which runs to read.

  Attributes:
    paths: a CSV table of runs, a workdir, or a directory of workdirs.
    column: how a column of a table follows from its others, such as
      "tokens=steps * 128 * 512"; quote names with spaces: "loss='val-loss'".
    where: keep the runs for which this holds, such as "sparsity == 0".
    drop_highest_loss: leave out this many runs with the highest loss.
    unfinished: take unfinished runs as they are.
    include_continued: keep runs that began from another model (init_from),
      which are left out by default.
  """

  paths: Words
  column: Repeated = ()
  where: Repeated = ()
  drop_highest_loss: AnyInteger = 0
  unfinished: bool = False
  include_continued: bool = False

  def load(self) -> Runs:
    if not self.paths:
      raise ValueError('PATH: must be given: a table of runs, or workdirs')
    return analysis.load_runs(
      *self.paths,
      columns=dict(map(_assignment, self.column)),
      where=self.where,
      drop_highest_loss=self.drop_highest_loss,
      unfinished=self.unfinished,
      include_continued=self.include_continued,
    )


def _assignment(text: str) -> tuple[str, str]:
  name, mark, expression = text.partition('=')
  if not (mark and name.strip().isidentifier() and expression.strip()):
    raise ValueError(f'--column {text!r}: must be NAME=EXPRESSION')
  return name.strip(), expression


@dataclasses.dataclass(frozen=True, kw_only=True)
class AskedFit:
  """How to fit the law.

  Attributes:
    parameters: the N of the law; by default the average over training.
    solver: the arguments of `fit_scaling_law`.
  """

  parameters: Kind = 'average'
  solver: Annotated[dict[str, Any], From('fit_scaling_law')]

  def __post_init__(self):
    check_delta(**self.solver)

  @property
  def changed(self) -> list[str]:
    """The names of the solver's flags that are not as by default."""
    known = inspect.signature(analysis.fit_scaling_law).parameters
    return [k for k, v in self.solver.items() if v != known[k].default]

  def fit(self, asked: AskedRuns, runs: Runs, kind: str | None = None):
    """The law of these runs, with N of a kind or of that of --parameters."""
    if len(runs) < FEWEST_RUNS:
      raise ValueError(
        f'{", ".join(asked.paths)}: {len(runs)} rows: a law of {FEWEST_RUNS} '
        f'coefficients needs at least {FEWEST_RUNS}, after --where and '
        '--drop_highest_loss'
      )
    return analysis.fit_runs(runs, kind or self.parameters, **self.solver)


def check_delta(delta: float, **_) -> None:
  if 0 < delta < SMALLEST_DELTA:
    raise ValueError(f'--delta = {delta}: must be at least {SMALLEST_DELTA:g}')


@dataclasses.dataclass(frozen=True)
class AskedResamples:
  """How to resample the runs for intervals.

  Attributes:
    bootstrap: how many resamples; 0 for profile intervals alone.
    seed: the seed of the resamples.
    group: a column; runs with one value of it, such as the seeds of one
      configuration, are resampled together.
  """

  bootstrap: AnyInteger = 4000
  seed: AnyInteger = 0
  group: str | None = None

  def __post_init__(self):
    check_not_negative(bootstrap=self.bootstrap, seed=self.seed)
    if self.bootstrap > MAX_RESAMPLES:
      raise ValueError(
        f'--bootstrap = {self.bootstrap}: must be at most {MAX_RESAMPLES:,}'
      )

  @property
  def changed(self) -> list[str]:
    """The names of the flags that are not as by default."""
    default = AskedResamples()
    return [k for k, v in vars(self).items() if v != getattr(default, k)]

  def of(self, runs: Runs) -> dict[str, Any] | None:
    """The arguments of `ScalingLawFit.bootstrap`; None for no resamples."""
    groups = runs.labels(self.group) if self.group else None
    if not self.bootstrap:
      return None
    asked = {'n_resamples': self.bootstrap, 'seed': self.seed}
    return {**asked, 'groups': groups}


def check_level(level: float) -> None:
  from jax_sparse_pretrain.analysis.fitting import design

  design.check_level(level)


def check_not_negative(**values: int) -> None:
  for name, value in values.items():
    if value < 0:
      raise ValueError(f'--{name} = {value}: must be at least 0')


class KnownLaw(NamedTuple):
  """A fit, its bootstrap and the arguments of that, or None, and intervals.

  The intervals are 'profile' and 'bootstrap' -> coefficient -> interval.
  """

  fit: Any
  resampling: Mapping[str, Any] | None
  resamples: Any
  intervals: Mapping[str, Mapping[str, tuple[float, float]]]
  warnings: tuple[str, ...]


def fit_with_intervals(
  asked: AskedRuns,
  runs: Runs,
  law: AskedFit,
  resamples: AskedResamples,
  level: float,
) -> KnownLaw:
  resampling, drawn = resamples.of(runs), None
  fit = law.fit(asked, runs)
  intervals, said = {'profile': fit.intervals(level)}, fit.warnings_at(level)
  if resampling:
    drawn = fit.bootstrap(**resampling)
    intervals['bootstrap'] = drawn.intervals(level)
    said += drawn.warnings_at(level)
  return KnownLaw(fit, resampling, drawn, intervals, said)


@dataclasses.dataclass(frozen=True)
class AskedSchedule:
  """A schedule, with the names and defaults of the config.

  Attributes:
    linear_parameters: N of the dense model, in its matmul kernels.
    sparsity: the final sparsity, in [0, 1).
    steps: the steps of the run; or
    dense_steps: its compute, in steps of the dense model.
    tokens_per_step: predicted tokens in a batch.
    start: the first mask update.
    end: the last mask update.
    unit: the unit of start and end.
    every: steps between mask updates.
    schedule: the shape of the schedule.
    power: the exponent of the shape 'polynomial'.
  """

  linear_parameters: int | None = None
  sparsity: float | None = None
  steps: int | None = None
  dense_steps: int | None = None
  tokens_per_step: int | None = None
  start: float = PRUNING.start
  end: float = PRUNING.end
  unit: KEYS['unit'] = PRUNING.unit
  every: int = PRUNING.every
  schedule: KEYS['schedule'] = PRUNING.schedule
  power: float = PRUNING.power

  @property
  def is_given(self) -> bool:
    return self != AskedSchedule()

  def average(self):
    """What the schedule plans, an `Average`; None if no flag was given."""
    if not self.is_given:
      return None
    for name in ('linear_parameters', 'sparsity'):
      if getattr(self, name) is None:
        raise ValueError(f'--{name}: must be given for a schedule')
    if (self.steps is None) == (self.dense_steps is None):
      raise ValueError('--steps, --dense_steps: give one of them')
    return analysis.planned_average(
      self.linear_parameters, self.plan(), self.tokens_per_step
    )

  def plan(self) -> Plan:
    """The plan, checked as a config is; an error names the flag."""
    from jax_sparse_pretrain.analysis.rounding import check_one_shot

    names = ('sparsity', 'start', 'end', 'unit', 'every', 'schedule', 'power')
    asked = {name: getattr(self, name) for name in names}
    try:
      config_lib.from_dict({'pruning': asked})
    except config_lib.ConfigError as error:
      raise ValueError(str(error).replace('pruning.', '--')) from None
    check_one_shot(self.schedule, self.start, self.end)
    asked['shape'] = asked.pop('schedule')
    try:
      return plan(steps=self.steps, dense_steps=self.dense_steps, **asked)
    except ValueError as error:
      raise ValueError(f'the schedule does not fit: {error}') from None


# The resampling of files that `ScalingLawFit.to_json` alone has written.
DEFAULT_RESAMPLING = {'n_resamples': 4000, 'seed': 0}
NUMBERS = 'E=1.8,A=480,B=2100,alpha=0.35,beta=0.37'


@dataclasses.dataclass(frozen=True)
class GivenLaw:
  """A law and the parameters that its N counts; a fit, but for numbers.

  The resampling is the arguments of its bootstrap; None if it had none.
  """

  law: 'analysis.ScalingLaw'
  kind: str = 'average'
  fit: 'analysis.ScalingLawFit | None' = None
  resampling: Mapping[str, Any] | None = None

  @property
  def q(self) -> float | None:
    """The coefficient of its count; None if it has none."""
    return self.fit.count.value if self.fit and self.fit.count else None

  def bootstrap(self):
    """The resamples of the fit, drawn once more as they were; or None."""
    if self.fit is None or self.resampling is None:
      return None
    return self.fit.bootstrap(**self.resampling)


@dataclasses.dataclass(frozen=True)
class AskedLaw:
  """The law on the command line.

  Attributes:
    law: a file that fit has written, or numbers:
      E=1.8,A=480,B=2100,alpha=0.35,beta=0.37.
  """

  law: str

  def read(self) -> GivenLaw:
    return read_law(self.law)


def read_law(text: str) -> GivenLaw:
  """The law that `--law` stands for; an error names the file or number."""
  if os.path.isfile(text):
    return _from_file(pathlib.Path(text))
  if '=' not in text:
    raise ValueError(f'--law = {text}: no such file, nor numbers: {NUMBERS}')
  pairs = [part.partition('=') for part in text.split(',')]
  names = [name.strip() for name, _, _ in pairs]
  try:
    values = [float(value) for _, _, value in pairs]
    if len(set(names)) < len(names):
      raise ValueError('a coefficient is there twice')
    law = dict(zip(names, values, strict=True))
    return GivenLaw(analysis.ScalingLaw.from_dict(law))
  except ValueError as error:
    raise ValueError(
      f'--law = {text}: {error}; expected numbers: {NUMBERS}'
    ) from None


def _from_file(path: pathlib.Path) -> GivenLaw:
  try:
    text = path.read_text()
    fit, about = analysis.ScalingLawFit.from_json(text), json.loads(text)
  except ValueError as error:
    raise ValueError(
      f'--law = {path}: must be a file that fit has written: {error}'
    ) from None
  kind = about.get('kind', 'average')
  resampling = about.get('resampling', DEFAULT_RESAMPLING)
  is_right = {
    'kind': kind in EFFECTIVE
    and bool(EFFECTIVE[kind].coefficient) == bool(fit.count)
    and (fit.count is None or fit.count.kind == kind),
    'resampling': _is_resampling(resampling, len(fit.loss)),
  }
  for name in is_right:
    if not is_right[name]:
      value = text_lib.cut(repr(about.get(name)), 60)
      raise ValueError(
        f'--law = {path}: {name} = {value}: is not what fit has written, or '
        'the file was altered'
      )
  return GivenLaw(fit.law, kind, fit, resampling)


def _is_resampling(value: Any, n_runs: int) -> bool:
  match value:
    case None:
      return True
    case {'n_resamples': int(n), 'seed': int(seed), **others}:
      groups = others.pop('groups', None)
      is_right = 0 < n <= MAX_RESAMPLES and seed >= 0 and not others
      if groups is None or not is_right:
        return is_right
      is_right = isinstance(groups, list) and len(groups) == n_runs
      is_right = is_right and all(isinstance(x, str) for x in groups)
      return is_right and len(set(groups)) > 1
  return False
