#!/usr/bin/env bash
# Keeps a job going until it is done: asks for the slice, waits for it, sets it
# up, starts the job and watches it; after a preemption, begins again.
#
#   launch/tpu_supervise.sh [--dry-run] [FLAG OF TRAIN...]
#
# Settings: launch/env.sh, as it is now. Stopped and run again, it goes on from
# what it finds. At the end, good or bad, it deletes the slice.
# Exit status: 0 done; 1 the job failed, no quota, or MAX_ATTEMPTS in a row came
# to nothing; 2 bad settings or flags.
set -euo pipefail
source "$(dirname "$0")/common.sh"
parse "$@"
load_settings
[[ $WORKDIR == gs://* ]] ||
  fail "WORKDIR = $WORKDIR: must be gs://: a slice takes its disks with it"

if $dry_run; then
  "$launch/tpu_status.sh" --dry-run
  "$launch/tpu_create.sh" --dry-run
  "$launch/tpu_setup.sh" --dry-run
  "$launch/tpu_train.sh" --dry-run "${args[@]}"
  echo "# tpu_status.sh every $POLL_SECONDS s; after a preemption, or at the end:"
  "$launch/tpu_delete.sh" --dry-run
  exit
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
trap 'say "the job goes on without me; run this again to watch it" && exit 130' \
  INT TERM
output=$scratch/output

# One commit and the same settings for every attempt, whatever happens here.
commit=$(git -C "$root" rev-parse --verify --quiet "$REVISION^{commit}") ||
  fail "REVISION = $REVISION: is not a commit of $root"
{ cat "$env_file" && printf '\nREVISION=%s\n' "$commit"; } >"$scratch/env.sh"
export LAUNCH_ENV=$scratch/env.sh

say() {
  echo "$(date -u '+%F %T')  $*"
}

# Runs another script of this directory; shows what it printed if it failed.
verb() { # NAME [ARGUMENT...]
  local status=0
  "$launch/tpu_$1.sh" "${@:2}" >"$output" 2>&1 || status=$?
  ((status == 0)) || cat "$output" >&2
  return "$status"
}

finish() { # STATUS MESSAGE
  if [[ $state == ACTIVE && $1 != 0 ]]; then
    "$launch/tpu_logs.sh" -n 20 2>/dev/null || true
  fi
  say "$2"
  [[ $state == NONE ]] || verb delete || say "$TPU_NAME is still there"
  exit "$1"
}

attempts=0 pause=$BACKOFF_SECONDS
again() { # WHY
  ((++attempts <= MAX_ATTEMPTS)) ||
    finish 1 "giving up: $1, after $MAX_ATTEMPTS attempts in a row"
  say "$1; attempt $attempts of $MAX_ATTEMPTS follows in $pause s"
  started=
  sleep "$pause"
  pause=$((2 * pause))
  ((pause < BACKOFF_MAX_SECONDS)) || pause=$BACKOFF_MAX_SECONDS
}

# A preempted or failed resource is of no use, but keeps its name and quota.
replace() { # WHY
  verb delete || say "$TPU_NAME could not be deleted"
  again "$1"
}

# Quota for chips: "Quota 'TPU...' exhausted. Limit 16 in region ...", "Quota
# limit 'TPU...' has been exceeded". Not requests per minute: those come back.
stop_if_no_quota() { # TEXT
  if [[ ${1,,} =~ quota.*(exhausted|exceeded) && $1 != *'per minute'* ]]; then
    finish 1 "no quota for $ACCELERATOR_TYPE, $CAPACITY, in $ZONE: $1"
  fi
}

create() {
  say "asking for $ACCELERATOR_TYPE, $CAPACITY"
  local status=0
  verb create || status=$?
  ((status)) || return 0
  local why
  why=$(sed -n '/ERROR:/,$p' "$output" | tr -s ' \n' ' ')
  stop_if_no_quota "$why"
  if ((status == 2)) || [[ $why =~ INVALID_ARGUMENT|PERMISSION_DENIED ]]; then
    finish 2 "the request is refused: $why"
  fi
  again 'the request failed'
}

start() {
  say 'setting it up and starting the job'
  { verb setup && verb train "${args[@]}"; } || again 'the job did not start'
}

# A job that has run for long pays back the attempts that came before.
watch() {
  local now
  now=$(date +%s)
  started=${started:-$now}
  ((now - started < HEALTHY_SECONDS)) || attempts=0 pause=$BACKOFF_SECONDS
  sleep "$POLL_SECONDS"
}

state='' job='' reason='' started='' seen=''
while true; do
  if ! answer=$("$launch/tpu_status.sh" 2>"$output"); then
    cat "$output" >&2
    [[ $seen ]] || fail "gcloud cannot tell the state of $TPU_NAME" 1
    answer=UNKNOWN
  fi
  read -r state job reason <<<"$answer"
  [[ $answer == "$seen" ]] || say "$TPU_NAME is ${answer/ACTIVE /ACTIVE, job }"
  # What failed before this began may have had other flags.
  [[ $seen || $job != @(failed|refused) ]] || job=none
  seen=$answer

  case "$state $job" in
    NONE*) create ;;
    SUSPENDED*) replace 'preempted' ;;
    FAILED*) stop_if_no_quota "$reason" && replace 'not to be had' ;;
    'ACTIVE none') start ;;
    'ACTIVE running') watch ;;
    'ACTIVE stopped') again 'the job was stopped' && start ;;
    'ACTIVE done') finish 0 'the job is done' ;;
    'ACTIVE failed') finish 1 'the job failed' ;;
    'ACTIVE refused') finish 2 'train refused its flags or config' ;;
    'ACTIVE unreachable') again 'the workers cannot be reached' ;;
    UNKNOWN*) again 'gcloud failed' ;;
    *) sleep "$POLL_SECONDS" ;; # On its way up or down.
  esac
done
