#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <span>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>
#include <twoheads/plan/limits.hpp>
#include <twoheads/plan/tile.hpp>
#include <type_traits>
#include <utility>
#include <vector>

namespace twoheads {
namespace detail {

/// Hands on a tile that has a slot of its own.
template <class Visit>
constexpr void visit_one(const Tile& tile, Visit&& visit) {
  visit(std::span<const Tile>(&tile, 1));
}

/// A rectangle as an oracle can evaluate it, each tile in a slot of its own: as it is on a plain oracle and in the tile
/// kernel; on a causal oracle by position as a lower and a strict upper triangle,
/// unless its queries stand after its keys.
///
///   Source   Yu & Alman, Theorem 3.5, whose sets A^(1), A^(2) are meant by local position
template <class Visit>
constexpr void visit_rectangle(const Tile& tile, OracleKind oracle, Visit&& visit) {
  if (tile.keys.empty()) return;
  if (oracle != OracleKind::causal || tile.queries_last) return visit_one(tile, visit);
  Tile half = tile;
  half.shape = TileShape::lower;
  visit_one(half, visit);
  half.shape = TileShape::strict_upper;
  if (tile.keys.size() > 1) visit_one(half, visit);
}

/// The slots of rectangles over so many keys in blocks of `block`, the last one with what is left.
template <class Visit>
constexpr void visit_rectangle_runs(Index queries, Index keys, Index block, OracleKind oracle, Visit&& visit) {
  const auto run = [&](Index length, Index times) {
    if (length == 0 || times == 0) return;
    if (oracle != OracleKind::causal)
      visit(SlotRun{std::max(queries, length) + 1, 0, times});
    else  // a lower triangle has the rows of its queries, an upper one those of its keys but the first
      visit(SlotRun{queries + 1, length > 1 ? length : 0, times});
  };
  run(block, keys / block);
  run(keys % block, 1);
}

/// A triangle of n queries and n keys with its diagonal, and the pairs beside it that all see each other.
struct HalvedTriangle {
  Index query = 0;  ///< its first query, and key
  Index key = 0;
  Index size = 0;
  bool upper = false;
  Tile beside;  ///< empty where the triangle is all

  explicit constexpr HalvedTriangle(const Tile& tile) : upper(tile.shape == TileShape::strict_upper) {
    query = tile.queries.begin;
    // Query i of a strict upper triangle sees keys from i + 1 on: without the first key it has a diagonal.
    key = tile.keys.begin + (upper ? 1 : 0);
    const Index keys = std::max<Index>(tile.keys.end - key, 0);
    size = std::min(tile.queries.size(), keys);
    if (upper)
      beside = Tile{{query, query + size}, {key + size, key + keys}};
    else
      beside = Tile{{query + size, tile.queries.end}, {key, key + keys}};
    if (size == 0) beside = Tile{};
  }

  /// Levels of squares that the halving has above the diagonal: ceil(log2(size)).
  [[nodiscard]] constexpr Index levels() const {
    return size < 2 ? 0 : static_cast<Index>(std::bit_width(static_cast<std::uint64_t>(size - 1)));
  }

  /// Calls add(tile) for the squares of one level: a part of the triangle is halved, and the later half of its
  /// queries sees all of its earlier half of keys (the other way round in an upper triangle).
  template <class Add>
  constexpr void for_each_square(Index level, Add&& add) const {
    halve(0, size, level, add);
  }

  /// Calls add(tile) for the pairs of the diagonal, one tile each.
  template <class Add>
  constexpr void for_each_pair(Add&& add) const {
    for (Index i = 0; i < size; ++i) add(Tile{{query + i, query + i + 1}, {key + i, key + i + 1}});
  }

 private:
  template <class Add>
  constexpr void halve(Index begin, Index end, Index level, Add&& add) const {
    if (end - begin < 2) return;
    const Index middle = begin + (end - begin) / 2;
    if (level == 0) {
      const Rows early{begin, middle};
      const Rows late{middle, end};
      const Rows queries = upper ? early : late;
      const Rows keys = upper ? late : early;
      add(Tile{{query + queries.begin, query + queries.end}, {key + keys.begin, key + keys.end}});
      return;
    }
    halve(begin, middle, level - 1, add);
    halve(middle, end, level - 1, add);
  }
};

/// Fills slots with tiles in the order in which they come; a slot is closed when the next tile does not fit. Calls
/// visit(tiles) for each, or visit(fill) where that is what it takes: a count holds no tiles.
///
///   Laws     a slot's rows are 1 for the synthetic key, its sinks, and the token rows of its tiles
template <class Visit>
class SlotFiller {
 public:
  SlotFiller(Index rows, Visit& visit) : rows_(rows), visit_(visit) {}

