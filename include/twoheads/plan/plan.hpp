#pragma once

#include <algorithm>
#include <optional>
#include <span>
#include <string>
#include <twoheads/base/checked.hpp>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>
#include <twoheads/model/mask.hpp>
#include <twoheads/plan/anchor.hpp>
#include <twoheads/plan/blocks.hpp>
#include <twoheads/plan/causal.hpp>
#include <twoheads/plan/documents.hpp>
#include <twoheads/plan/full.hpp>
#include <twoheads/plan/limits.hpp>
#include <twoheads/plan/packing.hpp>
#include <twoheads/plan/paper_counts.hpp>
#include <twoheads/plan/sampled.hpp>
#include <twoheads/plan/straight.hpp>
#include <twoheads/plan/tile.hpp>
#include <twoheads/plan/window.hpp>
#include <utility>
#include <variant>
#include <vector>

namespace twoheads {

/// What is to be planned: a mask over so many tokens, heads and layers, on an oracle with these limits.
struct PlanRequest {
  Mask mask;
  Index tokens = 1;  ///< queries, N
  Index keys = 0;    ///< keys, NK; 0 stands for as many as queries and what stands before them
  Index heads = 1;   ///< query heads of the large model, H
  Index layers = 1;  ///< layers of the large model, L
  OracleLimits oracle;
  Anchor anchor = Anchor::mean_key;     ///< how a row's anchor is found
  Packing packing = Packing::residual;  ///< of instances over the layers of an oracle that has several
  Sampling sampling = {};               ///< full and causal masks; what it draws stands for what it does not
  /// Real tokens of a call, fewer than its rows; 0: as many as it takes. The plan is that of an oracle of block + 1
  /// rows, and calls are padded to the rows that the oracle takes.
  Index block = 0;
  Index past = 0;  ///< position of the first query: a chunk of a sequence that stands after so many tokens
  /// Partials must have log weights, since they are joined with what is not in the plan: no call of an oracle goes
  /// without its synthetic row.
  bool log_weights = false;
};

/// One tile of one head; a slot of a call carries one job, or several.
struct Job {
  Tile tile;
  Index head = 0;
  Index query_block = 0;  ///< its number, from 0
  Rows block_queries;     ///< the rows of the query block, of which the tile's are a part
  Index slot = 0;         ///< jobs of the same number share one head's place in a call
};

/// Tiles, jobs, calls and rounds for one mask on one oracle: a few integers that enumerate jobs lazily.
///
///   Laws     jobs come in a fixed order: query block, then head, then slot, then tile; a call takes the next
///            H' L' slots, whatever blocks and heads they belong to. With S slots a layer (slots * heads): calls =
///            L ceil(S / (H' L')), twice that for the Gibbs anchor, in as many rounds as layers (twice that).
///   Throws   SpecError for a mask, heads, layers or a sample that make no sense, for counts beyond 64 bits, or for a
///            triangle of more than 2^20 tokens that a plain oracle would have halved; LimitError for an oracle without
///            the limits that the plan or its packing needs
///   Source   Yu & Alman, Lemma 3.3 and Theorem 3.4 (whose printed count omits the ceilings and the sum over layers)
class Plan {
 public:
  explicit Plan(const PlanRequest& request) : request_(request) {
    if (request_.past < 0)
      throw SpecError(detail::text("the first query stands at position ", request_.past, ", expected 0 or more"));
    static_cast<void>(detail::checked_sum("the last position", request_.past, std::max<Index>(request_.tokens, 0)));
    if (request_.keys == 0) request_.keys = queries().end;
    request_.mask.require_defined(queries(), request_.keys);
    request_.oracle.require_valid();
    static_cast<void>(slots_per_call());
    if (request_.heads < 1) throw SpecError(detail::text("heads is ", request_.heads, ", expected 1 or more"));
    if (request_.layers < 1) throw SpecError(detail::text("layers is ", request_.layers, ", expected 1 or more"));
    if (request_.block < 0 || request_.block > most_block())
      throw SpecError(detail::text("blocks of ", request_.block, " tokens in calls of ", request_.oracle.rows,
                                   " rows, expected 1 to ", most_block()));
    choose_tiling();
  }

