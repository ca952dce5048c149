#pragma once

#include <algorithm>
#include <cmath>
#include <twoheads/base/matrix.hpp>
#include <twoheads/base/product.hpp>
#include <twoheads/oracle/oracle.hpp>

namespace twoheads {

/// The small transformer on Eigen: L' layers, H' heads, plain or causal, residual or not, and no more rows than its
/// limit.
///
///   Throws   LimitError for more rows, heads, layers or columns than the limits allow; ShapeError for weights that
///            do not fit
///   Laws     SumOrder::by_key: an answer's bits depend on its query, and on the keys and values of weight above 0,
///            in their order, alone; the scalar's exp decides what is 0 (below -745.2 in float64, -104 in float)
///   Corner   not for concurrent use: each thread takes an oracle of its own
///   Source   Yu & Alman, Definition 2.2
template <RealScalar S>
class SmallTransformer {
 public:
  using Scalar = S;

  explicit SmallTransformer(const OracleLimits& limits, SumOrder order = SumOrder::blocked)
      : limits_(limits), order_(order) {
    limits_.require_valid();
  }

  [[nodiscard]] OracleLimits limits() const { return limits_; }

  /// Shapes: call.rows (n, width), result (n, output width); 1 <= n <= limits().rows.
  [[nodiscard]] Matrix<Scalar> run(const OracleCall<Scalar>& call) {
    require_within(limits_, call);
    const SmallWeights<Scalar>& weights = *call.weights;
    if (weights.layers.empty()) return call.rows;
    Matrix<Scalar> x;
    for (std::size_t l = 0; l < weights.layers.size(); ++l) {
      const SmallLayer<Scalar>& layer = weights.layers[l];
      const Matrix<Scalar>& input = l == 0 ? call.rows : x;
      Matrix<Scalar> output;
      if (limits_.residual)
        output = input;
      else
        output.setZero(input.rows(), layer.output_width);
      for (const SmallHead<Scalar>& head : layer.heads) {
        project(input, head);
        if (order_ == SumOrder::by_key)
          attend_by_key();
        else
          attend();
        output.middleCols(head.output_begin, out_.cols()) += out_;
      }
      if (layer.mlp) layer.mlp(0, span(output));
      x = std::move(output);
    }
    return x;
  }

 private:
  void project(const Matrix<Scalar>& x, const SmallHead<Scalar>& head) {
    head.wq.apply(x, q_, order_);
    head.wk.apply(x, k_, order_);
    head.wv.apply(x, v_, order_);
  }

  /// Keys that a row sees: a causal oracle shows row i the rows 0..i.
  [[nodiscard]] Index seen_by(Index row) const { return limits_.kind == OracleKind::causal ? row + 1 : q_.rows(); }

  /// out_ = softmax(scale q k^T) v.
  void attend() {
    const Index rows = q_.rows();
    scores_.resize(rows, rows);
    detail::multiply_transposed(span(scores_), view(q_), view(k_));
    if (limits_.score_scale != 1.0) scores_ *= static_cast<Scalar>(limits_.score_scale);
    sums_.resize(rows);
    for (Index row = 0; row < rows; ++row) {
      const Index seen = seen_by(row);
      auto logits = scores_.row(row).head(seen);
      logits = (logits.array() - logits.maxCoeff()).exp();
      sums_[row] = logits.sum();
      scores_.row(row).tail(rows - seen).setZero();
    }
    out_.resize(rows, v_.cols());
    detail::multiply(span(out_), view(scores_), view(v_));
    out_.array().colwise() /= sums_.array();
  }

  /// The same, a query at a time: a query's scores are one row of scores_, its memory O(n).
  void attend_by_key() {
    const Index rows = q_.rows();
    const Matrix<Scalar> keys = k_.transpose();
    scores_.resize(1, rows);
    out_.resize(rows, v_.cols());
    for (Index row = 0; row < rows; ++row) {
      const Index seen = seen_by(row);
      Scalar* const weights = scores_.data();
      detail::multiply_in_order(block_span(span(scores_), {0, 1}, 0, seen),
                                block_view(view(q_), {row, row + 1}, 0, q_.cols()),
                                block_view(view(keys), {0, keys.rows()}, 0, seen));
      if (limits_.score_scale != 1.0)
        for (Index key = 0; key < seen; ++key) weights[key] *= static_cast<Scalar>(limits_.score_scale);
      Scalar most = weights[0];
      for (Index key = 1; key < seen; ++key) most = std::max(most, weights[key]);
      Scalar sum = 0;
      for (Index key = 0; key < seen; ++key) {
        weights[key] = std::exp(weights[key] - most);
        sum += weights[key];
      }
      detail::multiply_in_order(block_span(span(out_), {row, row + 1}, 0, out_.cols()),
                                block_view(view(scores_), {0, 1}, 0, seen),
                                block_view(view(v_), {0, seen}, 0, v_.cols()));
      for (Index col = 0; col < out_.cols(); ++col) out_(row, col) /= sum;
    }
  }

  OracleLimits limits_;
  SumOrder order_;
  Matrix<Scalar> q_, k_, v_, scores_, out_;
  Vector<Scalar> sums_;
};

static_assert(Oracle<SmallTransformer<float>> && Oracle<SmallTransformer<double>>);

}  // namespace twoheads
