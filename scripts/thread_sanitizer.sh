#!/usr/bin/env bash
# The tests of what runs on several threads, under ThreadSanitizer: executors, pools of oracles, simulation, kernel and
# gradients on threads.
#
#   Usage    scripts/thread_sanitizer.sh [CTEST ARGUMENT...]
#            TBB_SOURCE=DIR scripts/thread_sanitizer.sh    with oneTBB's source in DIR, also elsewhere than on Debian
#   Needs    what scripts/setup.sh installs; on Debian the source of its own oneTBB is fetched with apt-get, no root
#            needed
#   Exit     0: no data race; 77: oneTBB's source cannot be had here
#
# oneTBB is built with ThreadSanitizer, too: it does not see what a library that is built without it synchronises, and
# reports every piece of work that oneTBB hands to another thread.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh
here=$PWD/build/tbb-thread-sanitize

# Fetches the source of the distribution's oneTBB into $here/source, by lists of its own.
fetch() {
  command -v apt-get >/dev/null && [ -r /etc/debian_version ] || return 1
  local suite lists=$here/apt
  suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
  mkdir -p "$lists/parts" "$lists/lists/partial" "$lists/archives/partial" "$here/source"
  printf 'Types: deb-src\nURIs: http://deb.debian.org/debian\nSuites: %s\nComponents: main\nSigned-By: %s\n' "$suite" \
    /usr/share/keyrings/debian-archive-keyring.gpg >"$lists/parts/source.sources"
  local own=(-q -o "Dir::Etc::sourceparts=$lists/parts" -o Dir::Etc::sourcelist=/dev/null
    -o "Dir::State::lists=$lists/lists" -o "Dir::Cache=$lists" -o APT::Sandbox::User=)
  (cd "$lists" && apt-get "${own[@]}" update && apt-get "${own[@]}" source --download-only onetbb) >&2 || return 1
  # Debian's patches are of its tests and of other processors.
  tar -C "$here/source" --strip-components=1 -xf "$lists"/onetbb_*.orig.tar.*
}

if [ ! -e "$here/lib/libtbb.so" ]; then
  source=${TBB_SOURCE:-$here/source}
  if [ ! -e "$source/CMakeLists.txt" ] && ! fetch; then
    echo "no source of oneTBB here: give its folder by TBB_SOURCE" >&2
    exit 77
  fi
  cmake -S "$source" -B "$here/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_INSTALL_PREFIX="$here" \
    -DCMAKE_INSTALL_LIBDIR=lib -DTBB_SANITIZE=thread -DTBB_STRICT=OFF -DTBB_TEST=OFF -DTBBMALLOC_BUILD=OFF \
    -DTBB_DISABLE_HWLOC_AUTOMATIC_SEARCH=ON
  cmake --build "$here/build" --parallel "$(getconf _NPROCESSORS_ONLN)" --target install
fi

cmake --preset thread-sanitize
cmake --build --preset thread-sanitize --parallel "$(getconf _NPROCESSORS_ONLN)" --target twoheads_tests
ctest --preset thread-sanitize --label-regex "^unit$" "$@"
