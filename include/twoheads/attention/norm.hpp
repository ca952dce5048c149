#pragma once

#include <cmath>
#include <twoheads/base/matrix.hpp>
#include <twoheads/model/weights.hpp>

namespace twoheads {

/// Normalises each row.
///
///   Shapes   rows, result (N, width)
///   Math     rms:    gain * x / sqrt(mean(x^2) + epsilon)
///            layer:  gain * (x - mean(x)) / sqrt(var(x) + epsilon) + shift
///   Laws     a row's bits depend on that row alone, not on where it lies
///   Corner   a zero row stays zero (plus the shift); NormKind::none copies
template <RealScalar Scalar>
[[nodiscard]] Matrix<Scalar> normed(const MatrixView<Scalar>& rows, const NormWeights<Scalar>& weights, NormKind kind,
                                    double epsilon) {
  using Sum = SumScalar<Scalar>;
  Matrix<Scalar> result = rows;
  if (kind == NormKind::none) return result;
  detail::require_shape("the gain of a norm", weights.gain, 1, rows.cols());
  const Scalar width = static_cast<Scalar>(rows.cols());
  // Eigen sums a row in an order that depends on its address: here each has the same.
  RowVector<Scalar> x(rows.cols());
  for (Index row = 0; row < result.rows(); ++row) {
    x = result.row(row);
    if (kind == NormKind::layer) x.array() -= x.sum() / width;
    // Squares of floats leave their range long before the row does.
    const Sum mean_square = x.template cast<Sum>().squaredNorm() / static_cast<Sum>(width) + static_cast<Sum>(epsilon);
    // A zero row with epsilon = 0 would be 0 / 0.
    if (mean_square > Sum(0) || mean_square != mean_square) x /= static_cast<Scalar>(std::sqrt(mean_square));
    x.array() *= weights.gain.array();
    if (kind == NormKind::layer && weights.shift.size() > 0) x += weights.shift;
    result.row(row) = x;
  }
  return result;
}

}  // namespace twoheads
