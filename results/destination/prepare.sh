#!/usr/bin/env bash
# Makes the text of this experiment, DIR/tokens: 14.4M tokens to train on.
#   results/destination/prepare.sh DIR
# Needs apt-get and dpkg-deb. The text is that of the Debian package dict-gcide.
set -euo pipefail
mkdir -p "${1:?"usage: results/destination/prepare.sh DIR"}"
folder=$(cd "$1" && pwd)
here=$(cd "$(dirname "$0")" && pwd)

(cd "$folder" && apt-get download dict-gcide)
dpkg-deb -x "$folder"/dict-gcide_*.deb "$folder/package"
python "$here/text.py" "$folder/package" "$folder/gcide.jsonl"
cd "$here/../.."
python -m jax_sparse_pretrain.prepare "$folder/gcide.jsonl" \
  --out "$folder/tokens" --train_tokenizer bpe --vocab_size 256 \
  --alphabet text --validation_fraction 0.1