  void add(const Tile& tile) {
    if (tile.queries.empty() || tile.keys.empty() || tile.token_rows() == 0) return;
    if (!fill_.takes(tile, rows_)) close();
    fill_.add(tile);
    if constexpr (holds_tiles) tiles_.push_back(tile);
  }

  void close() {
    if (fill_.tiles == 0) return;
    if constexpr (holds_tiles) {
      visit_(std::span<const Tile>(tiles_));
      tiles_.clear();
    } else {
      visit_(std::as_const(fill_));
    }
    fill_ = {};
  }

 private:
  static constexpr bool holds_tiles = std::is_invocable_v<Visit&, std::span<const Tile>>;

  Index rows_;
  Visit& visit_;
  SlotFill fill_;
  std::vector<Tile> tiles_;
};

/// Longest triangle that is halved: its diagonal is a tile for each token, and all of them may be in one slot, which
/// holds them while it is evaluated.
inline constexpr Index most_halved = Index{1} << 20;

/// Triangles as an oracle can evaluate them, as many as fit in a slot: as they are on a causal oracle and in the tile
/// kernel; on a plain oracle by halving, level by level, and the diagonal last.
///
///   Laws     on a plain oracle, triangles of n rows together that fit one call take at most ceil(log2 n) + 1 slots
///   Throws   SpecError for a triangle that halving would cut into more than most_halved tiles
///   Source   not in the paper (it has no causal attention on plain oracles)
template <class Visit>
void visit_triangles(std::span<const Tile> triangles, OracleKind oracle, Index rows, Visit& visit) {
  SlotFiller<Visit> filler(rows, visit);
  const auto add = [&](const Tile& tile) { filler.add(tile); };
  if (oracle != OracleKind::plain) {
    for (const Tile& tile : triangles) add(tile);
    return filler.close();
  }
  std::vector<HalvedTriangle> halved;
  Index levels = 0;
  for (const Tile& tile : triangles) {
    halved.emplace_back(tile);
    if (halved.back().size > most_halved)
      throw SpecError(text("a triangle of ", halved.back().size,
                           " tokens on a plain oracle is halved into as many tiles, ", "expected at most ", most_halved,
                           ": shorter blocks, or a causal oracle"));
    levels = std::max(levels, halved.back().levels());
  }
  for (const HalvedTriangle& triangle : halved) add(triangle.beside);
  for (Index level = 0; level < levels; ++level)
    for (const HalvedTriangle& triangle : halved) triangle.for_each_square(level, add);
  for (const HalvedTriangle& triangle : halved) triangle.for_each_pair(add);
  filler.close();
}

/// The row counts of the slots of triangles. It remembers the last ones: query blocks that differ by a shift have the
/// same, and halving a triangle takes a while.
class TriangleRuns {
 public:
  template <class Visit>
  void visit(std::vector<Tile> triangles, OracleKind oracle, Index rows, Visit&& visit) {
    if (triangles.empty()) return;
    const Index query = triangles.front().queries.begin;
    const Index key = triangles.front().keys.begin;
    for (Tile& tile : triangles) {
      tile.queries = {tile.queries.begin - query, tile.queries.end - query};
      tile.keys = {tile.keys.begin - key, tile.keys.end - key};
    }
    if (triangles != triangles_ || oracle != oracle_ || rows != rows_) {
      runs_.clear();
      const auto add = [this](const SlotFill& slot) { runs_.push_back({slot.rows}); };
      visit_triangles(std::span<const Tile>(triangles), oracle, rows, add);
      triangles_ = std::move(triangles);
      oracle_ = oracle;
      rows_ = rows;
    }
    for (const SlotRun& run : runs_) visit(run);
  }

 private:
  std::vector<Tile> triangles_;
  OracleKind oracle_ = OracleKind::plain;
  Index rows_ = 0;
  std::vector<SlotRun> runs_;
};

}  // namespace detail
}  // namespace twoheads
