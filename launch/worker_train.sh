#!/usr/bin/env bash
# On a worker: starts training in tmux and returns. Arguments: those of train.
# To look at it there: tmux -L sparse attach.
set -euo pipefail
base=$(cd "$(dirname "$0")/../.." && pwd)

if tmux -L sparse has-session -t =train 2>/dev/null; then
  echo "error: a job is running on $(hostname) already" >&2
  exit 1
fi
mkdir -p "$base/run"
rm -f "$base/run/status"
tmux -L sparse new-session -d -s train \
  bash "$base/code/launch/worker_run.sh" "$@"
