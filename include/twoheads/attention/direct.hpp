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
///   Math     out_i = sum_j exp(s_ij - m_i) v_j / sum_j exp(s_ij - m_i) over visible j, s_ij = score_scale q_i . k_j
///            or soft_cap tanh(score_scale q_i . k_j / soft_cap), m_i = max_j s_ij
///   Corner   NaN and infinity reach the rows that see them, and no other. Extra memory is O(block * n), n the
///            keys that a block sees, with block * n <= max(n, 2^20) or so.
///   Source   Yu & Alman, Definitions 2.1 and 2.3 to 2.5
template <RealScalar Scalar>
class DirectAttention {
 public:
  void operator()(const AttentionInput<Scalar>& input, MatrixSpan<Scalar> out) {
    const AttentionSpec& spec = input.spec;
    require_shapes(input, out);
    const Index block = std::clamp<Index>((Index{1} << 20) / spec.mask.most_visible(input.keys()), 1, 64);
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
    const auto visible_to = [&](Index row) { return spec.mask.visible_keys(queries.begin + row, input.keys()); };
    VisibleKeys seen = visible_to(0);
    for (Index row = 1; row < queries.size(); ++row) {
      const VisibleKeys visible = visible_to(row);
      seen.sinks.end = std::max(seen.sinks.end, visible.sinks.end);
      seen.keys = {std::min(seen.keys.begin, visible.keys.begin), std::max(seen.keys.end, visible.keys.end)};
    }
    // Columns of the scores: sinks, then the other keys. Where a row sees no sinks apart, they lie among the others.
    const Index sinks = seen.sinks.size();
    scores_.resize(queries.size(), seen.size());
    const Rows all{0, queries.size()};
    if (sinks > 0)
      detail::multiply_transposed(block_span(span(scores_), all, 0, sinks), input.query_rows(head, queries),
                                  input.key_rows(head, seen.sinks));
    detail::multiply_transposed(block_span(span(scores_), all, sinks, seen.keys.size()),
                                input.query_rows(head, queries), input.key_rows(head, seen.keys));
    sums_.resize(queries.size());
    for (Index row = 0; row < queries.size(); ++row) {
      const VisibleKeys visible = visible_to(row);
      const Rows keys{sinks + visible.keys.begin - seen.keys.begin, sinks + visible.keys.end - seen.keys.begin};
      auto scores = scores_.row(row);
      scores.segment(visible.sinks.size(), keys.begin - visible.sinks.size()).setZero();
      scores.tail(scores.size() - keys.end).setZero();
      // Hidden scores take no part: the two ranges are scaled, measured and summed one by one.
      auto near = scores.segment(keys.begin, keys.size());
      auto far = scores.head(visible.sinks.size());
      scale(near, spec);
      Scalar largest = near.maxCoeff();
      Scalar smallest = near.minCoeff();
      if (far.size() > 0) {
        scale(far, spec);
        largest = std::max(largest, far.maxCoeff());
        smallest = std::min(smallest, far.minCoeff());
      }
      max_logit_ = std::max({max_logit_, static_cast<double>(largest), -static_cast<double>(smallest)});
      near = (near.array() - largest).exp();
      sums_[row] = near.sum();
      if (far.size() == 0) continue;
      far = (far.array() - largest).exp();
      sums_[row] += far.sum();
    }
    MatrixSpan<Scalar> rows = block_span(out, queries, head * spec.value_dim, spec.value_dim);
    if (finite_values_) {
      detail::multiply(rows, block_view(view(scores_), all, sinks, seen.keys.size()),
                       input.value_rows(head, seen.keys));
      if (sinks > 0) {
        sink_values_.resize(queries.size(), spec.value_dim);
        detail::multiply(span(sink_values_), block_view(view(scores_), all, 0, sinks),
                         input.value_rows(head, seen.sinks));
        rows += sink_values_;
      }
    } else {
      sum_of_visible(input, head, queries, seen, rows);
    }
    rows.array().colwise() /= sums_.array();
  }

  template <class Scores>
  static void scale(Scores& scores, const AttentionSpec& spec) {
    scores *= static_cast<Scalar>(spec.score_scale);
    if (spec.soft_cap == 0) return;
    const auto cap = static_cast<Scalar>(spec.soft_cap);
    for (Index key = 0; key < scores.size(); ++key) scores[key] = cap * std::tanh(scores[key] / cap);
  }

  /// A product over all keys of the block would turn a hidden infinity into 0 * inf: each row sums what it sees.
  void sum_of_visible(const AttentionInput<Scalar>& input, Index head, Rows queries, const VisibleKeys& seen,
                      MatrixSpan<Scalar>& rows) {
    rows.setZero();
    for (Index row = 0; row < queries.size(); ++row) {
      const VisibleKeys visible = input.spec.mask.visible_keys(queries.begin + row, input.keys());
      const auto add = [&](Rows keys, Index column) {
        const MatrixView<Scalar> values = input.value_rows(head, keys);
        for (Index key = 0; key < keys.size(); ++key) rows.row(row) += scores_(row, column + key) * values.row(key);
      };
      add(visible.keys, seen.sinks.size() + visible.keys.begin - seen.keys.begin);
      add(visible.sinks, 0);
    }
  }

  Matrix<Scalar> scores_, sink_values_;
  Vector<Scalar> sums_;
  double max_logit_ = 0;
  bool finite_values_ = true;
};

}  // namespace twoheads
