#pragma once

#include <cmath>
#include <numbers>
#include <twoheads/base/matrix.hpp>
#include <twoheads/base/product.hpp>
#include <twoheads/model/weights.hpp>

namespace twoheads {

namespace detail {

template <RealScalar Scalar>
[[nodiscard]] Scalar gelu_tanh(Scalar t) {
  const Scalar root = std::sqrt(Scalar(2) * std::numbers::inv_pi_v<Scalar>);
  return t * (Scalar(1) + std::tanh(root * (t + Scalar(0.044715) * t * t * t))) / Scalar(2);
}

}  // namespace detail

/// Applies a layer's MLP to rows.
///
///   Shapes   rows, result (n, width); first_row is the position of row 0, which only a custom MLP may use
///   Math     relu:    max(x w_in + b_in, 0) w_out + b_out
///            gelu:    g(x w_in + b_in) w_out + b_out, g(t) = t (1 + erf(t / sqrt 2)) / 2, or its tanh form
///            swiglu:  (silu(x w_gate + b_gate) * (x w_in + b_in)) w_out + b_out, silu(t) = t / (1 + exp(-t))
///            geglu:   the same with the tanh form of gelu in place of silu
template <RealScalar Scalar>
[[nodiscard]] Matrix<Scalar> mlp(const MatrixView<Scalar>& rows, const MlpWeights<Scalar>& weights, MlpKind kind,
                                 Index first_row) {
  Matrix<Scalar> result = rows;
  if (kind == MlpKind::none) return result;
  if (kind == MlpKind::custom) {
    weights.custom(first_row, span(result));
    return result;
  }
  detail::require_shape("the rows of an MLP", rows, rows.rows(), weights.w_in.rows());
  detail::require_shape("w_out of an MLP", weights.w_out, weights.w_in.cols(), weights.w_out.cols());
  Matrix<Scalar> hidden(rows.rows(), weights.w_in.cols());
  detail::multiply(span(hidden), rows, view(weights.w_in));
  if (weights.b_in.size() > 0) hidden.rowwise() += weights.b_in;
  switch (kind) {
    case MlpKind::relu:
      // A comparison that NaN fails keeps a NaN; a maximum may drop it.
      hidden = hidden.unaryExpr([](Scalar t) { return t < Scalar(0) ? Scalar(0) : t; }).eval();
      break;
    case MlpKind::gelu:
      hidden = hidden
                   .unaryExpr([](Scalar t) {
                     return t * (Scalar(1) + std::erf(t / std::numbers::sqrt2_v<Scalar>)) / Scalar(2);
                   })
                   .eval();
      break;
    case MlpKind::gelu_tanh:
      hidden = hidden.unaryExpr(&detail::gelu_tanh<Scalar>).eval();
      break;
    case MlpKind::swiglu:
    case MlpKind::geglu: {
      Matrix<Scalar> gate(rows.rows(), weights.w_gate.cols());
      detail::multiply(span(gate), rows, view(weights.w_gate));
      if (weights.b_gate.size() > 0) gate.rowwise() += weights.b_gate;
      if (kind == MlpKind::swiglu)
        hidden.array() *= gate.array() / (Scalar(1) + (-gate.array()).exp());
      else
        hidden.array() *= gate.unaryExpr(&detail::gelu_tanh<Scalar>).array();
      break;
    }
    case MlpKind::none:
    case MlpKind::custom:
      break;
  }
  result.resize(rows.rows(), weights.w_out.cols());
  detail::multiply(span(result), view(hidden), view(weights.w_out));
  if (weights.b_out.size() > 0) result.rowwise() += weights.b_out;
  return result;
}

}  // namespace twoheads
