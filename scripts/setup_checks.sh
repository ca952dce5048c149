#!/usr/bin/env bash
# Gets what the checks of docs/testing.md take beside the tests: Clang 14 and its libFuzzer, gcovr, Valgrind,
# RapidCheck. Debian packages, with apt-get; what is there already is left alone.
set -euo pipefail

packages=(clang-14 libclang-rt-14-dev gcovr valgrind librapidcheck-dev)
wanted=()
for package in "${packages[@]}"; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep 'ok installed' >/dev/null || wanted+=("$package")
done
[ "${#wanted[@]}" -gt 0 ] || exit 0
if ! command -v apt-get >/dev/null; then
  echo "no apt-get here: get ${wanted[*]} (names of Debian's packages)" >&2
  exit 1
fi

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "as root: apt-get install ${wanted[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi
apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get)
echo "Installing ${wanted[*]}" >&2
{ "${apt[@]}" update -q && "${apt[@]}" install -y -q --no-install-recommends "${wanted[@]}"; } >&2
