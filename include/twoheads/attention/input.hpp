#pragma once

#include <twoheads/base/matrix.hpp>
#include <twoheads/model/weights.hpp>

namespace twoheads {

/// Which rows of a long input are held: all of them, or a part that moves along with the queries.
struct HeldRows {
  Index first_query = 0;  ///< position of the first row of q
  Index sinks = 0;        ///< first rows of k and v, at the positions 0 .. sinks - 1
  Index first_key = 0;    ///< position of the row of k and v that follows them

  /// Where the rows of some positions stand in q and query_tokens, and in k, v and key_tokens.
  [[nodiscard]] Rows query_place(Rows positions) const {
    return {positions.begin - first_query, positions.end - first_query};
  }
  [[nodiscard]] Rows key_place(Rows positions) const {
    const Index shift = positions.end <= sinks ? 0 : sinks - first_key;
    return {positions.begin + shift, positions.end + shift};
  }

  /// The position of a held row of q, and of one of k and v.
  [[nodiscard]] Index query_at(Index row) const { return row + first_query; }
  [[nodiscard]] Index key_at(Index row) const { return row < sinks ? row : row - sinks + first_key; }
};

/// What one layer hands to its attention: projected rows, and the tokens and weights that they came from.
///
///   Shapes   q (N, heads * head_dim), k (NK, kv_heads * head_dim), v (NK, kv_heads * value_dim), rotary positions
///            applied; query_tokens (N, width), key_tokens (NK, width): the rows before projection, normed unless
///            they are a memory
///            Rows are asked for by their position in the sequence, also where only a part of them is held.
///   Corner   views, spec and weights are references that live as long as the forward pass of this layer
template <RealScalar Scalar>
struct AttentionInput {
  const AttentionSpec& spec;
  Index layer = 0;
  MatrixView<Scalar> q, k, v;
  MatrixView<Scalar> query_tokens, key_tokens;
  const AttentionWeights<Scalar>& weights;
  HeldRows held = {};
  /// k and v hold the rows of their heads one after the other: k (kv_heads * NK, head_dim), v alike. Where keys are
  /// read again and again, rows that lie close together are read faster. For engines alone: require_shapes() refuses
  /// such an input of several key/value heads.
  bool by_head = false;

  [[nodiscard]] Index queries() const { return q.rows(); }
  [[nodiscard]] Index keys() const { return by_head ? k.rows() / spec.kv_heads : k.rows(); }

  /// Rows of one query head, and of the key/value head that it reads.
  [[nodiscard]] MatrixView<Scalar> query_rows(Index head, Rows rows) const {
    return block_view(q, held.query_place(rows), head * spec.head_dim, spec.head_dim);
  }
  [[nodiscard]] MatrixView<Scalar> key_rows(Index head, Rows rows) const {
    return rows_of_head(k, head, rows, spec.head_dim);
  }
  [[nodiscard]] MatrixView<Scalar> value_rows(Index head, Rows rows) const {
    return rows_of_head(v, head, rows, spec.value_dim);
  }

  /// The same of any matrix that has its rows where k and v have theirs, `dim` columns a head.
  template <class Stored>
  [[nodiscard]] MatrixView<Stored> rows_of_head(const MatrixView<Stored>& all, Index head, Rows rows, Index dim) const {
    const Index kv_head = spec.kv_head_of(head);
    const Rows place = held.key_place(rows);
    if (!by_head) return block_view(all, place, kv_head * dim, dim);
    const Index first = kv_head * keys();
    return block_view(all, {first + place.begin, first + place.end}, 0, dim);
  }
};

/// Checks that q, k, v and out have the shapes that the spec asks for; the views are read without further checks.
///
///   Throws   SpecError, or ShapeError that names the layer and the rows
template <RealScalar Scalar>
void require_shapes(const AttentionInput<Scalar>& input, const MatrixSpan<Scalar>& out) {
  const AttentionSpec& spec = input.spec;
  spec.mask.require_defined(input.queries(), input.keys());
  if (spec.kv_heads < 1 || spec.head_dim < 1 || spec.value_dim < 1 || spec.heads % spec.kv_heads != 0 || spec.heads < 1)
    throw SpecError(detail::text("attention of ", spec.heads, " heads of ", spec.head_dim, " and ", spec.value_dim,
                                 " over ", spec.kv_heads,
                                 " key/value heads: expected 1 or more of each, kv_heads dividing heads"));
  const auto name = [&](const char* rows) { return detail::text("layer ", input.layer, ": ", rows); };
  detail::require_shape(name("q"), input.q, input.queries(), spec.heads * spec.head_dim);
  detail::require_shape(name("k"), input.k, input.keys(), spec.kv_heads * spec.head_dim);
  detail::require_shape(name("v"), input.v, input.keys(), spec.kv_heads * spec.value_dim);
  detail::require_shape(name("the output"), out, input.queries(), spec.heads * spec.value_dim);
}

namespace detail {

/// Throws SpecError where scores are capped: an oracle gives its rows the softmax of their scores as they are.
inline void require_no_soft_cap(const AttentionSpec& spec) {
  if (spec.soft_cap != 0)
    throw SpecError(text("soft_cap is ", spec.soft_cap,
                         ": an oracle's softmax takes scores as they are; expected 0, or the kernel or direct "
                         "attention in its place"));
}

}  // namespace detail

/// The input of attention whose q, k and v are at hand, with no tokens or weights that they came from.
///
///   Shapes   q (N, heads * head_dim), k (NK, kv_heads * head_dim), v (NK, kv_heads * value_dim)
///   Corner   spec and rows must outlive the input. Nothing can be projected again: an oracle that is fed raw tokens
///            (TokenEncoding::raw) cannot take it.
template <RealScalar Scalar>
[[nodiscard]] AttentionInput<Scalar> projected_input(const AttentionSpec& spec, const MatrixView<Scalar>& q,
                                                     const MatrixView<Scalar>& k, const MatrixView<Scalar>& v) {
  static const AttentionWeights<Scalar> none;
  const MatrixView<Scalar> no_tokens(nullptr, 0, 0, Eigen::OuterStride<>(0));
  return {spec, 0, q, k, v, no_tokens, no_tokens, none};
}

namespace detail {

/// Throws SpecError where tokens are to be projected again and there are none.
template <RealScalar Scalar>
void require_tokens(const AttentionInput<Scalar>& input) {
  if (input.query_tokens.rows() != input.q.rows() || input.key_tokens.rows() != input.k.rows())
    throw SpecError("raw tokens are asked of an input that has none: expected projected tokens");
}

}  // namespace detail

/// Anything that evaluates a layer's attention into output rows (N, heads * value_dim).
template <class A, class Scalar>
concept Attend = requires(A& attend, const AttentionInput<Scalar>& input, MatrixSpan<Scalar> out) {
  attend(input, out);
};

}  // namespace twoheads
