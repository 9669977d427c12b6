#!/usr/bin/env bash
# On a worker: trains, and leaves the exit status in sparse/run/status.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

# When the VM is shut down, TERM reaches all of us. tmux goes at once, and its
# hang-up must not take the job, which is saving, along; this shell waits for it.
trap '' HUP
trap : TERM
../venv/bin/python -m jax_sparse_pretrain.train "$@" >>../run/log 2>&1
echo $? >../run/status.part
mv ../run/status.part ../run/status
