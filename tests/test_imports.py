"""Who may import whom, read from the sources."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / 'jax_sparse_pretrain'

# Module or package -> what of ours it may import.
ALLOWED = {
  'schedule': set(),
  'history': set(),
  'snapshots': set(),
  'planning': {'schedule'},
  'schema': set(),
  'config': {'schema'},
  'sharding': {'config'},
  'model': {'config', 'model'},
  'pruning': {'schedule', 'pruning'},
  'data': {'config', 'data'},
  'analysis': {
    'history',
    'schedule',
    'planning',
    'model',
    'config',
    'analysis',
  },
  'training/step.py': {'pruning'},
  'training/loss.py': set(),
}
ONLY_NUMPY = (
  'schedule',
  'planning',
  'snapshots',
  'history',
  'schema',
  'config',
)
NO_JAX = (
  'schedule',
  'planning',
  'history',
  'config',
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


def test_analysis_loads_no_jax():
  code = (
    'import sys; import jax_sparse_pretrain.analysis.training_picture; '
    "sys.exit('jax' in sys.modules)"
  )
  subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)


def test_nothing_imports_tensorflow():
  for path in [*PACKAGE.rglob('*.py'), *(ROOT / 'configs').glob('*.py')]:
    assert 'tensorflow' not in {n.split('.')[0] for n in imports(path)}, path
