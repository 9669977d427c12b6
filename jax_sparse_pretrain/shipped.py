"""Files that come with the package: `configs/` and `published_runs/`.

In a clone these folders lie beside the package; a wheel carries them inside it.
Standard library only.
"""

import pathlib

FOLDERS = ('configs', 'published_runs')
_PACKAGE = pathlib.Path(__file__).parent


def folder(name: str) -> pathlib.Path:
  """Where one of the `FOLDERS` is."""
  installed = _PACKAGE / name
  return installed if installed.is_dir() else _PACKAGE.parent / name


def shipped(path: str) -> str:
  """The path as it is given, or else where the shipped file of that name is.

  A file that is there from the current directory comes first.

  Args:
    path: such as 'configs/smoke.py' or 'published_runs/t5.args'.

  Returns:
    A path to open. It is the argument itself if no such file is shipped, so
    that an error names what the user wrote.
  """
  if path.partition('/')[0] in FOLDERS and not pathlib.Path(path).exists():
    name, _, below = path.partition('/')
    if (folder(name) / below).is_file():
      return str(folder(name) / below)
  return path
