#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cmath>
#include <twoheads/base/matrix.hpp>
#include <twoheads/base/product.hpp>
#include <twoheads/oracle/oracle.hpp>
#include <twoheads/plan/precision.hpp>
#include <utility>

namespace twoheads {

/// A number as a precision holds it, rounded to nearest; what is too large becomes infinite.
///
///   Corner   int8 stands for unsigned steps of 1/255 from 0 to 1, as attention weights are quantised
template <RealScalar Scalar>
[[nodiscard]] Scalar rounded(Scalar value, Precision precision) {
  switch (precision) {
    case Precision::own:
    case Precision::float64:
      break;
    case Precision::float32:
      return static_cast<Scalar>(static_cast<float>(value));
    case Precision::bfloat16:
      return static_cast<Scalar>(static_cast<float>(Eigen::bfloat16(static_cast<float>(value))));
    case Precision::half:
      return static_cast<Scalar>(static_cast<float>(Eigen::half(static_cast<float>(value))));
    case Precision::int8:
      return std::round(std::clamp(value, Scalar(0), Scalar(1)) * Scalar(255)) / Scalar(255);
  }
  return value;
}

/// Rounds all numbers of a matrix in place.
template <class Derived>
void round_in_place(Eigen::DenseBase<Derived>& numbers, Precision precision) {
  using Scalar = typename Derived::Scalar;
  if (precision == Precision::own) return;
  Derived& own = numbers.derived();
  own = own.unaryExpr([precision](Scalar value) { return rounded(value, precision); }).eval();
}

/// A small transformer that rounds as its limits declare: tokens and what they are projected to, scores, attention
/// weights and answers. For trying out what an accelerator's precision does, before it is bought.
///
///   Math     weights = round(softmax(clamp(round(score_scale q k^T)))), answer = round(weights v), sums in the scalar;
///            scores are clamped at +-largest_score where that is finite
///   Corner   refuses no precision: what a plan would refuse can be tried here. Layers, heads, kinds, residual streams
///            and MLPs as SmallTransformer has them.
///   Throws   LimitError, ShapeError as require_within
template <RealScalar S>
class RoundingTransformer {
 public:
  using Scalar = S;

  explicit RoundingTransformer(const OracleLimits& limits) : limits_(limits) {
    if (limits_.kind == OracleKind::kernel)
      throw LimitError("a rounding transformer of the kind kernel: expected plain or causal");
  }

  [[nodiscard]] OracleLimits limits() const { return limits_; }

  [[nodiscard]] Matrix<Scalar> run(const OracleCall<Scalar>& call) {
    require_within(limits_, call);
    Matrix<Scalar> rows = call.rows;
    round_in_place(rows, limits_.precision.tokens);
    for (const SmallLayer<Scalar>& layer : call.weights->layers) rows = run_layer(layer, rows);
    return rows;
  }

 private:
  [[nodiscard]] Matrix<Scalar> run_layer(const SmallLayer<Scalar>& layer, const Matrix<Scalar>& rows) const {
    Matrix<Scalar> output = Matrix<Scalar>::Zero(rows.rows(), layer.output_width);
    if (limits_.residual) output = rows;
    for (const SmallHead<Scalar>& head : layer.heads) {
      Matrix<Scalar> q, k, v;
      for (const auto& [projection, projected] :
           {std::pair(&head.wq, &q), std::pair(&head.wk, &k), std::pair(&head.wv, &v)}) {
        projection->apply(rows, *projected);
        round_in_place(*projected, limits_.precision.tokens);
      }
      output.middleCols(head.output_begin, v.cols()) += attend(q, k, v);
    }
    if (layer.mlp) layer.mlp(0, span(output));
    round_in_place(output, limits_.precision.answers);
    return output;
  }

  [[nodiscard]] Matrix<Scalar> attend(const Matrix<Scalar>& q, const Matrix<Scalar>& k, const Matrix<Scalar>& v) const {
    Matrix<Scalar> weights(q.rows(), k.rows());
    detail::multiply_transposed(span(weights), view(q), view(k));
    weights *= static_cast<Scalar>(limits_.score_scale);
    round_in_place(weights, limits_.precision.scores);
    if (std::isfinite(limits_.largest_score)) {
      const auto most = static_cast<Scalar>(limits_.largest_score);
      weights = weights.cwiseMin(most).cwiseMax(-most).eval();
    }
    for (Index row = 0; row < weights.rows(); ++row) {
      const Index seen = limits_.kind == OracleKind::causal ? row + 1 : weights.cols();
      Scalar most = weights(row, 0);
      for (Index key = 1; key < seen; ++key) most = std::max(most, weights(row, key));
      Scalar sum = 0;
      for (Index key = 0; key < weights.cols(); ++key) {
        weights(row, key) = key < seen ? std::exp(weights(row, key) - most) : Scalar(0);
        sum += weights(row, key);
      }
      for (Index key = 0; key < seen; ++key)
        weights(row, key) = rounded(weights(row, key) / sum, limits_.precision.weights);
    }
    Matrix<Scalar> out(q.rows(), v.cols());
    detail::multiply(span(out), view(weights), view(v));
    round_in_place(out, limits_.precision.answers);
    return out;
  }

  OracleLimits limits_;
};

static_assert(Oracle<RoundingTransformer<float>> && Oracle<RoundingTransformer<double>>);

}  // namespace twoheads
