"""Who may import whom, read from the sources."""

import ast
import collections
import graphlib
import importlib.util
import json
import pathlib
import subprocess
import sys

import pytest
import written

from jax_sparse_pretrain import analysis
from jax_sparse_pretrain.analysis.verbs import VERBS

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / 'jax_sparse_pretrain'

# Room -> the rooms that it may import.
ALLOWED = {
  'text': set(),
  'schedule': set(),
  'schema': set(),
  'shipped': set(),
  'hardware': set(),
  'config': {'config_checks', 'schema'},
  'config_checks': {'config', 'schema'},
  'storage': {'schema'},
  'history': {'storage'},
  'planning': {'config', 'schedule'},
  'command_line': {'config', 'runs', 'schema', 'shipped'},
  'distributed': {'command_line', 'config', 'schema'},
  'sharding': {'config'},
  'model': {'config', 'model'},
  'pruning': {'pruning', 'schedule'},
  'data': {'config', 'data', 'schema', 'storage', 'text'},
  'huggingface': {
    'config',
    'config_checks',
    'data',
    'huggingface',
    'model',
    'schema',
    'storage',
  },
  'inference': {
    'config',
    'data',
    'history',
    'huggingface',
    'inference',
    'model',
    'pruning',
    'runs',
    'schema',
    'storage',
    'text',
    'training',
  },
  'prepare': {
    'analysis',
    'command_line',
    'config',
    'data',
    'prepare',
    'schema',
    'storage',
    'text',
  },
  'runs': {
    'config',
    'distributed',
    'history',
    'runs',
    'schema',
    'storage',
    'training',
  },
  'training': {
    'analysis',
    'command_line',
    'config',
    'data',
    'distributed',
    'hardware',
    'history',
    'huggingface',
    'model',
    'planning',
    'pruning',
    'runs',
    'schema',
    'sharding',
    'storage',
    'text',
    'training',
  },
  'compile_ahead': {
    'compile_ahead',
    'config',
    'hardware',
    'sharding',
    'text',
    'training',
  },
  'analysis': {
    'analysis',
    'command_line',
    'config',
    'history',
    'model',
    'planning',
    'runs',
    'schedule',
    'schema',
    'shipped',
    'storage',
    'text',
  },
  'sweep': {
    'analysis',
    'command_line',
    'config',
    'model',
    'planning',
    'runs',
    'schema',
    'storage',
    'sweep',
    'text',
    'training',
  },
  'evaluate': {
    'command_line',
    'config',
    'data',
    'inference',
    'schema',
    'text',
  },
  'export': {'command_line', 'inference', 'storage', 'text'},
  'generate': {'command_line', 'config', 'huggingface', 'inference'},
  'train': {
    'analysis',
    'command_line',
    'compile_ahead',
    'config',
    'distributed',
    'huggingface',
    'runs',
    'training',
  },
}
# A part of a room that may import less.
PARTS = {
  'runs/workdir.py': {'config', 'schema', 'storage'},
  'runs/snapshots.py': {'storage'},
  'training/step.py': {'pruning'},
}
ONLY_NUMPY = (
  'schedule',
  'planning',
  'text',
  'history',
  'schema',
  'config',
  'config_checks',
  'compile_ahead/hlo',
)
NO_JAX = (
  'shipped',
  'text',
  'storage',
  'schedule',
  'planning',
  'history',
  'config',
  'command_line',
  'prepare',
  'runs/workdir.py',
  'runs/snapshots.py',
  'analysis',
  'model/counts.py',
  'compile_ahead/hlo',
  'huggingface',
  'inference/sparse_ir.py',
  'inference/sparse_jit.py',
  'inference/sparse_kernels.py',
  'inference/sparse_engine.py',
)


def sources(name):
  path = PACKAGE / name
  if path.is_dir():
    return sorted(path.rglob('*.py'))
  return [path if path.suffix else path.with_suffix('.py')]


