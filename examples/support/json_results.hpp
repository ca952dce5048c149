#pragma once

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "support/processes.hpp"

namespace programs {

/// JSON has no infinity: the library writes it as null, so we write it as the largest number.
[[nodiscard]] inline double json_number(double value) {
  return std::isfinite(value) ? value : std::numeric_limits<double>::max();
}

/// What came of the calls to processes, in the keys of --json.
inline void add_counts(nlohmann::ordered_json& result, const ProcessCounts& counts) {
  result["failures"] = counts.failures;
  result["retries"] = counts.retries;
  result["processes_started"] = counts.started;
}

}  // namespace programs
