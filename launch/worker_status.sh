#!/usr/bin/env bash
# On a worker: prints none, running, done, failed, refused, lost (the others),
# stopped or killed.
set -euo pipefail
run=$(cd "$(dirname "$0")/../.." && pwd)/run

if tmux -L sparse has-session -t =train 2>/dev/null; then
  echo running
elif [[ ! -e $run ]]; then
  echo none
elif [[ ! -e $run/status ]]; then
  echo killed # With its VM, say.
else
  # Those of python -m jax_sparse_pretrain.train.
  case $(<"$run/status") in
    0) echo 'done' ;;
    1 | 70) echo failed ;;
    2) echo refused ;;
    69) echo lost ;;
    75) echo stopped ;;
    *) echo killed ;;
  esac
fi
