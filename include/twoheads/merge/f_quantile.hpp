#pragma once

#include <cmath>
#include <initializer_list>

namespace twoheads::detail {

/// The regularised incomplete beta function I_x(a, b), for 0 < x < 1 and a, b > 0.
///
///   Source   NIST Digital Library of Mathematical Functions, 8.17.22: a continued fraction that converges fast for
///            x < (a + 1) / (a + b + 2), evaluated by Lentz's method; beyond, I_x(a, b) = 1 - I_{1-x}(b, a)
[[nodiscard]] inline double incomplete_beta(double x, double a, double b) {
  if (x > (a + 1) / (a + b + 2)) return 1 - incomplete_beta(1 - x, b, a);
  constexpr double tiny = 1e-300;
  constexpr int most_terms = 10000;
  const auto away_from_zero = [](double value) { return std::abs(value) < tiny ? tiny : value; };
  double front = 1;
  double back = 1 / away_from_zero(1 - (a + b) * x / (a + 1));
  double fraction = back;
  for (int m = 1; m < most_terms; ++m) {
    const double even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
    const double odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));
    double change = 1;
    for (const double term : {even, odd}) {
      back = 1 / away_from_zero(1 + term * back);
      front = away_from_zero(1 + term / front);
      change = front * back;
      fraction *= change;
    }
    if (std::abs(change - 1) < 1e-15) break;
  }
  const double log_scale = std::lgamma(a + b) - std::lgamma(a) - std::lgamma(b) + a * std::log(x) + b * std::log1p(-x);
  return std::exp(log_scale) * fraction / a;
}

/// The value that an F variable of (above, below) degrees of freedom,
/// whole or not, stays under with probability `level`.
[[nodiscard]] inline double f_quantile(double level, double above, double below) {
  // F = below x / (above (1 - x)) with x a beta variable of (above / 2, below / 2).
  double low = 0;
  double high = 1;
  for (int step = 0; step < 60; ++step) {
    const double middle = (low + high) / 2;
    (incomplete_beta(middle, above / 2, below / 2) < level ? low : high) = middle;
  }
  return below * low / (above * (1 - low));
}

}  // namespace twoheads::detail
