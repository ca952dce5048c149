#pragma once

#include <algorithm>
#include <string>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>
#include <twoheads/plan/plan.hpp>
#include <vector>

namespace twoheads {
namespace detail {

/// What is wrong with the keys that the tiles show one query, or nothing.
[[nodiscard]] inline std::string cover_of_row(Index query, Rows visible, std::vector<Rows>& shown) {
  std::sort(shown.begin(), shown.end(), [](const Rows& a, const Rows& b) { return a.begin < b.begin; });
  Index next = visible.begin;
  for (const Rows& keys : shown) {
    if (keys.begin < visible.begin || keys.end > visible.end)
      return text("query ", query, ": a tile shows hidden keys, ", keys.begin, "..", keys.end - 1);
    if (keys.begin < next) return text("query ", query, ": key ", keys.begin, " lies in two tiles");
    if (keys.begin > next) return text("query ", query, ": key ", next, " lies in no tile");
    next = keys.end;
  }
  if (next < visible.end) return text("query ", query, ": key ", next, " lies in no tile");
  return {};
}

}  // namespace detail

/// Enumerates the plan and compares it with its mask: "exact", or a sentence that names the first fault.
///
///   Laws   exact means: every visible pair lies in exactly one tile, no hidden pair in any; each tile fits a call;
///          the plan's closed-form count of tiles is what enumeration finds. No floating point. Extra memory O(block
///          * tiles of a block).
[[nodiscard]] inline std::string check_cover(const Plan& plan) {
  Index next_query = 0;
  Index tiles = 0;
  for (Index block = 0; block < plan.query_blocks(); ++block) {
    const Rows queries = plan.queries_of(block);
    if (queries.begin != next_query || queries.empty())
      return detail::text("query block ", block, " starts at ", queries.begin, ", expected ", next_query);
    next_query = queries.end;
    std::vector<std::vector<Rows>> shown(static_cast<std::size_t>(queries.size()));
    std::string fault;
    plan.for_each_tile(block, [&](const Tile& tile) {
      ++tiles;
      const Index most = plan.straight() ? plan.oracle().rows : plan.block();
      if (tile.token_rows() > most)
        fault = detail::text("a tile takes ", tile.token_rows(), " rows, a call has ", most);
      for (Index query = tile.queries.begin; query < tile.queries.end; ++query) {
        const Rows keys = tile.visible_keys(query - tile.queries.begin);
        if (keys.empty()) continue;
        if (!queries.contains(query))
          fault = detail::text("query ", query, " lies in a tile of query block ", block);
        else
          shown[static_cast<std::size_t>(query - queries.begin)].push_back(keys);
      }
    });
    for (Index query = queries.begin; query < queries.end && fault.empty(); ++query)
      fault = detail::cover_of_row(query, plan.request().mask.visible_keys(query, plan.keys()).keys,
                                   shown[static_cast<std::size_t>(query - queries.begin)]);
    if (!fault.empty()) return fault;
  }
  if (next_query != plan.tokens()) return detail::text("query ", next_query, " lies in no query block");
  if (tiles != plan.tiles()) return detail::text("the plan counts ", plan.tiles(), " tiles, enumeration finds ", tiles);
  return "exact";
}

}  // namespace twoheads
