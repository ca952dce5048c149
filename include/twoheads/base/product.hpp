#pragma once

#include <cmath>
#include <twoheads/base/matrix.hpp>

namespace twoheads::detail {

// All matrix products of the library go through these: Eigen's product kernels are then compiled once for each scalar,
// not once for each expression, and never see how a caller's block happens to be aligned.

/// out = a b. Shapes: a (n, k), b (k, m), out (n, m); out overlaps neither.
template <RealScalar Scalar>
void multiply(MatrixSpan<Scalar> out, const MatrixView<Scalar>& a, const MatrixView<Scalar>& b) {
  out.noalias() = a * b;
}

/// out = a b^T. Shapes: a (n, k), b (m, k), out (n, m); out overlaps neither.
template <RealScalar Scalar>
void multiply_transposed(MatrixSpan<Scalar> out, const MatrixView<Scalar>& a, const MatrixView<Scalar>& b) {
  out.noalias() = a * b.transpose();
}

/// out += a^T b: what rows contribute to the gradient of the weights that they are multiplied by. Shapes: a (n, k),
/// b (n, m), out (k, m); out overlaps neither.
template <RealScalar Scalar>
void add_transposed_product(MatrixSpan<Scalar> out, const MatrixView<Scalar>& a, const MatrixView<Scalar>& b) {
  out.noalias() += a.transpose() * b;
}

/// out = a b, each entry summed from 0 in the order of b's rows: its bits depend on its own row of a and column of b
/// alone, and stay as they are where zeros of `a` are added or left out.
///
///   Shapes   a (n, k), b (k, m), out (n, m); out overlaps neither
///   Math     std::fma rounds once a term on every compiler; a * b + c rounds once or twice as the compiler likes
template <RealScalar Scalar>
void multiply_in_order(MatrixSpan<Scalar> out, const MatrixView<Scalar>& a, const MatrixView<Scalar>& b) {
  out.setZero();
  for (Index row = 0; row < a.rows(); ++row) {
    Scalar* const sums = out.data() + row * out.outerStride();
    for (Index term = 0; term < a.cols(); ++term) {
      const Scalar factor = a(row, term);
      // A product with 0 may still turn -0 into 0, and infinity into NaN.
      if (factor == Scalar(0)) continue;
      const Scalar* const terms = b.data() + term * b.outerStride();
      for (Index col = 0; col < b.cols(); ++col) sums[col] = std::fma(factor, terms[col], sums[col]);
    }
  }
}

}  // namespace twoheads::detail