  [[nodiscard]] const PlanRequest& request() const { return request_; }         ///< as given, keys counted
  [[nodiscard]] const OracleLimits& oracle() const { return request_.oracle; }  ///< as asked for
  [[nodiscard]] Index tokens() const { return request_.tokens; }                ///< queries, N
  [[nodiscard]] Index keys() const { return request_.keys; }                    ///< NK
  /// Positions of the queries.
  [[nodiscard]] Rows queries() const { return {request_.past, request_.past + request_.tokens}; }
  [[nodiscard]] Anchor anchor() const { return request_.anchor; }  ///< how a row's anchor is found

  /// True where one call without a synthetic row shows every query its keys.
  [[nodiscard]] bool straight() const { return std::holds_alternative<StraightTiling>(tiling_); }

  /// Real tokens that a call takes beside the synthetic one, or that a block of the tile kernel has.
  [[nodiscard]] Index block() const { return request_.block > 0 ? request_.block : most_block(); }

  [[nodiscard]] Index query_blocks() const {
    return std::visit([](const auto& t) { return t.query_blocks(); }, tiling_);
  }
  [[nodiscard]] Rows queries_of(Index query_block) const {
    return std::visit([&](const auto& t) { return t.queries_of(query_block); }, tiling_);
  }

  /// The query blocks from `first` on that end at a position or before it.
  [[nodiscard]] Rows blocks_until(Index first, Index position) const {
    Rows blocks{first, first};
    while (blocks.end < query_blocks() && queries_of(blocks.end).end <= position) ++blocks.end;
    return blocks;
  }

  /// Tiles of one head of one layer, and the slots that they take.
  [[nodiscard]] Index tiles() const { return counts_.tiles; }
  [[nodiscard]] Index slots() const { return counts_.slots; }  ///< of a head and layer
  /// Jobs of all heads and layers; the Gibbs anchor evaluates each of them twice.
  [[nodiscard]] Index jobs() const { return jobs_per_layer() * request_.layers; }
  [[nodiscard]] Index jobs_per_layer() const { return tiles() * request_.heads; }   ///< of all heads
  [[nodiscard]] Index slots_per_layer() const { return slots() * request_.heads; }  ///< of all heads
  /// The most jobs that share a slot, kept apart by codes.
  [[nodiscard]] Index jobs_per_slot() const { return counts_.most_tiles; }
  /// Instances of one call, H' L' (an identity head takes one of H').
  [[nodiscard]] Index slots_per_call() const { return instances_per_call(request_.oracle, request_.packing); }

  /// Slots that an oracle is handed at once: those of limits().batch calls, as far as a layer has so many.
  [[nodiscard]] Index slots_per_batch() const {
    const Index call = std::max<Index>(std::min(slots_per_call(), slots_per_layer()), 1);
    return call * std::min(request_.oracle.batch, ceil_div(slots_per_layer(), call));
  }

  /// Planned calls of all layers; anchors that are unsafe add repeats.
  [[nodiscard]] Index calls() const {
    return request_.layers * rounds_per_layer() * ceil_div(slots_per_layer(), slots_per_call());
  }
  [[nodiscard]] Index rounds() const { return request_.layers * rounds_per_layer(); }  ///< of all layers
  /// 1, or 2 with the Gibbs anchor.
  [[nodiscard]] Index rounds_per_layer() const { return straight() ? 1 : planned_rounds(request_.anchor); }

  /// Share of the row slots of all calls that carry real tokens, 0..1; a call has rows * H' L' of them.
  [[nodiscard]] double rows_used() const {
    if (calls() == 0) return 0.0;  // no query sees a key
    const double used = static_cast<double>(counts_.token_rows) * static_cast<double>(request_.heads * rounds());
    const Index call_rows = request_.oracle.call_rows(most_rows());
    const double rows = static_cast<double>(call_rows) * static_cast<double>(slots_per_call());
    return used / (rows * static_cast<double>(calls()));
  }

  /// True where all visible pairs are evaluated: always, but for plans that draw a sample of them.
  [[nodiscard]] bool exact() const { return sampled() == nullptr; }

  /// The tiling that draws a sample, or nothing where the plan is exact.
  [[nodiscard]] const SampledTiling* sampled() const { return std::get_if<SampledTiling>(&tiling_); }

