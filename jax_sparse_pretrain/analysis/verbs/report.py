"""Writes one page of HTML on a set of runs."""

import argparse
import shlex

from jax_sparse_pretrain.analysis.verbs import Answer, fitted
from jax_sparse_pretrain.analysis.verbs.arguments import given_names

SUMMARY = 'one page of HTML on runs: law, intervals, comparison, pictures'
EXAMPLE = 'report runs.csv --out report.html'
SUFFIXES = ('.html',)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  fitted.add_arguments(parser)
  parser.add_argument(
    '--title', default='Report on pre-training runs', help='of the page'
  )


def answer(arguments: argparse.Namespace) -> Answer:
  if not arguments.out:
    raise ValueError('--out: must be given, FILE.html')
  if not arguments.paths:
    raise ValueError('PATH: must be given: a table of runs, or workdirs')
  fitted.check(arguments)
  # Only here, so that --help answers at once.
  from jax_sparse_pretrain.analysis.reporting.report import report_html
  from jax_sparse_pretrain.analysis.verbs.reported import make_report

  report = make_report(arguments, command_line(arguments))
  text = report_html(report)
  return Answer(
    data={
      'title': report.title,
      'runs': len(report.runs),
      'fingerprint': report.runs.fingerprint,
      'law': report.fit and report.fit.law.as_dict(),
      'warnings': report.warnings,
    },
    text=f'{report.title}: {len(report.runs)} runs, {len(text):,} bytes',
    warnings=tuple(report.warnings),
    writers={'.html': lambda path: path.write_text(text, encoding='utf-8')},
  )


def command_line(arguments: argparse.Namespace) -> str:
  """The command that these arguments came from, without the defaults."""
  parser = argparse.ArgumentParser()
  add_arguments(parser)
  words = ['python', '-m', 'jax_sparse_pretrain.analysis', 'report']
  words += arguments.paths
  for name in given_names(parser, arguments):
    value = getattr(arguments, name)
    if value is True and name != 'json':
      words.append(f'--{name}')
    elif name not in ('verb', 'paths', 'json'):
      for each in value if isinstance(value, list) else [value]:
        words += [f'--{name}', str(each)]
  return ' '.join(map(_quoted, words))


def _quoted(word: str) -> str:
  """For a shell; in double quotes where single ones are inside."""
  if "'" in word and not set(word) & set('"$`\\!'):
    return f'"{word}"'
  return shlex.quote(word)
