"""How large the package is, and how many files a reader crosses: then and now.

  python -m benchmarks.house [REF] [--files]

prints a table of a commit beside the working tree. Most of it is read from the
sources. A private helper is a function whose name begins with an underscore; a
call site is any mention of its name in the package. Record types are
dataclasses and named tuples.

The files of two flows are counted while they run, by a profiler that sees each
call of a function; what runs while a module is imported does not count.

- A mask update, from config to history row: a sparse run of eight steps trains.
  Counted are `config.py`, the files of `pruning/`, `schedule.py`, `planning.py`
  and `history.py` of which a function runs, and the files that call them; not
  the picture that `analysis/` draws of the history afterwards.
- A fit, from runs.csv to figure: `analysis fit` reads the runs of
  `results/small`, and `analysis plot law` draws the law. Every file counts of
  which a function runs, those of the command line included.
"""

import argparse
import ast
import collections
import io
import os
import pathlib
import statistics
import subprocess
import sys
import tarfile
import tempfile

from jax_sparse_pretrain import text

ROOT = pathlib.Path(__file__).parents[1]
BEFORE = '4cfdc27'  # before the house was built anew
PACKAGE = 'jax_sparse_pretrain'

# Runs in a tree. Arguments: the file to write; the names to follow, '' for all;
# a module and its arguments.
TRACER = """
import inspect, os, runpy, sys, threading
out, followed, *sys.argv = sys.argv[1:]
package, seen = os.path.realpath('jax_sparse_pretrain') + '/', set()

def file_of(code):
  is_ours = code.co_filename.startswith(package)
  is_function = code.co_flags & inspect.CO_NEWLOCALS
  return code.co_filename[len(package):] if is_ours and is_function else ''

def is_followed(name):
  return any(part in followed.split() for part in name.split('/'))

def profile(frame, event, _):
  name = file_of(frame.f_code) if event == 'call' else ''
  if not name or (followed and not is_followed(name)):
    return
  callers = []
  while frame:
    if frame.f_code.co_filename.startswith('<frozen importlib'):
      return
    callers.append(file_of(frame.f_code))
    frame = frame.f_back
  seen.update(list(filter(None, callers))[: 2 if followed else 1])

threading.setprofile(profile)
sys.setprofile(profile)
try:
  runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)
except SystemExit as error:
  assert not error.code, error.code
finally:
  sys.setprofile(None)
  with open(out, 'a') as file:
    file.writelines(name + '\\n' for name in seen)
"""
PRUNING = 'pruning schedule.py planning.py history.py'
TRAIN = (
  f'{PACKAGE}.train --config=configs/smoke.py --workdir={{}}/run '
  '--config.duration.value=8 --config.batch_size=8 '
  '--config.model.n_layers=1 --config.model.d_model=32 '
  '--config.model.d_ff=32 --config.model.n_heads=2 '
  '--config.model.context_length=16 --config.evaluation.rows=8'
)
FIT = f'{PACKAGE}.analysis fit results/small/runs.csv --out={{}}/law.json'
PLOT = (
  f'{PACKAGE}.analysis plot law results/small/runs.csv --law {{}}/law.json '
  '--out={}/law.png'
)


def measure(tree: pathlib.Path) -> dict[str, str | set[str]]:
  """Numbers of a checkout, and the files of the two flows."""
  sources = {
    path.relative_to(tree): path.read_text()
    for path in (tree / PACKAGE).rglob('*.py')
  }
  nodes = [n for s in sources.values() for n in ast.walk(ast.parse(s))]
  functions = [n for n in nodes if isinstance(n, ast.FunctionDef)]
  classes = [n for n in nodes if isinstance(n, ast.ClassDef)]
  lines = [n.end_lineno - n.lineno + 1 for n in functions]
  mentions = collections.Counter(
    getattr(n, 'id', getattr(n, 'attr', None)) for n in nodes
  )
  helpers = [
    f.name for f in functions if f.name[0] == '_' and f.name[-1] != '_'
  ]
  names = [path.name for path in sources if path.name[0] != '_']
  with tempfile.TemporaryDirectory() as scratch:
    update = flow(tree, scratch, PRUNING, TRAIN) | {'config.py'}
    update = {f for f in update if not f.startswith('analysis/')}
    fit = flow(tree, scratch, '', FIT, PLOT)
  return {
    'modules': f'{len(sources):,}',
    'lines': f'{sum(len(s.splitlines()) for s in sources.values()):,}',
    'functions': f'{len(functions):,}',
    '  median lines': f'{statistics.median(lines):.0f}',
    'private helpers': f'{len(helpers):,}',
    '  with one call site': f'{sum(mentions[h] == 1 for h in helpers):,}',
    'record types': f'{sum(map(_is_record, classes)):,}',
    'classes that share a name': _shared(c.name for c in classes),
    'modules that share a name': _shared(names),
    'files of a mask update': update,
    'files of a fit': fit,
  }


def _is_record(node: ast.ClassDef) -> bool:
  said = ' '.join(map(ast.unparse, [*node.bases, *node.decorator_list]))
  return 'NamedTuple' in said or 'dataclass' in said


def _shared(names) -> str:
  counts = collections.Counter(names).values()
  return str(sum(n for n in counts if n > 1))


def flow(
  tree: pathlib.Path, scratch: str, followed: str, *commands: str
) -> set[str]:
  """Files of the package that take part in commands, by `TRACER`."""
  out = pathlib.Path(tempfile.mkdtemp(dir=scratch), 'files')
  for command in commands:
    words = [word.format(scratch) for word in command.split()]
    done = subprocess.run(
      [sys.executable, '-c', TRACER, str(out), followed, *words],
      cwd=tree,
      env={**os.environ, 'PYTHONPATH': '', 'JAX_PLATFORMS': 'cpu'},
      capture_output=True,
      text=True,
    )
    if done.returncode:
      raise SystemExit(f'{command}\n{done.stderr}')
  return set(out.read_text().split())


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('ref', nargs='?', default=BEFORE)
  parser.add_argument('--files', action='store_true', help='name the files')
  args = parser.parse_args()
  archive = ['git', 'archive', args.ref]
  done = subprocess.run(archive, cwd=ROOT, capture_output=True)
  if done.returncode:
    raise SystemExit(done.stderr.decode())
  with tempfile.TemporaryDirectory() as folder:
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as file:
      file.extractall(folder, filter='data')
    before = measure(pathlib.Path(folder).resolve())
  now = measure(ROOT)
  rows = [[what, _shown(before[what]), _shown(now[what])] for what in now]
  print(text.table('The house', ['', args.ref, 'now'], rows))
  for what, value in now.items() if args.files else ():
    if isinstance(value, set):
      print(f'{what} now:', *sorted(value), sep='\n  ')


def _shown(value: str | set[str]) -> str:
  return value if isinstance(value, str) else str(len(value))


if __name__ == '__main__':
  main()
