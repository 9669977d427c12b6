#!/usr/bin/env bash
# Starts the same training command on every worker, in tmux, and returns.
#
#   launch/tpu_train.sh [--dry-run] [FLAG OF TRAIN...]
#
# Settings: launch/env.sh. The job outlives the ssh sessions; tpu_status.sh and
# tpu_logs.sh tell how it does. From a workdir with checkpoints it goes on.
set -euo pipefail
source "$(dirname "$0")/common.sh"
parse "$@"
load_settings

flags=$(quoted --config="$CONFIG" --workdir="$WORKDIR" "${args[@]}")
on_workers "bash sparse/code/launch/worker_train.sh $flags"
