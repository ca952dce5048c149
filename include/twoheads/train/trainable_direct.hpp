#pragma once

#include <cmath>
#include <cstddef>
#include <limits>
#include <twoheads/attention/input.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/train/attention_gradient.hpp>
#include <twoheads/train/trainable.hpp>
#include <vector>

namespace twoheads {

/// Attention and its derivative evaluated directly, a query at a time: the truth that other evaluations are held
/// against, in any scalar.
///
///   Shapes   as TrainableAttention says
///   Math     as TrainableAttention says; capped scores s = cap tanh(z / cap) have ds/dz = 1 - (s / cap)^2, and what
///            ALiBi or a bias adds is constant
///   Corner   a query that sees no key, or none but such that a bias hides, is zero and has no derivative
template <RealScalar S>
class TrainableDirect {
 public:
  using Scalar = S;

  void forward(const AttentionInput<Scalar>& input, MatrixSpan<Scalar> out, Matrix<double>& log_weights) {
    const AttentionSpec& spec = input.spec;
    require_shapes(input, out);
    log_weights.resize(input.queries(), spec.heads);
    log_weights_.resize(input.queries(), spec.heads);
    for (Index head = 0; head < spec.heads; ++head)
      for (Index row = 0; row < input.queries(); ++row) {
        RowVector<Scalar> sum = RowVector<Scalar>::Zero(spec.value_dim);
        find_scores(input, head, row);
        const double sink = input.sink_logit(head);
        Scalar largest = static_cast<Scalar>(sink);
        for (const Scalar score : scores_)
          if (!(score <= largest)) largest = score;
        Scalar& log_weight = log_weights_(row, head);
        log_weight = -std::numeric_limits<Scalar>::infinity();
        if (largest != log_weight) {
          Scalar total = std::exp(static_cast<Scalar>(sink) - largest);
          for_each_key(input, row, [&](Index key, std::size_t, Scalar score) {
            const Scalar weight = std::exp(score - largest);
            total += weight;
            sum += weight * input.value_rows(head, {key, key + 1}).row(0);
          });
          sum /= total;
          log_weight = largest + std::log(total);
        }
        out.row(row).segment(head * spec.value_dim, spec.value_dim) = sum;
        log_weights(row, head) = static_cast<double>(log_weight);
      }
  }

  [[nodiscard]] AttentionGradient<Scalar> backward(const AttentionInput<Scalar>& input, const MatrixView<Scalar>& out,
                                                   const Matrix<double>& log_weights, const MatrixView<Scalar>& d_out) {
    const AttentionSpec& spec = input.spec;
    detail::require_rows_of_sequence(input, "direct evaluation of a derivative");
    detail::require_backward_shapes(input, out, log_weights, d_out);
    AttentionGradient<Scalar> found;
    found.q.setZero(input.q.rows(), input.q.cols());
    found.k.setZero(input.k.rows(), input.k.cols());
    found.v.setZero(input.v.rows(), input.v.cols());
    found.sinks.setZero(input.sink_logits.size());
    // What float64 cannot hold of the log weights is taken from forward(), where it was this one.
    const bool own = log_weights_.rows() == log_weights.rows() && log_weights_.cols() == log_weights.cols() &&
                     log_weights_.template cast<double>() == log_weights;
    for (Index head = 0; head < spec.heads; ++head) {
      const Index kv_head = spec.kv_head_of(head);
      for (Index row = 0; row < input.queries(); ++row) {
        const Scalar log_weight = own ? log_weights_(row, head) : static_cast<Scalar>(log_weights(row, head));
        if (log_weight == -std::numeric_limits<Scalar>::infinity()) continue;
        const auto d = d_out.row(row).segment(head * spec.value_dim, spec.value_dim);
        const Scalar mean = d.dot(out.row(row).segment(head * spec.value_dim, spec.value_dim));
        const auto query = input.q.row(row).segment(head * spec.head_dim, spec.head_dim);
        find_scores(input, head, row);
        for_each_key(input, row, [&](Index key, std::size_t number, Scalar score) {
          const Index place = input.held.key_place({key, key + 1}).begin;
          const Scalar weight = std::exp(score - log_weight);
          Scalar d_score = weight * (d.dot(input.value_rows(head, {key, key + 1}).row(0)) - mean);
          if (spec.soft_cap != 0) d_score *= slopes_[number];
          d_score *= static_cast<Scalar>(spec.score_scale);
          found.v.row(place).segment(kv_head * spec.value_dim, spec.value_dim) += weight * d;
          found.q.row(row).segment(head * spec.head_dim, spec.head_dim) +=
              d_score * input.key_rows(head, {key, key + 1}).row(0);
          found.k.row(place).segment(kv_head * spec.head_dim, spec.head_dim) += d_score * query;
        });
        if (found.sinks.size() > 0)
          found.sinks[head] -= std::exp(static_cast<Scalar>(input.sink_logit(head)) - log_weight) * mean;
      }
    }
    return found;
  }

 private:
  /// Calls use(key) for each key that a held query sees.
  template <class Use>
  static void for_each_visible(const AttentionInput<Scalar>& input, Index row, const Use& use) {
    input.spec.mask.for_each_range(input.held.query_at(row), input.key_positions(), [&](Rows keys) {
      for (Index key = keys.begin; key < keys.end; ++key) use(key);
    });
  }

  /// The scores of a query, of the keys that it sees in their order; slopes_: of capped scores, by what is capped.
  void find_scores(const AttentionInput<Scalar>& input, Index head, Index row) {
    const AttentionSpec& spec = input.spec;
    const Index position = input.held.query_at(row);
    const Scalar* const bias = input.bias_of(head, position);
    const auto query = input.q.row(row).segment(head * spec.head_dim, spec.head_dim);
    scores_.clear();
    slopes_.clear();
    for_each_visible(input, row, [&](Index key) {
      Scalar score = static_cast<Scalar>(spec.score_scale) * query.dot(input.key_rows(head, {key, key + 1}).row(0));
      if (spec.soft_cap != 0) {
        const Scalar capped = std::tanh(score / static_cast<Scalar>(spec.soft_cap));
        score = static_cast<Scalar>(spec.soft_cap) * capped;
        slopes_.push_back(Scalar(1) - capped * capped);
      }
      if (!spec.alibi.empty())
        score += static_cast<Scalar>(spec.alibi[static_cast<std::size_t>(head)] * static_cast<double>(key - position));
      constexpr Scalar hidden = -std::numeric_limits<Scalar>::infinity();
      if (bias != nullptr) score = bias[key] == hidden ? hidden : score + bias[key];
      scores_.push_back(score);
    });
  }

  /// Calls use(key, number, score) for the keys whose scores were found, but those that a bias hides.
  template <class Use>
  void for_each_key(const AttentionInput<Scalar>& input, Index row, const Use& use) const {
    std::size_t number = 0;
    for_each_visible(input, row, [&](Index key) {
      const Scalar score = scores_[number];
      if (score != -std::numeric_limits<Scalar>::infinity()) use(key, number, score);
      ++number;
    });
  }

  std::vector<Scalar> scores_, slopes_;
  Matrix<Scalar> log_weights_;
};

static_assert(TrainableAttention<TrainableDirect<double>, double>);

}  // namespace twoheads
