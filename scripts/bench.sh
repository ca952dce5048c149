#!/usr/bin/env bash
# Builds the benchmarks, runs them beside their peers in turns, and writes the results, tables and pictures.
#
#   scripts/bench.sh [--quick] [--out DIR] [--no-node] [--docs]
#
#   --quick     short inputs, two rounds: under three minutes on two cores; without it under fifteen
#   --out DIR   where results go, build/bench-results unless said; older results there are removed
#   --no-node   leaves out ONNX Runtime
#   --docs      also writes the tables into docs/benchmarks.md and the pictures into docs/pictures/bench
#
# Other work on the machine disturbs every figure; ratios are of one round each and suffer least. What is missing of
# the optional parts (scripts/setup_bench.sh gets them) is named in a line and left out.
set -euo pipefail

start=$(pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "scripts/bench.sh"; }
quick=false node=true docs=false out=build/bench-results
while [ $# -gt 0 ]; do
  case $1 in
    --quick) quick=true ;;
    --no-node) node=false ;;
    --docs) docs=true ;;
    --out)
      [ $# -ge 2 ] || { echo "bench.sh: --out takes a folder" >&2; exit 2; }
      case $2 in /*) out=$2 ;; *) out=$start/$2 ;; esac
      shift
      ;;
    -h | --help) usage; exit 0 ;;
    *) echo "bench.sh: does not know $1 (--help)" >&2; exit 2 ;;
  esac
  shift
done

bash scripts/setup.sh
# CI's build leaves a folder behind whose benchmarks are hardly optimised.
cmake --preset release -DTWOHEADS_LITTLE_OPTIMISED=
cmake --build --preset release --parallel "$(getconf _NPROCESSORS_ONLN)" \
  --target bench_attention bench_blocks bench_model
mkdir -p "$out"
rm -f "$out"/attention-*.json "$out"/blocks.json "$out"/model.json "$out"/onnxruntime-*.jsonl

programs=build/release/bench
missing() { printf '\n==== left out: %s\n' "$*" >&2; }

# The first python3 that has a module; the one first in PATH may not be the system's.
python_with() {
  local program
  for program in python3 /usr/bin/python3; do
    if "$program" -c "import $1" 2>/dev/null; then
      echo "$program"
      return
    fi
  done
  return 1
}

case $("$programs/bench_attention" --benchmark_list_tests) in
  *OneDnn*) ;;
  *) missing "oneDNN, version 2 was not found" ;;
esac
if $node; then
  export NODE_PATH=$PWD/build/onnxruntime/node_modules
  models=$PWD/build/onnxruntime/models
  if ! command -v node >/dev/null 2>&1; then
    node=false && missing "ONNX Runtime, there is no node"
  elif ! (cd / && node -e 'require("onnxruntime-node")') 2>/dev/null; then
    node=false && missing "ONNX Runtime, onnxruntime-node is not installed"
  elif ! writer=$(python_with onnx); then
    node=false && missing "ONNX Runtime, there is no python3 with onnx to write its models"
  else
    "$writer" bench/onnxruntime/make_models.py "$models"
  fi
fi

failed=false
# run PROGRAM NAME REPETITIONS MIN_TIME FILTER: results into NAME.json
run() {
  printf '\n==== [%d min %02d s] %s\n' $((SECONDS / 60)) $((SECONDS % 60)) "$2"
  "$programs/$1" --benchmark_filter="$5" --benchmark_repetitions="$3" --benchmark_min_time="$4" \
    --benchmark_enable_random_interleaving=true --benchmark_out="$out/$2.json" --benchmark_out_format=json \
    >"$out/$2.log" 2>&1 || { failed=true && cat "$out/$2.log" >&2; }
  grep '^no benchmarks of' "$out/$2.log" >&2 || true
  if grep 'ERROR OCCURRED' "$out/$2.log" >&2; then failed=true; fi
}

# run_node NAME REPETITIONS N...: a process for each case, so that each tells its own memory
run_node() {
  local name=$1 repetitions=$2 tokens mask threads
  shift 2
  printf '\n==== [%d min %02d s] %s\n' $((SECONDS / 60)) $((SECONDS % 60)) "$name"
  for tokens in "$@"; do
    for mask in full causal; do
      for threads in 1 2; do
        node bench/onnxruntime/attention.js --models "$models" --masks "$mask" --tokens "$tokens" \
          --threads "$threads" --repetitions "$repetitions" >>"$out/$name.jsonl" || failed=true
      done
    done
  done
}

sgemm='BM_OneDnnSgemm/'
peers='BM_(Kernel|EigenNaive|EigenBlocks|OneDnnStrips)'
if $quick; then
  for round in 1 2; do
    run bench_attention "attention-short-$round" 1 0.02 \
      "^($peers/(full|causal)/N:(1024|4096)/|BM_Kernel/(window|sinks)/N:(16384|32768)/|$sgemm)"
    if $node; then run_node "onnxruntime-$round" 3 1024 4096; fi
  done
  run bench_attention attention-once 1 0.02 \
    "^(BM_OracleGrid/(full|causal)/N:(1024|4096)/M:257/|BM_(OracleGrid|EigenBlocks|OneDnnStrips)/window/N:16384/(M:257/)?threads:1|BM_Kernel/[a-z_]*(:.*)?/N:4096/threads:1/|$sgemm)"
  run bench_blocks blocks 1 0.01 .
  run bench_model model 1 0.01 'N:512/'
else
  for round in 1 2; do
    run bench_attention "attention-short-$round" 2 0.05 "^($peers/(full|causal)/N:(1024|4096)/|$sgemm)"
    if $node; then run_node "onnxruntime-$round" 3 1024 4096; fi
    run bench_attention "attention-long-$round" 1 0.05 \
      "^(BM_Kernel/(full|causal)/N:16384/|BM_OneDnnStrips/(full|causal)/N:16384/threads:1|BM_Kernel/window/.*/threads:1|$sgemm)"
    if $node; then run_node "onnxruntime-$round" 1 16384; fi
  done
  run bench_attention attention-once 2 0.05 \
    "^(BM_Kernel/(head_dim|value_dim|double|eigen_arrays|full).*/N:4096/threads:1|$sgemm)"
  run bench_attention attention-slow 1 0.05 \
    "^(BM_Kernel/(sinks/.*/threads:|window/.*/threads:2)|BM_OracleGrid/(full|causal)/N:(1024|4096)/|BM_OracleGrid/window/N:(16384|32768)/M:1025/threads:1|BM_(EigenBlocks|OneDnnStrips)/window/.*/threads:1)"
  run bench_blocks blocks 1 0.02 .
  run bench_model model 1 0.02 .
fi

pictures=$out
arguments=()
if $docs; then
  pictures=docs/pictures/bench
  arguments=(--page docs/benchmarks.md)
fi
printf '\n==== [%d min %02d s] tables and pictures\n' $((SECONDS / 60)) $((SECONDS % 60))
python3 bench/report.py "$out" "${arguments[@]}"
if painter=$(python_with matplotlib); then
  "$painter" bench/plot.py "$out" "$pictures"
else
  missing "the pictures, there is no python3 with matplotlib"
fi
if $failed; then
  echo "bench.sh: a benchmark failed, see above" >&2
  exit 1
fi
