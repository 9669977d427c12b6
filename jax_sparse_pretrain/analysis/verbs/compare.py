"""Compares what N a law should count, and laws with more coefficients."""

import argparse
import csv
import pathlib
import textwrap

from jax_sparse_pretrain import text as tables
from jax_sparse_pretrain.analysis.comparison.compare import compare_laws
from jax_sparse_pretrain.analysis.comparison.results import (
  Bias,
  ComparedLaw,
  Comparison,
)
from jax_sparse_pretrain.analysis.reporting.compared import ERRORS, warnings
from jax_sparse_pretrain.analysis.verbs import Answer
from jax_sparse_pretrain.analysis.verbs.arguments import (
  add_delta,
  add_runs,
  check_delta,
  read_runs,
)

SUMMARY = 'compare average, final and initial N, and richer laws, on the runs'
EXAMPLE = 'compare runs.csv --out compare.csv'
SUFFIXES = ('.csv', '.json')

MISSING = '-'


def add_arguments(parser: argparse.ArgumentParser) -> None:
  add_runs(parser)
  add_delta(parser.add_argument_group('fit'))


def answer(arguments: argparse.Namespace) -> Answer:
  check_delta(arguments)
  runs = read_runs(arguments)
  comparison = compare_laws(runs, delta=arguments.delta)
  data = {
    **comparison.as_dict(),
    'verdict': [comparison.verdict],
    'fingerprint': runs.fingerprint,
  }
  return Answer(
    data,
    render(comparison),
    tuple(warnings(comparison)),
    {'.csv': lambda path: _write_csv(path, comparison)},
  )


def render(comparison: Comparison) -> str:
  """Tables, the fitted laws, and the best by test, for a terminal."""
  parts = [_errors(comparison), _about(comparison)]
  if comparison.laws[0].bias:
    parts.append(_biases(comparison))
  parts.append(_coefficients(comparison))
  parts.append(_filled(comparison.verdict))
  return '\n\n'.join(parts)


def _errors(comparison: Comparison) -> str:
  header = ['', 'k', *ERRORS.values(), 'AICc', 'BIC']
  rows = [
    [
      law.name,
      str(law.n_coefficients),
      *(_cell(getattr(law, key), '.4f') for key in ERRORS),
      *(_cell(value, '.1f') for value in (law.aicc, law.bic)),
    ]
    for law in comparison.laws
  ]
  title = f'Error of log loss (RMSE), of {comparison.n_runs} runs'
  return tables.table(title, header, rows)


def _about(comparison: Comparison) -> str:
  lines = [
    'k: coefficients. AICc, BIC: lower is better; with log errors taken as '
    'normal and independent, at the Huber fit.',
    *(f'{ERRORS[key]}: {about}.' for key, about in comparison.tests.items()),
    *(f'{MISSING} {note}.' for note in comparison.notes),
  ]
  return '\n'.join(map(_filled, lines))


def _biases(comparison: Comparison) -> str:
  names = [law.name for law in comparison.laws]
  rows = [
    [
      f'{biases[0].sparsity:g}',
      str(biases[0].n_runs),
      *(_signed(each.in_sample) for each in biases),
    ]
    for biases in zip(*(law.bias for law in comparison.laws), strict=True)
  ]
  title = 'Bias over sparsity: mean of log predicted - log measured loss'
  return tables.table(title, ['sparsity', 'runs', *names], rows)


def _coefficients(comparison: Comparison) -> str:
  lines = []
  for law in comparison.laws:
    lines.append(f'{law.name}: L = {law.formula}')
    pairs = (f'{k}={_short(v)}' for k, v in law.coefficients.items())
    lines.append('  ' + ', '.join(pairs))
  return '\n'.join(map(_filled, lines))


def _filled(text: str) -> str:
  indent = ' ' * (len(text) - len(text.lstrip()) + 2)
  return textwrap.fill(
    text,
    tables.terminal_width(),
    subsequent_indent=indent,
    break_on_hyphens=False,
  )


def _cell(value: float | None, form: str) -> str:
  return MISSING if value is None else format(value, form)


def _signed(value: float) -> str:
  """Without the sign of a zero."""
  text = f'{value:+.3f}'
  return text if float(text) else text[1:]


def _short(value: float) -> str:
  return f'{value:#.4g}'.rstrip('.')


def _write_csv(path: pathlib.Path, comparison: Comparison) -> None:
  """A row a law; what is not known stays empty."""
  records = list(map(_record, comparison.laws))
  names = list(dict.fromkeys(name for record in records for name in record))
  with path.open('w', newline='') as file:
    writer = csv.DictWriter(file, names, lineterminator='\n')
    writer.writeheader()
    writer.writerows(records)


def _record(law: ComparedLaw) -> dict[str, str | float | None]:
  named = ('name', 'formula', 'n_coefficients', *ERRORS, 'aicc', 'bic')
  return {
    **{name: getattr(law, name) for name in (*named, 'objective')},
    **{_bias_column(each): each.in_sample for each in law.bias},
    **law.coefficients,
  }


def _bias_column(bias: Bias) -> str:
  return f'bias_at_{bias.sparsity:g}'
