"""Puts pages of the repository that lie outside docs/ on the site.

A hook of MkDocs. README.md is the home page, and the README of each folder is a
page, so that no text exists twice. Links are written as they work in the
repository; here they are changed to work on the site. A link to a file that is
not on the site, such as a source file, becomes plain text.
"""

import pathlib
import posixpath
import re

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parents[1]
PAGES = (
  'README.md',
  'CHANGELOG.md',
  'CONTRIBUTING.md',
  'benchmarks/README.md',
  'launch/README.md',
  'published_runs/README.md',
  'results/small/README.md',
)
LINK = re.compile(r'(!?)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)')


def on_files(files, config):
  """Adds the pages, and the pictures beside them."""
  for page in PAGES:
    pictures = (ROOT / page).parent.glob('*.png')
    for path in [ROOT / page, *pictures]:
      name = path.relative_to(ROOT).as_posix()
      if files.get_file_from_path(name) is None:
        files.append(File.generated(config, name, abs_src_path=str(path)))
  return files


def on_page_markdown(markdown, page, config, files):
  """Changes the links of a page."""
  here = page.file.src_uri
  in_repository = here if here in PAGES else f'docs/{here}'

  def changed(match: re.Match) -> str:
    mark, text, path, anchor = match.groups()
    if ':' in path:  # A URL.
      return match[0]
    folder = posixpath.dirname(in_repository)
    target = posixpath.normpath(posixpath.join(folder, path))
    found = _on_site(target, files)
    if found is None:
      # A wrong link stays, and fails the build.
      return text if (ROOT / target).exists() else match[0]
    link = posixpath.relpath(found, posixpath.dirname(here) or '.')
    return f'{mark}[{text}]({link}{anchor or ""})'

  return LINK.sub(changed, markdown)


def on_page_content(html, page, config, files):
  """Opens the sources on a reference page: they hold the keys of a config."""
  closed = '<details class="mkdocstrings-source">'
  return html.replace(closed, closed.replace('>', ' open>'))


def _on_site(target: str, files) -> str | None:
  for name in (target.removeprefix('docs/'), f'{target}/README.md'):
    if files.get_file_from_path(name):
      return name
  return None
