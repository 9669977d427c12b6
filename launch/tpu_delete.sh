#!/usr/bin/env bash
# Deletes the slice and the queued resource, with any job on it, unasked.
#
#   launch/tpu_delete.sh [--dry-run]
#
# Settings: launch/env.sh. What is in a gs:// workdir stays.
set -euo pipefail
source "$(dirname "$0")/common.sh"
parse_no_args "$@"
load_settings

# --force: nodes too; without it only a resource that has none can go.
tpu queued-resources delete "$TPU_NAME" --force
