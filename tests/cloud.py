"""The scripts of launch/, run against stand-ins of gcloud, sleep and date."""

import json
import os
import pathlib
import shlex
import subprocess
import sys
from collections.abc import Sequence

import stand_in_gcloud

ROOT = pathlib.Path(__file__).parents[1]
LAUNCH = ROOT / 'launch'
START = 1_767_225_600  # 2026-01-01 00:00:00 UTC.
GCLOUD = f'exec {sys.executable} -I -S {stand_in_gcloud.__file__} WORLD "$@"'
SLEEP = """
echo "[\\"sleep\\", \\"$1\\"]" >>WORLD/calls
echo $(($(cat WORLD/clock) + $1)) >WORLD/clock
"""
DATE = """
format=${*: -1}
TZ=UTC printf "%(${format#+})T" "$(cat WORLD/clock)"
"""


class Cloud:
  """A folder with a cloud that has a clock of its own.

  `lives`: what becomes of each queued resource; see stand_in_gcloud.
  """

  def __init__(self, folder: pathlib.Path, lives: Sequence[Sequence[str]] = ()):
    self.folder = folder
    for name, code in {'gcloud': GCLOUD, 'sleep': SLEEP, 'date': DATE}.items():
      make_tool(folder, name, code)
    (folder / 'world').write_text(json.dumps({'lives': lives, 'life': None}))
    (folder / 'clock').write_text(str(START))
    (folder / 'calls').write_text('')

  def run(self, script: str, *args: str, **settings: str | int):
    """Runs a script under the example's settings, but for those given."""
    lines = [f'{name}={shlex.quote(str(v))}' for name, v in settings.items()]
    env_file = self.folder / 'env.sh'
    example = (LAUNCH / 'env.example.sh').read_text()
    env_file.write_text('\n'.join([example, *lines, '']))
    return run(script, *args, folder=self.folder)

  @property
  def calls(self) -> list[list[str]]:
    """What was run: ['sleep', '60'], ['gcloud', 'compute', ...]."""
    lines = (self.folder / 'calls').read_text().splitlines()
    return [json.loads(line) for line in lines]

  @property
  def verbs(self) -> list[str]:
    """What was asked of gcloud, without the looks at how things are."""
    calls = [call[1:] for call in self.calls if call[0] == 'gcloud']
    found = map(stand_in_gcloud.verb_of, calls)
    return [v for v in found if v not in ('describe', 'worker_status')]

  @property
  def sleeps(self) -> list[int]:
    return [int(call[1]) for call in self.calls if call[0] == 'sleep']


def make_tool(folder: pathlib.Path, name: str, code: str) -> None:
  """Puts a program of bash code into a folder's bin/."""
  tool = folder / 'bin' / name
  tool.parent.mkdir(exist_ok=True)
  tool.write_text(f'#!/bin/bash\n{code}\n'.replace('WORLD', str(folder)))
  tool.chmod(0o755)


def run(script: str, *args: str, folder: pathlib.Path, **env: str):
  """Runs a script of launch/ with the tools and settings in a folder."""
  env = {
    'HOME': os.environ['HOME'],
    'LAUNCH_ENV': str(folder / 'env.sh'),
    'PATH': f'{folder / "bin"}:{os.environ["PATH"]}',
    'TMPDIR': str(folder),
    **env,
  }
  return subprocess.run(
    ['bash', str(LAUNCH / script), *args],
    cwd=ROOT,
    env=env,
    stdin=subprocess.DEVNULL,
    capture_output=True,
    text=True,
    timeout=300,
  )
