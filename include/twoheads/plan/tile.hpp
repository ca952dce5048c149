#pragma once

#include <algorithm>
#include <cmath>
#include <concepts>
#include <ostream>
#include <span>
#include <twoheads/base/index.hpp>

namespace twoheads {

/// Which pairs of a tile are visible, by position inside it: query i = 0, 1, ..., key j = 0, 1, ...
///
///   rectangle      all (i, j)
///   lower          j <= i
///   strict_upper   j > i
enum class TileShape { rectangle, lower, strict_upper };

/// The name in words.
[[nodiscard]] constexpr const char* name(TileShape shape) {
  switch (shape) {
    case TileShape::rectangle:
      return "rectangle";
    case TileShape::lower:
      return "lower triangle";
    case TileShape::strict_upper:
      return "strict upper triangle";
  }
  return "";
}

/// A set of visible pairs that one job evaluates. Queries and keys may differ in number, also in triangles.
struct Tile {
  Rows queries;  ///< positions of its queries
  Rows keys;
  TileShape shape = TileShape::rectangle;  ///< which of its pairs are visible
  Rows sinks = {};  ///< keys that all queries of the tile see beside the others; tiles that share a call share them
  /// A tile drawn at random is one of `drawn` that stand for `stands_for`: its weight counts stands_for / drawn times.
  Index drawn = 1;
  Index stands_for = 1;  ///< far blocks that the drawn ones stand for
  /// A rectangle for a causal oracle: its first query stands on the row of its last key, the others on rows of their
  /// own that follow.
  bool queries_last = false;

  /// Of the tile's keys, those that query number i of the tile sees, as positions in the sequence; sinks apart.
  [[nodiscard]] constexpr Rows visible_keys(Index i) const {
    switch (shape) {
      case TileShape::lower:
        return {keys.begin, std::min(keys.begin + i + 1, keys.end)};
      case TileShape::strict_upper:
        return {std::min(keys.begin + i + 1, keys.end), keys.end};
      case TileShape::rectangle:
        break;
    }
    return keys;
  }

  /// True for one of fewer tiles than they stand for.
  [[nodiscard]] constexpr bool sampled() const { return drawn != stands_for; }

  /// ln of how many times the tile's weight counts: 0 unless it was drawn at random and stands for others too.
  [[nodiscard]] double log_factor() const {
    return sampled() ? std::log(static_cast<double>(stands_for) / static_cast<double>(drawn)) : 0.0;
  }

  /// Number of keys that query number i of the tile sees, sinks included.
  [[nodiscard]] constexpr Index keys_seen(Index i) const { return visible_keys(i).size() + sinks.size(); }

  /// Rows of a call that carry a real query or a real key of this tile, sinks apart.
  [[nodiscard]] constexpr Index token_rows() const {
    switch (shape) {
      case TileShape::lower:
        return queries.size();
      case TileShape::strict_upper:
        return std::max<Index>(keys.size() - 1, 0);
      case TileShape::rectangle:
        break;
    }
    return queries_last ? keys.size() + queries.size() - 1 : std::max(queries.size(), keys.size());
  }

  friend constexpr bool operator==(const Tile&, const Tile&) = default;
};

/// A tile in words.
inline std::ostream& operator<<(std::ostream& out, const Tile& tile) {
  out << name(tile.shape) << " of queries " << tile.queries.begin << ".." << tile.queries.end - 1 << " and keys "
      << tile.keys.begin << ".." << tile.keys.end - 1;
  if (!tile.sinks.empty()) out << " and sinks " << tile.sinks.begin << ".." << tile.sinks.end - 1;
  if (tile.sampled()) out << ", one of " << tile.drawn << " that stand for " << tile.stands_for;
  return out;
}

/// How far a slot is filled.
struct SlotFill {
  Index tiles = 0;  ///< that it carries
  Rows sinks;       ///< of all its tiles
  Index rows = 0;   ///< that a call needs for it, the synthetic one included

  /// Whether one more tile has a place in a slot of so many rows; an empty slot takes none until it is begun.
  [[nodiscard]] constexpr bool takes(const Tile& tile, Index most_rows) const {
    return tiles > 0 && sinks == tile.sinks && rows + tile.token_rows() <= most_rows;
  }

  /// Begins the slot or goes on with it.
  constexpr void add(const Tile& tile) {
    if (tiles == 0) {
      sinks = tile.sinks;
      rows = 1 + sinks.size();
    }
    ++tiles;
    rows += tile.token_rows();
  }
};

/// A slot of these tiles.
[[nodiscard]] constexpr SlotFill filled(std::span<const Tile> slot) {
  SlotFill fill;
  for (const Tile& tile : slot) fill.add(tile);
  return fill;
}

/// What a cut of a mask comes to, for one head of one layer.
struct TilingCounts {
  Index tiles = 0;       ///< of a head and layer
  Index slots = 0;       ///< places in calls: one head's columns, all rows
  Index token_rows = 0;  ///< rows of all slots that carry real tokens, sinks included
  Index most_tiles = 0;  ///< of a slot

  /// Adds `times` parts that each come to `part`.
  constexpr void add(const TilingCounts& part, Index times = 1) {
    tiles += times * part.tiles;
    slots += times * part.slots;
    token_rows += times * part.token_rows;
    if (times > 0) most_tiles = std::max(most_tiles, part.most_tiles);
  }

  /// Adds one slot.
  constexpr void add_slot(const SlotFill& slot) {
    ++slots;
    tiles += slot.tiles;
    token_rows += slot.rows - 1;
    most_tiles = std::max(most_tiles, slot.tiles);
  }
  /// Adds one slot that carries these tiles.
  constexpr void add_slot(std::span<const Tile> slot) { add_slot(filled(slot)); }

  friend constexpr bool operator==(const TilingCounts&, const TilingCounts&) = default;
};

/// Slots that follow each other: of `rows` rows and of `others` rows in turn, so many of each; others 0: all of `rows`.
struct SlotRun {
  Index rows = 0;  ///< that a call needs for the slot, the synthetic row included
  Index others = 0;
  Index times = 1;  ///< slots of each length
};

/// Rows of a call that a slot needs, the synthetic one included.
[[nodiscard]] constexpr Index rows_of_slot(std::span<const Tile> slot) { return filled(slot).rows; }

namespace detail {
struct AnyVisitor {
  void operator()(std::span<const Tile>) const {}
  void operator()(const SlotRun&) const {}
};
}  // namespace detail

/// A lazy cut of a mask into tiles: a few integers that enumerate the tiles of one query block at a time. A slot is
/// one head's place in a call; it carries one tile, or several that codes keep apart.
///
///   Laws   every visible pair lies in exactly one tile, no hidden pair in any; counts() equals what enumeration
///          counts, and is a closed form or a sum over documents or query blocks; the order of a block's slots
///          and tiles is fixed. for_each_run gives the row counts of the same slots, in the same order, in few steps;
///          blocks from b to alike_until(b) have the same.
template <class T>
concept Tiling = requires(const T& tiling, Index block) {
  { tiling.query_blocks() } -> std::same_as<Index>;
  { tiling.queries_of(block) } -> std::same_as<Rows>;
  { tiling.counts() } -> std::same_as<TilingCounts>;
  tiling.for_each_slot(block, detail::AnyVisitor{});
  tiling.for_each_run(block, detail::AnyVisitor{});
  { tiling.alike_until(block) } -> std::same_as<Index>;
};

}  // namespace twoheads
