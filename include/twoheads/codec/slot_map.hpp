#pragma once

#include <algorithm>
#include <span>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>
#include <twoheads/codec/row_map.hpp>
#include <twoheads/plan/limits.hpp>
#include <twoheads/plan/tile.hpp>
#include <vector>

namespace twoheads {

/// Which job's query and key each row of a slot carries.
///
///   causal oracle   the synthetic key, the sinks, then the rows of each tile in turn, as RowMap orders them
///   plain oracle    the rows of each tile in turn, then the synthetic key
///   straight        one tile as its tokens stand, no synthetic key
///   Corner          a row without a key of its own carries a copy of the synthetic key, and so do rows that pad a
///                   call; rows beyond rows() carry nothing else
///   Source          Yu & Alman, Theorem 4.2: short inputs stand one after the other in one call
class SlotMap {
 public:
  static constexpr Index none = -1;  ///< no tile, query or key

  /// What a row carries: the number of a tile of the slot, a query inside the tile, a key of the sequence. A sink is of
  /// no tile.
  struct Row {
    Index job = none;  ///< number of the tile
    Index query = none;
    Index key = none;
  };

  SlotMap(std::span<const Tile> tiles, OracleKind oracle, bool straight) : causal_(oracle == OracleKind::causal) {
    if (oracle == OracleKind::kernel)
      throw LimitError("tiles planned for the kernel are no rows of a call: expected a plain or a causal oracle");
    TWOHEADS_ASSERT(!tiles.empty() && (!straight || tiles.size() == 1));
    const Rows sinks = tiles.front().sinks;
    TWOHEADS_ASSERT(sinks.empty() || (causal_ && !straight));
    const bool synthetic_first = causal_ && !straight;
    if (synthetic_first) rows_.emplace_back();
    for (Index sink = sinks.begin; sink < sinks.end; ++sink) rows_.push_back({none, none, sink});
    for (const Tile& tile : tiles) {
      TWOHEADS_ASSERT(tile.sinks == sinks);
      const RowMap map(tile, oracle, straight);
      const auto job = static_cast<Index>(maps_.size());
      // The tile's own synthetic row is the slot's: it comes first or last, and once.
      const Index first = synthetic_first ? 1 : 0;
      const Index last = map.rows() - (straight || synthetic_first ? 0 : 1);
      offsets_.push_back(static_cast<Index>(rows_.size()) - first);
      for (Index row = first; row < last; ++row) {
        const Index key = map.key_at(row);
        rows_.push_back({job, map.query_at(row), key == RowMap::none ? none : tile.keys.begin + key});
      }
      maps_.push_back(map);
    }
    if (!straight && !synthetic_first) rows_.emplace_back();
    copies_.reserve(rows_.size());
    Index copies = 0;
    for (const Row& row : rows_) copies_.push_back(copies += row.key == none ? 1 : 0);
  }

  SlotMap(const Tile& tile, OracleKind oracle, bool straight)
      : SlotMap(std::span<const Tile>(&tile, 1), oracle, straight) {}

  [[nodiscard]] Index jobs() const { return static_cast<Index>(maps_.size()); }  ///< tiles of the slot
  /// Tile number `job`.
  [[nodiscard]] const Tile& tile(Index job) const { return maps_[static_cast<std::size_t>(job)].tile(); }

  /// Rows that the slot needs, the synthetic one included; a call may have more.
  [[nodiscard]] Index rows() const { return static_cast<Index>(rows_.size()); }

  /// What a row carries; rows beyond rows() carry nothing.
  [[nodiscard]] Row row(Index row) const { return row < rows() ? rows_[static_cast<std::size_t>(row)] : Row{}; }

  /// The row that carries a query of a tile, or none where the query sees no key.
  [[nodiscard]] Index row_of(Index job, Index query) const {
    const Index row = maps_[static_cast<std::size_t>(job)].row_of(query);
    return row == RowMap::none ? none : row + offsets_[static_cast<std::size_t>(job)];
  }

  /// Copies of the synthetic key that a row sees in a call of `call_rows` rows.
  [[nodiscard]] Index synthetic_seen(Index row, Index call_rows) const {
    const Index seen = causal_ ? row + 1 : call_rows;
    const Index own = std::min(seen, rows());
    return copies_[static_cast<std::size_t>(own - 1)] + (seen - own);
  }

 private:
  bool causal_;
  std::vector<Row> rows_;
  std::vector<Index> copies_;   ///< rows without a key up to each row, itself included
  std::vector<RowMap> maps_;    ///< of each tile by itself
  std::vector<Index> offsets_;  ///< from a row of a tile by itself to its row in the slot
};

}  // namespace twoheads
