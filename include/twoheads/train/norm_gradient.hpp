#pragma once

#include <cmath>
#include <twoheads/base/matrix.hpp>
#include <twoheads/model/weights.hpp>

namespace twoheads::detail {

/// The derivative of normed(): adds that by the gain and the shift to `gradient` and returns that by the rows.
///
///   Shapes   rows, d_out, result (n, width)
///   Math     h = (x - mean) / s, s = sqrt(mean square + epsilon), e = gain * d_out:
///            d_x = (e - mean(e) - h mean(e * h)) / s; an RMS norm subtracts no means
///   Corner   a zero row with epsilon 0 is taken as it is, as normed() does
template <RealScalar Scalar>
[[nodiscard]] Matrix<Scalar> add_norm_gradient(const MatrixView<Scalar>& rows, const NormWeights<Scalar>& weights,
                                               NormKind kind, double epsilon, const MatrixView<Scalar>& d_out,
                                               NormWeights<Scalar>& gradient) {
  using Sum = SumScalar<Scalar>;
  Matrix<Scalar> d_rows = d_out;
  if (kind == NormKind::none) return d_rows;
  const bool layer = kind == NormKind::layer;
  const Scalar width = static_cast<Scalar>(rows.cols());
  // Copies of their own, for the same order of sums wherever a row lies.
  RowVector<Scalar> x(rows.cols());
  RowVector<Scalar> d(rows.cols());
  for (Index row = 0; row < rows.rows(); ++row) {
    x = rows.row(row);
    d = d_out.row(row);
    if (layer) x.array() -= x.sum() / width;
    const Sum mean_square = x.template cast<Sum>().squaredNorm() / static_cast<Sum>(width) + static_cast<Sum>(epsilon);
    const Scalar inverse = mean_square > Sum(0) || mean_square != mean_square
                               ? static_cast<Scalar>(1 / std::sqrt(mean_square))
                               : Scalar(1);
    x *= inverse;
    gradient.gain.array() += d.array() * x.array();
    if (layer && weights.shift.size() > 0) gradient.shift += d;
    d.array() *= weights.gain.array();
    if (layer) d.array() -= d.sum() / width;
    d_rows.row(row) = (d - x * (d.dot(x) / width)) * inverse;
  }
  return d_rows;
}

}  // namespace twoheads::detail