  /// For each key position of the plan's tiles, the key that stands there;
  /// empty where that is the key of the same number.
  [[nodiscard]] std::vector<Index> key_order() const {
    return sampled() != nullptr && sampled()->permutes_keys() ? sampled()->key_order() : std::vector<Index>{};
  }

  /// The result of the paper that the plan rests on.
  [[nodiscard]] std::string theorem() const {
    if (straight()) return "none needed: the input fits one call";
    if (sampled() != nullptr)
      return sampled()->has_exact_part() ? "Theorem 4.1 beside an exact near field" : "Theorem 4.1";
    if (request_.oracle.kind == OracleKind::kernel) return "Lemma 3.1: tiles of disjoint keys are joined";
    const bool causal_oracle = request_.oracle.kind == OracleKind::causal;
    switch (planned_mask().kind) {
      case MaskKind::full:
        break;
      case MaskKind::causal:
        return causal_oracle ? "Theorem 3.5 (Claim B.6)"
                             : "Theorem 3.5 without a causal oracle: diagonal blocks halved";
      case MaskKind::window:
        return causal_oracle ? "Theorem 5.1 without subtraction" : "Theorem 5.1 on a plain oracle: triangles halved";
      case MaskKind::sinks:
        return causal_oracle ? "Theorem 5.1 with sinks, without subtraction"
                             : "Theorem 5.1 with sinks on a plain oracle: triangles halved";
      case MaskKind::band:
        return "the triangles of Theorem 5.1 on both sides";
      case MaskKind::documents:
        return "Theorem 4.2's codes for short documents, Theorems 3.4 and 3.5 for long ones";
      case MaskKind::blocks:
        return "Lemma 3.1 on the blocks that are there";
    }
    if (const auto* full = std::get_if<FullTiling>(&tiling_); full != nullptr && full->queries_last())
      return "Lemma 3.1 with the queries after the keys";
    if (causal_oracle) return "Lemma 3.1 on the triangles of Theorem 3.5";
    return request_.heads == 1 && request_.layers == 1 ? "Lemma 3.1" : "Theorem 3.4";
  }

  /// Calls of the paper's own construction for the same case, or none where it has none, as for a sample of more than
  /// one key block a query block. Its packing over layers is counted as printed, also where there is no residual sum.
  [[nodiscard]] std::optional<Index> paper_calls() const {
    const Sampling& drawn = request_.sampling;
    if (request_.past > 0 || (sampled() && (drawn.samples > 1 || drawn.near > 0 || drawn.sinks > 0))) return {};
    OracleLimits oracle = request_.oracle;
    oracle.residual = false;
    return twoheads::paper_calls(
        {request_.mask, request_.tokens, request_.keys, request_.heads, request_.layers, oracle, sampled() != nullptr});
  }

  /// Calls visit(tiles) for the slots of one query block, in their fixed order. Where a sample is drawn, each head has
  /// its own; otherwise the tiles of all heads are the same.
  template <class Visit>
  void for_each_slot(Index query_block, Index head, Visit&& visit) const {
    if (sampled() != nullptr) return sampled()->for_each_slot(query_block, head, visit);
    std::visit([&](const auto& t) { t.for_each_slot(query_block, visit); }, tiling_);
  }
  template <class Visit>
  void for_each_slot(Index query_block, Visit&& visit) const {
    for_each_slot(query_block, 0, visit);
  }

  /// Calls visit(run) for the row counts of the same slots, in the same order: see SlotRun. `memory` serves all blocks.
  template <class Visit>
  void for_each_run(Index query_block, Index head, Visit&& visit, detail::TriangleRuns& memory) const {
    if (sampled() != nullptr) return sampled()->for_each_run(query_block, head, visit);
    const auto ask = [&](const auto& tiling) {
      if constexpr (requires { tiling.for_each_run(query_block, visit, memory); })
        tiling.for_each_run(query_block, visit, memory);
      else
        tiling.for_each_run(query_block, visit);
    };
    std::visit(ask, tiling_);
  }

  /// The end of the query blocks from `query_block` on whose slots have the same row counts, in each head.
  [[nodiscard]] Index alike_until(Index query_block) const {
    return std::visit([&](const auto& t) { return t.alike_until(query_block); }, tiling_);
  }

