#pragma once

#include <algorithm>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <twoheads/base/matrix.hpp>
#include <twoheads/model/weights.hpp>

namespace twoheads {

/// Which rows of a long input are held: all of them, or a part that moves along with the queries.
///
///   Corner   of a mask that reaches `left` keys back, keys are held from first_query - left - 1 on, or from 0: engines
///            read one key more than the first query sees
struct HeldRows {
  Index first_query = 0;  ///< position of the first row of q
  Index sinks = 0;        ///< first rows of k and v, at the positions 0 .. sinks - 1
  Index first_key = 0;    ///< position of the row of k and v that follows them

  /// Where the rows of some positions stand in q and query_tokens, and in k, v and key_tokens.
  [[nodiscard]] Rows query_place(Rows positions) const {
    return {positions.begin - first_query, positions.end - first_query};
  }
  /// The same of keys.
  [[nodiscard]] Rows key_place(Rows positions) const {
    const Index shift = positions.end <= sinks ? 0 : sinks - first_key;
    return {positions.begin + shift, positions.end + shift};
  }

  /// The position of a held row of q, and of one of k and v.
  [[nodiscard]] Index query_at(Index row) const { return row + first_query; }
  /// Of a row of k and v.
  [[nodiscard]] Index key_at(Index row) const { return row < sinks ? row : row - sinks + first_key; }
};

/// Numbers that are added to the scores of a layer, capped ones where scores are capped: an additive mask, relative
/// positions, a padding of keys. -infinity hides a pair, as a mask does.
///
///   Shapes   rows (H * Q, NK): H the heads, or 1 where all have the same; Q the queries held, or 1 where all have the
///            same; rows of a head stand together
template <class Scalar>
struct ScoreBias {
  MatrixView<Scalar> rows = no_rows<Scalar>();
  bool by_head = false;  ///< rows are those of each head in turn
  bool by_query = true;  ///< a row a query; false: one for all

  [[nodiscard]] bool empty() const { return rows.size() == 0; }  ///< whether nothing is added

  /// The numbers of one query of a head, for key 0 on; `query` counts the queries held, of which there are `queries`.
  [[nodiscard]] const Scalar* of(Index head, Index query, Index queries) const {
    const Index row = (by_head ? head * (by_query ? queries : 1) : 0) + (by_query ? query : 0);
    return rows.data() + row * rows.outerStride();
  }
};

/// Keys of one key/value head that follow each other, and their values, wherever they lie: rows without gaps.
template <class Scalar>
struct LentKeys {
  Index kv_head = 0;          ///< whose keys these are
  Rows keys;                  ///< positions in the sequence
  const Scalar* k = nullptr;  ///< row-major, head_dim columns
  const Scalar* v = nullptr;  ///< row-major, value_dim columns
};

/// What one layer hands to its attention: projected rows, and the tokens and weights that they came from.
///
///   Shapes   q (N, heads * head_dim), k (NK, kv_heads * head_dim), v (NK, kv_heads * value_dim), rotary positions
///            applied; query_tokens (N, width), key_tokens (NK, width): the rows before projection, normed unless
///            they are a memory; sink_logits (1, heads) or empty: see AttentionWeights::sinks
///            Rows are asked for by their position in the sequence, also where only a part of them is held.
///   Corner   queries stand at held.first_query and after; those of a chunk after `past` keys have held.first_query =
///            past. Views, spec and weights are references that live as long as the forward pass of this layer.
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
  MatrixView<Scalar> sink_logits = no_rows<Scalar>();
  ScoreBias<Scalar> bias = {};  ///< only where all keys are held
  /// Where there are any, key_rows() and value_rows() find their rows here alone; by key/value head, then by position,
  /// none twice. The rows asked for lie in one of them. For engines alone.
  std::span<const LentKeys<Scalar>> lent = {};

  [[nodiscard]] Index queries() const { return q.rows(); }                                    ///< queries held
  [[nodiscard]] Index keys() const { return by_head ? k.rows() / spec.kv_heads : k.rows(); }  ///< keys held

  /// Where the queries stand in the sequence, and how many keys it has with those that are not held.
  [[nodiscard]] Rows query_positions() const { return {held.first_query, held.first_query + queries()}; }
  /// Keys of the sequence, those that are not held among them.
  [[nodiscard]] Index key_positions() const { return keys() - held.sinks + held.first_key; }

  /// What is added to the scores of a query at a position, for the key at position 0 on; null where nothing is.
  [[nodiscard]] const Scalar* bias_of(Index head, Index position) const {
    return bias.empty() ? nullptr : bias.of(head, position - held.first_query, queries());
  }
  /// The logit of a head's learned sink; -infinity where there is none.
  [[nodiscard]] double sink_logit(Index head) const {
    return sink_logits.size() == 0 ? -std::numeric_limits<double>::infinity()
                                   : static_cast<double>(sink_logits(0, head));
  }

