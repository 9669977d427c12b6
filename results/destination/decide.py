r"""What each law predicts for the runs of this experiment, and what they did.

  python results/destination/decide.py predict    # from dense runs alone
  python results/destination/decide.py            # with the sparse runs

Both read runs.csv beside this file. A dense curve is log loss as a parabola
in the logarithm of N, through a ladder of dense models, at equal tokens. It
turns each N_eff into a loss, and each loss into an N_eff.
"""

import dataclasses
import importlib.util
import pathlib
import sys
from collections.abc import Iterator, Mapping

import numpy as np

from jax_sparse_pretrain import analysis, schema, text
from jax_sparse_pretrain import config as config_lib
from jax_sparse_pretrain.analysis import EFFECTIVE
from jax_sparse_pretrain.training import recipe

HERE = pathlib.Path(__file__).parent
LAWS = ('average', 'l1', 'final')  # known before a run has begun
# By magnitude, and with steps both before and after.
DECIDING = ('paper', 'middle', 'early', 'later', 'late')
# phi is fitted to some arms, and predicts the others.
FITTED, PREDICTED = ('paper', 'early', 'late'), ('middle', 'later')


def load_sweep():
  """configs/sweep_destination.py as a module."""
  folder = HERE.parents[1] / 'configs'
  sys.path.insert(0, str(folder))
  spec = importlib.util.spec_from_file_location(
    'sweep_destination', folder / 'sweep_destination.py'
  )
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


def planned(sweep, changes) -> dict[str, float]:
  """N_eff of a run by each law, from its plan."""
  values = schema.altered(sweep.get_config().to_dict(), changes)
  config = config_lib.from_dict(values)
  linear = recipe.counts.linear_parameters(config.model)
  plan = recipe.make_plan(config)
  return {law: linear * EFFECTIVE[law].of_plan(plan) for law in LAWS}


class Curve:
  """Log loss of dense runs as a parabola in ln N; N per run, loss per run."""

  def __init__(self, n, loss):
    self.middle = np.log(n).mean()
    x = np.log(n) - self.middle
    self.ends = float(np.min(n)), float(np.max(n))
    degree = min(2, len(np.unique(np.round(x, 9))) - 1)
    self.coefficients = np.polyfit(x, np.log(loss), degree)

  def loss(self, n) -> np.ndarray:
    return np.exp(np.polyval(self.coefficients, np.log(n) - self.middle))

  def count(self, loss: float) -> float:
    """N whose loss this is, by bisection over four octaves beyond the ends."""
    low, high = self.ends[0] / 16, 16 * self.ends[1]
    # A parabola turns; only its falling side is a law.
    if len(self.coefficients) == 3 and self.coefficients[0] > 0:
      a, b, _ = self.coefficients
      high = min(high, np.exp(self.middle - b / (2 * a)))
    for _ in range(60):
      n = np.sqrt(low * high)
      low, high = (n, high) if self.loss(n) > loss else (low, n)
    return float(n)


@dataclasses.dataclass(frozen=True)
class Cell:
  """Runs alike in all but their seed.

  Attributes:
    name: of the runs, without the seed.
    losses: in order of seed.
    counts: N_eff by each law, their mean.
  """

  name: str
  losses: np.ndarray
  counts: Mapping[str, float]

  @property
  def arm(self) -> str:
    return self.name.partition('_')[2]


def cell(runs: analysis.Runs, name: str) -> Cell:
  index = [i for i, x in enumerate(runs.run) if x.rpartition('_')[0] == name]
  own = runs.select(np.array(index, int))
  laws = ('initial', 'average', 'l1', 'l1_measured', 'final')
  counts = {law: float(own.parameters(law).mean()) for law in laws if index}
  return Cell(name, own.loss, counts)


def seeds(runs: analysis.Runs, name: str) -> np.ndarray:
  """Losses of a cell, in order of seed."""
  index = [
    i for i, run in enumerate(runs.run) if run.rpartition('_')[0] == name
  ]
  return runs.loss[index]


def ladder(runs: analysis.Runs, names) -> Curve:
  """The curve of dense runs of these names, all seeds."""
  index = [i for i, x in enumerate(runs.run) if x.rpartition('_')[0] in names]
  return Curve(runs.initial_parameters[index], runs.loss[index])


def ladders(runs: analysis.Runs, sweep) -> dict[str, Curve]:
  """Of inner dimensions, which decides, and of widths."""
  widest = f'd{sweep.destination.WIDTH}'
  return {
    'inner dimensions': ladder(
      runs, {widest, *(f'inner{name}' for name in sweep.INNER)}
    ),
    'widths': ladder(runs, {f'd{width}' for width in sweep.WIDTHS}),
  }


def noise(runs: analysis.Runs, names) -> tuple[float, int]:
  """Standard deviation of one run within its cell, and degrees of freedom."""
  cells = [seeds(runs, name) for name in names]
  squares = sum(
    ((each - each.mean()) ** 2).sum() for each in cells if len(each)
  )
  dof = sum(max(len(each) - 1, 0) for each in cells)
  return float(np.sqrt(squares / max(dof, 1))), dof


def dense_text(runs: analysis.Runs, sweep, curves: Mapping[str, Curve]) -> str:
  """The ladders, against their curves."""
  rows = []
  for name, _ in sweep.dense():
    losses = seeds(runs, name)
    if not len(losses):
      continue
    n = cell(runs, name).counts['initial']
    rows.append(
      [
        name,
        text.count(int(n)),
        str(len(losses)),
        f'{losses.mean():.4f}',
        *(f'{losses.mean() - x.loss(n):+.4f}' for x in curves.values()),
      ]
    )
  header = ['', 'N', 'seeds', 'loss', *(f'less {x}' for x in curves)]
  return text.table('Dense runs, and how far off the curves', header, rows)


