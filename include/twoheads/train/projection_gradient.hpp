#pragma once

#include <algorithm>
#include <twoheads/attention/project.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/base/product.hpp>
#include <twoheads/model/spec.hpp>
#include <twoheads/train/norm_gradient.hpp>

namespace twoheads::detail {

/// The derivative of project(): adds that by weights and bias to theirs, and that by the tokens to d_tokens.
///
///   Shapes   tokens, d_tokens (n, width); d_rows (n, columns of the weights)
template <RealScalar Scalar>
void add_projection_gradient(const MatrixView<Scalar>& tokens, const Matrix<Scalar>& weights,
                             const MatrixView<Scalar>& d_rows, HeadInput input, Index heads, Matrix<Scalar>& d_weights,
                             RowVector<Scalar>& d_bias, MatrixSpan<Scalar> d_tokens) {
  if (d_bias.size() > 0) d_bias += d_rows.colwise().sum();
  const bool whole = input == HeadInput::whole;
  const Index parts = whole ? 1 : heads;
  const Index slice = weights.rows();
  const Index cols = weights.cols() / parts;
  Matrix<Scalar> found(tokens.rows(), slice);
  const Rows all{0, tokens.rows()};
  for (Index part = 0; part < parts; ++part) {
    const MatrixView<Scalar> d_part = block_view(d_rows, all, part * cols, cols);
    const Index begin = whole ? 0 : part * slice;
    add_transposed_product(block_span(span(d_weights), {0, slice}, part * cols, cols),
                           block_view(tokens, all, begin, slice), d_part);
    multiply_transposed(span(found), d_part, block_view(view(weights), {0, slice}, part * cols, cols));
    block_span(d_tokens, all, begin, slice) += found;
  }
}

/// The derivative of queries_of() and keys_of(): as add_projection_gradient(), through rotation and norms of heads.
///
///   Shapes   d_rows (n, heads * head_dim), whose first row stands at first_position; it is overwritten
template <RealScalar Scalar>
void add_score_projection_gradient(const AttentionSpec& spec, const MatrixView<Scalar>& tokens,
                                   const Matrix<Scalar>& weights, const RowVector<Scalar>& bias,
                                   const RowVector<Scalar>& gain, Index first_position, MatrixSpan<Scalar> d_rows,
                                   Matrix<Scalar>& d_weights, RowVector<Scalar>& d_bias, RowVector<Scalar>& d_gain,
                                   MatrixSpan<Scalar> d_tokens) {
  if (spec.rope) rotate_back(d_rows, spec.head_dim, *spec.rope, first_position);
  if (spec.head_norm) {
    const Matrix<Scalar> before = project(tokens, weights, bias, spec.head_input, spec.heads);
    NormWeights<Scalar> sums{RowVector<Scalar>::Zero(spec.head_dim), {}};
    for (Index begin = 0; begin < before.cols(); begin += spec.head_dim) {
      const Rows all{0, before.rows()};
      MatrixSpan<Scalar> d_head = block_span(d_rows, all, begin, spec.head_dim);
      const Matrix<Scalar> d_before =
          add_norm_gradient(block_view(view(before), all, begin, spec.head_dim), NormWeights<Scalar>{gain, {}},
                            NormKind::rms, spec.head_norm_epsilon, MatrixView<Scalar>(view(d_head)), sums);
      d_head = d_before;
    }
    d_gain += sums.gain;
  }
  add_projection_gradient(tokens, weights, view(d_rows), spec.head_input, spec.heads, d_weights, d_bias, d_tokens);
}

}  // namespace twoheads::detail
