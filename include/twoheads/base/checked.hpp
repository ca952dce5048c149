#pragma once

#include <limits>
#include <string_view>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>

namespace twoheads::detail {

/// a * b for counts >= 0; throws SpecError that names `what` where 63 bits do not hold it.
[[nodiscard]] inline Index checked_product(std::string_view what, Index a, Index b) {
  if (b != 0 && a > std::numeric_limits<Index>::max() / b)
    throw SpecError(text(what, " is ", a, " times ", b, ", more than 64 bits hold"));
  return a * b;
}

/// a + b for counts >= 0; throws SpecError that names `what` where 63 bits do not hold it.
[[nodiscard]] inline Index checked_sum(std::string_view what, Index a, Index b) {
  if (a > std::numeric_limits<Index>::max() - b)
    throw SpecError(text(what, " is ", a, " and ", b, ", more than 64 bits hold"));
  return a + b;
}

}  // namespace twoheads::detail
