#pragma once

#include <algorithm>
#include <twoheads/base/index.hpp>
#include <twoheads/plan/fit.hpp>
#include <twoheads/plan/tile.hpp>

namespace twoheads {

/// One tile for all pairs, in one call without a synthetic row: for inputs that fit the oracle as they are.
struct StraightTiling {
  Index queries = 1;                       ///< N
  Index keys = 1;                          ///< NK
  TileShape shape = TileShape::rectangle;  ///< of the one tile
  Index first = 0;                         ///< position of the first query

  [[nodiscard]] constexpr Index query_blocks() const { return 1; }
  [[nodiscard]] constexpr Rows queries_of(Index) const { return {first, first + queries}; }
  [[nodiscard]] constexpr TilingCounts counts() const { return {1, 1, std::max(queries, keys), 1}; }

  template <class Visit>
  constexpr void for_each_slot(Index, Visit&& visit) const {
    detail::visit_one(Tile{queries_of(0), {0, keys}, shape}, visit);
  }

  /// No row is synthetic.
  template <class Visit>
  constexpr void for_each_run(Index, Visit&& visit) const {
    visit(SlotRun{std::max(queries, keys)});
  }
  [[nodiscard]] constexpr Index alike_until(Index b) const { return b + 1; }
};

static_assert(Tiling<StraightTiling>);

}  // namespace twoheads
