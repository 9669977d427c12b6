#!/usr/bin/env bash
# Trains the sweeps of this folder into DIR and makes the tables from them.
#   results/small/train.sh DIR
# Three core-hours: an hour and a half on two CPU cores. Stopped, the same command goes on.
set -euo pipefail
workdir=${1:?"usage: results/small/train.sh DIR"}
cd "$(dirname "$0")/../.."
trap 'kill "${shares[@]}" 2>/dev/null || true' EXIT

status=0
for name in rates schedules law pairs shapes; do
  for core in 0 1; do # Small models gain nothing from a second core.
    taskset --cpu-list $core python -m jax_sparse_pretrain.sweep \
      --config=configs/sweep_$name.py --workdir="$workdir/$name" \
      --index $core --count 2 &
    shares[core]=$!
  done
  for core in 0 1; do
    wait "${shares[core]}" || status=$?
  done
  python -m jax_sparse_pretrain.sweep --collect --workdir="$workdir/$name"
  cp "$workdir/$name/runs.csv" results/small/$name.csv
done
python -m jax_sparse_pretrain.sweep --collect --workdir="$workdir"
cp "$workdir/runs.csv" results/small/runs.csv
exit $status