  /// Rows of the slots of one head of a layer together, the synthetic ones included.
  [[nodiscard]] Index slot_rows() const { return counts_.token_rows + (straight() ? 0 : counts_.slots); }
  /// Rows of all slots of a head and layer that carry tokens.
  [[nodiscard]] Index token_rows() const { return counts_.token_rows; }

  /// Calls visit(tile) for the tiles of one query block, in their fixed order.
  template <class Visit>
  void for_each_tile(Index query_block, Visit&& visit) const {
    for_each_slot(query_block, [&](std::span<const Tile> slot) {
      for (const Tile& tile : slot) visit(tile);
    });
  }

  /// The same for one head, rectangles over neighbouring keys as one: the tile kernel has its own blocks of keys.
  template <class Visit>
  void for_each_joined_tile(Index query_block, Index head, Visit&& visit) const {
    Tile pending;
    const auto flush = [&] {
      if (!pending.keys.empty()) visit(std::as_const(pending));
      pending = {};
    };
    for_each_slot(query_block, head, [&](std::span<const Tile> slot) {
      for (const Tile& tile : slot) {
        const bool joins = tile.shape == TileShape::rectangle && pending.shape == TileShape::rectangle &&
                           tile.queries == pending.queries && tile.keys.begin == pending.keys.end &&
                           tile.sinks.empty() && !tile.sampled() && !pending.sampled();
        if (joins) {
          pending.keys.end = tile.keys.end;
        } else {
          flush();
          pending = tile;
        }
      }
    });
    flush();
  }

  /// Calls visit(job) for all jobs of one layer, in their fixed order.
  template <class Visit>
  void for_each_job(Visit&& visit) const {
    for_each_job({0, query_blocks()}, visit);
  }

  /// The same for some of the query blocks; slots are numbered from 0.
  template <class Visit>
  void for_each_job(Rows blocks, Visit&& visit) const {
    Index number = 0;
    for (Index block = blocks.begin; block < blocks.end; ++block)
      for (Index head = 0; head < request_.heads; ++head) for_each_job(block, head, number, visit);
  }

  /// The same for one head of one query block, whose first slot has that number; it becomes that of the slot after
  /// the last.
  template <class Visit>
  void for_each_job(Index query_block, Index head, Index& number, Visit&& visit) const {
    const Rows queries = queries_of(query_block);
    for_each_slot(query_block, head, [&](std::span<const Tile> slot) {
      for (const Tile& tile : slot) visit(Job{tile, head, query_block, queries, number});
      ++number;
    });
  }

 private:
  [[nodiscard]] Index most_block() const {
    // A kernel without a limit: tilings count one row more than a block has tokens.
    if (request_.oracle.kind == OracleKind::kernel) return std::min(request_.oracle.rows, OracleLimits::unlimited - 1);
    return request_.oracle.rows - 1;
  }
  /// Most rows that a slot takes.
  [[nodiscard]] Index most_rows() const { return block() + (request_.oracle.kind == OracleKind::kernel ? 0 : 1); }

  void choose_tiling() {
    const Index n = request_.tokens;
    const OracleLimits& oracle = request_.oracle;
    const bool causal_oracle = oracle.kind == OracleKind::causal;
    const Mask mask = planned_mask();
    const bool own_kind = (mask.kind == MaskKind::full && !causal_oracle) ||
                          (mask.kind == MaskKind::causal && oracle.kind != OracleKind::plain);
    // What a slot holds beside a synthetic row is a block of tokens: of the kernel, all that it has.
    const Index rows = block() + 1;
    require_countable(mask, mask.kind != MaskKind::full && !own_kind);
    const bool sample = draws(mask);
    const Index past = request_.past;
    const Index end = queries().end;
    // A lower triangle has its first query on its first key.
    const bool aligned = mask.kind == MaskKind::full || past == 0;
    const bool weighs = oracle.kind == OracleKind::kernel || !request_.log_weights;
    if (own_kind && aligned && weighs && std::max(n, request_.keys) <= most_rows())
      tiling_ = StraightTiling{n, request_.keys,
                               mask.kind == MaskKind::causal ? TileShape::lower : TileShape::rectangle, past};
    else if (sample)
      tiling_ = sampled_tiling(mask);
    else if (mask.kind == MaskKind::full)
      tiling_ = FullTiling{n, request_.keys, block(), oracle.kind, past};
    else if (mask.kind == MaskKind::causal && causal_oracle && past == 0)
      tiling_ = CausalTiling{n, block()};
    else if (mask.kind == MaskKind::documents)
      tiling_ = DocumentsTiling(mask.ends, mask.causal_documents, rows, oracle.kind);
    else if (mask.kind == MaskKind::blocks)
      tiling_ = BlocksTiling(mask, block(), oracle.kind);
    else if (mask.kind == MaskKind::causal)
      tiling_ = WindowTiling{end, end - 1, 0, 0, rows, oracle.kind, past};
    else if (mask.kind == MaskKind::band)
      tiling_ = WindowTiling{end, mask.left, mask.right, 0, rows, oracle.kind, past};
    else
      tiling_ = WindowTiling{end, mask.window - 1, 0, mask.sinks, rows, oracle.kind, past};
    counts_ = std::visit([](const auto& t) { return t.counts(); }, tiling_);
    if (mask.kind == MaskKind::blocks) {
      const Index jobs = detail::checked_product("the number of jobs", counts_.tiles, request_.heads);
      static_cast<void>(detail::checked_product(
          "the number of calls", detail::checked_product("the number of calls", 4, jobs), request_.layers));
    }
  }

