#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <twoheads/attention/input.hpp>
#include <twoheads/attention/parts.hpp>
#include <twoheads/attention/reordered_keys.hpp>
#include <twoheads/base/byte_hash.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/model/model_hash.hpp>
#include <twoheads/model/weights.hpp>
#include <twoheads/mpi/ranks.hpp>
#include <twoheads/mpi/shared_keys.hpp>
#include <twoheads/plan/shares.hpp>
#include <twoheads/plan/visits.hpp>
#include <vector>

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
  const RowShares& query_shares;  ///< who has which queries
  const RowShares& key_shares;    ///< who has which keys
  MatrixView<Scalar> q, k, v;
  MatrixView<Scalar> sink_logits = no_rows<Scalar>();
};

/// How attention on ranks takes the keys of others.
struct RankOptions {
  /// Keys of one head that are fetched at a time; one piece is used while the next one comes. An oracle's calls come in
  /// portions of so many, on several threads of a few calls.
  Index piece_keys = default_piece_keys;
  /// Memory for queries that the kernel works on, for each thread: the more, the fewer keys are fetched.
  Index work_bytes = default_work_bytes;
};

/// Which of a rank's rows are to be evaluated, and who is told of those that are finished.
struct RankWork {
  std::vector<RowShare> wanted;                        ///< of the rank's own rows, in order, cut at atoms
  std::function<void(const RowShare&)> finished = {};  ///< with rows of the output that will not change any more

  /// All rows of a rank.
  [[nodiscard]] static RankWork all(const RowShares& shares, Index rank) {
    RankWork work;
    shares.for_each_own(rank, [&](const RowShare& share) { work.wanted.push_back(share); });
    return work;
  }
};

/// What this rank took so far for attention.
struct RankCounts {
  MovedBytes moved;          ///< keys and values taken from others
  double fetch_seconds = 0;  ///< for keys of others: to ask for them, and to wait where they were late
  Index calls = 0;           ///< of an oracle, repeats included
  Index repeats = 0;         ///< calls beyond the planned ones
};

namespace detail {

[[nodiscard]] inline std::uint64_t digest_of(const RowShares& shares) {
  ByteHash hash(static_cast<std::uint64_t>(shares.ranks()));
  for (const RowShare& share : shares.shares())
    for (const Index number : {share.rows.end, share.rank}) hash.add(static_cast<std::uint64_t>(number));
  return hash.value();
}

/// What a layer on ranks is about, in words that ranks compare.
template <RealScalar Scalar>
[[nodiscard]] std::string words_of(const RankInput<Scalar>& input, const std::string& attention) {
  return text("attends layer ", input.layer, " in ", 8 * sizeof(Scalar), " bits by ", attention, "; spec ",
              digest_of(input.spec), ", queries ", input.query_shares.rows(), " shared ", digest_of(input.query_shares),
              ", keys ", input.key_shares.rows(), " shared ", digest_of(input.key_shares), ", learned sinks ",
              input.sink_logits.size());
}

/// Where the parts of a layer end that attention on one rank would cut.
template <class A>
[[nodiscard]] std::vector<Index> part_ends_of(A&& serial, const AttentionSpec& spec, Index layer, Index tokens,
                                              Index least, bool log_weights) {
  begin_layer(serial, spec, layer, Rows{0, tokens}, tokens, log_weights);
  std::vector<Index> ends;
  for (Index begin = 0; begin < tokens; begin = ends.back()) {
    ends.push_back(serial.part_end(begin, least));
    serial.skip_part({begin, ends.back()});
  }
  return ends;
}

/// Checks that a rank's rows fit the spec and the shares.
template <RealScalar Scalar>
void require_rank_rows(const Ranks& ranks, const RankInput<Scalar>& input, const MatrixSpan<Scalar>& out) {
  const AttentionSpec& spec = input.spec;
  spec.require_valid();
  for (const RowShares* shares : {&input.query_shares, &input.key_shares}) require_shares_of(ranks, *shares);
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

/// Evaluates the only query there is where it lies, by attention that wants all keys in one place.
template <RealScalar Scalar, class AttendFn>
void attend_alone(const RankInput<Scalar>& input, const SharedKeys<Scalar>& keys, AttendFn&& attend,
                  MatrixSpan<Scalar>& out, RankCounts& counts) {
  if (input.q.rows() == 0) return;
  const AttentionSpec& spec = input.spec;
  const Index count = input.key_shares.rows();
  Matrix<Scalar> k(count, spec.kv_heads * spec.head_dim);
  Matrix<Scalar> v(count, spec.kv_heads * spec.value_dim);
  KeyPiece<Scalar> piece(keys);
  for (Index head = 0; head < spec.kv_heads; ++head) {
    const KeyRange range{head, {0, count}};
    piece.start(std::span<const KeyRange>(&range, 1), counts.moved, counts.fetch_seconds);
    piece.wait(counts.fetch_seconds);
    k.middleCols(head * spec.head_dim, spec.head_dim) = piece.key_rows(range);
    v.middleCols(head * spec.value_dim, spec.value_dim) = piece.value_rows(range);
  }
  AttentionInput<Scalar> whole = projected_input(spec, input.q, view(k), view(v));
  attend(AttentionInput<Scalar>{spec,
                                input.layer,
                                whole.q,
                                whole.k,
                                whole.v,
                                whole.query_tokens,
                                whole.key_tokens,
                                whole.weights,
                                {},
                                false,
                                input.sink_logits},
         out);
}

}  // namespace detail
}  // namespace twoheads
