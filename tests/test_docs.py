"""The documentation: its code, its notebook, its site."""

import ast
import importlib
import os
import pathlib
import re
import subprocess
import sys

import nbclient
import nbformat
import pytest
import yaml

ROOT = pathlib.Path(__file__).parents[1]
TOUR = ROOT / 'docs/tour.ipynb'
PAGES = sorted([*ROOT.glob('*.md'), *(ROOT / 'docs').rglob('*.md')])
PYTHON = re.compile(r'^```python\n(.*?)^```', re.M | re.S)


def code_of(page: pathlib.Path) -> list[str]:
  if page.suffix == '.ipynb':
    cells = nbformat.read(page, as_version=4).cells
    codes = [cell.source for cell in cells if cell.cell_type == 'code']
    return [re.sub(r'^%.*', '', code, flags=re.M) for code in codes]  # Magics.
  return PYTHON.findall(page.read_text())


@pytest.mark.parametrize(
  'page', [*PAGES, TOUR], ids=lambda page: str(page.relative_to(ROOT))
)
def test_what_a_page_imports_of_ours_exists(page):
  for code in code_of(page):
    for node in ast.walk(ast.parse(code)):
      if isinstance(node, ast.ImportFrom) and 'sparse_pretrain' in node.module:
        for alias in node.names:
          module = importlib.import_module(node.module)
          assert hasattr(module, alias.name), f'{node.module}.{alias.name}'


def test_the_notebook_is_stored_without_outputs():
  for cell in nbformat.read(TOUR, as_version=4).cells:
    assert not cell.get('outputs') and not cell.get('execution_count')


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
  notebook = nbformat.read(TOUR, as_version=4)
  client = nbclient.NotebookClient(
    notebook, timeout=600, resources={'metadata': {'path': str(tmp_path)}}
  )
  # As a reader runs it: with this machine's devices, and optimised programs.
  environment = {**os.environ}
  environment.pop('XLA_FLAGS', None)
  client.execute(env=environment)
  pictures = [
    output
    for cell in notebook.cells
    for output in cell.get('outputs', [])
    if 'image/png' in output.get('data', {})
  ]
  assert len(pictures) == 3


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
  pytest.importorskip('mkdocs_jupyter', reason="needs the extra 'docs'")
  done = subprocess.run(
    [sys.executable, '-m', 'mkdocs', 'build', '--strict', '-d', tmp_path],
    cwd=ROOT,
    env={**os.environ, 'NO_MKDOCS_2_WARNING': '1'},
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  home = (tmp_path / 'index.html').read_text()
  # Nothing of the site's own comes from elsewhere.
  assert not re.findall(r'<(?:script|link)[^>]*(?:src|href)="https?:', home)
  # Pages of the repository link to each other on the site.
  assert '../results/small/' in (tmp_path / 'training/index.html').read_text()


def test_the_citation_names_the_software_and_the_paper():
  citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
  assert citation['title'].startswith('jax_sparse_pretrain')
  (paper,) = citation['references']
  assert '2501.12486' in paper['url']
