#!/usr/bin/env bash
# Checks for the tools and libraries that building twoheads needs, and installs what is missing with apt-get where that
# is possible. Where everything is there it changes nothing and asks no network. Where it cannot install, it says what
# is missing and how to get it, and exits 1; without MPI alone, which has packages of its own on many clusters, all else
# can be built, and it exits 0.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cmake_is_new_enough() {
  local version
  version=$(cmake --version 2>/dev/null | sed -n '1s/^cmake version \([0-9.]*\).*/\1/p')
  [ -n "$version" ] && [ "$(printf '3.24\n%s\n' "$version" | sort -V | head -n 1)" = 3.24 ]
}

compiler_knows_cxx20() {
  local name compiler=${CXX:-}
  for name in c++ g++ clang++; do
    if [ -z "$compiler" ] && command -v "$name" >/dev/null 2>&1; then compiler=$name; fi
  done
  [ -n "$compiler" ] || return 1
  cat >"$work/probe.cpp" <<'CPP'
#include <concepts>
#include <span>
template <std::integral T>
T same(T x) { return x; }
int main() { return same(0); }
CPP
  # Not quoted: CXX may carry a launcher or flags.
  # shellcheck disable=SC2086
  $compiler -std=c++20 "$work/probe.cpp" -o "$work/probe" >"$work/log" 2>&1
}

# Asks CMake for the libraries, as the build will. Prints the packages that it does not find.
libraries_missing() {
  mkdir -p "$work/find"
  cat >"$work/find/CMakeLists.txt" <<'CMAKE'
cmake_minimum_required(VERSION 3.24)
project(find LANGUAGES CXX)
foreach(package IN ITEMS Eigen3 GTest benchmark CLI11 nlohmann_json TBB Boost ICU MPI)
  # Boost by its own package file: CMake's module for it is on its way out.
  if(package STREQUAL "Boost")
    find_package(Boost 1.74 CONFIG QUIET)
  elseif(package STREQUAL "ICU")
    find_package(ICU COMPONENTS uc i18n QUIET)
  elseif(package STREQUAL "MPI")
    find_package(MPI 3.1 COMPONENTS CXX QUIET)
  else()
    find_package(${package} QUIET)
  endif()
  if(NOT ${package}_FOUND OR (package STREQUAL "Eigen3" AND Eigen3_VERSION VERSION_LESS 3.4))
    list(APPEND missing ${package})
  endif()
endforeach()
file(WRITE "${CMAKE_BINARY_DIR}/missing.txt" "${missing}")
CMAKE
  rm -rf "$work/find/build"
  if ! cmake -S "$work/find" -B "$work/find/build" -G Ninja >"$work/log" 2>&1; then
    cat "$work/log" >&2
    return 1
  fi
  tr ';' ' ' <"$work/find/build/missing.txt"
}

# Prints the names of what is missing. The libraries can only be asked for once the tools are there, so without the
# tools all of them count as missing; asking apt for a package that is installed already does no harm.
missing() {
  local tools="" libraries
  cmake_is_new_enough || tools+=" cmake"
  compiler_knows_cxx20 || tools+=" compiler"
  command -v ninja >/dev/null 2>&1 || tools+=" ninja"
  if [ -n "$tools" ]; then
    printf '%s' "${tools# } Eigen3 GTest benchmark CLI11 nlohmann_json TBB Boost ICU MPI"
  else
    libraries=$(libraries_missing) || return 1
    printf '%s' "$libraries"
  fi
}

describe() {
  case $1 in
    cmake) echo "CMake 3.24 or later" ;;
    compiler) echo "a compiler for C++20 (GCC 12, Clang 14 or later)" ;;
    ninja) echo "Ninja" ;;
    Eigen3) echo "Eigen 3.4 or later" ;;
    GTest) echo "GoogleTest" ;;
    benchmark) echo "Google Benchmark" ;;
    CLI11) echo "CLI11" ;;
    nlohmann_json) echo "nlohmann-json" ;;
    TBB) echo "oneTBB" ;;
    Boost) echo "Boost 1.74 or later, headers" ;;
    ICU) echo "ICU" ;;
    MPI) echo "MPI 3.1 or later (Open MPI, MPICH)" ;;
  esac
}

debian_package() {
  case $1 in
    cmake) echo cmake ;;
    compiler) echo g++ ;;
    ninja) echo ninja-build ;;
    Eigen3) echo libeigen3-dev ;;
    GTest) echo libgtest-dev ;;
    benchmark) echo libbenchmark-dev ;;
    CLI11) echo libcli11-dev ;;
    nlohmann_json) echo nlohmann-json3-dev ;;
    TBB) echo libtbb-dev ;;
    Boost) echo libboost-dev ;;
    ICU) echo libicu-dev ;;
    MPI) echo libopenmpi-dev openmpi-bin ;;
  esac
}

explain_and_stop() {
  local name
  if [ "$1" = MPI ]; then
    echo "no MPI 3.1 or later was found (Debian: libopenmpi-dev openmpi-bin): nothing will run on several ranks" >&2
    exit 0
  fi
  {
    echo "Missing for twoheads (the libraries can only be looked for once the tools are there):"
    for name in $1; do echo "  - $(describe "$name")"; done
    cat <<'TEXT'
How to get everything it builds with:
  Debian 12, Ubuntu 24.04   sudo apt-get install g++ cmake ninja-build libeigen3-dev libgtest-dev \
                              libbenchmark-dev libcli11-dev nlohmann-json3-dev libtbb-dev libboost-dev libicu-dev \
                              libopenmpi-dev openmpi-bin
  Fedora                    sudo dnf install gcc-c++ cmake ninja-build eigen3-devel gtest-devel \
                              google-benchmark-devel cli11-devel json-devel tbb-devel boost-devel libicu-devel \
                              openmpi-devel; then module load mpi
  macOS, Homebrew           brew install cmake ninja eigen googletest google-benchmark cli11 nlohmann-json tbb \
                              boost icu4c open-mpi
Older systems have an older CMake: https://cmake.org/download
TEXT
  } >&2
  exit 1
}

names=$(missing)
[ -n "$names" ] || exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  # With a terminal sudo may ask for the password; without one it must not need it.
  if command -v sudo >/dev/null 2>&1 && { [ -t 0 ] || sudo -n true 2>/dev/null; }; then
    as_root=(sudo)
  else
    explain_and_stop "$names"
  fi
fi
command -v apt-get >/dev/null 2>&1 || explain_and_stop "$names"

packages=()
for name in $names; do
  # A name may stand for two packages.
  read -r -a of_name <<<"$(debian_package "$name")"
  packages+=("${of_name[@]}")
done
echo "Installing ${packages[*]}" >&2
apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get)
{ "${apt[@]}" update -q && "${apt[@]}" install -y -q --no-install-recommends "${packages[@]}"; } >&2 ||
  explain_and_stop "$names"

names=$(missing)
[ -z "$names" ] || explain_and_stop "$names"
