#pragma once

#include <string>
#include <twoheads/base/checked.hpp>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>
#include <twoheads/model/mask.hpp>
#include <twoheads/plan/anchor.hpp>
#include <twoheads/plan/causal.hpp>
#include <twoheads/plan/full.hpp>
#include <twoheads/plan/limits.hpp>
#include <twoheads/plan/tile.hpp>
#include <utility>
#include <variant>

namespace twoheads {

/// What is to be planned: a mask over so many tokens, heads and layers, on an oracle with these limits.
struct PlanRequest {
  Mask mask;
  Index tokens = 1;  ///< queries, N
  Index keys = 0;    ///< keys, NK; 0 stands for as many as queries
  Index heads = 1;   ///< query heads of the large model, H
  Index layers = 1;  ///< layers of the large model, L
  OracleLimits oracle;
  Anchor anchor = Anchor::mean_key;
};

/// One tile of one head: a single-head instance inside an oracle call.
struct Job {
  Tile tile;
  Index head = 0;
  Index query_block = 0;
};

/// Tiles, jobs, calls and rounds for one mask on one oracle: a few integers that enumerate jobs lazily.
///
///   Laws     jobs come in a fixed order: query block, then head, then tile; a call takes the next H' of them,
///            whatever blocks and heads they belong to. With J jobs a layer (tiles * heads): calls = L ceil(J / H'),
///            twice that for the Gibbs anchor, in as many rounds as layers (twice that). All counts are O(1).
///   Source   Yu & Alman, Lemma 3.3 and Theorem 3.4 (whose printed count omits the ceilings and the sum over layers)
class Plan {
 public:
  explicit Plan(const PlanRequest& request) : request_(request) {
    if (request_.keys == 0) request_.keys = request_.tokens;
    request_.mask.require_defined(request_.tokens, request_.keys);
    request_.oracle.require_valid();
    if (request_.heads < 1) throw SpecError(detail::text("heads is ", request_.heads, ", expected 1 or more"));
    if (request_.layers < 1) throw SpecError(detail::text("layers is ", request_.layers, ", expected 1 or more"));
    choose_tiling();
  }

  [[nodiscard]] const PlanRequest& request() const { return request_; }
  [[nodiscard]] const OracleLimits& oracle() const { return request_.oracle; }
  [[nodiscard]] Index tokens() const { return request_.tokens; }
  [[nodiscard]] Index keys() const { return request_.keys; }
  [[nodiscard]] Anchor anchor() const { return request_.anchor; }

  /// True where one call without a synthetic row shows every query its keys.
  [[nodiscard]] bool straight() const { return std::holds_alternative<StraightTiling>(tiling_); }

  /// Real tokens that a call takes beside the synthetic one.
  [[nodiscard]] Index block() const { return request_.oracle.rows - 1; }

  [[nodiscard]] Index query_blocks() const {
    return ask([](const auto& t) { return t.query_blocks(); });
  }
  [[nodiscard]] Rows queries_of(Index query_block) const {
    return std::visit([&](const auto& t) { return t.queries_of(query_block); }, tiling_);
  }

  /// Tiles of one head of one layer.
  [[nodiscard]] Index tiles() const {
    return ask([](const auto& t) { return t.tiles(); });
  }
  /// Jobs of all heads and layers; the Gibbs anchor evaluates each of them twice.
  [[nodiscard]] Index jobs() const { return jobs_per_layer() * request_.layers; }
  [[nodiscard]] Index jobs_per_layer() const { return tiles() * request_.heads; }
  /// Single-head instances that a call carries.
  [[nodiscard]] Index jobs_per_call() const { return request_.oracle.heads; }

  [[nodiscard]] Index calls() const {
    return request_.layers * rounds_per_layer() * ceil_div(jobs_per_layer(), jobs_per_call());
  }
  [[nodiscard]] Index rounds() const { return request_.layers * rounds_per_layer(); }
  [[nodiscard]] Index rounds_per_layer() const { return straight() ? 1 : planned_rounds(request_.anchor); }

  /// Share of the row slots of all calls that carry real tokens, 0..1; a call has rows * H' slots.
  [[nodiscard]] double rows_used() const {
    const auto rows = static_cast<double>(ask([](const auto& t) { return t.token_rows(); }));
    const double used = rows * static_cast<double>(request_.heads * rounds());
    const double slots = static_cast<double>(request_.oracle.rows) * static_cast<double>(jobs_per_call());
    return used / (slots * static_cast<double>(calls()));
  }

