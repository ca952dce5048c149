#!/usr/bin/env bash
# Builds the site of the library in build/docs/html with Doxygen: the pages of docs/ and the comments of the headers.
# What is undocumented, or refers to nothing, is an error. Doxygen is installed where it can be (Debian, root or sudo).
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."

wanted=()
command -v doxygen >/dev/null || wanted+=(doxygen)
command -v python3 >/dev/null || wanted+=(python3)
if [ "${#wanted[@]}" -gt 0 ]; then
  as_root=()
  if [ "$(id -u)" -ne 0 ]; then as_root=(sudo); fi
  if ! command -v apt-get >/dev/null || { [ "$(id -u)" -ne 0 ] && ! command -v sudo >/dev/null; }; then
    echo "Missing: ${wanted[*]}. Debian, Ubuntu: sudo apt-get install doxygen python3; Homebrew: brew install doxygen" >&2
    exit 1
  fi
  apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get)
  { "${apt[@]}" update -q && "${apt[@]}" install -y -q --no-install-recommends "${wanted[@]}"; } >&2
fi

TWOHEADS_VERSION=$(sed -n 's/^ *VERSION \([0-9.]*\)$/\1/p' CMakeLists.txt | head -n 1)
export TWOHEADS_VERSION
# Pages of what is gone would stay.
rm -rf build/docs
mkdir -p build/docs
doxygen docs/Doxyfile
symbols=$(python3 docs/count_symbols.py build/docs/xml)
rm -rf build/docs/xml
echo "build/docs/html/index.html: $symbols"
