"""Files that come with the package: `configs/` and `published_runs/`.

In a clone these folders lie beside the package; a wheel carries them inside it.
Standard library only.
"""

import pathlib

FOLDERS = ('configs', 'published_runs')
_PACKAGE = pathlib.Path(__file__).parent


def shipped(path: str) -> str:
  """The path as it is given, or else where the shipped file of that name is.

  A file that is there from the current directory comes first.

  Args:
    path: such as 'configs/smoke.py' or 'published_runs/t5.args'.

  Returns:
    A path to open. It is the argument itself if no such file is shipped, so
    that an error names what the user wrote.
  """
  if path.startswith(FOLDERS) and not pathlib.Path(path).exists():
    for folder in (_PACKAGE, _PACKAGE.parent):
      if (folder / path).is_file():
        return str(folder / path)
  return path