  /// Every plan of this type evaluates all visible pairs; sampled plans would not.
  [[nodiscard]] bool exact() const { return true; }

  /// The result of the paper that the plan rests on.
  [[nodiscard]] std::string theorem() const {
    if (straight()) return "none needed: the input fits one call";
    if (request_.mask.kind == MaskKind::causal) return "Theorem 3.5 (Claim B.6)";
    if (request_.oracle.kind == OracleKind::causal) return "Lemma 3.1 on the triangles of Theorem 3.5";
    return request_.heads == 1 && request_.layers == 1 ? "Lemma 3.1" : "Theorem 3.4";
  }

  /// Calls of the paper's own construction: a denominator call and a ratio call for each tile that it cuts, also
  /// where a triangle is empty or one call would do. Full attention on a causal oracle is not in the paper; counted
  /// are its four calls a pair of blocks.
  [[nodiscard]] Index paper_calls() const {
    const Index pairs = ceil_div(request_.tokens, block()) * ceil_div(request_.keys, block());
    const bool halves = request_.mask.kind == MaskKind::full && request_.oracle.kind == OracleKind::causal;
    const Index calls_of_a_head = (halves ? 4 : 2) * pairs;
    // ceil(ceil(x / H') / L') = ceil(x / (H' L')), and H' L' may be more than 64 bits hold.
    const Index calls_of_a_layer =
        ceil_div(ceil_div(calls_of_a_head * request_.heads, request_.oracle.heads), request_.oracle.layers);
    return calls_of_a_layer * request_.layers;
  }

  /// Calls visit(tile) for the tiles of one query block, in their fixed order.
  template <class Visit>
  void for_each_tile(Index query_block, Visit&& visit) const {
    std::visit([&](const auto& t) { t.for_each_tile(query_block, visit); }, tiling_);
  }

  /// Calls visit(job) for all jobs of one layer, in their fixed order.
  template <class Visit>
  void for_each_job(Visit&& visit) const {
    for (Index block = 0; block < query_blocks(); ++block)
      for (Index head = 0; head < request_.heads; ++head)
        for_each_tile(block, [&](const Tile& tile) { visit(Job{tile, head, block}); });
  }

 private:
  template <class Question>
  [[nodiscard]] Index ask(const Question& question) const {
    return std::visit(question, tiling_);
  }

  void choose_tiling() {
    const Index n = request_.tokens;
    const OracleKind kind = request_.oracle.kind;
    const bool causal = request_.mask.kind == MaskKind::causal;
    const bool own_kind = causal == (kind == OracleKind::causal);
    if (request_.mask.kind != MaskKind::full && !causal)
      throw LimitError(detail::text("a ", name(request_.mask.kind), " mask is not built yet"));
    if (causal && !own_kind)
      throw LimitError("a causal mask on a plain oracle is not built yet: expected a causal oracle");
    // Four calls a pair of blocks is the most that any count asks for, and every row meets every block twice at most.
    const Index query_parts = ceil_div(n, block());
    const Index key_parts = ceil_div(request_.keys, block());
    const auto product = [](const char* what, Index a, Index b) { return detail::checked_product(what, a, b); };
    const Index pairs = product("the number of tiles", query_parts, key_parts);
    const Index jobs = product("the number of jobs", pairs, request_.heads);
    static_cast<void>(product("the number of calls", product("the number of calls", 4, request_.layers), jobs));
    static_cast<void>(product("the number of rows", product("the number of rows", 4, std::max(query_parts, key_parts)),
                              std::max(n, request_.keys)));
    if (own_kind && std::max(n, request_.keys) <= request_.oracle.rows)
      tiling_ = StraightTiling{n, request_.keys, causal ? TileShape::lower : TileShape::rectangle};
    else if (causal)
      tiling_ = CausalTiling{n, block()};
    else
      tiling_ = FullTiling{n, request_.keys, block(), kind};
  }

  PlanRequest request_;
  std::variant<StraightTiling, FullTiling, CausalTiling> tiling_;
};

}  // namespace twoheads
