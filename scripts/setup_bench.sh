#!/usr/bin/env bash
# Gets what the benchmarks can do without: peers to measure beside the library, and what draws the pictures. Installs
# Debian packages with apt-get, and ONNX Runtime by scripts/setup_onnxruntime.sh. scripts/bench.sh leaves out what is
# missing, so nothing here is needed, and what cannot be had is named and no failure.
set -uo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

packages=(libdnnl-dev python3-matplotlib python3-onnx)
wanted=()
for package in "${packages[@]}"; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep 'ok installed' >/dev/null || wanted+=("$package")
done
if [ "${#wanted[@]}" -gt 0 ] && ! command -v apt-get >/dev/null; then
  echo "no apt-get here, not installed: ${wanted[*]} (names of Debian's packages)" >&2
elif [ "${#wanted[@]}" -gt 0 ]; then
  as_root=()
  if [ "$(id -u)" -ne 0 ]; then as_root=(sudo); fi
  apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get)
  { "${apt[@]}" update -q && "${apt[@]}" install -y -q --no-install-recommends "${wanted[@]}"; } >&2 ||
    echo "not installed: ${wanted[*]} (other systems name oneDNN 2, matplotlib and onnx otherwise)" >&2
fi

# It names what it cannot get.
bash scripts/setup_onnxruntime.sh || true
exit 0
