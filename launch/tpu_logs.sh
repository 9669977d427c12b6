#!/usr/bin/env bash
# Shows the log of a worker and follows it.
#
#   launch/tpu_logs.sh [--dry-run] [--worker=N] [FLAG OF TAIL...]
#
# Settings: launch/env.sh. Without flags: worker 0, tail -n 100 -F.
set -euo pipefail
source "$(dirname "$0")/common.sh"
parse "$@"
load_settings

worker=0 flags=()
for arg in "${args[@]}"; do
  case $arg in
    --worker=*) worker=${arg#*=} ;;
    *) flags+=("$arg") ;;
  esac
done
[[ $worker =~ ^[0-9]+$ ]] || fail "--worker = $worker: must be a number"
((${#flags[@]})) || flags=(-n 100 -F)

on_workers "tail $(quoted "${flags[@]}") sparse/run/log" "$worker"
