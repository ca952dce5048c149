#!/usr/bin/env bash
# Trains the model that ships with the library, as its card (examples/models/bible/README.md) says: it took 22 minutes on
# two cores. A run that was stopped goes on.
# Usage: scripts/train_bible.sh FOLDER [THREADS]
set -euo pipefail

folder=${1:?usage: scripts/train_bible.sh FOLDER [THREADS]}
threads=${2:-$(getconf _NPROCESSORS_ONLN)}
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash scripts/setup.sh
bash scripts/make_bible_text.sh "$folder"
cmake --preset demo
cmake --build --preset demo --parallel "$(getconf _NPROCESSORS_ONLN)" --target twoheads_train

build/demo/examples/twoheads_train --text "$folder/training.txt" --held-out "$folder/held_out.txt" \
  --layers 6 --width 128 --heads 4 --hidden 384 --context 1024 --batch 4 --steps 2500 --lr 0.0025 --warmup 100 \
  --threads "$threads" --checkpoint "$folder/run.bin" --evaluate-every 250 --evaluate-bytes 32768 \
  --log "$folder/log.csv" --plot "$folder/loss.svg" --out "$folder/model" --dtype float16

# What general compressors make of the same text, in bits a byte; of held-out text, given the other.
bits() { awk -v packed="$1" -v bytes="$2" 'BEGIN { printf "%.2f", 8 * packed / bytes }'; }
all=$(wc -c <"$folder/bible.txt")
held=$(wc -c <"$folder/held_out.txt")
for packer in "gzip -9" "xz -9" "bzip2 -9"; do
  # shellcheck disable=SC2086
  if ! command -v ${packer%% *} >/dev/null; then continue; fi
  # shellcheck disable=SC2086
  whole=$($packer -c "$folder/bible.txt" | wc -c)
  # shellcheck disable=SC2086
  training=$($packer -c "$folder/training.txt" | wc -c)
  # shellcheck disable=SC2086
  both=$(cat "$folder/training.txt" "$folder/held_out.txt" | $packer -c | wc -c)
  echo "$packer: $(bits "$whole" "$all") bits a byte of the whole text, $(bits $((both - training)) "$held") of held-out text after the other"
done
