#!/usr/bin/env bash
# Makes every table and picture of this folder from its CSV files.
#   results/small/analyse.sh
set -euo pipefail
cd "$(dirname "$0")"
export COLUMNS=100

analysis() { python -m jax_sparse_pretrain.analysis "$@"; }

# Claim 1: when to prune.
analysis rank schedules.csv > schedules.txt
analysis plot schedules schedules.csv --out schedules.png

# Claim 2: one law.
analysis fit law.csv --out law.json > law.txt
analysis compare law.csv > compare.txt
analysis plot law law.csv --out law.png
analysis plot predicted law.csv --out predicted.png
analysis report law.csv --out report.html

# Claim 3: parity with dense twins.
pairs=(pairs.csv --names '(?P<block>s[\d.]+)_(?P<arm>sparse|dense)_(?P<seed>\d)'
  --reference dense)
analysis contrast "${pairs[@]}" > pairs.txt
analysis plot contrasts "${pairs[@]}" --out pairs.png

# Beyond the paper.
shapes=(shapes.csv --names '(?P<arm>\w+)_(?P<seed>\d)' --reference geometric)
analysis contrast "${shapes[@]}" > shapes.txt
analysis plot contrasts "${shapes[@]}" --out shapes.png
analysis plot predicted schedules.csv --law law.json --out schedules_law.png
