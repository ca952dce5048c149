#!/usr/bin/env bash
# The recall task of docs/training.md: sequences of 1024 tokens, trained through calls of 129 rows with full attention,
# causal attention and a window, and with linear attention.
# Usage: scripts/recall.sh FOLDER [THREADS]
set -euo pipefail

folder=${1:?usage: scripts/recall.sh FOLDER [THREADS]}
threads=${2:-$(getconf _NPROCESSORS_ONLN)}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash scripts/setup.sh
cmake --preset demo
cmake --build --preset demo --parallel "$(getconf _NPROCESSORS_ONLN)" --target twoheads_recall
for mixer in full causal window linear; do
  build/demo/examples/twoheads_recall --tokens 1024 --mixer "$mixer" --rows 129 --threads "$threads" \
    --log "$folder/$mixer.csv" --json >"$folder/$mixer.json"
  cat "$folder/$mixer.json"
done
