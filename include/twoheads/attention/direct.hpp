#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <twoheads/attention/input.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/base/product.hpp>

namespace twoheads {

/// Masked attention evaluated directly, a block of query rows at a time: the truth that a simulation is held against.
///
///   Shapes   input as AttentionInput says; out (N, heads * value_dim)
///   Math     out_i = sum_j exp(s_ij - m_i) v_j / sum_j exp(s_ij - m_i) over visible j, s_ij = score_scale q_i . k_j
///            or soft_cap tanh(score_scale q_i . k_j / soft_cap), and what ALiBi and a bias add; m_i = max_j s_ij.
///            A learned sink adds exp(its logit - m_i) below.
///   Corner   NaN and infinity reach the rows that see them, and no other. A row that sees no key is zero. Extra memory
///            is O(block * n), n the keys that a block sees, with block * n <= max(n, 2^20) or so.
///   Source   Yu & Alman, Definitions 2.1 and 2.3 to 2.5
template <RealScalar Scalar>
class DirectAttention {
 public:
  void operator()(const AttentionInput<Scalar>& input, MatrixSpan<Scalar> out) {
    require_shapes(input, out);
    evaluate_queries(input, input.query_positions(), out);
  }

  /// Some of the queries of an input that fits together, into their rows of `out`. In pieces that begin after multiples
  /// of block_rows() the queries have the bits of all at once.
  void evaluate_queries(const AttentionInput<Scalar>& input, Rows queries, MatrixSpan<Scalar> out) {
    const AttentionSpec& spec = input.spec;
    const Index block = block_rows(input);
    finite_values_ = detail::first_row_not_finite(input.v) < 0;
    for (Index head = 0; head < spec.heads; ++head)
      for (Index begin = queries.begin; begin < queries.end; begin += block)
        evaluate(input, head, {begin, std::min(begin + block, queries.end)}, out);
  }

  /// Query rows that are evaluated at once.
  [[nodiscard]] static Index block_rows(const AttentionInput<Scalar>& input) {
    return std::clamp<Index>((Index{1} << 20) / input.spec.mask.most_visible(input.key_positions()), 1, 64);
  }

  /// Largest |score| over the visible pairs seen so far; where a bias or a mask of any pairs hides some, of each row's
  /// largest score alone.
  [[nodiscard]] double max_logit() const { return max_logit_; }

