#pragma once

#include <concepts>
#include <twoheads/base/matrix.hpp>
#include <twoheads/model/weights.hpp>

namespace twoheads {

/// What one layer hands to its attention: projected rows, and the tokens and weights that they came from.
///
///   Shapes   q (N, heads * head_dim), k (NK, kv_heads * head_dim), v (NK, kv_heads * value_dim), rotary positions
///            applied; query_tokens (N, width), key_tokens (NK, width): the normed rows before projection
///   Corner   the views live as long as the forward pass of this layer
template <RealScalar Scalar>
struct AttentionInput {
  const AttentionSpec& spec;
  Index layer = 0;
  MatrixView<Scalar> q, k, v;
  MatrixView<Scalar> query_tokens, key_tokens;
  const AttentionWeights<Scalar>& weights;

  [[nodiscard]] Index queries() const { return q.rows(); }
  [[nodiscard]] Index keys() const { return k.rows(); }

  /// Rows of one query head, and of the key/value head that it reads.
  [[nodiscard]] MatrixView<Scalar> query_rows(Index head, Rows rows) const {
    return block_view(q, rows, head * spec.head_dim, spec.head_dim);
  }
  [[nodiscard]] MatrixView<Scalar> key_rows(Index head, Rows rows) const {
    return block_view(k, rows, spec.kv_head_of(head) * spec.head_dim, spec.head_dim);
  }
  [[nodiscard]] MatrixView<Scalar> value_rows(Index head, Rows rows) const {
    return block_view(v, rows, spec.kv_head_of(head) * spec.value_dim, spec.value_dim);
  }
};

/// Anything that evaluates a layer's attention into output rows (N, heads * value_dim).
template <class A, class Scalar>
concept Attend = requires(A& attend, const AttentionInput<Scalar>& input, MatrixSpan<Scalar> out) {
  attend(input, out);
};

}  // namespace twoheads
