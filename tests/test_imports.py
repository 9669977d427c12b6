"""Who may import whom, read from the sources."""

import ast
import importlib.util
import pathlib
import subprocess
import sys

import pytest
import written

from jax_sparse_pretrain import analysis
from jax_sparse_pretrain.analysis.verbs import VERBS

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / 'jax_sparse_pretrain'

# Module or package -> what of ours it may import.
ALLOWED = {
  'text': set(),
  'schedule': set(),
  'storage': {'schema'},
  'history': {'storage'},
  'planning': {'config', 'schedule'},
  'schema': set(),
  'shipped': set(),
  'config': {'schema'},
  'command_line': {'config', 'schema', 'shipped'},
  'distributed': {'command_line', 'schema', 'config'},
  'hardware': set(),
  'sharding': {'config', 'pruning'},
  'model': {'config', 'model'},
  'pruning': {'schedule', 'pruning'},
  'data': {'config', 'data', 'schema', 'storage'},
  'runs/workdir.py': {'config', 'schema', 'storage'},
  'runs/snapshots.py': {'storage'},
  'runs/summary.py': {'text'},
  'analysis': {
    'command_line',
    'history',
    'schedule',
    'planning',
    'model',
    'config',
    'runs',
    'shipped',
    'schema',
    'storage',
    'text',
    'analysis',
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
  'training/step.py': {'pruning'},
  'training/loss.py': set(),
}
ONLY_NUMPY = (
  'schedule',
  'planning',
  'text',
  'history',
  'schema',
  'config',
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
  'runs/workdir.py',
  'runs/snapshots.py',
  'analysis',
  'model/counts.py',
)


def sources(name):
  path = PACKAGE / name
  if path.is_dir():
    return sorted(path.rglob('*.py'))
  return [path if path.suffix else path.with_suffix('.py')]


def imports(path):
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      yield from (f'{node.module}.{alias.name}' for alias in node.names)


def ours(path):
  names = (name.split('.') for name in imports(path))
  return {n[1] for n in names if n[0] == 'jax_sparse_pretrain' and len(n) > 1}


@pytest.mark.parametrize('name', ALLOWED)
def test_modules_import_only_what_they_may(name):
  for path in sources(name):
    assert ours(path) <= ALLOWED[name], path


@pytest.mark.parametrize('name', ONLY_NUMPY)
def test_the_foundation_needs_numpy_alone(name):
  outside = {n.split('.')[0] for n in imports(*sources(name))}
  assert outside - sys.stdlib_module_names <= {'numpy', 'jax_sparse_pretrain'}


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


# None in sys.modules makes an import of it fail.
WITHOUT_JAX = (
  'import sys; sys.modules.update(jax=None, jaxlib=None, flax=None)\n'
  'from jax_sparse_pretrain.analysis.__main__ import main\n'
  'status = main(sys.argv[1:])\n'
  "loaded = 'matplotlib' in sys.modules\n"
  'sys.exit(status or loaded)'
)


@pytest.mark.parametrize('verb', VERBS)
def test_every_verb_of_the_analysis_works_without_jax(verb):
  """And brings no plotting library before a picture is asked for."""
  assert verb in run_python(WITHOUT_JAX, verb, '--help')


def test_runs_are_averaged_without_jax(tmp_path):
  workdir = written.write_run(tmp_path / 'run')
  assert 'N_avg' in run_python(WITHOUT_JAX, 'average', workdir)


LAW = 'E=1.8,A=480,B=2100,alpha=0.35,beta=0.37'
RUN = {
  'compare': '@published_runs/t5.args',
  'contrast': r'{} --names=(?P<arm>.)(?P<seed>.) --reference=a',
  'fit': '@published_runs/t5.args --bootstrap 0',
  'plan': f'--law {LAW} --compute 1e20 --sparsity 0.8',
  'predict': f'--law {LAW} --average_parameters 4e8 --tokens 1e10',
  'rank': '{}',
  'simulate': f'--law {LAW} --linear_parameters 1e8 --tokens 2e9',
}
# Those that draw.
DRAW = {
  'plot': 'predicted @published_runs/t5.args --out {}/a.png',
  'report': '@published_runs/t5.args --bootstrap 9 --out {}/a.html',
}


@pytest.mark.parametrize('verb', RUN)
def test_a_verb_does_its_work_without_jax(verb, tmp_path):
  rows = [
    {'run': f'{arm}{seed}', 'seed': seed, 'loss': 2.0, 'sparsity': 0.5}
    | {'pruning.start': 0.25, 'pruning.end': 0.75 + 0.1 * (arm == 'b')}
    for arm in 'ab'
    for seed in range(2)
  ]
  table = written.write_table(tmp_path / 'runs.csv', rows)
  words = RUN[verb].format(table).split()
  run_python(WITHOUT_JAX, verb, *words)


@pytest.mark.parametrize('verb', DRAW)
def test_a_verb_draws_without_jax(verb, tmp_path):
  words = DRAW[verb].format(tmp_path).split()
  run_python(WITHOUT_JAX.replace(' or loaded', ''), verb, *words)
  assert len(list(tmp_path.iterdir())) == 1
  assert {'average', *RUN, *DRAW} == VERBS.keys()


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
    assert getattr(analysis, name).__module__ == module
  everything = {}
  exec('from jax_sparse_pretrain.analysis import *', everything)
  assert set(analysis.__all__) <= everything.keys()
  with pytest.raises(AttributeError, match="no attribute 'nothing'"):
    analysis.nothing  # noqa: B018


def test_nothing_imports_tensorflow():
  for path in [*PACKAGE.rglob('*.py'), *(ROOT / 'configs').glob('*.py')]:
    assert 'tensorflow' not in {n.split('.')[0] for n in imports(path)}, path
