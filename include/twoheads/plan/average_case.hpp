#pragma once

#include <cmath>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>

namespace twoheads {

/// What Theorem 4.1 asks of the data, and of what size the model is.
///
///   Math     1/c <= a_ij <= c and d N max_j ||b_ij|| <= ||sum_j b_ij|| for every query i, with a_ij = exp(logit) and
///            b_ij = a_ij v_j: c >= 1 and 0 <= d <= 1
struct AverageCase {
  double c = 1;      ///< C
  double d = 1;      ///< D; near 1 only where the values are nearly parallel
  Index tokens = 1;  ///< N
  Index width = 1;   ///< of a value, the theorem's d
  Index heads = 1;   ///< of all layers together, H L: each head of each layer must succeed

  /// Throws SpecError that names a figure outside its range.
  void require_valid() const {
    if (!(c >= 1)) throw SpecError(detail::text("C is ", c, ", expected 1 or more"));
    if (!(d >= 0 && d <= 1)) throw SpecError(detail::text("D is ", d, ", expected 0 to 1"));
    if (tokens < 1 || width < 1 || heads < 1)
      throw SpecError(detail::text("an average case of ", tokens, " tokens, ", width, " columns and ", heads,
                                   " heads: expected 1 or more"));
  }
};

namespace detail {

/// The M that an error of 1 would take: of the two conditions the stronger.
[[nodiscard]] inline double average_case_rows_at_one(const AverageCase& a) {
  a.require_valid();
  const double log_n =
      std::log(40.0) + std::log(static_cast<double>(a.tokens)) + std::log(static_cast<double>(a.heads));
  const double weights = 8 * std::pow(a.c, 4) * log_n;
  const double values = 128 * (std::log(static_cast<double>(a.width)) + log_n) / (a.d * a.d);
  return std::fmax(weights, values);
}

}  // namespace detail

/// The rows M of a call that Theorem 4.1 asks for, so that one random key block a query block has, with probability
/// 0.9, a relative error of at most `error` in every row of every head.
///
///   Math     M >= 8 C^4 ln(40 N H L) / error^2 and M >= 128 (ln d + ln(40 N H L)) / (error^2 D^2)
///   Corner   infinite where D is 0. The constants are those of a worst case over all data: with logits of size 1
///            (C = e) and error 1, N = 4096 already asks for more than N rows. Where the result is above N, the theorem
///            says nothing; error bars measured on the run do. It is about one layer whose inputs are exact: what a
///            layer's error does to the next is in no bound.
///   Throws   SpecError for figures outside their ranges, or an error outside (0, 1]
///   Source   Yu & Alman, Theorem 4.1 and its proof C.1,
///            whose union bound is over N rows of one head; docs/paper_map.md
[[nodiscard]] inline double average_case_rows(const AverageCase& a, double error) {
  if (!(error > 0 && error <= 1))
    throw SpecError(detail::text("the error is ", error, ", expected more than 0, up to 1"));
  return detail::average_case_rows_at_one(a) / (error * error);
}

/// The error that Theorem 4.1 promises at M rows a call: the inverse of average_case_rows.
///
///   Corner   above 1 the theorem promises nothing
///   Throws   SpecError for figures outside their ranges, or rows < 1
[[nodiscard]] inline double average_case_error(const AverageCase& a, Index rows) {
  if (rows < 1) throw SpecError(detail::text("the number of rows is ", rows, ", expected 1 or more"));
  return std::sqrt(detail::average_case_rows_at_one(a) / static_cast<double>(rows));
}

}  // namespace twoheads
