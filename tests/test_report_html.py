"""The page stands alone, says what the analysis says, and can be made again."""

import html.parser
import itertools
import json
import pathlib
import re
import shlex
import shutil
import subprocess

import numpy as np
import pytest
from written import DENSE, write_run

from jax_sparse_pretrain.analysis import (
  ScalingLaw,
  average_parameters,
  compare_laws,
  fit_scaling_law,
  load_runs,
)
from jax_sparse_pretrain.analysis.__main__ import main
from jax_sparse_pretrain.analysis.report import biases, raised
from jax_sparse_pretrain.analysis.verbs.arguments import (
  AskedFit,
  AskedResamples,
  AskedRuns,
)
from jax_sparse_pretrain.analysis.verbs.write_report import make_report

ROOT = pathlib.Path(__file__).parents[1]
LAW = ScalingLaw(E=1.7, A=400.0, B=1500.0, alpha=0.34, beta=0.36)
NUMBERS = ','.join(f'{name}={value}' for name, value in LAW.as_dict().items())
# HTML's elements without an end.
VOID = {'meta', 'img', 'br', 'hr', 'link', 'input'}
NAME = '<script>alert("a & b")</script>'
BROWSERS = ('chromium', 'chromium-browser', 'google-chrome')
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)


class Page(html.parser.HTMLParser):
  """What is in a page; an error if its elements are not nested."""

  def __init__(self, text):
    super().__init__()
    self.open, self.elements, self.texts = [], [], []
    self.feed(text)
    self.close()
    assert not self.open

  def handle_starttag(self, tag, attrs):
    self.elements.append((tag, dict(attrs)))
    if tag not in VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.texts.append((self.open[-1] if self.open else '', data))

  def all(self, tag):
    return [attributes for name, attributes in self.elements if name == tag]

  def text(self, tag):
    return [data for name, data in self.texts if name == tag]


def make(out, *arguments):
  assert main(['report', *map(str, arguments), '--out', str(out)]) == 0
  return out.read_text()


@pytest.fixture(scope='module')
def table(tmp_path_factory):
  """32 dense and sparse runs, one of them with a name that must be escaped."""
  path = tmp_path_factory.mktemp('runs') / 'runs.csv'
  flags = [
    *('simulate', f'--law={NUMBERS}', '--linear_parameters'),
    *('1e8', '2e8', '4e8', '8e8', '--tokens', '2e9', '4e9', '1e10', '3e10'),
    *('--sparsity', '0', '0.8', '--out', str(path)),
  ]
  assert main(flags) == 0
  cell = '"' + NAME.replace('"', '""') + '"'
  path.write_text(path.read_text().replace('simulated-7,', f'{cell},'))
  return path


@pytest.fixture(scope='module')
def flags(table):
  column = "tokens = 'tokens' * 2"
  return [table, '--bootstrap=40', '--level=0.9', '--column', column]


@pytest.fixture(scope='module')
def text(flags, tmp_path_factory):
  return make(tmp_path_factory.mktemp('report') / 'report.html', *flags)


def test_the_page_is_html_that_needs_nothing_else(text):
  assert text.startswith('<!DOCTYPE html>\n<html lang="en">')
  found = Page(text)
  assert not found.all('script') and not found.all('link')
  links = [
    value
    for _, attributes in found.elements
    for name, value in attributes.items()
    if name in ('src', 'href', 'srcset', 'data', 'action', 'poster')
  ]
  assert links and all(re.match('data:image/(svg|png)', x) for x in links)
  assert 'url(' not in text and '@import' not in text
  assert len(found.all('h1')) == len(found.text('title')) == 1
  assert len(text) < 2_000_000


def test_every_figure_says_in_words_what_it_shows(text):
  found = Page(text)
  images = found.all('img')
  assert len(images) == len(found.all('figcaption')) == 4
  assert all(len(image['alt']) > 20 for image in images)
  assert len({image['alt'] for image in images}) == 4


def test_the_page_has_the_law_its_intervals_and_the_fingerprint(text, flags):
  runs = load_runs(flags[0], columns={'tokens': 'tokens * 2'})
  fit = fit_scaling_law(runs.average_parameters, runs.tokens, runs.loss)
  resamples = fit.bootstrap(40)
  cells = Page(text).text('td')
  law = fit.law.as_dict()
  for each in (fit.intervals(0.9), resamples.intervals(0.9)):
    low, high = each['alpha']
    assert f'{low:.4g} to {high:.4g}' in cells
  assert {f'{law[name]:.4g}' for name in ('E', 'alpha', 'beta')} <= set(cells)
  assert runs.fingerprint in Page(text).text('dd')


def test_sparse_runs_are_compared_by_what_their_n_counts(text):
  heads = Page(text).text('th')
  assert {'average', 'final', 'initial', 'l1'} <= set(heads)
  assert 'Which parameters count' in Page(text).text('h2')


@pytest.mark.slow
def test_the_picture_of_the_laws_says_what_their_table_says(monkeypatch):
  monkeypatch.chdir(ROOT)
  text = (ROOT / 'published_runs' / 't5.args').read_text()
  path, *words = shlex.split(text, comments=True)
  report = make_report(
    AskedRuns([path], column=words[1::2]),
    AskedFit(solver={'delta': 1e-3, 'method': 'global'}),
    AskedResamples(bootstrap=0),
    level=0.95,
    title='',
    command='',
  )
  [picture] = report.pictures['compare']
  titles = [axes.get_title(loc='left') for axes in picture.figure.axes]
  for law, title in zip(report.comparison.laws[:3], titles, strict=False):
    assert f'RMS {100 * law.in_sample:.2f} %' in title
  # Of fits as good, that of least squared error.
  assert titles[1] == 'law of N final, RMS 4.41 %'


