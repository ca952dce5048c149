#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <twoheads/base/matrix.hpp>

namespace twoheads {

/// What a tile yields for its query rows: the softmax-weighted mean of the values it saw, and the weight of that mean.
///
///   Shapes   value (rows, value_dim), log_weight (rows)
///   Units    log_weight in nats: the logarithm of the sum of exp(logit) over the keys seen (log-sum-exp)
///   Corner   a row that has seen no key has a zero value and log_weight = -inf
///   Source   Yu & Alman, Lemma 3.1. Log weights are float64 for every scalar: as one float they would lose
///            the digits that the values still have.
template <RealScalar Scalar>
struct Partial {
  Matrix<Scalar> value;
  Vector<double> log_weight;

  /// The exact identity of merge: no key seen yet.
  [[nodiscard]] static Partial empty(Index rows, Index value_dim) {
    return {Matrix<Scalar>::Zero(rows, value_dim),
            Vector<double>::Constant(rows, -std::numeric_limits<double>::infinity())};
  }

  [[nodiscard]] Index rows() const { return value.rows(); }  ///< queries
};

/// Joins `part` into the rows of `sum` from `first` on, both found for the same query rows over disjoint key sets.
///
///   Shapes   sum: value (rows, d), log_weight (rows); part: as many rows or fewer, d columns
///   Math     w     = log(exp(sum.log_weight) + exp(part.log_weight))
///            value = exp(sum.log_weight - w) * sum.value + exp(part.log_weight - w) * part.value
///            where part.log_weight has log_factor added: the part counts exp(log_factor) times
///   Laws     commutative and associative up to rounding; Partial::empty is an exact identity on either side.
///   Corner   a row that neither side has seen keeps log_weight = -inf and a zero value, never NaN.
///   Throws   ShapeError if part does not fit; never compiled out.
///   Source   Yu & Alman, Lemma 3.1: out = sum_t (B_t / A_t) A_t / sum_t A_t, with A_t = exp(log_weight)
template <RealScalar Sum, RealScalar Scalar>
void merge_into(Partial<Sum>& sum, const Partial<Scalar>& part, Index first, double log_factor = 0) {
  detail::require_shape("merge: the second partial's value", part.value, part.rows(), sum.value.cols());
  detail::require_shape("merge: the first partial's log weights", sum.log_weight, sum.value.rows(), 1);
  detail::require_shape("merge: the second partial's log weights", part.log_weight, part.rows(), 1);
  if (first < 0 || first + part.rows() > sum.rows())
    throw ShapeError(
        detail::text("merge: rows ", first, "..", first + part.rows() - 1, " of a partial of ", sum.rows(), " rows"));
  constexpr double unseen = -std::numeric_limits<double>::infinity();
  for (Index row = 0; row < part.rows(); ++row) {
    double& weight = sum.log_weight[first + row];
    // Adding 0 would turn -0 into 0, and empty would be no exact identity.
    const double other = log_factor == 0 ? part.log_weight[row] : part.log_weight[row] + log_factor;
    if (other == unseen) continue;
    if (weight == unseen) {
      weight = other;
      sum.value.row(first + row) = part.value.row(row).template cast<Sum>();
      continue;
    }
    // The heavier side has exp(0) = 1: one exponential, in (0, 1], and nothing overflows.
    const double ratio = std::exp(-std::abs(weight - other));
    const double heavy = 1.0 / (1.0 + ratio);
    const double light = ratio / (1.0 + ratio);
    const auto own = static_cast<Sum>(weight >= other ? heavy : light);
    const auto added = static_cast<Sum>(weight >= other ? light : heavy);
    sum.value.row(first + row) = own * sum.value.row(first + row) + added * part.value.row(row).template cast<Sum>();
    weight = std::max(weight, other) + std::log1p(ratio);
  }
}

/// Joins `part` into `sum`, row by row.
///
///   Throws   ShapeError if the shapes differ; never compiled out.
template <RealScalar Sum, RealScalar Scalar>
void merge_into(Partial<Sum>& sum, const Partial<Scalar>& part) {
  detail::require_shape("merge: the second partial's value", part.value, sum.value.rows(), sum.value.cols());
  merge_into(sum, part, 0);
}

/// Joins what two tiles found for the same query rows over disjoint key sets; see merge_into for the mathematics.
template <RealScalar Scalar>
[[nodiscard]] Partial<Scalar> merge(const Partial<Scalar>& a, const Partial<Scalar>& b) {
  Partial<Scalar> sum = a;
  merge_into(sum, b);
  return sum;
}

}  // namespace twoheads
