"""Eight fake CPU devices, unless the caller has chosen devices; a bucket."""

import os

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault(
  'XLA_FLAGS',
  '--xla_force_host_platform_device_count=8 '
  # Two cores compile small test programs faster than they run optimised ones.
  '--xla_backend_optimization_level=0',
)

import bucket  # noqa: E402
import pytest  # noqa: E402

from jax_sparse_pretrain import storage  # noqa: E402


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
