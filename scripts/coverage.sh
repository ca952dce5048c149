#!/usr/bin/env bash
# Says which lines of include/twoheads the unit tests run: a build of its own with gcov's counters, and gcovr.
#
#   Usage    scripts/coverage.sh [TEST...]   names of tests/*_test.cpp without an ending; without any the list below,
#                                            which reaches every folder of the library but mpi/ and onnx/
#            scripts/coverage.sh --all       all unit tests but those of programs, ranks and ONNX
#   Needs    what scripts/setup.sh and scripts/setup_checks.sh install
#   Output   build/coverage/lines.txt (each header: lines, lines run, lines that were not), build/coverage/folders.txt,
#            and pages in build/coverage/html
#   Corner   a template that no test instantiates has no lines that could be counted. -O1, as tests of matrices take
#            long without: a line that the compiler merged with others counts with them.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
tests=(
  attention_features_test average_case_test checkpoint_test choose_plan_test choose_rows_test codec_slot_test codec_test
  converse_test damaged_files_test direct_test families_config_test families_test fuzz_corpus_test kernel_attention_test
  llama2c_test mask_test merger_test oracle_wrappers_test paper_strict_test plan_errors_test plan_test pool_test
  probe_test safetensors_errors_test safetensors_test sampled_plan_test session_saved_test session_test
  simulate_laws_test svg_test text_json_test text_test threads_test tile_kernel_test tokenizer_test trainable_grid_test
  trainer_files_test trainer_test training_pass_test window_plan_test
)
if [ "${1:-}" = --all ]; then
  mapfile -t tests < <(basename -s .cpp -a tests/*_test.cpp | grep -v -E '^(programs|mpi|onnx|include_table)')
elif [ "$#" -gt 0 ]; then
  tests=("$@")
fi
command -v gcovr >/dev/null || {
  echo "no gcovr: scripts/setup_checks.sh installs it" >&2
  exit 1
}
unset GTEST_FILTER

build=build/coverage
only=$(printf '%s\n' "${tests[@]}" | paste -s -d '|')
cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DTWOHEADS_BUILD_BENCH=OFF -DTWOHEADS_BUILD_EXAMPLES=OFF \
  "-DCMAKE_CXX_FLAGS_RELEASE=-O1 --coverage -fprofile-update=atomic -fprofile-abs-path" \
  "-DTWOHEADS_ONLY_TESTS=^($only)\$" -DTWOHEADS_PRECOMPILED_HEADERS=ON >"$build.log" 2>&1 || {
  cat "$build.log" >&2
  exit 1
}
cmake --build "$build" --parallel "$(getconf _NPROCESSORS_ONLN)" --target "${tests[@]}"
find "$build" -name '*.gcda' -delete
# Whole programs, not case by case: each writes its counters once. A test that fails counts for what it ran, and is said.
for test in "${tests[@]}"; do
  "$build/tests/$test" --gtest_brief=1 >"$build/$test.log" 2>&1 || echo "$test fails: see $build/$test.log" >&2
done

gcovr --root . --filter 'include/twoheads/' --object-directory "$build" --txt "$build/lines.txt" \
  --json-summary "$build/summary.json" "$build" >"$build.log" 2>&1 || {
  cat "$build.log" >&2
  exit 1
}
mkdir -p "$build/html"
gcovr --root . --filter 'include/twoheads/' --object-directory "$build" --html-details "$build/html/index.html" \
  "$build" >>"$build.log" 2>&1 || echo "no pages: see $build.log" >&2
python3 - "$build/summary.json" include/twoheads <<'PYTHON' | tee "$build/folders.txt"
import collections, json, pathlib, sys
summary = json.load(open(sys.argv[1]))
folders = collections.defaultdict(lambda: [0, 0])
seen = set()
for one in summary["files"]:
    name = one["filename"].split("include/twoheads/")[-1]
    seen.add(name)
    for folder in (name.split("/")[0] if "/" in name else "(top)", "all"):
        folders[folder][0] += one["line_covered"]
        folders[folder][1] += one["line_total"]
for folder, (run, total) in sorted(folders.items()):
    print(f"{folder:12} {run:6} of {total:6} lines  {100 * run / max(total, 1):6.2f} %")
root = pathlib.Path(sys.argv[2])
absent = sorted(str(p.relative_to(root)) for p in root.rglob("*.hpp") if str(p.relative_to(root)) not in seen)
print("without a line that was compiled:", ", ".join(absent))
PYTHON
