#pragma once

#include <twoheads/base/index.hpp>

/// Quotient rounded up, of numbers that are not negative; by hand, for what the library's counts are held against.
[[nodiscard]] inline twoheads::Index ceil_of(twoheads::Index total, twoheads::Index part) {
  return (total + part - 1) / part;
}
