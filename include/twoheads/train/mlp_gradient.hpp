#pragma once

#include <cmath>
#include <numbers>
#include <twoheads/attention/mlp.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/base/product.hpp>
#include <twoheads/model/weights.hpp>

namespace twoheads::detail {

template <RealScalar Scalar>
[[nodiscard]] Scalar gelu_derivative(Scalar t) {
  using std::numbers::inv_sqrtpi_v;
  using std::numbers::sqrt2_v;
  return (Scalar(1) + std::erf(t / sqrt2_v<Scalar>)) / Scalar(2) +
         t * std::exp(-t * t / Scalar(2)) * inv_sqrtpi_v<Scalar> / sqrt2_v<Scalar>;
}

template <RealScalar Scalar>
[[nodiscard]] Scalar gelu_tanh_derivative(Scalar t) {
  const Scalar root = std::sqrt(Scalar(2) * std::numbers::inv_pi_v<Scalar>);
  const Scalar bend = Scalar(0.044715);
  const Scalar h = std::tanh(root * (t + bend * t * t * t));
  return (Scalar(1) + h) / Scalar(2) + t * (Scalar(1) - h * h) * root * (Scalar(1) + 3 * bend * t * t) / Scalar(2);
}

/// Adds the sums of columns, where there is a number for each.
template <RealScalar Scalar>
void add_column_sums(const Matrix<Scalar>& rows, RowVector<Scalar>& sums) {
  if (sums.size() > 0) sums += rows.colwise().sum();
}

/// The derivative of mlp(): adds that by the weights to `gradient` and returns that by the rows. Hidden columns are
/// computed once more, for these rows alone.
///
///   Shapes   rows, d_out, result (n, width)
///   Throws   SpecError for a custom MLP: what it does is not known
template <RealScalar Scalar>
[[nodiscard]] Matrix<Scalar> add_mlp_gradient(const MatrixView<Scalar>& rows, const MlpWeights<Scalar>& weights,
                                              MlpKind kind, const MatrixView<Scalar>& d_out,
                                              MlpWeights<Scalar>& gradient) {
  if (kind == MlpKind::none) return d_out;
  if (kind == MlpKind::custom) throw SpecError("a custom MLP has no derivative that is known: expected another kind");
  Matrix<Scalar> hidden(rows.rows(), weights.w_in.cols());
  multiply(span(hidden), rows, view(weights.w_in));
  if (weights.b_in.size() > 0) hidden.rowwise() += weights.b_in;
  Matrix<Scalar> active(hidden.rows(), hidden.cols());
  Matrix<Scalar> d_hidden(hidden.rows(), hidden.cols());
  multiply_transposed(span(d_hidden), d_out, view(weights.w_out));

  Matrix<Scalar> gate;
  Matrix<Scalar> d_gate;
  switch (kind) {
    case MlpKind::relu:
      active = hidden.unaryExpr([](Scalar t) { return t < Scalar(0) ? Scalar(0) : t; });
      d_hidden.array() *= hidden.unaryExpr([](Scalar t) { return t > Scalar(0) ? Scalar(1) : Scalar(0); }).array();
      break;
    case MlpKind::gelu:
      active = hidden.unaryExpr(
          [](Scalar t) { return t * (Scalar(1) + std::erf(t / std::numbers::sqrt2_v<Scalar>)) / Scalar(2); });
      d_hidden.array() *= hidden.unaryExpr(&gelu_derivative<Scalar>).array();
      break;
    case MlpKind::gelu_tanh:
      active = hidden.unaryExpr(&gelu_tanh<Scalar>);
      d_hidden.array() *= hidden.unaryExpr(&gelu_tanh_derivative<Scalar>).array();
      break;
    case MlpKind::swiglu:
    case MlpKind::geglu: {
      gate.resize(hidden.rows(), hidden.cols());
      multiply(span(gate), rows, view(weights.w_gate));
      if (weights.b_gate.size() > 0) gate.rowwise() += weights.b_gate;
      d_gate.resize(gate.rows(), gate.cols());
      if (kind == MlpKind::swiglu) {
        // In place of the gate its sigmoid; of the gate itself then only products are needed.
        active = (Scalar(1) + (-gate.array()).exp()).inverse();
        d_gate = d_hidden.array() * hidden.array() * active.array() *
                 (Scalar(1) + gate.array() * (Scalar(1) - active.array()));
        gate.array() *= active.array();
      } else {
        d_gate = d_hidden.array() * hidden.array() * gate.unaryExpr(&gelu_tanh_derivative<Scalar>).array();
        gate = gate.unaryExpr(&gelu_tanh<Scalar>).eval();
      }
      active = gate.array() * hidden.array();
      d_hidden.array() *= gate.array();
      break;
    }
    case MlpKind::none:
    case MlpKind::custom:
      break;
  }

  add_transposed_product(span(gradient.w_out), view(active), d_out);
  if (gradient.b_out.size() > 0) gradient.b_out += d_out.colwise().sum();
  add_transposed_product(span(gradient.w_in), rows, view(d_hidden));
  add_column_sums(d_hidden, gradient.b_in);
  Matrix<Scalar> d_rows(rows.rows(), rows.cols());
  multiply_transposed(span(d_rows), view(d_hidden), view(weights.w_in));
  if (has_gate(kind)) {
    add_transposed_product(span(gradient.w_gate), rows, view(d_gate));
    add_column_sums(d_gate, gradient.b_gate);
    Matrix<Scalar> by_gate(rows.rows(), rows.cols());
    multiply_transposed(span(by_gate), view(d_gate), view(weights.w_gate));
    d_rows += by_gate;
  }
  return d_rows;
}

}  // namespace twoheads::detail
