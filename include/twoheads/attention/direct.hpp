#pragma once

#include <algorithm>
#include <cmath>
#include <twoheads/attention/input.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/base/product.hpp>

namespace twoheads {

/// Masked attention evaluated directly, a block of query rows at a time: the truth that a simulation is held against.
///
///   Shapes   input as AttentionInput says; out (N, heads * value_dim)
///   Math     out_i = sum_j exp(s_ij - m_i) v_j / sum_j exp(s_ij - m_i) over visible j, s_ij = score_scale q_i . k_j,
///            m_i = max_j s_ij
///   Corner   NaN and infinity reach the rows that see them, and no other. Extra memory is O(block * NK), with block
///            * NK <= max(NK, 2^20).
///   Source   Yu & Alman, Definitions 2.1 and 2.3
template <RealScalar Scalar>
class DirectAttention {
 public:
  void operator()(const AttentionInput<Scalar>& input, MatrixSpan<Scalar> out) {
    const AttentionSpec& spec = input.spec;
    require_shapes(input, out);
    const Index block = std::clamp<Index>((Index{1} << 20) / input.keys(), 1, 64);
    for (Index head = 0; head < spec.heads; ++head) {
      finite_values_ = detail::first_row_not_finite(input.value_rows(head, {0, input.keys()})) < 0;
      for (Index begin = 0; begin < input.queries(); begin += block)
        evaluate(input, head, {begin, std::min(begin + block, input.queries())}, out);
    }
  }

  /// Largest |score| over the visible pairs seen so far.
  [[nodiscard]] double max_logit() const { return max_logit_; }

 private:
  void evaluate(const AttentionInput<Scalar>& input, Index head, Rows queries, MatrixSpan<Scalar>& out) {
    const AttentionSpec& spec = input.spec;
    Rows seen = spec.mask.visible_keys(queries.begin, input.keys());
    for (Index query = queries.begin; query < queries.end; ++query) {
      const Rows visible = spec.mask.visible_keys(query, input.keys());
      seen = {std::min(seen.begin, visible.begin), std::max(seen.end, visible.end)};
    }
    scores_.resize(queries.size(), seen.size());
    detail::multiply_transposed(span(scores_), input.query_rows(head, queries), input.key_rows(head, seen));
    sums_.resize(queries.size());
    for (Index row = 0; row < queries.size(); ++row) {
      const Rows visible = spec.mask.visible_keys(queries.begin + row, input.keys());
      auto logits = scores_.row(row).segment(visible.begin - seen.begin, visible.size());
      logits *= static_cast<Scalar>(spec.score_scale);
      const Scalar largest = logits.maxCoeff();
      max_logit_ = std::max({max_logit_, static_cast<double>(largest), -static_cast<double>(logits.minCoeff())});
      logits = (logits.array() - largest).exp();
      sums_[row] = logits.sum();
      scores_.row(row).head(visible.begin - seen.begin).setZero();
      scores_.row(row).tail(seen.end - visible.end).setZero();
    }
    MatrixSpan<Scalar> rows = block_span(out, queries, head * spec.value_dim, spec.value_dim);
    if (finite_values_)
      detail::multiply(rows, view(scores_), input.value_rows(head, seen));
    else
      mean_of_visible(input, head, queries, seen, rows);
    rows.array().colwise() /= sums_.array();
  }

  /// A product over all keys of the block would turn a hidden infinity into 0 * inf: each row sums what it sees.
  void mean_of_visible(const AttentionInput<Scalar>& input, Index head, Rows queries, Rows seen,
                       MatrixSpan<Scalar>& rows) {
    rows.setZero();
    for (Index row = 0; row < queries.size(); ++row) {
      const Rows visible = input.spec.mask.visible_keys(queries.begin + row, input.keys());
      const MatrixView<Scalar> values = input.value_rows(head, visible);
      for (Index key = 0; key < visible.size(); ++key)
        rows.row(row) += scores_(row, visible.begin - seen.begin + key) * values.row(key);
    }
  }

  Matrix<Scalar> scores_;
  Vector<Scalar> sums_;
  double max_logit_ = 0;
  bool finite_values_ = true;
};

}  // namespace twoheads
