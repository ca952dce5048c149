#pragma once

#include <algorithm>
#include <iterator>
#include <map>
#include <span>
#include <string>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>
#include <twoheads/plan/plan.hpp>
#include <vector>

namespace twoheads {
namespace detail {

/// What is wrong with the keys that the tiles show one query, which sees these ranges in order, or nothing.
[[nodiscard]] inline std::string cover_of_row(Index query, const std::vector<Rows>& seen, std::vector<Rows>& shown) {
  std::sort(shown.begin(), shown.end(), [](const Rows& a, const Rows& b) { return a.begin < b.begin; });
  // Ranges that no gap parts, such as sinks and the other keys, are one.
  std::vector<Rows> visible;
  for (const Rows& range : seen) {
    if (range.empty()) continue;
    if (!visible.empty() && visible.back().end == range.begin)
      visible.back().end = range.end;
    else
      visible.push_back(range);
  }
  const auto hidden = [&](const Rows& keys) {
    return text("query ", query, ": a tile shows hidden keys, ", keys.begin, "..", keys.end - 1);
  };
  auto tile = shown.begin();
  for (const Rows& range : visible) {
    Index next = range.begin;
    for (; tile != shown.end() && tile->begin < range.end; ++tile) {
      if (tile->begin < range.begin || tile->end > range.end) return hidden(*tile);
      if (tile->begin < next) return text("query ", query, ": key ", tile->begin, " lies in two tiles");
      if (tile->begin > next) return text("query ", query, ": key ", next, " lies in no tile");
      next = tile->end;
    }
    if (next < range.end) return text("query ", query, ": key ", next, " lies in no tile");
  }
  return tile == shown.end() ? "" : hidden(*tile);
}

/// What is wrong with a slot as a place in a call of the plan's oracle, or nothing.
[[nodiscard]] inline std::string fault_of_slot(const Plan& plan, std::span<const Tile> slot) {
  if (slot.empty()) return "a slot holds no tile";
  const OracleKind kind = plan.oracle().kind;
  Index rows = plan.straight() || kind == OracleKind::kernel ? 0 : 1 + slot.front().sinks.size();
  for (const Tile& tile : slot) {
    rows += tile.token_rows();
    // Rows of a call are filled from all keys of a tile, also from those that no query of it sees.
    if (tile.keys.begin < 0 || tile.keys.end > plan.keys() || tile.sinks.begin < 0 || tile.sinks.end > plan.keys())
      return text("a tile lies outside of ", plan.keys(), " keys: a ", tile);
    if (tile.sinks != slot.front().sinks) return text("tiles of other sinks than its first share a slot: a ", tile);
    if (kind == OracleKind::plain && tile.shape != TileShape::rectangle)
      return text("a plain oracle cannot evaluate a ", tile);
    if (kind == OracleKind::causal && tile.shape == TileShape::rectangle && !tile.queries_last)
      return text("a causal oracle cannot evaluate a ", tile);
  }
  if (rows > plan.oracle().rows) return text("a slot takes ", rows, " rows, a call has ", plan.oracle().rows);
  return {};
}

/// The keys that a sampled plan shows one query: each tile's and, of drawn blocks, how they were drawn.
struct ShownKeys {
  std::vector<Rows> all;
  std::map<Index, Index> drawn;  ///< for the first key of each drawn block, how many of its keys the query sees
  Index exact = 0;               ///< keys seen by tiles that stand for themselves
  Tile last;                     ///< a drawn tile, if there is any

