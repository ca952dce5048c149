#pragma once

#include <twoheads/base/matrix.hpp>

namespace twoheads::detail {

// All matrix products of the library go through these two: Eigen's product kernels are then compiled once for each
// scalar, not once for each expression, and never see how a caller's block happens to be aligned.

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

}  // namespace twoheads::detail
