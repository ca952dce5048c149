#pragma once

#include <twoheads/base/matrix.hpp>
#include <twoheads/base/product.hpp>
#include <twoheads/model/spec.hpp>

namespace twoheads::detail {

/// tokens (n, width) times the weights of all heads; a head that sees its own slice multiplies that slice only.
template <RealScalar Scalar>
[[nodiscard]] Matrix<Scalar> project(const MatrixView<Scalar>& tokens, const Matrix<Scalar>& weights, HeadInput input,
                                     Index heads) {
  Matrix<Scalar> result(tokens.rows(), weights.cols());
  if (input == HeadInput::whole) {
    multiply(span(result), tokens, view(weights));
    return result;
  }
  const Index slice = weights.rows();
  const Index cols = weights.cols() / heads;
  const Rows all{0, tokens.rows()};
  for (Index head = 0; head < heads; ++head)
    multiply(block_span(span(result), all, head * cols, cols), block_view(tokens, all, head * slice, slice),
             block_view(view(weights), {0, slice}, head * cols, cols));
  return result;
}

}  // namespace twoheads::detail
