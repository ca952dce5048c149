#pragma once

#include <twoheads/attention/forward.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/model/weights.hpp>
#include <twoheads/train/mlp_gradient.hpp>
#include <twoheads/train/norm_gradient.hpp>
#include <twoheads/train/projection_gradient.hpp>

namespace twoheads::detail {

/// The derivative of add_to_rows(): d_rows, by the rows after it, becomes that by the rows before; returns that by what
/// is added. `rows`: before it.
template <RealScalar Scalar>
[[nodiscard]] Matrix<Scalar> add_to_rows_gradient(const ModelSpec& spec, const NormWeights<Scalar>& end_norm,
                                                  const NormWeights<Scalar>& sum_norm, const Matrix<Scalar>& added,
                                                  const Matrix<Scalar>& rows, Matrix<Scalar>& d_rows,
                                                  NormWeights<Scalar>& d_end_norm, NormWeights<Scalar>& d_sum_norm) {
  if (spec.norm_place == NormPlace::after) {
    const Matrix<Scalar> sum = rows + added;
    d_rows = add_norm_gradient(view(sum), sum_norm, spec.norm, spec.norm_epsilon, view(d_rows), d_sum_norm);
  }
  Matrix<Scalar> d_added = d_rows;
  if (spec.norm_place == NormPlace::both)
    d_added = add_norm_gradient(view(added), end_norm, spec.norm, spec.norm_epsilon, view(d_rows), d_end_norm);
  if (!spec.residual) d_rows.setZero();
  return d_added;
}

/// The derivative of finish_rows() for a few rows: adds that by the layer's weights to `gradient`.
///
///   Shapes   rows (n, width): x before it; mixed (n, heads * value_dim); d_rows (n, width): by x after it, becomes
///            that by `rows`; d_mixed (n, heads * value_dim): by `mixed`
template <RealScalar Scalar>
void add_finish_gradient(const ModelSpec& spec, const LayerWeights<Scalar>& layer, const Matrix<Scalar>& rows,
                         const MatrixView<Scalar>& mixed, Matrix<Scalar>& d_rows, MatrixSpan<Scalar> d_mixed,
                         LayerWeights<Scalar>& gradient) {
  const auto norm = [&](const Matrix<Scalar>& values, const NormWeights<Scalar>& weights) {
    return normed(view(values), weights, spec.norm, spec.norm_epsilon);
  };
  const bool projects = spec.attention.output_projection;
  Matrix<Scalar> added = mixed;
  if (projects) {
    added.resize(mixed.rows(), spec.width);
    multiply_rows(span(added), mixed, view(layer.attention.wo), view(layer.attention.bo));
  }
  if (spec.mlp != MlpKind::none) {
    Matrix<Scalar> middle = rows;
    add_to_rows(spec, layer.attention_end_norm, layer.attention_norm, added, span(middle));
    const bool before = spec.norm_place != NormPlace::after;
    const Matrix<Scalar> input = before ? norm(middle, layer.mlp_norm) : middle;
    // What the MLP adds is needed only where a norm follows.
    Matrix<Scalar> output;
    if (spec.norm_place != NormPlace::before) output = mlp(view(input), layer.mlp, spec.mlp, 0);
    const Matrix<Scalar> d_output = add_to_rows_gradient(spec, layer.mlp_end_norm, layer.mlp_norm, output, middle,
                                                         d_rows, gradient.mlp_end_norm, gradient.mlp_norm);
    Matrix<Scalar> d_input = add_mlp_gradient(view(input), layer.mlp, spec.mlp, view(d_output), gradient.mlp);
    if (before)
      d_input = add_norm_gradient(view(middle), layer.mlp_norm, spec.norm, spec.norm_epsilon, view(d_input),
                                  gradient.mlp_norm);
    d_rows += d_input;
  }
  const Matrix<Scalar> d_added = add_to_rows_gradient(spec, layer.attention_end_norm, layer.attention_norm, added, rows,
                                                      d_rows, gradient.attention_end_norm, gradient.attention_norm);
  if (!projects) {
    d_mixed = d_added;
    return;
  }
  add_transposed_product(span(gradient.attention.wo), mixed, view(d_added));
  add_column_sums(d_added, gradient.attention.bo);
  multiply_transposed(d_mixed, view(d_added), view(layer.attention.wo));
}

/// The derivative of the layer's projections and of the norm before them,
/// for a few rows: adds that by the rows to d_rows.
///
///   Shapes   rows, d_rows (n, width); d_q (n, heads * head_dim), d_k, d_v alike: rows of an AttentionGradient,
///            overwritten; keys: whether keys and values come of these rows, too
template <RealScalar Scalar>
void add_attention_input_gradient(const ModelSpec& spec, const LayerWeights<Scalar>& layer, Index first_position,
                                  const Matrix<Scalar>& rows, MatrixSpan<Scalar> d_q, MatrixSpan<Scalar> d_k,
                                  MatrixSpan<Scalar> d_v, bool keys, Matrix<Scalar>& d_rows,
                                  LayerWeights<Scalar>& gradient) {
  const AttentionSpec& a = spec.attention;
  const AttentionWeights<Scalar>& w = layer.attention;
  AttentionWeights<Scalar>& d = gradient.attention;
  const Matrix<Scalar> tokens = attention_tokens(spec, layer, view(rows));
  Matrix<Scalar> d_tokens = Matrix<Scalar>::Zero(rows.rows(), rows.cols());
  add_score_projection_gradient(a, view(tokens), w.wq, w.bq, w.q_norm, first_position, d_q, d.wq, d.bq, d.q_norm,
                                span(d_tokens));
  if (keys) {
    add_score_projection_gradient(a, view(tokens), w.wk, w.bk, w.k_norm, first_position, d_k, d.wk, d.bk, d.k_norm,
                                  span(d_tokens));
    add_projection_gradient(view(tokens), w.wv, view(d_v), a.head_input, a.heads, d.wv, d.bv, span(d_tokens));
  }
  if (spec.norm_place == NormPlace::after)
    d_rows += d_tokens;
  else
    d_rows += add_norm_gradient(view(rows), layer.attention_norm, spec.norm, spec.norm_epsilon, view(d_tokens),
                                gradient.attention_norm);
}

}  // namespace twoheads::detail