  void add(const Tile& tile, Rows keys) {
    all.push_back(keys);
    if (tile.sampled()) last = tile;
    if (tile.sampled())
      drawn[tile.keys.begin] += keys.size();
    else
      exact += keys.size();
  }
};

/// What is wrong with what a sampled plan shows one query, or nothing: no key twice, none hidden, the near field whole,
/// each drawn block whole and as many of them as their tiles say, of nearly one length with those that they stand for.
[[nodiscard]] inline std::string fault_of_sample(const Plan& plan, Index query, ShownKeys& shown) {
  const PlanRequest& request = plan.request();
  const Rows visible = request.mask.visible_keys(query, plan.keys()).keys;
  std::vector<Rows>& ranges = shown.all;
  std::sort(ranges.begin(), ranges.end(), [](const Rows& a, const Rows& b) { return a.begin < b.begin; });
  for (std::size_t i = 0; i < ranges.size(); ++i) {
    if (ranges[i].begin < visible.begin || ranges[i].end > visible.end)
      return text("query ", query, ": a tile shows hidden keys, ", ranges[i].begin, "..", ranges[i].end - 1);
    if (i > 0 && ranges[i].begin < ranges[i - 1].end)
      return text("query ", query, ": key ", ranges[i].begin, " lies in two tiles");
  }
  const auto drawn_with = [&](Index key) {
    const auto block = shown.drawn.upper_bound(key);
    return block != shown.drawn.begin() && key < std::prev(block)->first + std::prev(block)->second;
  };
  const auto missing = [&](Rows exact) {
    Index key = std::max(exact.begin, visible.begin);
    for (const Rows& range : ranges)
      if (range.contains(key) && !drawn_with(key)) key = range.end;
    return key < std::min(exact.end, visible.end) ? key : -1;
  };
  const Sampling& sampling = request.sampling;
  const bool causal = request.mask.simplified(plan.tokens()).kind == MaskKind::causal;
  const Index near = causal ? std::max<Index>(sampling.near, 1) : sampling.near;
  const Index before = query - std::min(query, near - 1);
  const Index after = std::min(query, plan.keys()) + std::min(near, plan.keys());
  if (near > 0)
    if (const Index key = missing({before, after}); key >= 0)
      return text("query ", query, ": key ", key, " of the near field is not exact");
  if (const Index key = missing({0, sampling.sinks}); key >= 0)
    return text("query ", query, ": key ", key, " of the sinks is not exact");
  const Index far = visible.size() - shown.exact;
  const auto blocks = static_cast<Index>(shown.drawn.size());
  if (blocks == 0) return far == 0 ? "" : text("query ", query, " sees no sample of ", far, " keys");
  const Tile& last = shown.last;
  if (blocks != last.drawn || blocks != sampling.samples || blocks >= last.stands_for)
    return text("query ", query, " sees ", blocks, " drawn blocks, expected ", sampling.samples, "; one is a ", last);
  for (const auto& [first, size] : shown.drawn)
    if ((size - 1) * last.stands_for >= far || (size + 1) * last.stands_for <= far)
      return text("query ", query, " sees ", size, " keys of the drawn block from ", first, " on; ", last.stands_for,
                  " such blocks have ", far, " together");
  return {};
}

/// check_cover for a plan that draws a sample: a fault, or nothing. All heads are enumerated: each draws its own.
template <class Tell>
[[nodiscard]] std::string fault_of_samples(const Plan& plan, const Tell& tell) {
  for (Index head = 0; head < plan.request().heads; ++head) {
    TilingCounts found;
    Index next_query = 0;
    for (Index block = 0; block < plan.query_blocks(); ++block) {
      const Rows queries = plan.queries_of(block);
      if (queries.begin != next_query || queries.empty())
        return text("query block ", block, " starts at ", queries.begin, ", expected ", next_query);
      next_query = queries.end;
      std::vector<ShownKeys> shown(static_cast<std::size_t>(queries.size()));
      std::string fault;
      plan.for_each_slot(block, head, [&](std::span<const Tile> slot) {
        if (fault.empty()) fault = fault_of_slot(plan, slot);
        if (slot.empty()) return;
        found.add_slot(slot);
        for (const Tile& tile : slot)
          for (Index i = 0; i < tile.queries.size(); ++i) {
            const Rows keys = tile.visible_keys(i);
            if (keys.empty()) continue;
            if (queries.contains(tile.queries.begin + i))
              shown[static_cast<std::size_t>(tile.queries.begin + i - queries.begin)].add(tile, keys);
            else
              fault = text("query ", tile.queries.begin + i, " lies in a tile of query block ", block);
          }
      });
      for (Index query = queries.begin; query < queries.end && fault.empty(); ++query)
        fault = fault_of_sample(plan, query, shown[static_cast<std::size_t>(query - queries.begin)]);
      if (!fault.empty()) return text("head ", head, ", ", fault);
      tell(block);
    }
    if (next_query != plan.tokens()) return text("query ", next_query, " lies in no query block");
    if (found.tiles != plan.tiles() || found.slots != plan.slots() || found.most_tiles != plan.jobs_per_slot())
      return text("the plan counts ", plan.tiles(), " tiles in ", plan.slots(), " slots, up to ", plan.jobs_per_slot(),
                  " in one; enumeration finds ", found.tiles, ", ", found.slots, " and ", found.most_tiles);
  }
  return {};
}

}  // namespace detail

/// Enumerates the plan and compares it with its mask: "exact", or a sentence that names the first fault. Of a plan that
/// draws a sample, the sentence begins with "a sample:" where all is as it should be.
///
///   Laws   exact means: every visible pair lies in exactly one tile, no hidden pair in any; each slot fits a call
///          of the oracle; the plan's closed-form counts are what enumeration finds. No floating point. Extra memory
///          O(block * tiles of a block). tell(block) is called for each query block that is done; where a sample is
///          drawn, for those of each head.
template <class Tell>
[[nodiscard]] std::string check_cover(const Plan& plan, const Tell& tell) {
  if (const SampledTiling* sampled = plan.sampled()) {
    const std::string fault = detail::fault_of_samples(plan, tell);
    return !fault.empty()
               ? fault
               : detail::text("a sample: ", sampled->sampling.samples,
                              " far key blocks drawn for each query block and head, or all where there are no more; ",
                              "no visible pair lies in two tiles, no hidden pair in any",
                              sampled->has_exact_part() ? ", the near field is exact" : "");
  }
  Index next_query = plan.queries().begin;
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
    for (Index query = queries.begin; query < queries.end && fault.empty(); ++query) {
      std::vector<Rows> seen;
      plan.request().mask.for_each_range(query, plan.keys(), [&](const Rows& range) { seen.push_back(range); });
      fault = detail::cover_of_row(query, seen, shown[static_cast<std::size_t>(query - queries.begin)]);
    }
    if (!fault.empty()) return fault;
    tell(block);
  }
  if (next_query != plan.queries().end) return detail::text("query ", next_query, " lies in no query block");
  const auto differ = [](const char* what, Index counted, Index enumerated) {
    return detail::text("the plan counts ", counted, " ", what, ", enumeration finds ", enumerated);
  };
  if (found.tiles != plan.tiles()) return differ("tiles", plan.tiles(), found.tiles);
  if (found.slots != plan.slots()) return differ("slots", plan.slots(), found.slots);
  if (found.most_tiles != plan.jobs_per_slot())
    return differ("jobs a slot at most", plan.jobs_per_slot(), found.most_tiles);
  return "exact";
}
/// The same, and nobody waits for it.
[[nodiscard]] inline std::string check_cover(const Plan& plan) {
  return check_cover(plan, [](Index) {});
}

}  // namespace twoheads
