#pragma once

#include <algorithm>
#include <optional>
#include <string>
#include <twoheads/attention/forward.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/base/version.hpp>
#include <twoheads/model/model_hash.hpp>
#include <twoheads/mpi/own_rows.hpp>
#include <twoheads/mpi/rank_input.hpp>
#include <twoheads/mpi/ranks.hpp>
#include <twoheads/plan/shares.hpp>
#include <type_traits>
#include <utility>
#include <vector>

namespace twoheads {

/// Rows that keys and values of all layers come from, in place of the model's own (cross-attention).
///
///   Shapes   own (own rows of `shares`, width)
template <RealScalar Scalar>
struct RankMemory {
  const RowShares& shares;
  const Matrix<Scalar>& own;
};

namespace detail {

/// Where the blocks of rows that products take at once begin anew, in the serial forward pass of a layer.
struct LayerStarts {
  std::vector<Index> queries{0};
  std::vector<Index> keys{0};
};

template <class AttendFn>
[[nodiscard]] LayerStarts starts_of(const AttendFn& attend, const ModelSpec& spec, const AttentionSpec& attention,
                                    Index layer, Index tokens, bool log_weights) {
  LayerStarts starts;
  const std::optional<PartRule> rule = part_rule(attention.mask, tokens, spec.width);
  if (!rule) return starts;
  starts.queries = starts.keys = {};
  Index begin = 0;
  Index known = 0;  // keys projected so far
  for (const Index end : attend.part_ends(attention, layer, tokens, rule->least, log_weights)) {
    starts.queries.push_back(std::exchange(begin, end));
    const Index keys = std::min(end + rule->reach.right, tokens);
    if (keys > known) starts.keys.push_back(std::exchange(known, keys));
  }
  return starts;
}

}  // namespace detail

/// Runs the large transformer over rows that lie on several ranks: attention alone asks for the rows of others, and is
/// the caller's choice (KernelOnRanks, GridOnRanks).
///
///   Shapes   x, result (own rows, width): the rank's rows of `shares`, in the order of the sequence
///   Laws     rows have the bits of forward(model, x, attend, memory) on one rank, for any shares
///   Corner   all ranks call it together, with the same model and shares; that they do is checked first
///   Throws   on every rank, as Ranks::together(): what forward() throws, and SpecError where ranks differ in model,
///            scalar, shares or library, or are not as many as share the rows
template <RealScalar Scalar, class AttendFn>
[[nodiscard]] Matrix<Scalar> forward_on_ranks(const Model<Scalar>& model, Matrix<Scalar> x, const RowShares& shares,
                                              AttendFn& attend,
                                              const RankMemory<std::type_identity_t<Scalar>>* memory = nullptr) {
  Ranks& ranks = attend.ranks();
  const ModelSpec& spec = model.spec;
  const Index rank = ranks.rank();
  const Index tokens = shares.rows();
  const RowShares& key_shares = memory == nullptr ? shares : memory->shares;
  std::string words;
  ranks.together([&] {
    require_shapes(model);
    words = detail::text("(twoheads ", version, ", ", Eigen::SimdInstructionSetsInUse(), ") evaluates ",
                         8 * sizeof(Scalar), "-bit rows of ", tokens, " tokens and ", key_shares.rows(),
                         memory == nullptr ? " keys of their own" : " keys of a memory", " on ", shares.ranks(),
                         " ranks, shares ", detail::digest_of(shares), " ", detail::digest_of(key_shares), ", model ",
                         detail::digest_of(model), ", by ", attend.words());
  });
  ranks.require_same(words);
  ranks.together([&] {
    for (const RowShares* known : {&shares, &key_shares}) detail::require_shares_of(ranks, *known);
    detail::require_shape("the rank's input", x, shares.size(rank), spec.width);
    if (memory != nullptr) {
      detail::require_shape("the rank's memory", memory->own, key_shares.size(rank), spec.width);
      if (spec.attention.rope)
        throw SpecError("rotary positions over a memory are undefined: expected a model without rope");
    }
    for (Index index = 0; index < spec.layers; ++index) {
      const AttentionSpec a = spec.attention_of(index);
      a.mask.require_defined(tokens, key_shares.rows());
      const bool log_weights = model.layers[static_cast<std::size_t>(index)].attention.sinks.size() > 0;
      attend.require_shares(a, index, shares, key_shares.rows(), log_weights);
    }
    if (model.input_mlp)
      shares.for_each_own(rank, [&](const RowShare& share) {
        model.input_mlp(share.rows.begin,
                        block_span(span(x), {share.place, share.place + share.rows.size()}, 0, x.cols()));
      });
  });

  for (Index index = 0; index < spec.layers; ++index) {
    const LayerWeights<Scalar>& layer = model.layers[static_cast<std::size_t>(index)];
    const AttentionSpec a = spec.attention_of(index);
    const bool log_weights = layer.attention.sinks.size() > 0;
    detail::LayerStarts starts;
    Matrix<Scalar> q, k, v, mixed;
    ranks.together([&] {
      if (memory == nullptr) starts = detail::starts_of(attend, spec, a, index, tokens, log_weights);
      const Matrix<Scalar> rows = detail::attention_tokens(spec, layer, view(x));
      const MatrixView<Scalar> sources = memory == nullptr ? view(rows) : view(memory->own);
      q = detail::map_own_rows(
          view(rows), shares, rank, starts.queries, a.heads * a.head_dim,
          [&](const MatrixView<Scalar>& block, Index first) { return queries_of(a, layer.attention, block, first); });
      k = detail::map_own_rows(
          sources, key_shares, rank, starts.keys, a.kv_heads * a.head_dim,
          [&](const MatrixView<Scalar>& block, Index first) { return keys_of(a, layer.attention, block, first); });
      k = rows_by_head(view(k), a.kv_heads, a.head_dim);
      v = detail::map_own_rows(
          sources, key_shares, rank, starts.keys, a.kv_heads * a.value_dim,
          [&](const MatrixView<Scalar>& block, Index) { return values_of(a, layer.attention, block); });
      v = rows_by_head(view(v), a.kv_heads, a.value_dim);
      mixed.resize(x.rows(), a.heads * a.value_dim);
    });
    attend(RankInput<Scalar>{a, index, shares, key_shares, view(q), view(k), view(v), view(layer.attention.sinks)},
           span(mixed));
    q.resize(0, 0);
    k.resize(0, 0);
    v.resize(0, 0);
    ranks.together([&] {
      detail::for_each_run(shares, rank, starts.queries, [&](const detail::RowRun& run) {
        const Rows place{run.place, run.place + run.own.size()};
        if (run.rows == run.own)
          return detail::finish_rows(spec, layer, Matrix<Scalar>(mixed.middleRows(place.begin, place.size())),
                                     run.rows.begin, block_span(span(x), place, 0, x.cols()));
        Matrix<Scalar> rows = detail::in_blocks(view(x), run);
        detail::finish_rows(spec, layer, detail::in_blocks(view(mixed), run), run.rows.begin, span(rows));
        x.middleRows(place.begin, place.size()) = rows.middleRows(run.own.begin - run.rows.begin, place.size());
      });
    });
  }
  ranks.together([&] { detail::final_norm_in_place(model, x); });
  return x;
}

}  // namespace twoheads
