#pragma once

#include <cmath>
#include <twoheads/attention/input.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/train/trainable.hpp>

namespace programs {

/// Causal linear attention with its derivative, for the contrast: not softmax, but a state of fixed size that every key
/// is added to.
///
///   Math     out_i = f(q_i)^T S_i / (f(q_i)^T z_i), S_i = sum_{j <= i} f(k_j) v_j^T, z_i = sum_{j <= i} f(k_j),
///            f(x) = elu(x) + 1; the mask of the spec is taken to be causal, its score scale plays no part
///   Source   Katharopoulos et al., "Transformers are RNNs" (ICML 2020)
template <class S>
class LinearAttention {
 public:
  using Scalar = S;
  using Index = twoheads::Index;

  void forward(const twoheads::AttentionInput<Scalar>& input, twoheads::MatrixSpan<Scalar> out,
               twoheads::Matrix<double>& log_weights) {
    log_weights.setZero(input.queries(), input.spec.heads);
    for (Index head = 0; head < input.spec.heads; ++head) {
      clear(input.spec);
      for (Index row = 0; row < input.queries(); ++row) {
        const Row query = feature(query_of(input, head, row));
        add_key(input, head, row);
        out.row(row).segment(head * input.spec.value_dim, input.spec.value_dim) = (query * state_) / query.dot(sum_);
      }
    }
  }

  [[nodiscard]] twoheads::AttentionGradient<Scalar> backward(const twoheads::AttentionInput<Scalar>& input,
                                                             const twoheads::MatrixView<Scalar>& out,
                                                             const twoheads::Matrix<double>&,
                                                             const twoheads::MatrixView<Scalar>& d_out) {
    const twoheads::AttentionSpec& spec = input.spec;
    twoheads::AttentionGradient<Scalar> found;
    found.q.setZero(input.q.rows(), input.q.cols());
    found.k.setZero(input.k.rows(), input.k.cols());
    found.v.setZero(input.v.rows(), input.v.cols());
    found.sinks.setZero(input.sink_logits.size());
    twoheads::Vector<Scalar> divisors(input.queries());
    for (Index head = 0; head < spec.heads; ++head) {
      const auto numerator = [&](Index row) -> Row {
        return d_out.row(row).segment(head * spec.value_dim, spec.value_dim) / divisors[row];
      };
      const auto divisor = [&](Index row) {
        const auto rows = [&](const auto& matrix) {
          return matrix.row(row).segment(head * spec.value_dim, spec.value_dim);
        };
        return -rows(d_out).dot(rows(out)) / divisors[row];
      };
      const Index kv_head = spec.kv_head_of(head);
      clear(spec);
      for (Index row = 0; row < input.queries(); ++row) {
        const Row raw = query_of(input, head, row);
        const Row query = feature(raw);
        add_key(input, head, row);
        divisors[row] = query.dot(sum_);
        found.q.row(row).segment(head * spec.head_dim, spec.head_dim) =
            (numerator(row) * state_.transpose() + divisor(row) * sum_).cwiseProduct(slope(raw));
      }
      // From the end: what all later queries ask of a key.
      clear(spec);
      for (Index row = input.queries() - 1; row >= 0; --row) {
        const Row query = feature(query_of(input, head, row));
        state_ += query.transpose() * numerator(row);
        sum_ += divisor(row) * query;
        const Row raw = input.key_rows(head, {row, row + 1}).row(0);
        const Row value = input.value_rows(head, {row, row + 1}).row(0);
        found.k.row(row).segment(kv_head * spec.head_dim, spec.head_dim) +=
            (value * state_.transpose() + sum_).cwiseProduct(slope(raw));
        found.v.row(row).segment(kv_head * spec.value_dim, spec.value_dim) += feature(raw) * state_;
      }
    }
    return found;
  }

 private:
  using Row = twoheads::RowVector<Scalar>;

  [[nodiscard]] static Row query_of(const twoheads::AttentionInput<Scalar>& input, Index head, Index row) {
    return input.q.row(row).segment(head * input.spec.head_dim, input.spec.head_dim);
  }
  [[nodiscard]] static Row feature(const Row& x) {
    return x.unaryExpr([](Scalar t) { return t > 0 ? t + Scalar(1) : std::exp(t); });
  }
  [[nodiscard]] static Row slope(const Row& x) {
    return x.unaryExpr([](Scalar t) { return t > 0 ? Scalar(1) : std::exp(t); });
  }
  void clear(const twoheads::AttentionSpec& spec) {
    state_.setZero(spec.head_dim, spec.value_dim);
    sum_.setZero(spec.head_dim);
  }
  void add_key(const twoheads::AttentionInput<Scalar>& input, Index head, Index row) {
    const Row key = feature(input.key_rows(head, {row, row + 1}).row(0));
    state_ += key.transpose() * input.value_rows(head, {row, row + 1}).row(0);
    sum_ += key;
  }

  twoheads::Matrix<Scalar> state_;
  Row sum_;
};

}  // namespace programs
