#!/usr/bin/env bash
# Attention by a runtime of another maker: exports an attention core of exactly 64 rows as ONNX, runs it by ONNX Runtime
# in another process, and writes 200 tokens of the trained model stories260K through it. The tokens must be the
# reference's. Where the model is absent, a random model of 1000 tokens is compared with the direct transformer instead.
# TWOHEADS_SHARED_DIR names the folder that holds data/stories260K (default ../shared).
# shellcheck disable=SC2016 # The programs in single quotes are JavaScript.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh
bash scripts/setup_onnxruntime.sh --export

jobs=$(getconf _NPROCESSORS_ONLN)
cmake --preset demo
cmake --build --preset demo --parallel "$jobs" --target twoheads_export twoheads_lm twoheads_simulate

export NODE_PATH=$PWD/build/onnxruntime/node_modules
programs=build/demo/examples
graph=build/onnxruntime/causal_64.onnx
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

show() {
  printf '\n$ %s\n' "$*"
}

# Runs a program for its JSON; what goes to standard error is shown where it fails, and read by summary where not.
run() {
  show "$@" --json
  "$@" --json >"$out/json" 2>"$out/report" || { cat "$out/report" >&2 && exit 1; }
}

# Heads of 8 columns take 9 columns of queries and keys, and 18 of values: the rest are free for codes and checksums.
export_graph=("$programs/twoheads_export" --graph core --oracle causal --rows 64 --heads 8 --key-cols 16
  --value-cols 32 --output "$graph")
show "${export_graph[@]}"
"${export_graph[@]}"
oracle=(--oracle-command "node examples/onnxruntime/runner.js --model $graph --report" --oracle causal --oracle-scale 1)

# What the calls took.
summary() {
  node -e '
    const fs = require("fs");
    const [file, report] = process.argv.slice(1);
    const result = JSON.parse(fs.readFileSync(file, "utf8"));
    const all = result.seconds || (result.ids.length - 1) / result.tokens_per_second;
    let runs = 0, inRun = 0;
    for (const line of fs.readFileSync(report, "utf8").split("\n")) {
      if (!line.startsWith("{")) continue;
      const process = JSON.parse(line);
      runs += process.calls;
      inRun += process.seconds_in_run;
    }
    const micro = value => (1e6 * value).toFixed(0);
    console.log(`${result.calls} calls of the program, ${runs} of the runtime, ${all.toFixed(2)} seconds: ` +
      `${micro(all / runs)} microseconds a call of the runtime, of which ${micro(inRun / runs)} in ONNX Runtime`);
  ' "$out/json" "$out/report"
}

stories=${TWOHEADS_SHARED_DIR:-../shared}/data/stories260K
if [ -f "$stories/stories260K.bin" ]; then
  model=(--model "$stories/stories260K.bin" --tokenizer "$stories/tok512.bin")
  run "$programs/twoheads_lm" "${model[@]}" --generate 200 --rows 64 "${oracle[@]}"
  node -e '
    const fs = require("fs");
    const read = file => JSON.parse(fs.readFileSync(file, "utf8"));
    const found = read(process.argv[1]), expected = read(process.argv[2]).greedy_ids;
    console.log(found.text);
    if (JSON.stringify(found.ids) !== JSON.stringify(expected)) {
      const at = expected.findIndex((id, i) => id !== found.ids[i]);
      console.error(`token ${at} is ${found.ids[at]}, the reference has ${expected[at]}`);
      process.exit(1);
    }
    console.log(`\nThe ${expected.length - 1} tokens are those of the reference.`);
  ' "$out/json" "$stories/greedy_200.json"
  summary
else
  echo "$stories/stories260K.bin is absent: a random model is compared with the direct transformer instead"
  run "$programs/twoheads_simulate" --mask causal --tokens 1000 --rows 64 --width 64 --heads 8 --scalar float \
    "${oracle[@]}"
  node -e '
    const result = JSON.parse(require("fs").readFileSync(process.argv[1], "utf8"));
    if (!(result.max_row_error <= 1e-4)) {
      console.error(`a row is off by ${result.max_row_error}, expected 1e-4 at most`);
      process.exit(1);
    }
    console.log(`rows are off by ${result.max_row_error} at most, against the direct transformer`);
  ' "$out/json"
  summary
fi
