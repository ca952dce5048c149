#pragma once

#include <cmath>
#include <limits>
#include <twoheads/attention/input.hpp>
#include <twoheads/base/matrix.hpp>

// What the derivative of attention needs whoever evaluates it.

namespace twoheads::detail {

/// Throws SpecError unless all keys are there, as rows of the sequence; `who` names the evaluation.
template <RealScalar Scalar>
void require_rows_of_sequence(const AttentionInput<Scalar>& input, const char* who) {
  if (input.by_head || !input.lent.empty() || input.held.sinks != 0 || input.held.first_key != 0)
    throw SpecError(text(who, " takes keys and values as rows of the sequence, all of them held"));
}

/// Checks what backward() is given beside the input.
template <RealScalar Scalar>
void require_backward_shapes(const AttentionInput<Scalar>& input, const MatrixView<Scalar>& out,
                             const Matrix<double>& log_weights, const MatrixView<Scalar>& d_out) {
  const AttentionSpec& spec = input.spec;
  const Index rows = input.queries();
  // Read only: require_shapes() asks for the output that a forward pass would write.
  require_shapes(input, MatrixSpan<Scalar>(const_cast<Scalar*>(out.data()), out.rows(), out.cols(),
                                           Eigen::OuterStride<>(out.outerStride())));
  require_shape("the log weights of a backward pass", log_weights, rows, spec.heads);
  require_shape("the derivatives by the output", d_out, rows, spec.heads * spec.value_dim);
}

/// D_i = d_out_i . out_i of each head. Shapes: out, d_out (N, heads * value_dim), result (N, heads)
template <RealScalar Scalar>
[[nodiscard]] Matrix<double> output_products(const MatrixView<Scalar>& out, const MatrixView<Scalar>& d_out,
                                             const AttentionSpec& spec) {
  Matrix<double> products = Matrix<double>::Zero(out.rows(), spec.heads);
  for (Index row = 0; row < out.rows(); ++row)
    for (Index head = 0; head < spec.heads; ++head)
      for (Index col = head * spec.value_dim; col < (head + 1) * spec.value_dim; ++col)
        products(row, head) += static_cast<double>(out(row, col)) * static_cast<double>(d_out(row, col));
  return products;
}

/// The derivatives by the logits of learned sinks: d_sink = - sum_i exp(sink - log weight_i) D_i; empty without sinks.
template <RealScalar Scalar>
[[nodiscard]] RowVector<Scalar> sink_gradient(const AttentionInput<Scalar>& input, const Matrix<double>& log_weights,
                                              const Matrix<double>& products) {
  RowVector<Scalar> gradient(input.sink_logits.size());
  for (Index head = 0; head < gradient.size(); ++head) {
    double sum = 0;
    for (Index row = 0; row < products.rows(); ++row)
      if (const double weight = log_weights(row, head); weight != -std::numeric_limits<double>::infinity())
        sum -= std::exp(input.sink_logit(head) - weight) * products(row, head);
    gradient[head] = static_cast<Scalar>(sum);
  }
  return gradient;
}

}  // namespace twoheads::detail