@pytest.mark.slow
def test_the_bias_has_the_sign_of_the_residuals(table):
  runs = load_runs(table)
  comparison = compare_laws(runs)
  fit = fit_scaling_law(runs.average_parameters, runs.tokens, runs.loss)
  [[_, _, first, *_], *_] = biases(comparison)
  shown = first.replace(' %', '').replace('\u2212', '-')
  mean = fit.residuals[runs.sparsity == 0].mean()
  assert float(shown) == pytest.approx(100 * mean, abs=0.006)


def test_names_are_text_and_not_markup(text):
  assert NAME in Page(text).text('th')
  assert NAME not in text


@pytest.mark.slow
def test_the_command_on_the_page_makes_it_again(text, tmp_path):
  """To the byte, but for where it is written."""
  [command] = Page(text).text('pre')
  words = shlex.split(command)
  assert words[:3] == ['python', '-m', 'jax_sparse_pretrain.analysis']
  out = words[words.index('--out') + 1]
  again = tmp_path / 'again.html'
  words[words.index(out)] = str(again)
  assert main(words[3:]) == 0
  assert again.read_text().replace(str(again), out) == text


def test_warnings_are_on_the_page(tmp_path):
  lines = ['run,average_parameters,tokens,loss']
  for n, d in itertools.product((1e7, 1e8, 1e9), (1e9, 1e10, 1e11)):
    lines.append(f'{n}-{d},{n},{d},{LAW.loss(n, d) * (1 + n * d % 7e-3)}')
  table = tmp_path / 'runs.csv'
  table.write_text('\n'.join(lines))
  found = Page(make(tmp_path / 'a.html', table, '--bootstrap=0'))
  assert any(
    'three different token counts' in each for each in found.text('li')
  )
  assert 'Which parameters count' not in found.text('h2')
  heads = found.text('th')
  assert '95 % profile' in heads and '95 % bootstrap' not in heads


def test_workdirs_have_their_averages_however_few_they_are(tmp_path):
  workdir = write_run(tmp_path / 'runs' / 'first')
  found = Page(make(tmp_path / 'a.html', tmp_path / 'runs'))
  average = average_parameters(workdir)
  cells = found.text('td')
  assert f'{round(average.average_parameters):,}' in cells
  assert f'{100 * average.average_parameters / DENSE:.2f} %' in cells
  assert 'too few' in ''.join(found.text('p'))
  assert '50.5K, average parameters' in found.text('dd')
  assert len(found.all('img')) == 1


def test_a_picture_of_many_runs_is_not_a_huge_svg(tmp_path):
  rng = np.random.default_rng(0)
  lines = ['run,average_parameters,tokens,loss']
  for i in range(1200):
    n, d = np.exp(rng.uniform(np.log(1e7), np.log(1e9))), rng.uniform(1e9, 1e11)
    lines.append(f'r{i},{n},{d},{LAW.loss(n, d) * rng.normal(1, 0.005)}')
  table = tmp_path / 'runs.csv'
  table.write_text('\n'.join(lines))
  text = make(tmp_path / 'a.html', table, '--bootstrap=0')
  assert 'data:image/png' in text and len(text) < 2_000_000
  assert any('first 1000 of 1200' in x for x in Page(text).text('caption'))


def test_powers_are_raised_and_the_rest_is_escaped():
  assert raised('a < N^0.35, 2') == 'a &lt; N<sup>0.35</sup>, 2'


@pytest.mark.parametrize(
  'arguments, why',
  [
    ([], '--out'),
    (['--out=a.html'], 'PATH'),
    (['nowhere.csv', '--out=a.html'], 'nowhere.csv'),
    (['nowhere.csv', '--out=a.pdf'], '.html'),
  ],
)
def test_what_cannot_be_reported_is_one_line(
  arguments, why, tmp_path, monkeypatch, capsys
):
  monkeypatch.chdir(tmp_path)
  assert main(['report', *arguments]) == 2
  [line] = capsys.readouterr().err.splitlines()
  assert line.startswith('error: ') and why in line


# Appended to a copy: the page itself has no scripts.
PROBE = """<script>addEventListener('load', () => {
  document.title = JSON.stringify({
    title: document.title,
    widths: [...document.images].map(image => image.naturalWidth),
    overflow: document.documentElement.scrollWidth - innerWidth,
  });
});</script>"""


@pytest.mark.skipif(BROWSER is None, reason='no Chromium to open the page in')
@pytest.mark.parametrize('width', [1200, 500])
def test_a_browser_shows_every_picture_and_nothing_sticks_out(
  text, width, tmp_path
):
  copy = tmp_path / 'copy.html'
  copy.write_text(text.replace('</body>', f'{PROBE}</body>'))
  done = subprocess.run(
    [
      *(BROWSER, '--headless', '--no-sandbox', '--disable-gpu'),
      *('--virtual-time-budget=9000', f'--user-data-dir={tmp_path / "user"}'),
      *(f'--window-size={width},900', '--dump-dom', copy.as_uri()),
    ],
    capture_output=True,
    text=True,
    timeout=60,
    check=True,
  )
  [title] = Page(done.stdout).text('title')
  seen = json.loads(title)
  assert seen['title'] == 'Report on pre-training runs'
  assert len(seen['widths']) == 4 and min(seen['widths']) > 100
  assert seen['overflow'] <= 0
