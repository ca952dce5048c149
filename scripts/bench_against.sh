#!/usr/bin/env bash
# Whether the work tree became slower than another commit: builds the benchmarks of both, runs them in turns, and fails
# where one is slower by more than the limit beyond the spread of its rounds.
#
#   scripts/bench_against.sh [--quick] [--limit PERCENT] [--rounds N] [--out DIR] [COMMIT]
#
#   COMMIT            what to compare with: the newest tag v* unless said
#   --quick           three short benchmarks: under two minutes of running on two cores; without it about six
#   --limit PERCENT   slowdown that is let pass (default 15)
#   --rounds N        runs of each side, in turns (default 7)
#   --out DIR         where results go, build/bench-against unless said; older ones there are removed
#
# Ratios are of neighbouring runs, so that what else the machine does disturbs both sides alike.
set -euo pipefail

start=$(pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "scripts/bench_against.sh"; }
refuse() { echo "bench_against.sh: $*" >&2; exit 2; }
quick=false limit=15 rounds=7 out=build/bench-against commit=
while [ $# -gt 0 ]; do
  case $1 in
    --quick) quick=true ;;
    --limit | --rounds | --out)
      [ $# -ge 2 ] || refuse "$1 takes a value"
      case $1 in
        --limit) limit=$2 ;;
        --rounds) rounds=$2 ;;
        *) case $2 in /*) out=$2 ;; *) out=$start/$2 ;; esac ;;
      esac
      shift
      ;;
    -h | --help) usage; exit 0 ;;
    -*) refuse "does not know $1 (--help)" ;;
    *) commit=$1 ;;
  esac
  shift
done
[[ $rounds =~ ^[1-9][0-9]*$ ]] || refuse "--rounds is '$rounds', expected a number of 1 or more"
[[ $limit =~ ^[0-9]+([.][0-9]+)?$ ]] || refuse "--limit is '$limit', expected a number of percent"
if [ -z "$commit" ]; then
  commit=$(git tag --list 'v*' --sort=-version:refname | head -n 1)
  [ -n "$commit" ] || refuse "there is no tag v* yet: name the commit to compare with"
fi
commit=$(git rev-parse --verify --quiet "$commit^{commit}") || refuse "no commit '$commit'"

bash scripts/setup.sh
mkdir -p "$out"
rm -f "$out"/*.json
other=$out/checkout
git worktree remove --force "$other" 2>/dev/null || true
git worktree prune
git worktree add --quiet --detach "$other" "$commit"
trap 'git worktree remove --force "$other"' EXIT

# build SOURCE FOLDER: the benchmarks of a checkout, with the same flags.
build() {
  cmake -S "$1" -B "$2" -G Ninja -DCMAKE_BUILD_TYPE=Release -DTWOHEADS_BUILD_TESTS=OFF >/dev/null
  cmake --build "$2" --parallel "$(getconf _NPROCESSORS_ONLN)" --target bench_attention bench_blocks
}
build "$other" "$out/before"
build . "$out/after"

attention='^BM_Kernel/(causal|full)/N:4096/.*threads:1|^BM_Kernel/window/N:16384/.*threads:1|^BM_KernelBackward/causal/N:4096/.*threads:1'
attention+='|^BM_OracleGrid/causal/N:4096/M:257/.*threads:1'
blocks='/causal/.*/(M:257|rows:128)/'
if $quick; then
  attention='^BM_Kernel/causal/N:4096/.*threads:1|^BM_OracleGrid/causal/N:1024/M:257/.*threads:1'
  blocks='/full/.*/(M:1025|rows:256)/'
fi

# run SIDE ROUND
run() {
  "$out/$1/bench/bench_attention" --benchmark_filter="$attention" --benchmark_min_time=0.1 \
    --benchmark_out="$out/$1-attention-$2.json" --benchmark_out_format=json >/dev/null 2>"$out/$1.log"
  "$out/$1/bench/bench_blocks" --benchmark_filter="$blocks" --benchmark_min_time=0.1 \
    --benchmark_out="$out/$1-blocks-$2.json" --benchmark_out_format=json >/dev/null 2>>"$out/$1.log"
}
for round in $(seq 1 "$rounds"); do
  echo "round $round of $rounds" >&2
  # Who goes first changes, so that a machine that slows down favours neither.
  if [ $((round % 2)) -eq 1 ]; then sides=(before after); else sides=(after before); fi
  for side in "${sides[@]}"; do run "$side" "$round"; done
done
python3 bench/compare.py "$out" --limit "$limit"