def imports(path, nodes=ast.walk):
  for node in nodes(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      yield from (f'{node.module}.{alias.name}' for alias in node.names)


def ours(path):
  names = (name.split('.') for name in imports(path))
  return {n[1] for n in names if n[0] == 'jax_sparse_pretrain' and len(n) > 1}


@pytest.mark.parametrize('name', [*ALLOWED, *PARTS])
def test_modules_import_only_what_they_may(name):
  for path in sources(name):
    assert ours(path) <= {**ALLOWED, **PARTS}[name], path


def test_every_room_says_what_it_may_import():
  rooms = {path.parent.name for path in PACKAGE.glob('*/__init__.py')}
  modules = {p.stem for p in PACKAGE.glob('*.py') if p.stem != '__init__'}
  assert rooms | modules == ALLOWED.keys()


def test_no_imports_go_in_a_circle():
  """Those at the top of a module, which Python runs when it is imported."""
  modules = {
    '.'.join(path.relative_to(ROOT).with_suffix('').parts): path
    for path in PACKAGE.rglob('*.py')
  }
  graph = {}
  for name, path in modules.items():
    found = imports(path, lambda tree: tree.body)
    # What is imported is a module, a name in a module, or one in a room.
    graph[name] = {
      module
      for whole in found
      for module in (whole, whole.rpartition('.')[0])
      if module in modules
    }
  assert len(list(graphlib.TopologicalSorter(graph).static_order())) > 50


def test_no_two_modules_share_a_name():
  names = [p.name for p in PACKAGE.rglob('*.py') if p.name[:2] != '__']
  counts = collections.Counter(names)
  assert [name for name, n in counts.items() if n > 1] == []


def test_one_module_touches_the_private_parts_of_jax():
  for path in PACKAGE.rglob('*.py'):
    if any(name.startswith('jax._') for name in imports(path)):
      assert path == PACKAGE / 'distributed.py'


@pytest.mark.parametrize('name', ONLY_NUMPY)
def test_the_foundation_needs_numpy_alone(name):
  for path in sources(name):
    outside = {n.split('.')[0] for n in imports(path)}
    known = {'numpy', 'jax_sparse_pretrain', *sys.stdlib_module_names}
    assert outside <= known, path


@pytest.mark.parametrize('name', NO_JAX)
def test_no_jax_where_none_is_needed(name):
  for path in sources(name):
    modules = {n.split('.')[0] for n in imports(path)}
    assert not modules & {'jax', 'flax', 'optax', 'orbax', 'grain'}, path


def run_python(code, *arguments):
  command = [sys.executable, '-c', code, *map(str, arguments)]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  return done.stdout


def test_analysis_loads_no_jax():
  run_python(
    'import sys; import jax_sparse_pretrain.analysis.plots.training_picture; '
    "sys.exit('jax' in sys.modules)"
  )


# Runs commands of the analysis, in which an import of jax fails, and prints
# which of them brought the plotting library.
WITHOUT_JAX = """
import json, sys
sys.modules.update(jax=None, jaxlib=None, flax=None)  # None: not to be found
from jax_sparse_pretrain.analysis.__main__ import main
for words in json.loads(sys.argv[1]):
  try:
    status = main(words)
  except SystemExit as left:
    status = left.code
  assert not status, words
  print('matplotlib' in sys.modules, *words, file=sys.stderr)
"""
LAW = 'E=1.8,A=480,B=2100,alpha=0.35,beta=0.37'
SIZES = ('initial_parameters', 'average_parameters', 'final_parameters')
# With {} for a directory that holds a workdir, runs.csv and small.csv.
COMMANDS = (
  'average {}/run',
  'compare {}/runs.csv',
  r'contrast {}/small.csv --names=(?P<arm>.)(?P<seed>.) --reference=a',
  'fit {}/runs.csv --bootstrap 0',
  f'plan --law {LAW} --compute 1e20 --sparsity 0.8',
  f'predict --law {LAW} --average_parameters 4e8 --tokens 1e10',
  'rank {}/small.csv',
  f'simulate --law {LAW} --linear_parameters 1e8 --tokens 2e9',
)
DRAWN = (
  'plot predicted @published_runs/t5.args --out {}/a.png',
  'report {}/runs.csv --bootstrap 9 --out {}/a.html',
)


def run_without_jax(commands, folder):
  words = [[w.format(folder) for w in line.split()] for line in commands]
  command = [sys.executable, '-c', WITHOUT_JAX, json.dumps(words)]
  done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 0, done.stderr
  return done


def test_every_verb_works_without_jax(tmp_path):
  """And brings no plotting library before a picture is asked for."""
  written.write_run(tmp_path / 'run')
  small = [
    {'run': f'{arm}{seed}', 'seed': seed, 'loss': 2.0, 'sparsity': 0.5}
    | {'pruning.start': 0.25, 'pruning.end': 0.75 + 0.1 * (arm == 'b')}
    for arm in 'ab'
    for seed in range(2)
  ]
  written.write_table(tmp_path / 'small.csv', small)
  runs = [
    {'run': f'{n:g}-{d:g}', 'loss': 1.8 + 480 / n**0.35 + 2100 / d**0.37}
    | dict.fromkeys(SIZES, n)
    | {'tokens': d}
    for n in (1e8, 4e8, 1e9)
    for d in (2e9, 1e10, 4e10)
  ]
  written.write_table(tmp_path / 'runs.csv', runs)
  helps = [f'{verb} --help' for verb in VERBS]
  done = run_without_jax([*helps, *COMMANDS], tmp_path)
  assert 'N_avg' in done.stdout
  brought = [line for line in done.stderr.splitlines() if 'True' in line]
  assert not brought
  drawn = run_without_jax(DRAWN, tmp_path)
  assert 'True plot' in drawn.stderr
  assert {'a.png', 'a.html'} <= {path.name for path in tmp_path.iterdir()}
  verbs = {command.split()[0] for command in (*COMMANDS, *DRAWN)}
  assert verbs == VERBS.keys()


def test_the_analysis_brings_no_library_but_scipy():
  """Fitting and planning load NumPy and SciPy; other libraries take longer."""
  code = (
    'import sys, numpy, scipy.optimize, scipy.stats, scipy.linalg\n'
    'before = set(sys.modules)\n'
    'from jax_sparse_pretrain import analysis\n'
    'analysis.load_runs, analysis.fit_scaling_law, analysis.compare_laws\n'
    'analysis.plan_run, analysis.simulate_runs\n'
    "print(*{name.split('.')[0] for name in set(sys.modules) - before})"
  )
  loaded = set(run_python(code).split()) - sys.stdlib_module_names
  assert loaded <= {'numpy', 'scipy', 'jax_sparse_pretrain'}


def test_the_names_of_the_analysis_are_imported_when_used():
  """The package alone costs nothing; a name costs its own module."""
  run_python(
    'import sys; from jax_sparse_pretrain import analysis\n'
    "assert not {'numpy', 'scipy', 'matplotlib'} & set(sys.modules)\n"
    'analysis.load_runs\n'
    "sys.exit('scipy' in sys.modules)"
  )


def test_every_public_name_of_the_analysis_is_there():
  for name in analysis.__all__:
    assert name in dir(analysis)
    # The module that it is said to come from is the one that defines it.
    module = importlib.util.resolve_name(
      f'.{analysis._MODULES[name]}', analysis.__name__
    )
    found = getattr(analysis, name)
    if name.isupper():  # A table, which does not say where it is from.
      assert found is getattr(importlib.import_module(module), name)
    else:
      assert found.__module__ == module
  everything = {}
  exec('from jax_sparse_pretrain.analysis import *', everything)
  assert set(analysis.__all__) <= everything.keys()
  with pytest.raises(AttributeError, match="no attribute 'nothing'"):
    analysis.nothing  # noqa: B018


def test_nothing_imports_tensorflow():
  for path in [*PACKAGE.rglob('*.py'), *(ROOT / 'configs').glob('*.py')]:
    assert 'tensorflow' not in {n.split('.')[0] for n in imports(path)}, path
