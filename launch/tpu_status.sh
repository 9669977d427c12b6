#!/usr/bin/env bash
# Prints the state of the queued resource, and of the job on it, on one line.
#
#   launch/tpu_status.sh [--dry-run]
#
# Settings: launch/env.sh. Exit status 1 if gcloud fails. The first word is
#   NONE        no queued resource of this name
#   ACTIVE      the slice is there
#   SUSPENDED   it was: preempted, say; the name and the quota stay taken until
#               tpu_delete.sh
#   FAILED      it cannot be had; the reason follows
#   or another of https://cloud.google.com/tpu/docs/queued-resources
# and the second, of an ACTIVE one,
#   none, running, done, failed, refused (bad flags or config),
#   stopped (saved and to be started again, or killed), unreachable.
set -euo pipefail
source "$(dirname "$0")/common.sh"
parse_no_args "$@"
load_settings

# Each worker's word -> one for the job.
job() {
  case $1 in
    *running*) echo running ;;
    *none*) echo none ;;
    *refused*) echo refused ;;
    # Where one was killed or stopped, others may have failed for want of it;
    # where one failed, others have lost it.
    *stopped* | *killed*) echo stopped ;;
    *failed*) echo failed ;;
    *lost*) echo stopped ;;
    *) echo 'done' ;;
  esac
}

ask_resource() {
  tpu queued-resources describe "$TPU_NAME" \
    --format='value(state.state,state.failedData.error.message)'
}

ask_workers() {
  on_workers \
    'bash sparse/code/launch/worker_status.sh 2>/dev/null || echo none'
}

if $dry_run; then
  ask_resource
  ask_workers
  exit
fi

errors=$(mktemp)
trap 'rm -f "$errors"' EXIT
if ! answer=$(ask_resource 2>"$errors"); then
  grep -q NOT_FOUND "$errors" || { cat "$errors" >&2 && exit 1; }
  answer=NONE
fi
IFS=$'\t' read -r state reason <<<"${answer//$'\n'/ }"
if [[ $state == ACTIVE ]]; then
  if words=$(ask_workers); then
    echo "$state $(job "$words")"
  else
    echo "$state unreachable"
  fi
else
  echo "$state${reason:+ - $reason}"
fi
