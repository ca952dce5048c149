#pragma once

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
///   Corner   not for concurrent use: each thread takes an oracle of its own
///   Source   Yu & Alman, Definition 2.2
template <RealScalar S>
class SmallTransformer {
 public:
  using Scalar = S;

  explicit SmallTransformer(const OracleLimits& limits) : limits_(limits) { limits_.require_valid(); }

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
        attend(input, head);
        output.middleCols(head.output_begin, out_.cols()) += out_;
      }
      if (layer.mlp) layer.mlp(0, span(output));
      x = std::move(output);
    }
    return x;
  }

 private:
  /// out_ = softmax(scale q k^T) v, where a causal oracle shows row i the rows 0..i.
  void attend(const Matrix<Scalar>& x, const SmallHead<Scalar>& head) {
    head.wq.apply(x, q_);
    head.wk.apply(x, k_);
    head.wv.apply(x, v_);
    const bool causal = limits_.kind == OracleKind::causal;
    scores_.resize(x.rows(), x.rows());
    detail::multiply_transposed(span(scores_), view(q_), view(k_));
    if (limits_.score_scale != 1.0) scores_ *= static_cast<Scalar>(limits_.score_scale);
    sums_.resize(x.rows());
    for (Index row = 0; row < x.rows(); ++row) {
      const Index seen = causal ? row + 1 : x.rows();
      auto logits = scores_.row(row).head(seen);
      logits = (logits.array() - logits.maxCoeff()).exp();
      sums_[row] = logits.sum();
      scores_.row(row).tail(x.rows() - seen).setZero();
    }
    out_.resize(x.rows(), v_.cols());
    detail::multiply(span(out_), view(scores_), view(v_));
    out_.array().colwise() /= sums_.array();
  }

  OracleLimits limits_;
  Matrix<Scalar> q_, k_, v_, scores_, out_;
  Vector<Scalar> sums_;
};

static_assert(Oracle<SmallTransformer<float>> && Oracle<SmallTransformer<double>>);

}  // namespace twoheads