def predictions_text(sweep, curve: Curve, sd: float, ladder: str) -> str:
  rows = []
  for name, changes in sweep.sparse():
    n = planned(sweep, changes)
    losses = {law: float(curve.loss(n[law])) for law in LAWS}
    apart = abs(losses['average'] - losses['l1']) / (sd / np.sqrt(4))
    rows.append(
      [name]
      + [text.count(round(n[law])) for law in LAWS]
      + [f'{losses[law]:.3f}' for law in LAWS]
      + [f'{apart:.1f}']
    )
  header = ['', *(f'N {law}' for law in LAWS), *LAWS, 'apart']
  about = (
    'apart: between the average and the L1 mass, in standard errors of a cell '
    'of four\nseeds, unpaired.'
  )
  title = f'Predicted loss, from dense runs alone, by {ladder}'
  return f'{text.table(title, header, rows)}\n{about}'


def cells(runs: analysis.Runs, sweep) -> Iterator[Cell]:
  for name, _ in sweep.sparse():
    if len(seeds(runs, name)):
      yield cell(runs, name)


def rmse(found, curve: Curve, count) -> float:
  errors = [
    np.log(each.losses.mean()) - np.log(curve.loss(count(each)))
    for each in found
  ]
  return float(np.sqrt(np.mean(np.square(errors))))


def between(phi: float):
  return lambda cell: (
    cell.counts['final'] + phi * (cell.counts['l1'] - cell.counts['final'])
  )


def results_text(runs, sweep, curve: Curve, sd: float, ladder: str) -> str:
  rows, found = [], list(cells(runs, sweep))
  for each in found:
    loss = each.losses.mean()
    n = curve.count(loss)
    # A standard error of loss, by the slope of the curve, is one of N_eff.
    error = sd / np.sqrt(len(each.losses))
    low, high = curve.count(loss + 2 * error), curve.count(loss - 2 * error)
    final, l1 = each.counts['final'], each.counts['l1']
    phi = [(count - final) / (l1 - final) for count in (n, low, high)]
    rows.append(
      [each.name, str(len(each.losses)), f'{loss:.4f}']
      + [
        f'{loss - curve.loss(each.counts[law]):+.3f}'
        for law in ('average', 'l1', 'l1_measured', 'final')
      ]
      + [text.count(round(n)), f'{phi[0]:.2f} ({phi[1]:.2f} to {phi[2]:.2f})']
    )
  header = ['', 'seeds', 'loss', 'average', 'L1', 'measured', 'final']
  header += ['N_eff', 'phi, +- 2 s.e.']
  title = f'Loss less that of dense models of equal N_eff, by {ladder}'
  return text.table(title, header, rows)


def score_text(runs, sweep, curve: Curve, sd: float, ladder: str) -> str:
  """The test that decides: errors over the cells of `DECIDING`."""
  found = [each for each in cells(runs, sweep) if each.arm in DECIDING]
  laws = {
    law: (lambda cell, law=law: cell.counts[law])
    for law in ('average', 'l1', 'l1_measured', 'final')
  }
  fitted = [each for each in found if each.arm in FITTED]
  grid = np.linspace(-0.5, 2.0, 251)
  phi = grid[np.argmin([rmse(fitted, curve, between(x)) for x in grid])]
  others = [each for each in found if each.arm in PREDICTED]
  draws = noisy(found, sd)
  rows = []
  for law, count in laws.items():
    low, high = np.quantile(
      [rmse(each, curve, count) - rmse(each, curve, laws['average'])
       for each in draws],
      [0.025, 0.975],
    )  # fmt: skip
    rows.append(
      [
        law,
        f'{rmse(found, curve, count):.4f}',
        f'{low:+.4f} to {high:+.4f}',
        f'{rmse(others, curve, count):.4f}' if others else text.UNKNOWN,
      ]
    )
  with_phi = f'{rmse(others, curve, between(phi)):.4f}' if others else '-'
  rows.append([f'phi = {phi:.2f}', '', '', with_phi])
  header = ['law', 'RMSE', 'less that of the average, 95 %', 'other half']
  title = f'Error of log loss over {len(found)} cells, by {ladder}'
  return text.table(title, header, rows)


def noisy(found, sd: float, n: int = 2000):
  """The cells with the noise of their seeds drawn once more."""
  rng = np.random.default_rng(0)
  for _ in range(n):
    yield [
      dataclasses.replace(
        each, losses=each.losses + rng.normal(0, sd, len(each.losses))
      )
      for each in found
    ]


def main(argv: list[str]) -> None:
  sweep = load_sweep()
  runs = analysis.load_runs(HERE / 'runs.csv')
  curves = ladders(runs, sweep)
  sd, dof = noise(runs, [name for name, _ in sweep.dense()])
  print(dense_text(runs, sweep, curves))
  print(f'Noise of one run: {sd:.4f} nats ({dof} degrees of freedom).\n')
  for ladder, curve in curves.items():
    if argv == ['predict']:
      print(predictions_text(sweep, curve, sd, ladder), end='\n\n')
      continue
    print(results_text(runs, sweep, curve, sd, ladder), end='\n\n')
    print(score_text(runs, sweep, curve, sd, ladder), end='\n\n')


if __name__ == '__main__':
  main(sys.argv[1:])