 private:
  void evaluate(const AttentionInput<Scalar>& input, Index head, Rows queries, MatrixSpan<Scalar>& out) {
    const AttentionSpec& spec = input.spec;
    const auto visible_to = [&](Index row) {
      return spec.mask.visible_keys(queries.begin + row, input.key_positions());
    };
    VisibleKeys seen = visible_to(0);
    for (Index row = 1; row < queries.size(); ++row) {
      const VisibleKeys visible = visible_to(row);
      seen.sinks.end = std::max(seen.sinks.end, visible.sinks.end);
      if (visible.keys.empty()) continue;
      if (seen.keys.empty())
        seen.keys = visible.keys;
      else
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
    for (Index row = 0; row < queries.size(); ++row) weigh(input, head, queries.begin + row, row, seen);
    MatrixSpan<Scalar> rows = block_span(out, input.held.query_place(queries), head * spec.value_dim, spec.value_dim);
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

  /// Turns the scores of a row into weights, and finds their sum.
  void weigh(const AttentionInput<Scalar>& input, Index head, Index query, Index row, const VisibleKeys& seen) {
    const AttentionSpec& spec = input.spec;
    const VisibleKeys visible = spec.mask.visible_keys(query, input.key_positions());
    const Index sinks = seen.sinks.size();
    const Rows keys{sinks + visible.keys.begin - seen.keys.begin, sinks + visible.keys.end - seen.keys.begin};
    auto scores = scores_.row(row);
    sums_[row] = Scalar(1);
    if (visible.size() == 0) {
      scores.setZero();
      return;
    }
    scores.segment(visible.sinks.size(), keys.begin - visible.sinks.size()).setZero();
    scores.tail(scores.size() - keys.end).setZero();
    // Hidden scores take no part: the two ranges are scaled, measured and summed one by one.
    auto near = scores.segment(keys.begin, keys.size());
    auto far = scores.head(visible.sinks.size());
    scale(near, spec);
    scale(far, spec);
    const Scalar* const bias = input.bias_of(head, query);
    const bool hides = bias != nullptr || spec.mask.kind == MaskKind::blocks;
    if (!spec.alibi.empty() || bias != nullptr) {
      const double slope = spec.alibi.empty() ? 0.0 : spec.alibi[static_cast<std::size_t>(head)];
      add_terms(near, visible.keys.begin, slope, query, bias);
      add_terms(far, visible.sinks.begin, slope, query, bias);
    }
    if (spec.mask.kind == MaskKind::blocks) hide_gaps(near, visible.keys, spec.mask, query);
    Scalar largest = hides ? largest_shown(near, far) : near.maxCoeff();
    if (hides && largest == hidden) {
      scores.setZero();
      return;
    }
    Scalar smallest = hides ? largest : near.minCoeff();
    if (!hides && far.size() > 0) {
      largest = std::max(largest, far.maxCoeff());
      smallest = std::min(smallest, far.minCoeff());
    }
    max_logit_ = std::max({max_logit_, static_cast<double>(largest), -static_cast<double>(smallest)});
    const double sink = input.sink_logit(head);
    largest = std::max(largest, static_cast<Scalar>(sink));
    sums_[row] = static_cast<Scalar>(std::exp(sink - static_cast<double>(largest)));
    const auto sum = [&](auto& part) {
      // The least number of a vectorised exponential is not 0.
      if (hides)
        part = (part.array() == hidden).select(Scalar(0), (part.array() - largest).exp());
      else
        part = (part.array() - largest).exp();
      if (part.size() > 0) sums_[row] += part.sum();
    };
    sum(near);
    sum(far);
  }

  /// The score of a hidden pair.
  static constexpr Scalar hidden = -std::numeric_limits<Scalar>::infinity();

  template <class Scores>
  static void add_terms(Scores& scores, Index first_key, double slope, Index query, const Scalar* bias) {
    for (Index key = 0; key < scores.size(); ++key) {
      if (slope != 0) scores[key] += static_cast<Scalar>(slope * static_cast<double>(first_key + key - query));
      if (bias == nullptr) continue;
      // A score that is not finite stays away where it is hidden.
      scores[key] = bias[first_key + key] == hidden ? hidden : scores[key] + bias[first_key + key];
    }
  }

  template <class Scores>
  static void hide_gaps(Scores& scores, Rows keys, const Mask& mask, Index query) {
    Index next = keys.begin;
    mask.for_each_range(query, keys.end, [&](Rows range) {
      scores.segment(next - keys.begin, range.begin - next).setConstant(hidden);
      next = range.end;
    });
  }

  /// The largest score that is not hidden; NaN where there is one.
  template <class Near, class Far>
  [[nodiscard]] static Scalar largest_shown(const Near& near, const Far& far) {
    Scalar largest = hidden;
    const auto look = [&](const auto& part) {
      for (Index key = 0; key < part.size(); ++key)
        if (!(part[key] <= largest)) largest = part[key];
    };
    look(near);
    look(far);
    return largest;
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
      const Index query = queries.begin + row;
      const Scalar* const bias = input.bias_of(head, query);
      const VisibleKeys visible = input.spec.mask.visible_keys(query, input.key_positions());
      input.spec.mask.for_each_range(query, input.key_positions(), [&](Rows keys) {
        const bool far = keys == visible.sinks;
        const Index column = far ? 0 : seen.sinks.size() + keys.begin - seen.keys.begin;
        const MatrixView<Scalar> values = input.value_rows(head, keys);
        for (Index key = 0; key < keys.size(); ++key)
          if (bias == nullptr || bias[keys.begin + key] != hidden)
            rows.row(row) += scores_(row, column + key) * values.row(key);
      });
    }
  }

  Matrix<Scalar> scores_, sink_values_;
  Vector<Scalar> sums_;
  double max_logit_ = 0;
  bool finite_values_ = true;
};

}  // namespace twoheads
