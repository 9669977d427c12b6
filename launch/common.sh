# Sourced by the scripts here: --help and --dry-run, errors, settings, and how to
# run a thing on TPU workers or under Slurm.
# shellcheck shell=bash

fail() { # MESSAGE [STATUS]
  echo "error: $1" >&2
  exit "${2:-2}"
}

((BASH_VERSINFO[0] >= 5)) || fail "bash $BASH_VERSION: must be 5 or newer"

launch=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$launch")
env_file=${LAUNCH_ENV:-$launch/env.sh}

dry_run=false
args=() # The command line without --help and --dry-run.

# The comment at the top of a script is its help.
show_help() {
  sed -n -e '2,$!d; /^#SBATCH/q; /^#/!q; s/^# \{0,1\}//p' "$0"
}

parse() {
  local arg
  for arg in "$@"; do
    case $arg in
      --help | -h) show_help && exit ;;
      --dry-run) dry_run=true ;;
      *) args+=("$arg") ;;
    esac
  done
}

parse_no_args() {
  parse "$@"
  ((${#args[@]} == 0)) || fail "${args[0]}: is not an argument; see --help"
}

# Words as they would be typed.
quoted() {
  local word typed=()
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]] || word=${word@Q}
    typed+=("$word")
  done
  echo "${typed[*]}"
}

run() {
  if $dry_run; then quoted "$@"; else "$@"; fi
}

setting() { # NAME PATTERN WHAT
  [[ ${!1:-} =~ ^($2)$ ]] ||
    fail "$1 = ${!1:-}: must be $3; it is set in $env_file"
}

load_settings() {
  [[ -f $env_file ]] ||
    fail "$env_file: is not there; copy launch/env.example.sh to it and edit"
  trap 'fail "$env_file: must be a bash file of NAME=value"' EXIT
  # shellcheck source=env.example.sh
  source "$env_file"
  trap - EXIT
  setting PROJECT '[a-z0-9.:-]+' 'the ID of a Google Cloud project'
  setting ZONE '[a-z]+-[a-z]+[0-9]+-[a-z0-9]+' 'a zone, such as us-west4-a'
  setting TPU_NAME '[a-z]([a-z0-9-]{0,61}[a-z0-9])?' \
    'a-z, 0-9 and -, with a letter first, at most 63'
  setting ACCELERATOR_TYPE 'v[a-z0-9]+-[0-9]+' 'a type, such as v5litepod-16'
  setting RUNTIME_VERSION '[a-z0-9.-]+' 'a version, such as v2-alpha-tpuv5-lite'
  setting CAPACITY 'on-demand|spot|reserved' 'on-demand, spot or reserved'
  setting CONFIG '[^ ]+' 'a config file, from the root of the repository'
  [[ -f $root/${CONFIG%%:*} ]] || fail "CONFIG = $CONFIG: is not in $root"
  setting WORKDIR '(gs:/)?/[^ ]+' 'a gs:// or an absolute path'
  local name
  for name in POLL_SECONDS BACKOFF_SECONDS BACKOFF_MAX_SECONDS MAX_ATTEMPTS \
    HEALTHY_SECONDS; do
    setting "$name" '[1-9][0-9]{0,6}' 'a whole number from 1'
  done
}

tpu() {
  run gcloud compute tpus "$@" --project="$PROJECT" --zone="$ZONE" --quiet
}

on_workers() { # COMMAND [WORKER]
  tpu tpu-vm ssh "$TPU_NAME" --worker="${2:-all}" --command="$1"
}

# Runs a module on the job's nodes, and has Slurm start the job again if it was
# stopped (75), or lost a process (69), which may be one that is killed each
# time. srun ends with the highest status: 70 where one failed by itself. A
# process that leaves early does not take the others along: they may be saving,
# and stop by themselves when one is missing.
slurm_run() { # MODULE [FLAG...]
  local status=0
  run srun --kill-on-bad-exit=0 python -m "jax_sparse_pretrain.$1" "${@:2}" ||
    status=$?
  if $dry_run; then echo '# and if that ends with status 75 or 69:'; fi
  if $dry_run || ((status == 75)) ||
    ((status == 69 && ${SLURM_RESTART_COUNT:-0} < 5)); then
    run scontrol requeue "${SLURM_JOB_ID:-JOB}"
  fi
  return "$status"
}
