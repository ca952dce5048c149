#!/usr/bin/env bash
# Builds the programs that a first look needs and runs them: a plan before anything is computed, the simulation beside
# the direct transformer, and the smallest program that uses the library.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh

jobs=$(getconf _NPROCESSORS_ONLN)
cmake --preset demo
cmake --build --preset demo --parallel "$jobs" --target twoheads_plan twoheads_simulate 01_hello

show() {
  printf '\n$ %s\n' "$*"
  "build/demo/examples/$1" "${@:2}"
}

show twoheads_plan --mask causal --tokens 1000 --rows 129
show twoheads_simulate --mask causal --tokens 1000 --rows 129 --width 64 --heads 4
show 01_hello
