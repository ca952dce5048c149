#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <ostream>
#include <set>
#include <span>
#include <twoheads/plan/plan.hpp>
#include <utility>
#include <vector>

#include "support/ceil_of.hpp"
#include "support/in_shape.hpp"

/// Full and causal masks of which a sample is drawn, and what enumerating their plans finds.
namespace sampled_plans {

using namespace twoheads;

struct Case {
  MaskKind mask = MaskKind::full;
  OracleKind oracle = OracleKind::plain;
  Index tokens = 1;
  Index rows = 2;
  Index samples = 1;
  Index near = 0;
  Index sinks = 0;
  Index heads = 1;

  [[nodiscard]] PlanRequest request(std::uint64_t seed = 1) const {
    PlanRequest request;
    request.mask.kind = mask;
    request.tokens = tokens;
    request.heads = heads;
    request.oracle.kind = oracle;
    request.oracle.rows = rows;
    request.sampling = {samples, near, sinks, seed};
    return request;
  }
};

inline std::ostream& operator<<(std::ostream& out, const Case& c) {
  return out << name(c.mask) << " mask, " << name(c.oracle) << " oracle of " << c.rows << " rows, " << c.tokens
             << " tokens, S = " << c.samples << ", near " << c.near << ", sinks " << c.sinks;
}

inline std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const MaskKind mask : {MaskKind::full, MaskKind::causal})
    for (const OracleKind oracle : {OracleKind::plain, OracleKind::causal})
      for (const auto& [tokens, rows] :
           {std::pair<Index, Index>{40, 2}, {40, 3}, {41, 4}, {97, 9}, {100, 17}, {128, 17}, {129, 33}, {64, 64}})
        for (const auto& [near, sinks] : {std::pair<Index, Index>{0, 0}, {1, 0}, {9, 0}, {30, 5}, {0, 17}, {500, 0}}) {
          const Index blocks = ceil_of(tokens, rows - 1);
          for (const Index samples : std::set<Index>{1, 2, blocks / 2, blocks - 1, blocks})
            if (samples >= 1 && samples <= blocks)
              cases.push_back({mask, oracle, tokens, rows, samples, near, sinks, 2});
        }
  return cases;
}

/// What one head's tiles show: for each pair how often it is seen, and how often exactly.
struct Seen {
  explicit Seen(const Case& c) : tokens(c.tokens), times(static_cast<std::size_t>(tokens * tokens)), exact(times) {}
  Index tokens;
  std::vector<int> times, exact;
  std::vector<std::set<Index>> drawn_from;  ///< for each query block the first keys of the drawn blocks
  std::vector<Index> stands_for;            ///< for each query block
  Index tiles = 0;
  Index slots = 0;

  [[nodiscard]] std::size_t at(Index query, Index key) const { return static_cast<std::size_t>(query * tokens + key); }
};

inline Seen enumerate(const Plan& plan, const Case& c, Index head) {
  Seen seen(c);
  for (Index block = 0; block < plan.query_blocks(); ++block) {
    seen.drawn_from.emplace_back();
    seen.stands_for.push_back(0);
    plan.for_each_slot(block, head, [&](std::span<const Tile> slot) {
      ++seen.slots;
      for (const Tile& tile : slot) {
        ++seen.tiles;
        if (tile.sampled()) {
          seen.drawn_from.back().insert(tile.keys.begin);
          seen.stands_for.back() = tile.stands_for;
          EXPECT_EQ(tile.drawn, c.samples) << c << ": a " << tile;
        }
        for (Index i = 0; i < tile.queries.size(); ++i)
          for (Index j = 0; j < tile.keys.size(); ++j) {
            if (!in_shape(tile.shape, i, j)) continue;
            const std::size_t pair = seen.at(tile.queries.begin + i, tile.keys.begin + j);
            ++seen.times[pair];
            if (!tile.sampled()) ++seen.exact[pair];
          }
      }
    });
  }
  return seen;
}

}  // namespace sampled_plans
