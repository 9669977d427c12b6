"""A bucket of Google Cloud Storage, served by this machine."""

import contextlib
import importlib.util
import pathlib
import subprocess
import sys
import time
import urllib.request

import pytest
from processes import free_port

NEEDED = ('gcp_storage_emulator', 'gcsfs', 'google.cloud.storage')
ROOT = 'gs://bucket'
_SERVER = pathlib.Path(__file__).with_name('bucket_server.py')


@contextlib.contextmanager
def serving():
  """Yields the environment variables of processes that are to find it."""
  for name in NEEDED:
    if importlib.util.find_spec(name) is None:
      pytest.skip(f'needs {name}')
  port = free_port()
  url = f'http://127.0.0.1:{port}'
  server = subprocess.Popen(
    [sys.executable, _SERVER, str(port)],
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  )
  try:
    _wait_for(f'{url}/storage/v1/b/bucket')
    yield {
      'STORAGE_EMULATOR_HOST': url,  # gcsfs, tensorboardX
      'TENSORSTORE_GCS_HTTP_URL': url,  # Orbax
      'CLOUD_STORAGE_EMULATOR_ENDPOINT': url,  # ArrayRecord
      # Asks Google what kind of bucket it is.
      'GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT': 'false',
    }
  finally:
    server.kill()
    server.wait()


def _wait_for(url):
  deadline = time.monotonic() + 60
  while True:
    try:
      urllib.request.urlopen(url).close()
      return
    except OSError:
      if time.monotonic() > deadline:
        raise
      time.sleep(0.1)


def fetch(remote, local):
  """Copies what is below a remote path into a new directory."""
  local.mkdir(parents=True)
  for path in remote.iterdir():
    if path.is_file():
      (local / path.name).write_bytes(path.read_bytes())
    else:
      fetch(path, local / path.name)
  return local


def upload(local, remote):
  for path in sorted(local.rglob('*')):
    if path.is_file():
      target = remote / path.relative_to(local).as_posix()
      target.write_bytes(path.read_bytes())
  return remote
