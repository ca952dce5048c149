#pragma once

#include <cstdint>
#include <cstdlib>
#include <string>

/// The seed of a test: the environment variable TWOHEADS_TEST_SEED where it is set, else the test's own.
[[nodiscard]] inline std::uint64_t seed_or(std::uint64_t own) {
  const char* given = std::getenv("TWOHEADS_TEST_SEED");
  return given != nullptr ? std::stoull(given) : own;
}
