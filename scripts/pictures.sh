#!/usr/bin/env bash
# Draws the pictures of docs/pictures anew, with the commands that docs/pictures.md shows. Builds twoheads_plan where it
# is not named: scripts/pictures.sh [PROGRAM]
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
program=${1:-}
if [ -z "$program" ]; then
  bash scripts/setup.sh
  cmake --preset demo
  cmake --build --preset demo --parallel "$(getconf _NPROCESSORS_ONLN)" --target twoheads_plan
  program=build/demo/examples/twoheads_plan
fi

# The page is the one list of commands.
mkdir -p docs/pictures
sed -n 's/^twoheads_plan \(.* --svg docs\/pictures\/[a-z_]*\.svg\)$/\1/p' docs/pictures.md |
  while read -r -a arguments; do
    "$program" "${arguments[@]}" >/dev/null
    printf '%s\n' "${arguments[-1]}"
  done
