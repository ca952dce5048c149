#!/usr/bin/env bash
# Builds the programs that a first look needs and runs them: a plan before anything is computed, the simulation beside
# the direct transformer, the smallest program that uses the library, and the model that ships with it, which reads a
# text and goes on from there.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh

jobs=$(getconf _NPROCESSORS_ONLN)
cmake --preset demo
cmake --build --preset demo --parallel "$jobs" --target twoheads_plan twoheads_simulate 01_hello 06_shipped_model

show() {
  printf '\n$ %s\n' "$*"
  "build/demo/examples/$1" "${@:2}"
}

show twoheads_plan --mask causal --tokens 1000 --rows 129
show twoheads_simulate --mask causal --tokens 1000 --rows 129 --width 64 --heads 4
show 01_hello

# The text that the model was not trained on is not part of the repository; Debian's package bible-kjv has it.
if ! command -v bible >/dev/null && command -v apt-get >/dev/null; then
  apt=(env DEBIAN_FRONTEND=noninteractive apt-get)
  # Nobody is asked for a password for it.
  if [ "$(id -u)" -ne 0 ]; then apt=(sudo -n "${apt[@]}"); fi
  "${apt[@]}" install -y -q --no-install-recommends bible-kjv >/dev/null 2>&1 || true
fi
text=README.md
if command -v bible >/dev/null; then
  bash scripts/make_bible_text.sh build/demo/text >/dev/null
  text=build/demo/text/held_out.txt
else
  printf '\nThe package bible-kjv is not here: the model reads README.md instead, which is nothing like what it knows.\n'
fi
show 06_shipped_model examples/models/bible "$text"
