#!/usr/bin/env bash
# The deciding experiment on one GPU, from text to table.
#   results/destination/gpu.sh DIR TEXT...
# TEXT is what `jax_sparse_pretrain.prepare` takes: files, directories, hf:NAME.
# It should hold 200M tokens, about 900 MB. Stopped, the same command goes on.
set -euo pipefail
folder=${1:?"usage: results/destination/gpu.sh DIR TEXT..."}
shift
: "${1:?"usage: results/destination/gpu.sh DIR TEXT..."}"
cd "$(dirname "$0")/../.."

python -m jax_sparse_pretrain.prepare "$@" --out "$folder/tokens" \
  --train_tokenizer bpe --vocab_size 4096 --validation_fraction 0.01
python -m jax_sparse_pretrain.sweep --workdir="$folder/sweep" \
  --config=configs/sweep_destination_gpu.py --config.data.path="$folder/tokens"
python -m jax_sparse_pretrain.sweep --collect --workdir="$folder/sweep"
python -m jax_sparse_pretrain.analysis compare "$folder/sweep/runs.csv"
