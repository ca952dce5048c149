#pragma once

#include <algorithm>
#include <twoheads/base/index.hpp>
#include <twoheads/plan/fit.hpp>
#include <twoheads/plan/limits.hpp>
#include <twoheads/plan/tile.hpp>

namespace twoheads {

/// Full attention: every query block meets every key block.
///
///   Laws     with T = ceil(queries / block), U = ceil(keys / block): on a plain oracle T U rectangles; on a causal
///            one a lower and a strict upper triangle for each, 2 T U less the empty upper triangles (key blocks of
///            one key). Few queries (T = 1) take a causal oracle's rows after the keys instead, where that is fewer
///            calls: ceil(keys / (block + 1 - queries)) rectangles
///   Source   Yu & Alman, Lemma 3.1 and Theorem 3.4; the triangles are those of Theorem 3.5. Queries after the keys are
///            not in the paper
struct FullTiling {
  Index queries = 1;
  Index keys = 1;
  Index block = 1;
  OracleKind oracle = OracleKind::plain;
  Index first = 0;  ///< position of the first query

  [[nodiscard]] constexpr Index query_blocks() const { return ceil_div(queries, block); }
  [[nodiscard]] constexpr Index key_blocks() const { return ceil_div(keys, key_block()); }  ///< key blocks
  /// Whether the queries stand after the keys of a block, in the rows of a causal oracle.
  [[nodiscard]] constexpr bool queries_last() const {
    if (oracle != OracleKind::causal || queries > block) return false;
    const Index blocks = ceil_div(keys, block);
    return ceil_div(keys, block + 1 - queries) < blocks + upper_triangles(blocks);
  }
  [[nodiscard]] constexpr Rows queries_of(Index b) const {
    const Rows rows = block_rows(b, block, queries);
    return {first + rows.begin, first + rows.end};
  }

  /// Tiles of a head and layer.
  [[nodiscard]] constexpr Index tiles() const {
    if (oracle != OracleKind::causal) return query_blocks() * key_blocks();
    return query_blocks() * (key_blocks() + (queries_last() ? 0 : upper_triangles(key_blocks())));
  }

  /// Rows of all slots that carry tokens.
  [[nodiscard]] constexpr Index token_rows() const {
    if (queries_last()) return keys + key_blocks() * (queries - 1);
    if (oracle == OracleKind::causal) return queries * key_blocks() + (keys - key_blocks()) * query_blocks();
    // Sum of max(query rows, key rows) over pairs of blocks: all blocks are full but the last ones.
    const Index full_queries = query_blocks() - 1;
    const Index full_keys = key_blocks() - 1;
    const Index last = std::max(queries - full_queries * block, keys - full_keys * block);
    return (full_queries * full_keys + full_queries + full_keys) * block + last;
  }

  [[nodiscard]] constexpr TilingCounts counts() const { return {tiles(), tiles(), token_rows(), 1}; }

  template <class Visit>
  constexpr void for_each_slot(Index query_block, Visit&& visit) const {
    Tile tile{queries_of(query_block), {}};
    tile.queries_last = queries_last();
    for (Index b = 0; b < key_blocks(); ++b) {
      tile.keys = block_rows(b, key_block(), keys);
      detail::visit_rectangle(tile, oracle, visit);
    }
  }

  template <class Visit>
  constexpr void for_each_run(Index query_block, Visit&& visit) const {
    if (!queries_last())
      return detail::visit_rectangle_runs(queries_of(query_block).size(), keys, block, oracle, visit);
    if (keys >= key_block()) visit(SlotRun{block + 1, 0, keys / key_block()});
    if (keys % key_block() > 0) visit(SlotRun{keys % key_block() + queries});
  }
  [[nodiscard]] constexpr Index alike_until(Index b) const { return std::max(queries / block, b + 1); }

 private:
  [[nodiscard]] constexpr Index key_block() const { return queries_last() ? block + 1 - queries : block; }
  /// Of a block of queries over so many blocks of keys.
  [[nodiscard]] constexpr Index upper_triangles(Index blocks) const {
    if (block == 1) return 0;
    return blocks - (keys % block == 1 ? 1 : 0);
  }
};

static_assert(Tiling<FullTiling>);

}  // namespace twoheads
