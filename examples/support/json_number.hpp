#pragma once

#include <cmath>
#include <limits>

namespace programs {

/// JSON has no infinity: the library writes it as null, so we write it as the largest number.
[[nodiscard]] inline double json_number(double value) {
  return std::isfinite(value) ? value : std::numeric_limits<double>::max();
}

}  // namespace programs
