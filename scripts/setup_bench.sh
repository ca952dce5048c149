#!/usr/bin/env bash
# Gets what the benchmarks can do without: peers to measure beside the library, and what draws the pictures. Installs
# Debian packages with apt-get, and onnxruntime-node with npm into build/onnxruntime. scripts/bench.sh leaves out what is
# missing, so nothing here is needed, and what cannot be had is named and no failure.
set -uo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

packages=(libdnnl-dev python3-matplotlib python3-onnx)
wanted=()
for package in "${packages[@]}"; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep 'ok installed' >/dev/null || wanted+=("$package")
done
if [ "${#wanted[@]}" -gt 0 ]; then
  as_root=()
  if [ "$(id -u)" -ne 0 ]; then as_root=(sudo); fi
  apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get)
  { "${apt[@]}" update -q && "${apt[@]}" install -y -q --no-install-recommends "${wanted[@]}"; } >&2 ||
    echo "not installed: ${wanted[*]} (other systems name oneDNN 2, matplotlib and onnx otherwise)" >&2
fi

if [ -d build/onnxruntime/node_modules/onnxruntime-node ]; then
  :
elif command -v npm >/dev/null 2>&1; then
  mkdir -p build/onnxruntime
  # The package holds what runs on the CPU; its install script would fetch what runs on a GPU.
  ONNXRUNTIME_NODE_INSTALL=skip npm install --prefix build/onnxruntime --ignore-scripts --no-audit --no-fund \
    onnxruntime-node@1.30.0 >&2 || echo "not installed: onnxruntime-node" >&2
else
  echo "not installed: onnxruntime-node, there is no npm" >&2
fi
exit 0
