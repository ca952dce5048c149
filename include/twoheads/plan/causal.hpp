#pragma once

#include <twoheads/base/index.hpp>
#include <twoheads/plan/fit.hpp>
#include <twoheads/plan/tile.hpp>

namespace twoheads {

/// Causal attention on a causal oracle.
///
///   Laws     with T = ceil(tokens / block): T lower triangles on the diagonal; each of the T (T - 1) / 2 pairs of
///            blocks below it is fully visible, and cut by local position into a lower and a strict upper triangle.
///            T^2 in all, less the upper triangles of one-key blocks, which are empty.
///   Source   Yu & Alman, Claim B.6 and Theorem 3.5 (whose sets A^(1), A^(2) are meant by local position)
struct CausalTiling {
  Index tokens = 1;
  Index block = 1;

  [[nodiscard]] constexpr Index query_blocks() const { return ceil_div(tokens, block); }
  [[nodiscard]] constexpr Rows queries_of(Index b) const { return block_rows(b, block, tokens); }

  /// Tiles of a head and layer.
  [[nodiscard]] constexpr Index tiles() const {
    const Index t = query_blocks();
    return t + pairs_below() * (block > 1 ? 2 : 1);
  }

  /// Rows of all slots that carry tokens.
  [[nodiscard]] constexpr Index token_rows() const {
    const Index t = query_blocks();
    const Index last = tokens - (t - 1) * block;
    // A lower triangle carries its queries; block b has b + 1 of them, the last block may be short.
    return block * ((t - 1) * t / 2) + last * t + (block - 1) * pairs_below();
  }

  [[nodiscard]] constexpr TilingCounts counts() const { return {tiles(), tiles(), token_rows(), 1}; }

  template <class Visit>
  constexpr void for_each_slot(Index query_block, Visit&& visit) const {
    const Rows rows = queries_of(query_block);
    for (Index b = 0; b < query_block; ++b)
      detail::visit_rectangle({rows, block_rows(b, block, tokens)}, OracleKind::causal, visit);
    detail::visit_one(Tile{rows, rows, TileShape::lower}, visit);
  }

  template <class Visit>
  constexpr void for_each_run(Index query_block, Visit&& visit) const {
    const Index rows = queries_of(query_block).size();
    detail::visit_rectangle_runs(rows, query_block * block, block, OracleKind::causal, visit);
    visit(SlotRun{rows + 1});
  }
  [[nodiscard]] constexpr Index alike_until(Index b) const { return b + 1; }

 private:
  [[nodiscard]] constexpr Index pairs_below() const { return query_blocks() * (query_blocks() - 1) / 2; }
};

static_assert(Tiling<CausalTiling>);

}  // namespace twoheads
