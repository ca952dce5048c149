#pragma once

#include <twoheads/attention/input.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/model/weights.hpp>
#include <twoheads/mpi/ranks.hpp>
#include <twoheads/mpi/shared_keys.hpp>
#include <twoheads/plan/shares.hpp>

namespace twoheads {

/// What one layer hands to attention on ranks: the rank's own rows.
///
///   Shapes   q (own queries, heads * head_dim) in the order of the sequence; k (kv_heads * own keys, head_dim) and v
///            (kv_heads * own keys, value_dim) by head; sink_logits (1, heads) or empty
///   Corner   k and v lie without gaps between rows, since others read them. Views, spec and shares are references.
template <RealScalar Scalar>
struct RankInput {
  const AttentionSpec& spec;
  Index layer = 0;
  const RowShares& query_shares;
  const RowShares& key_shares;
  MatrixView<Scalar> q, k, v;
  MatrixView<Scalar> sink_logits = no_rows<Scalar>();
};

/// How attention on ranks takes the keys of others.
struct RankOptions {
  Index piece_keys = 4096;  ///< keys of one head that are fetched at a time; one piece is used while the next one comes
  Index work_bytes = Index{4} << 20;  ///< memory for blocks of queries that are worked on, for each thread
};

/// What attention on ranks took so far, on this rank.
struct RankCounts {
  MovedBytes moved;  ///< keys and values taken from others
  Index tiles = 0;   ///< of single heads, or parts of them
  Index calls = 0;   ///< of an oracle, repeats included
  Index repeats = 0;
  Index rounds = 0;  ///< the most of any rank
};

namespace detail {

/// Keys by head: a rank's own rows (own, kv_heads * dim) as others read them.
template <RealScalar Scalar>
[[nodiscard]] Matrix<Scalar> rows_by_head(const MatrixView<Scalar>& rows, Index kv_heads, Index dim) {
  require_shape("rows of all heads", rows, rows.rows(), kv_heads * dim);
  Matrix<Scalar> result(kv_heads * rows.rows(), dim);
  for (Index head = 0; head < kv_heads; ++head)
    result.middleRows(head * rows.rows(), rows.rows()) = rows.middleCols(head * dim, dim);
  return result;
}

/// Checks that a rank's rows fit the spec and the shares.
template <RealScalar Scalar>
void require_rank_rows(const Ranks& ranks, const RankInput<Scalar>& input, const MatrixSpan<Scalar>& out) {
  const AttentionSpec& spec = input.spec;
  spec.require_valid();
  for (const RowShares* shares : {&input.query_shares, &input.key_shares})
    if (shares->ranks() != ranks.size())
      throw SpecError(
          text("rows are shared by ", shares->ranks(), " ranks, expected those of the run, ", ranks.size()));
  spec.mask.require_defined(input.query_shares.rows(), input.key_shares.rows());
  const auto name = [&](const char* rows) { return text("layer ", input.layer, ": ", rows); };
  const Index own = input.query_shares.size(ranks.rank());
  require_shape(name("q of the rank"), input.q, own, spec.heads * spec.head_dim);
  require_shape(name("the rank's output"), out, own, spec.heads * spec.value_dim);
  SharedKeys<Scalar>::require_share(name("k of the rank").c_str(), input.k, input.key_shares, ranks.rank(),
                                    spec.kv_heads, spec.head_dim);
  SharedKeys<Scalar>::require_share(name("v of the rank").c_str(), input.v, input.key_shares, ranks.rank(),
                                    spec.kv_heads, spec.value_dim);
}

/// A rank's rows as an engine sees them, by the positions of one of its shares: no keys are held.
template <RealScalar Scalar>
[[nodiscard]] AttentionInput<Scalar> input_of_share(const RankInput<Scalar>& input, const RowShare& share) {
  static const AttentionWeights<Scalar> no_weights;
  const MatrixView<Scalar> none = no_rows<Scalar>();
  const HeldRows held{share.rows.begin - share.place, 0, input.key_shares.rows()};
  return {input.spec, input.layer, input.q, none, none, none, none, no_weights, held, false, input.sink_logits};
}

}  // namespace detail
}  // namespace twoheads
