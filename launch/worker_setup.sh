#!/usr/bin/env bash
# On a worker, in sparse/code: makes sparse/venv. TPU VMs have Python 3.10, which
# is too old, so uv brings its own; a second time only takes seconds.
set -euo pipefail
cd "$(dirname "$0")/.."

python3 -m pip install --quiet --user uv==0.13.9
export PATH="$HOME/.local/bin:$PATH"
[[ -x ../venv/bin/python ]] || uv venv --python 3.12 ../venv
uv pip install --python ../venv/bin/python --quiet \
  --constraint launch/constraints.txt --editable '.[gcs,tpu]'
command -v tmux >/dev/null || sudo apt-get install --yes --quiet tmux
