#pragma once

#include <algorithm>
#include <span>
#include <string>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>
#include <twoheads/plan/plan.hpp>
#include <vector>

namespace twoheads {
namespace detail {

/// What is wrong with the keys that the tiles show one query, or nothing.
[[nodiscard]] inline std::string cover_of_row(Index query, const VisibleKeys& visible, std::vector<Rows>& shown) {
  std::sort(shown.begin(), shown.end(), [](const Rows& a, const Rows& b) { return a.begin < b.begin; });
  // Sinks that no gap parts from the other keys are one range with them.
  const bool apart = !visible.sinks.empty() && visible.sinks.end < visible.keys.begin;
  Rows range = apart || visible.sinks.empty() ? visible.keys : Rows{visible.sinks.begin, visible.keys.end};
  if (apart) range = visible.sinks;
  Index next = range.begin;
  bool last = !apart;
  for (const Rows& keys : shown) {
    if (!last && keys.begin >= visible.keys.begin) {
      if (next < range.end) return text("query ", query, ": key ", next, " lies in no tile");
      range = visible.keys;
      next = range.begin;
      last = true;
    }
    if (keys.begin < range.begin || keys.end > range.end)
      return text("query ", query, ": a tile shows hidden keys, ", keys.begin, "..", keys.end - 1);
    if (keys.begin < next) return text("query ", query, ": key ", keys.begin, " lies in two tiles");
    if (keys.begin > next) return text("query ", query, ": key ", next, " lies in no tile");
    next = keys.end;
  }
  if (next < range.end || !last)
    return text("query ", query, ": key ", next < range.end ? next : visible.keys.begin, " lies in no tile");
  return {};
}

/// What is wrong with a slot as a place in a call of the plan's oracle, or nothing.
[[nodiscard]] inline std::string fault_of_slot(const Plan& plan, std::span<const Tile> slot) {
  if (slot.empty()) return "a slot holds no tile";
  const bool causal = plan.oracle().kind == OracleKind::causal;
  Index rows = plan.straight() ? 0 : 1 + slot.front().sinks.size();
  for (const Tile& tile : slot) {
    rows += tile.token_rows();
    if (tile.sinks != slot.front().sinks) return text("tiles of other sinks than its first share a slot: a ", tile);
    if (!causal && tile.shape != TileShape::rectangle) return text("a plain oracle cannot evaluate a ", tile);
    if (causal && tile.shape == TileShape::rectangle) return text("a causal oracle cannot evaluate a ", tile);
  }
  if (rows > plan.oracle().rows) return text("a slot takes ", rows, " rows, a call has ", plan.oracle().rows);
  return {};
}

}  // namespace detail

/// Enumerates the plan and compares it with its mask: "exact", or a sentence that names the first fault.
///
///   Laws   exact means: every visible pair lies in exactly one tile, no hidden pair in any; each slot fits a call
///          of the oracle; the plan's closed-form counts are what enumeration finds. No floating point. Extra memory O(block
///          * tiles of a block).
[[nodiscard]] inline std::string check_cover(const Plan& plan) {
  Index next_query = 0;
  TilingCounts found;
  for (Index block = 0; block < plan.query_blocks(); ++block) {
    const Rows queries = plan.queries_of(block);
    if (queries.begin != next_query || queries.empty())
      return detail::text("query block ", block, " starts at ", queries.begin, ", expected ", next_query);
    next_query = queries.end;
    std::vector<std::vector<Rows>> shown(static_cast<std::size_t>(queries.size()));
    std::string fault;
    plan.for_each_slot(block, [&](std::span<const Tile> slot) {
      if (fault.empty()) fault = detail::fault_of_slot(plan, slot);
      if (slot.empty()) return;
      found.add_slot(slot);
      for (const Tile& tile : slot)
        for (Index query = tile.queries.begin; query < tile.queries.end; ++query) {
          const Rows keys = tile.visible_keys(query - tile.queries.begin);
          if (keys.empty() && tile.sinks.empty()) continue;
          if (!queries.contains(query)) {
            fault = detail::text("query ", query, " lies in a tile of query block ", block);
            continue;
          }
          for (const Rows& range : {keys, tile.sinks})
            if (!range.empty()) shown[static_cast<std::size_t>(query - queries.begin)].push_back(range);
        }
    });
    for (Index query = queries.begin; query < queries.end && fault.empty(); ++query)
      fault = detail::cover_of_row(query, plan.request().mask.visible_keys(query, plan.keys()),
                                   shown[static_cast<std::size_t>(query - queries.begin)]);
    if (!fault.empty()) return fault;
  }
  if (next_query != plan.tokens()) return detail::text("query ", next_query, " lies in no query block");
  const auto differ = [](const char* what, Index counted, Index enumerated) {
    return detail::text("the plan counts ", counted, " ", what, ", enumeration finds ", enumerated);
  };
  if (found.tiles != plan.tiles()) return differ("tiles", plan.tiles(), found.tiles);
  if (found.slots != plan.slots()) return differ("slots", plan.slots(), found.slots);
  if (found.most_tiles != plan.jobs_per_slot())
    return differ("jobs a slot at most", plan.jobs_per_slot(), found.most_tiles);
  return "exact";
}

}  // namespace twoheads
