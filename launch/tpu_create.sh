#!/usr/bin/env bash
# Asks for the TPU slice, as a queued resource, and does not wait for it.
#
#   launch/tpu_create.sh [--dry-run]
#
# Settings: launch/env.sh. tpu_status.sh tells when it is ACTIVE.
# https://cloud.google.com/tpu/docs/queued-resources
set -euo pipefail
source "$(dirname "$0")/common.sh"
parse_no_args "$@"
load_settings

case $CAPACITY in
  on-demand) flags=() ;;
  spot) flags=(--spot) ;;
  reserved) flags=(--reserved) ;;
esac
read -ra more <<<"${CREATE_FLAGS:-}"

tpu queued-resources create "$TPU_NAME" \
  --node-id="$TPU_NAME" \
  --accelerator-type="$ACCELERATOR_TYPE" \
  --runtime-version="$RUNTIME_VERSION" \
  "${flags[@]}" "${more[@]}"
