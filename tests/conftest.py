"""Tiers of tests; eight fake CPU devices; a bucket.

`pytest` leaves out the tests marked `slow`; `pytest --all` runs them, too. A
test that is named by its id always runs.
"""

import collections
import os
import pathlib
import sys

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault(
  'XLA_FLAGS',
  '--xla_force_host_platform_device_count=8 '
  # Two cores compile small test programs faster than they run optimised ones.
  '--xla_backend_optimization_level=0',
)
# Many tests compile the same small programs, in this process and in others.
os.environ.setdefault(
  'JAX_COMPILATION_CACHE_DIR',
  str(pathlib.Path(__file__).parents[1] / '.pytest_cache/compiled'),
)
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES', '-1')
# Tests start programs that are installed beside Python, as shellcheck is, and
# find them even if the environment has not been activated.
os.environ['PATH'] = os.pathsep.join(
  [str(pathlib.Path(sys.executable).parent), os.environ.get('PATH', '')]
)

import bucket  # noqa: E402
import pytest  # noqa: E402

from jax_sparse_pretrain import storage  # noqa: E402

LEFT_OUT = pytest.StashKey[int]()


def pytest_addoption(parser):
  parser.addoption('--all', action='store_true', help='run the slow tests, too')


def pytest_configure(config):
  named = any('::' in argument for argument in config.args)
  if config.option.all or named:
    config.option.markexpr = ''


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
  """Marks as slow all but the first variants of a test marked `fast`."""
  variants: collections.Counter = collections.Counter()
  for item in items:
    if fast := item.get_closest_marker('fast'):
      name = item.module.__name__, item.originalname
      variants[name] += 1
      if variants[name] > fast.args[0]:
        item.add_marker(pytest.mark.slow)


def pytest_deselected(items):
  config = items[0].config
  is_default = config.option.markexpr == 'not slow'
  # Not what -k leaves out, of which some tests are slow and some are not.
  if is_default and all(any(i.iter_markers('slow')) for i in items):
    config.stash[LEFT_OUT] = len(items)


def pytest_sessionfinish(session):
  # A worker of `-n` tells its controller, which collects nothing itself.
  if hasattr(session.config, 'workeroutput'):
    count = session.config.stash.get(LEFT_OUT, 0)
    session.config.workeroutput['left_out'] = count


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
  if count := getattr(node, 'workeroutput', {}).get('left_out'):
    node.config.stash[LEFT_OUT] = count


def pytest_terminal_summary(terminalreporter, config):
  if count := config.stash.get(LEFT_OUT, 0):
    terminalreporter.write_line(
      f'Slow tests left out: {count}. To run them, too: pytest --all'
    )


@pytest.fixture(scope='module')
def google():
  """The environment of processes that are to find an object store."""
  with bucket.serving() as environment:
    yield environment


@pytest.fixture
def store(google, monkeypatch):
  """A function from a name to a path there, for this process too."""
  for name, value in google.items():
    monkeypatch.setenv(name, value)
  return lambda name: storage.as_path(f'{bucket.ROOT}/{name}')