  /// The plainest mask that shows the same pairs. One query that comes after others sees every key.
  [[nodiscard]] Mask planned_mask() const {
    const Mask mask = request_.mask.simplified(queries().end);
    return mask.kind == MaskKind::causal && request_.tokens == 1 && request_.past > 0 ? Mask::full() : mask;
  }

  /// Whether a sample is drawn, of a mask that can be sampled.
  [[nodiscard]] bool draws(const Mask& mask) const {
    if (request_.sampling.samples == 0) {
      if (request_.sampling.near != 0 || request_.sampling.sinks != 0)
        throw SpecError("an exact near field is part of a sampled plan: expected samples, 1 or more");
      return false;
    }
    if (mask.kind != MaskKind::full && mask.kind != MaskKind::causal)
      throw SpecError(detail::text("a sample of a ", name(mask.kind), " mask is not planned: expected full or causal"));
    if (request_.past > 0)
      throw SpecError(detail::text("a sample for queries after ", request_.past, " tokens is not planned: expected 0"));
    const SampledTiling tiling = sampled_tiling(mask);
    tiling.require_valid();
    return !tiling.exact();
  }

  [[nodiscard]] SampledTiling sampled_tiling(const Mask& mask) const {
    return {request_.tokens,  request_.keys, block(), request_.oracle.kind, mask.kind == MaskKind::causal,
            request_.sampling};
  }

  /// Throws SpecError where 64 bits might not hold a count. Four calls a pair of blocks is the most that any count asks
  /// for, and every row meets every block twice at most; triangles that are halved add a few tiles for each token.
  void require_countable(const Mask& mask, bool triangles) const {
    if (mask.kind == MaskKind::blocks) return;  // its tiles are counted one by one
    const Index query_parts = ceil_div(request_.tokens, block());
    Index key_parts = ceil_div(request_.keys, block());
    const std::optional<MaskReach> reach = mask.reach(queries().end);
    if (reach)
      key_parts = std::min(key_parts, reach->left / block() + reach->right / block() +
                                          std::min(reach->sinks, request_.tokens) / block() + 4);
    const auto product = [](const char* what, Index a, Index b) { return detail::checked_product(what, a, b); };
    const Index pairs = product("the number of tiles", query_parts, key_parts);
    const Index small = triangles ? product("the number of tiles", 4, request_.tokens) : 0;
    const Index jobs = product("the number of jobs", std::max(pairs, small), request_.heads);
    static_cast<void>(product("the number of calls", product("the number of calls", 4, request_.layers), jobs));
    // A triangle that is halved has its rows in two tiles for each of up to 62 levels.
    const Index meetings = reach ? std::max<Index>(key_parts, 64) : std::max(query_parts, key_parts);
    static_cast<void>(product("the number of rows", product("the number of rows", 4, meetings),
                              std::max(request_.tokens, request_.keys)));
  }

  PlanRequest request_;
  std::variant<StraightTiling, FullTiling, CausalTiling, WindowTiling, DocumentsTiling, BlocksTiling, SampledTiling>
      tiling_;
  TilingCounts counts_;
};

}  // namespace twoheads
