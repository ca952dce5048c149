#pragma once

#include <algorithm>
#include <cmath>
#include <numbers>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>

namespace twoheads {

/// Learning rates of a run: up in a line, then down along half a cosine.
///
///   Math     step t counts from 0. t < warm_up: peak (t + 1) / warm_up; then
///            floor + (peak - floor) (1 + cos(pi (t - warm_up) / (steps - warm_up))) / 2; from `steps` on, floor
struct Schedule {
  double peak = 1e-3;
  double floor = 1e-4;
  Index warm_up = 0;
  Index steps = 1;

  /// Throws SpecError that names the field.
  void require_valid() const {
    if (!(peak > 0 && std::isfinite(peak)))
      throw SpecError(detail::text("the learning rate is ", peak, ", expected > 0"));
    if (!(floor >= 0 && floor <= peak))
      throw SpecError(detail::text("the last learning rate is ", floor, ", expected 0 to the largest, ", peak));
    if (warm_up < 0) throw SpecError(detail::text("the warm-up has ", warm_up, " steps, expected 0 or more"));
    if (warm_up > steps)
      throw SpecError(detail::text("the warm-up has ", warm_up, " of ", steps, " steps, expected no more than all"));
    if (steps < 1) throw SpecError(detail::text("a run of ", steps, " steps, expected 1 or more"));
  }

  /// The rate of a step, counted from 0.
  [[nodiscard]] double rate(Index step) const {
    if (step < warm_up) return peak * static_cast<double>(step + 1) / static_cast<double>(warm_up);
    if (step >= steps) return floor;
    const double share = static_cast<double>(step - warm_up) / static_cast<double>(steps - warm_up);
    return floor + (peak - floor) * 0.5 * (1.0 + std::cos(std::numbers::pi * share));
  }

  friend bool operator==(const Schedule&, const Schedule&) = default;
};

}  // namespace twoheads
