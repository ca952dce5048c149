#!/usr/bin/env bash
# Fuzzes the readers of foreign bytes and the planner with libFuzzer under ASan and UBSan, one target after the other.
#
#   Usage    scripts/fuzz.sh [SECONDS] [TARGET...]   so many seconds each (60); without a target all of tests/fuzz
#            scripts/fuzz.sh --keep TARGET...        adds to tests/fuzz/corpus what covers lines that it does not yet
#   Needs    what scripts/setup.sh and scripts/setup_checks.sh install
#   Output   what a run finds worth going on from stays in build/fuzz/found/TARGET, a fault in build/fuzz/faults/TARGET.
#            Exit status 1 after the first fault: build/fuzz/tests/fuzz/fuzz_TARGET FILE shows it again.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
keep=no
if [ "${1:-}" = --keep ]; then
  keep=yes
  shift
fi
seconds=60
if [[ "${1:-}" =~ ^[0-9]+$ ]]; then
  seconds=$1
  shift
fi
targets=("$@")
if [ "${#targets[@]}" -eq 0 ]; then
  for source in tests/fuzz/fuzz_*.cpp; do
    name=$(basename "$source" .cpp)
    targets+=("${name#fuzz_}")
  done
fi

clang=$(command -v clang++-14 || command -v clang++) || {
  echo "no clang: scripts/setup_checks.sh installs Clang 14 and its libFuzzer" >&2
  exit 1
}
build=build/fuzz
cmake -S . -B "$build" -G Ninja "-DCMAKE_CXX_COMPILER=$clang" -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS_RELEASE=-O1 \
  -DTWOHEADS_BUILD_FUZZERS=ON -DTWOHEADS_BUILD_TESTS=OFF -DTWOHEADS_BUILD_BENCH=OFF -DTWOHEADS_BUILD_EXAMPLES=OFF \
  -DTWOHEADS_INSTALL=OFF >"$build.log" 2>&1 || {
  cat "$build.log" >&2
  exit 1
}
cmake --build "$build" --target "${targets[@]/#/fuzz_}"

# Targets write their files into a folder for temporary ones: in memory, where there is one.
if [ -z "${TMPDIR:-}" ] && [ -w /dev/shm ]; then export TMPDIR=/dev/shm; fi
export UBSAN_OPTIONS="print_stacktrace=1${UBSAN_OPTIONS:+:$UBSAN_OPTIONS}"
for target in "${targets[@]}"; do
  found=$build/found/$target
  faults=$build/faults/$target
  corpus=tests/fuzz/corpus/$target
  mkdir -p "$found" "$faults" "$corpus"
  program=$build/tests/fuzz/fuzz_$target
  if [ "$keep" = yes ]; then
    # Lines alone count here, not how often they ran, so that little is kept.
    "$program" -merge=1 -use_counters=0 -max_len=1024 "$corpus" "$found" 2>&1 | tail -n 1
    continue
  fi
  echo "==== $target, $seconds s"
  # No reader may ask for memory that its bytes do not bear out: 128 MiB at once are a fault, and 20 seconds.
  if ! "$program" -max_total_time="$seconds" -timeout=20 -malloc_limit_mb=128 -rss_limit_mb=2048 -max_len=4096 \
    -use_value_profile=1 -print_final_stats=1 -artifact_prefix="$faults/" "$found" "$corpus" >"$faults/log" 2>&1; then
    tail -n 60 "$faults/log" >&2
    exit 1
  fi
  grep -E 'number_of_executed_units|new_units_added|peak_rss_mb' "$faults/log"
  grep 'DONE' "$faults/log" | tail -n 1
done
