"""Pieces of a page of HTML that needs nothing beside itself."""

import base64
import html
import re
from collections.abc import Iterable, Sequence

CSS = """
:root {
  color-scheme: light dark;
  --paper: #fff; --ink: #1f2328; --quiet: #59636e; --rule: #d1d9e0;
  --shade: #f6f8fa;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14181d; --ink: #e6e8ea; --quiet: #9aa4ae; --rule: #3a424b;
    --shade: #1e242b;
  }
}
* { box-sizing: border-box; }
body {
  margin: 2.5rem auto; padding: 0 1.25rem; max-width: 58rem;
  background: var(--paper); color: var(--ink);
  font: 1rem/1.55 system-ui, sans-serif; overflow-wrap: break-word;
}
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .5rem; }
h2 {
  font-size: 1.2rem; margin: 2.5rem 0 .75rem; padding-bottom: .3rem;
  border-bottom: 1px solid var(--rule);
}
.lead { font-size: 1.1rem; }
.quiet, figcaption, caption { color: var(--quiet); font-size: .9rem; }
sup { line-height: 0; }
code, pre { font: .85rem/1.5 ui-monospace, monospace; }
pre {
  padding: .75rem 1rem; border-radius: 6px; background: var(--shade);
  white-space: pre-wrap;
}
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .4rem; }
th, td { padding: .25rem .6rem; text-align: right; }
tbody th, td { white-space: nowrap; }
th:first-child { text-align: left; }
tbody th { font-weight: normal; }
thead th { border-bottom: 1px solid var(--rule); }
tbody tr:nth-child(even) { background: var(--shade); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.5rem; }
dt { color: var(--quiet); }
dd { margin: 0; min-width: 0; }
figure { margin: 1.5rem 0; break-inside: avoid; }
figcaption { margin-top: .5rem; }
figure img {
  display: block; width: 100%; height: auto; padding: .75rem;
  background: #fff; border: 1px solid var(--rule); border-radius: 6px;
}
.warnings li { margin: .3rem 0; }
@media print {
  body { margin: 0; max-width: none; font-size: 10pt; }
  h2 { break-after: avoid; }
  tr { break-inside: avoid; }
}
"""


def page(title: str, parts: Iterable[str]) -> str:
  """The whole document."""
  return '\n'.join(
    [
      '<!DOCTYPE html>',
      '<html lang="en">',
      '<head>',
      '<meta charset="utf-8">',
      '<meta name="viewport" content="width=device-width, initial-scale=1">',
      f'<title>{html.escape(title)}</title>',
      f'<style>{CSS}</style>',
      '</head>',
      '<body>',
      '<main>',
      *parts,
      '</main>',
      '</body>',
      '</html>',
      '',
    ]
  )


def heading(text: str) -> str:
  return f'<h1>{html.escape(text)}</h1>'


def section(title: str, parts: Iterable[str]) -> str:
  return '\n'.join(
    ['<section>', f'<h2>{html.escape(title)}</h2>', *parts, '</section>']
  )


def paragraph(text: str, kind: str = '') -> str:
  attribute = f' class="{kind}"' if kind else ''
  return f'<p{attribute}>{raised(text)}</p>'


def raised(text: str) -> str:
  """Escaped, with powers such as N^0.35 raised."""
  return re.sub(r'\^([\w.]+)', r'<sup>\1</sup>', html.escape(text))


def command(text: str) -> str:
  return f'<pre>{html.escape(text)}</pre>'


def items(sentences: Iterable[str], kind: str) -> str:
  lines = [f'<li>{html.escape(each)}</li>' for each in sentences]
  return '\n'.join([f'<ul class="{kind}">', *lines, '</ul>'])


def pairs(rows: Iterable[tuple[str, str]]) -> str:
  """Names and values, as a list."""
  lines = [
    f'<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>'
    for name, value in rows
  ]
  return '\n'.join(['<dl>', *lines, '</dl>'])


def table(
  header: Sequence[str], rows: Iterable[Sequence[str]], caption: str
) -> str:
  """The first column is text, the others numbers."""
  head = ''.join(f'<th scope="col">{html.escape(each)}</th>' for each in header)
  body = [
    f'<tr><th scope="row">{html.escape(name)}</th>'
    + ''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)
    + '</tr>'
    for name, *cells in rows
  ]
  return '\n'.join(
    [
      '<div class="wide"><table>',
      f'<caption>{raised(caption)}</caption>',
      f'<thead><tr>{head}</tr></thead>',
      '<tbody>',
      *body,
      '</tbody></table></div>',
    ]
  )


def folded(title: str, part: str) -> str:
  """Shown when asked for."""
  summary = f'<summary>{html.escape(title)}</summary>'
  return f'<details>{summary}\n{part}\n</details>'


def figure(picture: bytes, kind: str, alt: str, caption: str) -> str:
  """A picture in the page itself.

  Args:
    picture: bytes of the file.
    kind: 'svg' or 'png'.
    alt: what one sees, in words.
    caption: below it.
  """
  kind = {'svg': 'svg+xml'}.get(kind, kind)
  data = base64.b64encode(picture).decode()
  return (
    f'<figure>\n<img src="data:image/{kind};base64,{data}" '
    f'alt="{html.escape(alt)}">\n'
    f'<figcaption>{html.escape(caption)}</figcaption>\n</figure>'
  )
