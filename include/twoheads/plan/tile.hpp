#pragma once

#include <algorithm>
#include <concepts>
#include <ostream>
#include <twoheads/base/index.hpp>

namespace twoheads {

/// Which pairs of a tile are visible, by position inside it: query i = 0, 1, ..., key j = 0, 1, ...
///
///   rectangle      all (i, j)
///   lower          j <= i
///   strict_upper   j > i
enum class TileShape { rectangle, lower, strict_upper };

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
  Rows queries;
  Rows keys;
  TileShape shape = TileShape::rectangle;

  /// The keys that query number i of the tile sees, as positions in the sequence.
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

  /// Rows of a call that carry a real query or a real key of this tile.
  [[nodiscard]] constexpr Index token_rows() const {
    switch (shape) {
      case TileShape::lower:
        return queries.size();
      case TileShape::strict_upper:
        return std::max<Index>(keys.size() - 1, 0);
      case TileShape::rectangle:
        break;
    }
    return std::max(queries.size(), keys.size());
  }

  friend constexpr bool operator==(const Tile&, const Tile&) = default;
};

inline std::ostream& operator<<(std::ostream& out, const Tile& tile) {
  return out << name(tile.shape) << " of queries " << tile.queries.begin << ".." << tile.queries.end - 1 << " and keys "
             << tile.keys.begin << ".." << tile.keys.end - 1;
}

namespace detail {
struct AnyVisitor {
  void operator()(const Tile&) const {}
};
}  // namespace detail

/// A lazy cut of a mask into tiles: a few integers that enumerate the tiles of one query block at a time.
///
///   Laws   every visible pair lies in exactly one tile, no hidden pair in any; tiles() and token_rows() are closed
///          forms and equal what enumeration counts; the order of a block's tiles is fixed
template <class T>
concept Tiling = requires(const T& tiling, Index block) {
  { tiling.query_blocks() } -> std::same_as<Index>;
  { tiling.queries_of(block) } -> std::same_as<Rows>;
  { tiling.tiles() } -> std::same_as<Index>;
  { tiling.token_rows() } -> std::same_as<Index>;
  tiling.for_each_tile(block, detail::AnyVisitor{});
};

}  // namespace twoheads
