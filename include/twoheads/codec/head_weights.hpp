#pragma once

#include <memory>
#include <twoheads/attention/input.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/codec/layout.hpp>
#include <twoheads/oracle/weights.hpp>

namespace twoheads {

/// Weights of an instance whose columns hold projected q, k and v: three selectors.
///
///   Source   Yu & Alman, Theorem 4.2 feeds projected rows in the same way
template <RealScalar Scalar>
[[nodiscard]] SmallHead<Scalar> selector_head(const InstanceLayout& layout) {
  using P = Projection<Scalar>;
  return {P::selector(0, layout.keyed_cols()), P::selector(layout.key_at(), layout.keyed_cols()),
          P::selector(layout.value_at(), layout.answer_cols()), 0};
}

/// Weights of an instance whose columns hold raw tokens: the model's own weights of one head as blocks.
///
///   Shapes   wq, wk (d, m) and wv (d, m_v) of one head; factor is the model's score scale over the oracle's
///   Math     W_Q = [factor wq, 0; 0, I],  W_K = [wk, 0; 0, I],  W_V = [wv, 0, 0, wk; 0, 0, 1, 0; 0; 0, 1, 0, 0], the
///            columns that the call's kind has; rows of W_V: the key's token, e, w, g
///   Source   Yu & Alman, Lemma 3.1, with the flag of real rows that the print lacks
template <RealScalar Scalar>
[[nodiscard]] SmallHead<Scalar> block_head(const InstanceLayout& layout, const AttentionInput<Scalar>& input,
                                           Index head, Scalar factor) {
  const AttentionSpec& spec = input.spec;
  const Index kv_head = spec.kv_head_of(head);
  const Index d = layout.input_width;
  const Index m = layout.head_dim;
  const auto wk = input.weights.wk.middleCols(kv_head * m, m);
  const auto keyed = [&](const auto& block) {
    const Index same = layout.anchor_cols + layout.code_cols;
    auto matrix = std::make_shared<Matrix<Scalar>>(Matrix<Scalar>::Zero(d + same, m + same));
    matrix->topLeftCorner(d, m) = block;
    matrix->bottomRightCorner(same, same).setIdentity();
    return matrix;
  };
  const Index real_at = d + layout.anchor_cols + layout.code_cols;
  auto values = std::make_shared<Matrix<Scalar>>(Matrix<Scalar>::Zero(real_at + 1, layout.answer_cols()));
  if (layout.has_values())
    values->topLeftCorner(d, layout.value_dim) =
        input.weights.wv.middleCols(kv_head * layout.value_dim, layout.value_dim);
  if (layout.has_state()) {
    (*values)(d, layout.p_at()) = Scalar(1);
    (*values)(real_at, layout.r_at()) = Scalar(1);
  }
  if (layout.has_keys()) values->block(0, layout.keys_at(), d, m) = wk;
  using P = Projection<Scalar>;
  return {P::dense(0, keyed((input.weights.wq.middleCols(head * m, m) * factor).eval())),
          P::dense(layout.key_at(), keyed(wk)), P::dense(layout.key_at(), values), 0};
}

}  // namespace twoheads
