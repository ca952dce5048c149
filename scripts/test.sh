#!/usr/bin/env bash
# Builds the programs and every test with the default compiler, optimised, and runs the tests.
# Arguments go to ctest: scripts/test.sh -R plan
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash scripts/setup.sh

# A filter left in the environment would pass for a test that ran nothing.
unset GTEST_FILTER

jobs=$(getconf _NPROCESSORS_ONLN)
cmake --preset release
cmake --build --preset release --parallel "$jobs" --target twoheads_programs twoheads_tests
ctest --preset release --parallel "$jobs" "$@"
