#!/usr/bin/env bash
# Sends the code to every worker and installs the pinned environment there.
#
#   launch/tpu_setup.sh [--dry-run]
#
# Settings: launch/env.sh. The code is that of the commit REVISION: what is not
# committed stays here. May be run again, to send another commit.
set -euo pipefail
source "$(dirname "$0")/common.sh"
parse_no_args "$@"
load_settings

git -C "$root" rev-parse --verify --quiet "$REVISION^{commit}" >/dev/null ||
  fail "REVISION = $REVISION: is not a commit of $root"
if [[ -n $(git -C "$root" status --porcelain) ]]; then
  echo "warning: what is not committed is not sent" >&2
fi

archive=${TMPDIR:-/tmp}/sparse-$TPU_NAME.tar.gz
run git -C "$root" archive --format=tar.gz --output="$archive" "$REVISION"
tpu tpu-vm scp "$archive" "$TPU_NAME:sparse.tar.gz" --worker=all
on_workers "rm -rf sparse/code && mkdir -p sparse/code && \
tar -xzf sparse.tar.gz -C sparse/code && \
bash sparse/code/launch/worker_setup.sh"
