#pragma once

#include <algorithm>
#include <twoheads/attention/norm.hpp>
#include <twoheads/attention/rope.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/base/product.hpp>
#include <twoheads/model/spec.hpp>
#include <twoheads/model/weights.hpp>

namespace twoheads {
namespace detail {

/// Rows that row-wise work takes at once. A product rounds a row by its place among the others, so that inputs cut at
/// multiples of it keep their bits.
constexpr Index rows_at_once = 128;

/// Calls use(rows) for blocks of up to rows_at_once of `count` rows.
template <class Use>
void for_each_rows(Index count, const Use& use) {
  for (Index begin = 0; begin < count; begin += rows_at_once) use(Rows{begin, std::min(begin + rows_at_once, count)});
}

/// rows (n, k) times weights (k, m), and a number for each column where there is one.
template <RealScalar Scalar>
void multiply_rows(MatrixSpan<Scalar> out, const MatrixView<Scalar>& rows, const MatrixView<Scalar>& weights,
                   const MatrixView<Scalar>& bias = no_rows<Scalar>()) {
  for_each_rows(rows.rows(), [&](Rows part) {
    MatrixSpan<Scalar> to = block_span(out, part, 0, out.cols());
    multiply(to, block_view(rows, part, 0, rows.cols()), weights);
    if (bias.size() > 0) to.rowwise() += bias.row(0);
  });
}

/// tokens (n, width) times the weights of all heads; a head that sees its own slice multiplies that slice only.
template <RealScalar Scalar>
[[nodiscard]] Matrix<Scalar> project(const MatrixView<Scalar>& tokens, const Matrix<Scalar>& weights,
                                     const RowVector<Scalar>& bias, HeadInput input, Index heads) {
  Matrix<Scalar> result(tokens.rows(), weights.cols());
  if (input == HeadInput::whole) {
    multiply_rows(span(result), tokens, view(weights), view(bias));
    return result;
  }
  const Index slice = weights.rows();
  const Index cols = weights.cols() / heads;
  const Rows all{0, tokens.rows()};
  for (Index head = 0; head < heads; ++head)
    multiply_rows(block_span(span(result), all, head * cols, cols), block_view(tokens, all, head * slice, slice),
                  block_view(view(weights), {0, slice}, head * cols, cols));
  if (bias.size() > 0) result.rowwise() += bias;
  return result;
}

/// What scores are made of: tokens projected, each head normed by the same gain and rotated,
/// as far as the spec says so.
template <RealScalar Scalar>
[[nodiscard]] Matrix<Scalar> project_for_scores(const AttentionSpec& spec, const MatrixView<Scalar>& tokens,
                                                const Matrix<Scalar>& weights, const RowVector<Scalar>& bias,
                                                const RowVector<Scalar>& gain, Index first_position) {
  Matrix<Scalar> rows = project(tokens, weights, bias, spec.head_input, spec.heads);
  if (spec.head_norm) {
    // Heads lie one after the other: as rows of one head they are a matrix of the same numbers.
    const MatrixView<Scalar> by_head(rows.data(), rows.size() / spec.head_dim, spec.head_dim,
                                     Eigen::OuterStride<>(spec.head_dim));
    const Matrix<Scalar> normed_heads =
        normed(by_head, NormWeights<Scalar>{gain, {}}, NormKind::rms, spec.head_norm_epsilon);
    std::copy_n(normed_heads.data(), rows.size(), rows.data());
  }
  if (spec.rope) rotate(span(rows), spec.head_dim, *spec.rope, first_position);
  return rows;
}

}  // namespace detail

/// Queries, keys and values of token rows: projected, biases added; queries and keys normed by head and rotated, where
/// the spec says so.
///
///   Shapes   tokens (n, width), the first of them at first_position; results (n, heads * head_dim),
///            (n, kv_heads * head_dim) and (n, kv_heads * value_dim)
template <RealScalar Scalar>
[[nodiscard]] Matrix<Scalar> queries_of(const AttentionSpec& spec, const AttentionWeights<Scalar>& weights,
                                        const MatrixView<Scalar>& tokens, Index first_position = 0) {
  return detail::project_for_scores(spec, tokens, weights.wq, weights.bq, weights.q_norm, first_position);
}
/// The same of keys.
template <RealScalar Scalar>
[[nodiscard]] Matrix<Scalar> keys_of(const AttentionSpec& spec, const AttentionWeights<Scalar>& weights,
                                     const MatrixView<Scalar>& tokens, Index first_position = 0) {
  return detail::project_for_scores(spec, tokens, weights.wk, weights.bk, weights.k_norm, first_position);
}
/// The same of values.
template <RealScalar Scalar>
[[nodiscard]] Matrix<Scalar> values_of(const AttentionSpec& spec, const AttentionWeights<Scalar>& weights,
                                       const MatrixView<Scalar>& tokens) {
  return detail::project(tokens, weights.wv, weights.bv, spec.head_input, spec.heads);
}

}  // namespace twoheads
