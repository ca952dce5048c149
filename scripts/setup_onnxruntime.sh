#!/usr/bin/env bash
# Gets ONNX Runtime for Node, which runs oracles as a third party: Node with apt-get where there is none, and
# onnxruntime-node with npm into build/onnxruntime. With --export also what twoheads_export is built with. Where all of
# it is there it changes nothing and asks no network. What cannot be had is named, and the exit code is then 1.
set -uo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

case ${1:-} in
  "" | --export) ;;
  *) echo "$0 does not know $1, expected --export or nothing" >&2 && exit 2 ;;
esac

have() { command -v "$1" >/dev/null 2>&1; }
installed() { dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep 'ok installed' >/dev/null; }
runtime_is_there() { [ -d build/onnxruntime/node_modules/onnxruntime-node ]; }

wanted=()
have node || wanted+=(nodejs)
# npm brings a few hundred packages with it on Debian, and is needed once.
runtime_is_there || have npm || wanted+=(npm)
if [ "${1:-}" = --export ] && have dpkg-query; then
  for package in libonnx-dev libprotobuf-dev; do installed "$package" || wanted+=("$package"); done
fi

missing=0
if [ "${#wanted[@]}" -gt 0 ]; then
  as_root=()
  if [ "$(id -u)" -ne 0 ]; then as_root=(sudo); fi
  apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get)
  echo "Installing ${wanted[*]}" >&2
  if ! { "${apt[@]}" update -q && "${apt[@]}" install -y -q --no-install-recommends "${wanted[@]}"; } >&2; then
    echo "not installed: ${wanted[*]} (Node 18 or later from https://nodejs.org; ONNX's C++ library and protobuf)" >&2
    missing=1
  fi
fi

if ! runtime_is_there; then
  if have npm; then
    mkdir -p build/onnxruntime
    # The package holds what runs on the CPU; its install script would fetch what runs on a GPU.
    if ! ONNXRUNTIME_NODE_INSTALL=skip npm install --prefix build/onnxruntime --ignore-scripts --no-audit --no-fund \
      onnxruntime-node@1.30.0 >&2; then
      echo "not installed: onnxruntime-node" >&2
      missing=1
    fi
  else
    echo "not installed: onnxruntime-node, there is no npm" >&2
    missing=1
  fi
fi
exit "$missing"