  /// Rows of one query head, and of the key/value head that it reads.
  [[nodiscard]] MatrixView<Scalar> query_rows(Index head, Rows rows) const {
    return block_view(q, held.query_place(rows), head * spec.head_dim, spec.head_dim);
  }
  /// Keys of a key/value head at these positions.
  [[nodiscard]] MatrixView<Scalar> key_rows(Index head, Rows rows) const {
    if (!lent.empty()) return lent_rows(&LentKeys<Scalar>::k, head, rows, spec.head_dim);
    return rows_of_head(k, head, rows, spec.head_dim);
  }
  /// Values of a key/value head at these positions.
  [[nodiscard]] MatrixView<Scalar> value_rows(Index head, Rows rows) const {
    if (!lent.empty()) return lent_rows(&LentKeys<Scalar>::v, head, rows, spec.value_dim);
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

 private:
  [[nodiscard]] MatrixView<Scalar> lent_rows(const Scalar* LentKeys<Scalar>::*first, Index head, Rows rows,
                                             Index dim) const {
    if (rows.empty()) return {nullptr, 0, dim, Eigen::OuterStride<>(dim)};
    const Index kv_head = spec.kv_head_of(head);
    const auto found =
        std::upper_bound(lent.begin(), lent.end(), rows.begin, [&](Index position, const LentKeys<Scalar>& run) {
          return run.kv_head == kv_head ? position < run.keys.end : run.kv_head > kv_head;
        });
    TWOHEADS_ASSERT(found != lent.end() && found->kv_head == kv_head && found->keys.begin <= rows.begin &&
                    rows.end <= found->keys.end);
    return {(*found).*first + (rows.begin - found->keys.begin) * dim, rows.size(), dim, Eigen::OuterStride<>(dim)};
  }
};

namespace detail {

/// Checks what is added to scores, and the logits of learned sinks.
template <RealScalar Scalar>
void require_score_terms(const AttentionInput<Scalar>& input) {
  const AttentionSpec& spec = input.spec;
  const auto name = [&](const char* what) { return text("layer ", input.layer, ": ", what); };
  if (input.sink_logits.size() > 0) {
    require_shape(name("the learned sinks"), input.sink_logits, 1, spec.heads);
    if (first_row_not_finite(input.sink_logits) >= 0)
      throw InputError(name("the logit of a learned sink is NaN or infinite"));
  }
  if (!spec.alibi.empty()) {
    if (static_cast<Index>(spec.alibi.size()) != spec.heads)
      throw SpecError(text("there are ", spec.alibi.size(), " ALiBi slopes, expected ", spec.heads, " or none"));
    const Mask& mask = spec.mask;
    const bool later = mask.kind == MaskKind::full || mask.kind == MaskKind::blocks ||
                       (mask.kind == MaskKind::band && mask.right > 0) ||
                       (mask.kind == MaskKind::documents && !mask.causal_documents);
    // One query after all keys sees none that follow it.
    if (later && input.query_positions().begin + 1 < input.key_positions())
      throw SpecError(text("ALiBi over a ", twoheads::name(mask.kind),
                           " mask, which shows later keys: its slopes are those of keys before the query"));
  }
  const ScoreBias<Scalar>& bias = input.bias;
  if (bias.empty()) return;
  if (input.held.first_key != 0)
    throw SpecError("a bias of scores over keys of which some are not held: expected all of them");
  require_shape(name("the bias of the scores"), bias.rows,
                (bias.by_head ? spec.heads : 1) * (bias.by_query ? input.queries() : 1), input.keys());
  for (Index row = 0; row < bias.rows.rows(); ++row)
    for (Index col = 0; col < bias.rows.cols(); ++col)
      // NaN fails both.
      if (!(bias.rows(row, col) <= std::numeric_limits<Scalar>::max()))
        throw InputError(text(name("the bias of the scores, row "), row, ", key ", col, " is ", bias.rows(row, col),
                              ", expected a number or -infinity"));
}

/// Checks that the rows held are in order, and that every key is among them that a query asks for: engines ask for one
/// key more before a window than it shows.
template <RealScalar Scalar>
void require_held(const AttentionInput<Scalar>& input) {
  const HeldRows& held = input.held;
  if (held.first_query < 0)
    throw SpecError(text("the first query held stands at position ", held.first_query, ", expected 0 or more"));
  if (held.sinks < 0 || held.sinks > input.keys())
    throw SpecError(text(held.sinks, " of the keys held are sinks, expected 0 to ", input.keys()));
  if (held.first_key < held.sinks)
    throw SpecError(text("the keys held behind ", counted(held.sinks, "sink"), " begin at position ", held.first_key,
                         ", expected ", held.sinks, " or more"));
  if (held.first_key == held.sinks) return;  // all keys are held
  const std::optional<MaskReach> reach = input.spec.mask.reach();
  if (!reach)
    throw SpecError(text("the keys ", held.sinks, "..", held.first_key - 1, " are not held, and a ",
                         name(input.spec.mask.kind), " mask may show any: expected all of them"));
  const Index before = std::max<Index>(held.first_query - reach->left - 1, 0);
  if (held.first_key > before || held.sinks < reach->sinks)
    throw SpecError(text("the keys held are ", counted(held.sinks, "sink"), " and those from position ", held.first_key,
                         " on, expected ", reach->sinks, " or more and those from ", before, " on: query ",
                         held.first_query, " sees ", reach->left, " keys before its own, and engines read one more"));
}

}  // namespace detail

/// Checks that q, k, v and out have the shapes that the spec asks for, and that rows are held which the mask shows; the
/// views are read without further checks.
///
///   Throws   SpecError, or ShapeError that names the layer and the rows
template <RealScalar Scalar>
void require_shapes(const AttentionInput<Scalar>& input, const MatrixSpan<Scalar>& out) {
  const AttentionSpec& spec = input.spec;
  spec.mask.require_defined(input.query_positions(), input.key_positions());
  if (spec.kv_heads < 1 || spec.head_dim < 1 || spec.value_dim < 1 || spec.heads % spec.kv_heads != 0 || spec.heads < 1)
    throw SpecError(detail::text("attention of ", spec.heads, " heads of ", spec.head_dim, " and ", spec.value_dim,
                                 " over ", spec.kv_heads,
                                 " key/value heads: expected 1 or more of each, kv_heads dividing heads"));
  const auto name = [&](const char* rows) { return detail::text("layer ", input.layer, ": ", rows); };
  detail::require_shape(name("q"), input.q, input.queries(), spec.heads * spec.head_dim);
  detail::require_shape(name("k"), input.k, input.keys(), spec.kv_heads * spec.head_dim);
  detail::require_shape(name("v"), input.v, input.keys(), spec.kv_heads * spec.value_dim);
  detail::require_shape(name("the output"), out, input.queries(), spec.heads * spec.value_dim);
  detail::require_held(input);
  detail::require_score_terms(input);
}

namespace detail {

/// Throws SpecError where scores are capped: an oracle gives its rows the softmax of their scores as they are.
inline void require_no_soft_cap(const AttentionSpec& spec) {
  if (spec.soft_cap != 0)
    throw SpecError(text("soft_cap is ", spec.soft_cap,
                         ": an oracle's softmax takes scores as they are; expected 0, or the kernel or direct "
                         "attention in its place"));
}

/// Throws SpecError where scores are more than products, for an evaluation that knows no more; `what` names it.
template <RealScalar Scalar>
void require_plain_scores(const AttentionInput<Scalar>& input, const char* what) {
  const auto refuse = [&](bool there, const char* term) {
    if (there) throw SpecError(text(what, " knows no ", term, ": expected scores that are products alone"));
  };
  refuse(input.spec.soft_cap != 0, "soft cap");
  refuse(!input.spec.alibi.empty(), "ALiBi");
  refuse(!input.bias.empty(), "bias of scores");
  refuse(input.sink_logits.size() > 0, "learned sinks");
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
  return {spec, 0, q, k, v, no_rows<Scalar>(), no_rows<Scalar>(), none};
}

namespace detail {

/// Throws SpecError where tokens are to be projected again and there are none.
template <RealScalar Scalar>
void require_tokens(const AttentionInput<Scalar>& input) {
  if (input.query_tokens.rows() != input.q.rows() || input.key_tokens.rows() != input.k.rows())
    throw SpecError("raw tokens are asked of an input that has none: expected projected tokens");
  const AttentionWeights<Scalar>& w = input.weights;
  if (input.spec.head_norm || w.bq.size() > 0 || w.bk.size() > 0 || w.bv.size() > 0)
    throw SpecError("raw tokens carry no biases of projections and no norms of heads: expected projected tokens");
}

}  // namespace detail

/// Anything that evaluates a layer's attention into output rows (N, heads * value_dim).
template <class A, class Scalar>
concept Attend = requires(A& attend, const AttentionInput<Scalar>& input, MatrixSpan<Scalar> out) {
  attend(input, out);
};

}  // namespace twoheads
