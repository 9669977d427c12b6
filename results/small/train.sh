#!/usr/bin/env bash
# Trains the sweeps of this folder into DIR and makes the tables from them.
#   results/small/train.sh DIR
# Three core-hours: an hour and a half on two CPU cores. Stopped, the same command goes on.
set -euo pipefail
workdir=${1:?"usage: results/small/train.sh DIR"}
cd "$(dirname "$0")/../.."

sweep='' status=0
# In the background, so that a signal is passed on at once.
trap 'kill $sweep 2>/dev/null || true; wait; exit 75' INT TERM

for name in rates schedules law pairs shapes; do
  python -m jax_sparse_pretrain.sweep --config=configs/sweep_$name.py \
    --workdir="$workdir/$name" --jobs 2 &
  sweep=$! now=0
  wait "$sweep" || now=$?
  ((now != 75)) || exit 75 # Stopped on request.
  ((now == 0)) || status=$now
  python -m jax_sparse_pretrain.sweep --collect --workdir="$workdir/$name"
  cp "$workdir/$name/runs.csv" results/small/$name.csv
done
python -m jax_sparse_pretrain.sweep --collect --workdir="$workdir"
cp "$workdir/runs.csv" results/small/runs.csv
exit $status
