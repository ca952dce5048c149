#pragma once

#include <concepts>
#include <twoheads/attention/input.hpp>
#include <twoheads/base/matrix.hpp>

namespace twoheads {

/// The derivatives of a loss by what a layer's attention was given.
///
///   Shapes   q (N, heads * head_dim), k (NK, kv_heads * head_dim), v (NK, kv_heads * value_dim): by the rows of
///            AttentionInput, rotary positions applied; sinks (heads): by its sink_logits, or empty
template <RealScalar Scalar>
struct AttentionGradient {
  Matrix<Scalar> q, k, v;
  RowVector<Scalar> sinks;
};

/// Attention that can be differentiated.
///
///   Shapes   forward(input, out, log_weights): out (N, heads * value_dim); log_weights (N, heads) in nats, learned
///            sinks included, -infinity where a query sees no key; it takes its shape there.
///            backward(input, out, log_weights, d_out): what forward() was given and found, and the derivatives of the
///            loss by out, (N, heads * value_dim)
///   Math     P = exp(score - log weight); d_v = P^T d_out; d_score = P * (d_out v^T - D), D_i = d_out_i . out_i;
///            d_q = scale d_score k, d_k = scale d_score^T q; d_sink = - sum_i exp(sink - log weight_i) D_i
///   Corner   log weights of forward() are for backward() of the same evaluation; TrainableGrid leaves NaN where it
///            needs none
///   Laws     nothing of the size of N x NK is held. Keys and values of the input are all held, as rows of the sequence
///            (HeldRows as it begins); not by head.
template <class A, class Scalar>
concept TrainableAttention = requires(A& attend, const AttentionInput<Scalar>& input, MatrixSpan<Scalar> out,
                                      Matrix<double>& log_weights, const MatrixView<Scalar>& found,
                                      const Matrix<double>& weights, const MatrixView<Scalar>& d_out) {
  attend.forward(input, out, log_weights);
  { attend.backward(input, found, weights, d_out) } -> std::same_as<AttentionGradient<Scalar>>;
};

}  // namespace twoheads
