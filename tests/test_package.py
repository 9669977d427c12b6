"""The front door, and the package as it is installed."""

import ast
import importlib
import importlib.util
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

import jax_sparse_pretrain
from jax_sparse_pretrain.shipped import FOLDERS, shipped

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / 'jax_sparse_pretrain'


def python(code: str, **options) -> subprocess.CompletedProcess:
  return subprocess.run(
    [sys.executable, '-c', code],
    capture_output=True,
    text=True,
    check=True,
    **options,
  )


def imported(tree: ast.AST, package: str) -> dict[str, str]:
  """Name -> module, of each name that is imported from a module."""
  return {
    alias.name: importlib.util.resolve_name(
      '.' * node.level + str(node.module), package
    )
    for node in ast.walk(tree)
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
  }


def seen_by_type_checkers() -> dict[str, str]:
  """The front door's imports under TYPE_CHECKING."""
  tree = ast.parse((PACKAGE / '__init__.py').read_text())
  (block,) = (node for node in tree.body if isinstance(node, ast.If))
  return imported(block, 'jax_sparse_pretrain')


@pytest.mark.parametrize('name', jax_sparse_pretrain.__all__)
def test_a_public_name_is_what_type_checkers_take_it_for(name):
  module = importlib.import_module(seen_by_type_checkers()[name])
  assert getattr(jax_sparse_pretrain, name) is getattr(module, name)


def test_the_lists_of_public_names_agree():
  names = jax_sparse_pretrain.__all__
  assert names == sorted(names)
  assert set(names) == seen_by_type_checkers().keys()
  assert set(names) <= set(dir(jax_sparse_pretrain))
  everything = {}
  exec('from jax_sparse_pretrain import *', everything)
  assert set(names) <= everything.keys()


def test_the_stub_of_the_analysis_says_where_its_names_are():
  analysis = importlib.import_module('jax_sparse_pretrain.analysis')
  stub = ast.parse((PACKAGE / 'analysis/__init__.pyi').read_text())
  named = imported(stub, analysis.__name__)
  # A table does not say where it is from.
  tables = {name for name in analysis.__all__ if name.isupper()}
  assert tables <= named.keys()
  assert {k: v for k, v in named.items() if k not in tables} == {
    name: getattr(analysis, name).__module__
    for name in set(analysis.__all__) - tables
  }


def test_no_public_name_hides_a_module():
  modules = {path.stem for path in PACKAGE.iterdir()}
  coming = {'export', 'generate', 'evaluate'}
  assert not set(jax_sparse_pretrain.__all__) & (modules | coming)


def test_rooms_are_attributes_of_the_package():
  python(
    'import jax_sparse_pretrain as package\n'
    'package.analysis.load_runs, package.pruning.magnitude_pruner'
  )


def test_a_name_that_is_not_there_is_an_attribute_error():
  with pytest.raises(AttributeError, match="no attribute 'nothing'"):
    jax_sparse_pretrain.nothing  # noqa: B018


def test_the_analysis_comes_through_the_front_door_without_jax():
  python(
    'import sys\n'
    'from jax_sparse_pretrain import Config, load_config, plan\n'
    'from jax_sparse_pretrain import average_parameters, fit_scaling_law\n'
    "assert 'jax' not in sys.modules"
  )


def test_the_front_door_alone_imports_nothing():
  python(
    'import sys, jax_sparse_pretrain\n'
    "assert not {'numpy', 'scipy', 'jax', 'absl'} & set(sys.modules)"
  )


def test_a_file_of_the_current_directory_hides_the_shipped_one(
  tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  path = 'published_runs/t5.args'
  assert pathlib.Path(shipped(path)).read_text().startswith('# The 48')
  (tmp_path / 'published_runs').mkdir()
  (tmp_path / path).write_text('mine')
  assert shipped(path) == path


@pytest.mark.parametrize(
  'path', ['train.py', 'configs/none.py', 'gs://bucket/configs/smoke.py']
)
def test_what_is_not_shipped_stays_as_it_is_given(path, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert shipped(path) == path


def test_one_version_everywhere():
  """The metadata, the citation and the newest release of the changelog."""
  version = '0.1.0'
  assert f"version='{version}'" in (ROOT / 'setup.py').read_text()
  assert f'\nversion: {version}\n' in (ROOT / 'CITATION.cff').read_text()
  released = [
    line.split('[')[1].split(']')[0]
    for line in (ROOT / 'CHANGELOG.md').read_text().splitlines()
    if line.startswith('## [')
  ]
  assert released[:2] == ['Unreleased', version]


@pytest.fixture(scope='module')
def installed(tmp_path_factory):
  """A function that runs a module of the built wheel, away from the clone."""
  folder = tmp_path_factory.mktemp('wheel')
  # A build leaves files beside the sources.
  names = ('jax_sparse_pretrain', *FOLDERS)
  for name in names:
    shutil.copytree(
      ROOT / name,
      folder / 'source' / name,
      ignore=shutil.ignore_patterns('__pycache__'),
    )
  for path in ROOT.iterdir():
    if path.is_file():
      shutil.copy(path, folder / 'source')
  pip = [sys.executable, '-m', 'pip', '--quiet']
  subprocess.run(
    [*pip, 'wheel', '--no-deps', '--wheel-dir', folder, folder / 'source'],
    check=True,
  )
  (wheel,) = folder.glob('*.whl')
  target = folder / 'installed'
  subprocess.run(
    [*pip, 'install', '--no-deps', '--target', target, wheel], check=True
  )

  def run(module: str, *arguments: str) -> str:
    away = folder / 'away'
    away.mkdir(exist_ok=True)
    done = subprocess.run(
      [sys.executable, '-m', f'jax_sparse_pretrain.{module}', *arguments],
      cwd=away,
      env={**os.environ, 'PYTHONPATH': str(target)},
      capture_output=True,
      text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout

  run.target = target
  return run


@pytest.mark.slow
def test_a_wheel_carries_what_is_shipped(installed):
  inside = installed.target / 'jax_sparse_pretrain'
  assert (inside / 'py.typed').is_file()
  for name in FOLDERS:
    assert {path.name for path in (ROOT / name).iterdir()} - {
      '__pycache__'
    } == {path.name for path in (inside / name).iterdir()} - {'__pycache__'}
  sources = {path.relative_to(PACKAGE) for path in PACKAGE.rglob('*.*')}
  kinds = {'.py', '.j2', '.typed'}
  for path in sources:
    assert path.suffix not in kinds or (inside / path).is_file(), path


@pytest.mark.slow
@pytest.mark.parametrize('name', ['smoke', 'configs/smoke.py'])
def test_a_wheel_finds_a_shipped_config_by_its_name(installed, name):
  assert '557,056' in installed('train', f'--config={name}', '--plan')


@pytest.mark.slow
def test_a_wheel_finds_a_shipped_sweep(installed):
  """Whose file imports the one beside it."""
  assert 'runs' in installed('sweep', '--config=sweep_law', '--plan')


@pytest.mark.slow
def test_a_wheel_fits_the_published_runs(installed):
  arguments = ['@published_runs/chinchilla.args', '--bootstrap', '0']
  assert '1.018274e-03' in installed('analysis', 'fit', *arguments)
