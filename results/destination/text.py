r"""Makes the text of this experiment: the entries of an English dictionary.

  apt-get download dict-gcide
  dpkg-deb -x dict-gcide_*.deb DIR/package
  python results/destination/text.py DIR/package DIR/gcide.jsonl

The GNU Collaborative International Dictionary of English (Webster's of 1913 and
WordNet), Debian package dict-gcide 0.48.5+nmu2, GPL-2+: 40 MB, of which nothing
is in this repository. Each entry becomes one document: without pronunciation,
marks of sources and cross references, on one line. What the package alone would
teach, its columns and tags, is thus not learned.
"""

import gzip
import json
import pathlib
import re
import string
import sys

_DIGITS = string.ascii_uppercase + string.ascii_lowercase + string.digits + '+/'
# [1913 Webster], [WordNet 1.5 +PJC], [PJC], [Century Dict. 1906], ...
_SOURCE = re.compile(
  r'\[(?:1913 Webster|WordNet|Webster|Century|PJC|AS\b|RP\b|RDH|MW)[^\[\]]*\]'
)
_PRONUNCIATION = re.compile(
  r'\\[^\\]{1,80}\\(?:\s*\((?:[^()]|\([^()]*\))*\),?)?'
)
_ACCENT = re.compile(r'\[[^\[\] ]{0,2}([a-zA-Z])[^\[\] ]{0,2}\]')
# What remains beside these is rare, and ids that never occur would be trained
# for nothing.
_RARE = re.compile(r'[^a-zA-Z0-9 .,;:?!()\[\]\'"&=-]')


def entries(dictionary: pathlib.Path):
  """The distinct entries of a dictd dictionary, in the order of its text."""
  text = gzip.decompress(dictionary.with_suffix('.dict.dz').read_bytes())
  index = dictionary.with_suffix('.index').read_text()
  places = {
    tuple(_number(field) for field in line.split('\t')[1:3])
    for line in index.splitlines()
    if not line.startswith('00-')
  }
  for start, length in sorted(places):
    yield text[start : start + length].decode(errors='ignore')


def _number(digits: str) -> int:
  value = 0
  for digit in digits:
    value = 64 * value + _DIGITS.index(digit)
  return value


def clean(entry: str) -> str:
  """An entry as one line of plain English."""
  entry = _SOURCE.sub(' ', entry)
  entry = _PRONUNCIATION.sub(' ', entry)
  entry = _ACCENT.sub(r'\1', entry)
  entry = _RARE.sub('', entry.replace('--', ' - '))
  return ' '.join(entry.split()).replace(' ,', ',')


def main(package: str, out: str) -> None:
  """Writes one JSON object a line."""
  dictionary = pathlib.Path(package, 'usr/share/dictd/gcide')
  n_entries = n_bytes = 0
  with open(out, 'w') as file:
    for text in map(clean, entries(dictionary)):
      if len(text) < 20:
        continue
      file.write(json.dumps({'text': text}) + '\n')
      n_entries, n_bytes = n_entries + 1, n_bytes + len(text)
  print(f'{n_entries:,} entries, {n_bytes / 1e6:.1f} MB: {out}')


if __name__ == '__main__':
  main(*sys.argv[1:])
