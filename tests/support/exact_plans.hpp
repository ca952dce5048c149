#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <twoheads/base/draws.hpp>
#include <twoheads/plan/cover.hpp>
#include <twoheads/plan/plan.hpp>
#include <vector>

#include "support/in_shape.hpp"
#include "support/rows_filled.hpp"
#include "support/sanitized.hpp"

/// Plans whose cover is counted pair by pair by the definitions of the masks, and their counts by enumeration.
namespace exact_plans {

using namespace twoheads;

inline constexpr Index most = std::numeric_limits<Index>::max();

inline PlanRequest request_of(const Mask& mask, Index tokens, OracleKind oracle, Index rows) {
  PlanRequest request;
  request.mask = mask;
  request.tokens = tokens;
  request.oracle.kind = oracle;
  request.oracle.rows = rows;
  return request;
}

inline std::string text_of(const PlanRequest& r) {
  return detail::text(name(r.mask.kind), " mask, r ", r.mask.window, ", s ", r.mask.sinks, ", left ", r.mask.left,
                      ", right ", r.mask.right, ", ", r.mask.ends.size(), " documents",
                      r.mask.causal_documents ? " causal inside" : "", ", ", r.tokens, " tokens after ", r.past,
                      " on a ", name(r.oracle.kind), " oracle of ", r.oracle.rows, " rows");
}

/// Whether a query sees a key, by the definitions.
class Sees {
 public:
  explicit Sees(const PlanRequest& request)
      : mask_(request.mask), document_(static_cast<std::size_t>(request.past + request.tokens)) {
    for (std::size_t position = 0, number = 0; position < document_.size(); ++position) {
      document_[position] = number;
      if (number < mask_.ends.size() && static_cast<Index>(position) + 1 == mask_.ends[number]) ++number;
    }
  }

  [[nodiscard]] bool operator()(Index query, Index key) const {
    switch (mask_.kind) {
      case MaskKind::full:
        return true;
      case MaskKind::causal:
        return key <= query;
      case MaskKind::window:
        return key <= query && query - key < mask_.window;
      case MaskKind::sinks:
        return key <= query && (query - key < mask_.window || key < mask_.sinks);
      case MaskKind::band:
        return query - key <= mask_.left && key - query <= mask_.right;
      case MaskKind::documents:
        break;
      case MaskKind::blocks: {
        const std::vector<Rows>& shown = mask_.shown[document_[static_cast<std::size_t>(query)]];
        return std::any_of(shown.begin(), shown.end(), [&](const Rows& range) { return range.contains(key); });
      }
    }
    const bool same = document_[static_cast<std::size_t>(query)] == document_[static_cast<std::size_t>(key)];
    return same && (!mask_.causal_documents || key <= query);
  }

 private:
  const Mask& mask_;
  std::vector<std::size_t> document_;  ///< the number of each position's document, or group of queries
};

/// What enumerating one layer of a tiling finds, and the first fault of its cover, counted pair by pair.
struct Enumerated {
  TilingCounts counts;
  std::string fault;
};

/// T: a tiling or a plan.
template <class T>
Enumerated enumerate(const T& tiling, const PlanRequest& request, bool straight) {
  Enumerated found;
  const Index n = request.tokens;
  const Index past = request.past;
  const Index all = request.keys > 0 ? request.keys : past + n;
  std::vector<unsigned char> seen(static_cast<std::size_t>(n * all), 0);
  const auto fail = [&](const auto&... parts) {
    if (found.fault.empty()) found.fault = detail::text(parts...);
  };
  Index next = past;
  for (Index block = 0; block < tiling.query_blocks(); ++block) {
    const Rows queries = tiling.queries_of(block);
    if (queries.begin != next || queries.size() < 1) fail("query block ", block, " starts at ", queries.begin);
    next = queries.end;
    tiling.for_each_slot(block, [&](std::span<const Tile> slot) {
      if (slot.empty()) return fail("an empty slot");
      Index rows = slot.front().sinks.size();
      for (const Tile& tile : slot) {
        rows += rows_filled(tile);
        const bool inside = queries.begin <= tile.queries.begin && tile.queries.end <= queries.end &&
                            tile.keys.begin >= 0 && tile.keys.end <= all && tile.sinks.begin >= 0 &&
                            tile.sinks.end <= all;
        if (!inside) return fail(tile, " lies outside");
        if (tile.sinks != slot.front().sinks) return fail(tile, " has other sinks than its slot");
        const bool as_it_is = tile.shape == TileShape::rectangle && !tile.queries_last;
        if (as_it_is == (request.oracle.kind == OracleKind::causal))
          return fail(tile, " on a ", name(request.oracle.kind), " oracle");
        Index pairs = 0;
        for (Index i = 0; i < tile.queries.size(); ++i) {
          unsigned char* row = seen.data() + (tile.queries.begin - past + i) * all;
          for (Index j = 0; j < tile.keys.size(); ++j)
            if (in_shape(tile.shape, i, j)) ++pairs, ++row[tile.keys.begin + j];
          // A query of an upper triangle without a key has no row, and would see no sink.
          if (tile.sinks.empty()) continue;
          if (tile.shape != TileShape::lower) fail(tile, " cannot show its sinks");
          for (Index sink = tile.sinks.begin; sink < tile.sinks.end; ++sink) ++row[sink];
        }
        if (pairs == 0) fail(tile, " is empty");
      }
      if (rows + (straight ? 0 : 1) > request.oracle.rows) fail("a slot of ", rows, " rows of tokens");
      ++found.counts.slots;
      found.counts.tiles += static_cast<Index>(slot.size());
      found.counts.token_rows += rows;
      found.counts.most_tiles = std::max(found.counts.most_tiles, static_cast<Index>(slot.size()));
    });
  }
  if (next != past + n) fail("query ", next, " lies in no block");
  const Sees sees(request);
  for (Index query = 0; query < n; ++query)
    for (Index key = 0; key < all; ++key) {
      const int times = seen[static_cast<std::size_t>(query * all + key)];
      if (times != (sees(past + query, key) ? 1 : 0))
        fail("query ", past + query, ", key ", key, " lies in ", times, " tiles");
    }
  return found;
}

/// Holds a plan to its laws; returns what it enumerates.
inline TilingCounts expect_exact(const PlanRequest& request) {
  const Plan plan(request);
  const Enumerated found = enumerate(plan, request, plan.straight());
  EXPECT_EQ(found.fault, "") << text_of(request);
  EXPECT_EQ(check_cover(plan), "exact") << text_of(request);
  EXPECT_EQ(plan.tiles(), found.counts.tiles) << text_of(request);
  EXPECT_EQ(plan.slots(), found.counts.slots) << text_of(request);
  EXPECT_EQ(plan.jobs_per_slot(), found.counts.most_tiles) << text_of(request);
  EXPECT_EQ(plan.calls(), found.counts.slots) << text_of(request);
  const double rows = static_cast<double>(request.oracle.rows * found.counts.slots);
  EXPECT_NEAR(plan.rows_used(), static_cast<double>(found.counts.token_rows) / rows, 1e-12) << text_of(request);
  return found.counts;
}

/// Calls visit(tokens, oracle, rows). Pairs of a thousand tokens take too long for every mask under a sanitizer.
template <class Visit>
void for_each_size(const Visit& visit) {
  for (const Index tokens : {1, 2, 3, 50, 257, 1000}) {
    if (sanitized && tokens > 50) continue;
    for (const Index rows : {2, 3, 17, 64, 65, 129})
      for (const OracleKind oracle : {OracleKind::plain, OracleKind::causal}) visit(tokens, oracle, rows);
  }
}

/// The same, and that row counts of calls are those of the slots; a kernel covers the same pairs.
inline void expect_exact_with_rows(PlanRequest request) {
  expect_exact(request);
  const Plan plan(request);
  std::vector<Index> slots, runs;
  detail::TriangleRuns memory;
  for (Index block = 0; block < plan.query_blocks(); ++block) {
    plan.for_each_slot(block, [&](std::span<const Tile> slot) {
      Index rows = plan.straight() ? 0 : 1 + slot.front().sinks.size();
      for (const Tile& tile : slot) rows += rows_filled(tile);
      slots.push_back(rows);
    });
    const auto add = [&](const SlotRun& run) {
      for (Index i = 0; i < run.times; ++i) {
        runs.push_back(run.rows);
        if (run.others > 0) runs.push_back(run.others);
      }
    };
    plan.for_each_run(block, 0, add, memory);
  }
  EXPECT_EQ(runs, slots) << text_of(request);
  request.oracle.kind = OracleKind::kernel;
  EXPECT_EQ(check_cover(Plan(request)), "exact") << text_of(request);
}

/// Rows of pairs that change from key to key and from query to query with these chances in 16; every fifth is empty.
inline Mask random_pairs(Index queries, Index keys, Index along, Index down, std::uint64_t number) {
  detail::Draws draws(number);
  std::vector<std::vector<bool>> pairs;
  for (Index query = 0; query < queries; ++query) {
    if (query > 0 && draws.below(16) >= down) {
      pairs.push_back(pairs.back());
      continue;
    }
    std::vector<bool> row(static_cast<std::size_t>(keys), false);
    bool on = draws.below(2) == 0;
    for (std::size_t key = 0; key < row.size(); ++key) row[key] = on = draws.below(16) < along ? !on : on;
    if (draws.below(5) == 0) row.assign(row.size(), false);
    pairs.push_back(row);
  }
  pairs.front().front() = true;
  return Mask::pairs(queries, keys, [&](Index query, Index key) {
    return static_cast<bool>(pairs[static_cast<std::size_t>(query)][static_cast<std::size_t>(key)]);
  });
}

/// Documents of so many tokens together: one token each, many short ones, long ones, and short ones between long ones.
inline std::vector<std::vector<Index>> documents_of(Index tokens) {
  const auto cut = [&](const std::vector<Index>& pattern) {
    std::vector<Index> lengths;
    Index left = tokens;
    for (std::size_t i = 0; left > 0; ++i) {
      lengths.push_back(std::min(left, pattern[i % pattern.size()]));
      left -= lengths.back();
    }
    return lengths;
  };
  return {cut({1}),          cut({5, 3, 1, 8}), cut({16}),
          cut({64, 63, 65}), cut({200, 130}),   cut({40, 1, 1, 2, 90, 7, 3, 16, 17, 1, 128}),
          cut({most})};
}

/// Tilings count in closed form what they enumerate, also for masks that a plan would simplify.
template <class T>
void expect_counts(const T& tiling, const PlanRequest& request) {
  const Enumerated found = enumerate(tiling, request, false);
  EXPECT_EQ(found.fault, "") << text_of(request);
  const TilingCounts counts = tiling.counts();
  EXPECT_EQ(counts.tiles, found.counts.tiles) << text_of(request);
  EXPECT_EQ(counts.slots, found.counts.slots) << text_of(request);
  EXPECT_EQ(counts.token_rows, found.counts.token_rows) << text_of(request);
  EXPECT_EQ(counts.most_tiles, found.counts.most_tiles) << text_of(request);
}

}  // namespace exact_plans
