#pragma once

#include <algorithm>
#include <span>
#include <twoheads/base/index.hpp>
#include <twoheads/plan/fit.hpp>
#include <twoheads/plan/limits.hpp>
#include <twoheads/plan/tile.hpp>
#include <vector>

namespace twoheads {

/// Query i sees keys i - left .. i + right and the first `sinks` keys, on any oracle: sliding windows, attention sinks,
/// bands, and causal attention (left = tokens - 1, right = 0).
///
/// Positions are cut into segments of g queries. With w = left + 1 + right keys in a window, the segment from a on
/// sees a strict upper triangle on the keys from a + right - w, a lower triangle on those from a + right, and all
/// keys between. Where w is short, g = w: nothing lies between, and c segments share their calls, the lower triangles
/// in one slot and the upper ones in another. The first left + 1 + sinks queries see all keys from 0 on: there the
/// upper triangles are rectangles, in blocks of a call's rows.
///
///   Laws     nothing is subtracted: every visible pair lies in one tile. For a window r and s sinks that are short
///            beside a causal oracle's rows R: 2 slots for c r queries, c = floor((R - 1 - s) / r); a query block's
///            tiles are the same but for the first queries and the last block, so counts are closed forms (for bands
///            with right > 0 a sum over the blocks that the end of the sequence cuts). No more than 2^18
///            windows share a slot, on plain oracles of 2^20 tokens together.
///   Corner   sinks ride in the slots of lower triangles, one row each, up to half of a causal oracle's rows; beyond,
///            and on plain oracles, they are rectangles of their own. tokens >= 1, left, right, sinks >= 0 and rows >=
///            2, sinks only where right is 0, 0 <= past < tokens.
///   Source   Yu & Alman, Theorem 5.1 and its proof D.1, which subtracts prefix sums and counts keys twice where
///            window and sinks overlap
struct WindowTiling {
  Index tokens = 1;
  Index left = 0;
  Index right = 0;
  Index sinks = 0;
  Index rows = 2;
  OracleKind oracle = OracleKind::causal;
  Index past = 0;  ///< position of the first query: those before it have been evaluated

  [[nodiscard]] constexpr Index query_blocks() const {
    return head_blocks() + ceil_div(tokens - head_end(), tail_block());
  }

  [[nodiscard]] constexpr Rows queries_of(Index b) const {
    const bool tail = b >= head_blocks();
    const Index first = tail ? head_end() : past;
    const Rows queries = tail ? block_rows(b - head_blocks(), tail_block(), tokens - head_end())
                              : block_rows(b, block(), head_end() - past);
    return {first + queries.begin, first + queries.end};
  }

  [[nodiscard]] TilingCounts counts() const {
    TilingCounts total;
    count_head(total);
    const Index first = head_blocks();
    const Index last = query_blocks();
    if (first == last) return total;
    const Index whole = whole_tail_blocks();
    if (whole > 0) total.add(count_block(first), whole);
    for (Index b = first + whole; b < last; ++b) total.add(count_block(b));
    return total;
  }

  /// Calls visit(tiles) for the slots of a query block: single tiles first, then triangles that share slots.
  template <class Visit>
  void for_each_slot(Index b, Visit&& visit) const {
    const Rows queries = queries_of(b);
    for_each_rectangle(b, [&](Rows keys) {
      for (Index begin = keys.begin; begin < keys.end; begin += block())
        detail::visit_rectangle({queries, {begin, std::min(begin + block(), keys.end)}}, oracle, visit);
    });
    detail::visit_triangles(std::span<const Tile>(triangles(b)), oracle, rows, visit);
  }

  template <class Visit>
  void for_each_run(Index b, Visit&& visit) const {
    detail::TriangleRuns memory;
    for_each_run(b, visit, memory);
  }
  template <class Visit>
  void for_each_run(Index b, Visit&& visit, detail::TriangleRuns& memory) const {
    for_each_rectangle(
        b, [&](Rows keys) { detail::visit_rectangle_runs(queries_of(b).size(), keys.size(), block(), oracle, visit); });
    memory.visit(triangles(b), oracle, rows, visit);
  }

  [[nodiscard]] constexpr Index alike_until(Index b) const {
    return std::max(b < head_blocks() ? 0 : head_blocks() + whole_tail_blocks(), b + 1);
  }

 private:
  static constexpr Index most_windows = Index{1} << 18;

  [[nodiscard]] constexpr Index block() const { return rows - 1; }
  /// Keys of a window, w.
  [[nodiscard]] constexpr Index reach() const { return left + 1 + right; }
  /// Where the queries end that see all keys from 0 on.
  [[nodiscard]] constexpr Index head_end() const {
    return left >= tokens - sinks ? tokens : std::max(left + 1 + sinks, past);
  }
  [[nodiscard]] constexpr Index head_blocks() const { return ceil_div(head_end() - past, block()); }
  [[nodiscard]] constexpr Index riding_sinks() const {
    return oracle == OracleKind::causal && sinks <= block() / 2 ? sinks : 0;
  }
  /// Queries of a segment, g.
  [[nodiscard]] constexpr Index segment() const { return std::min(reach(), block() - riding_sinks()); }
  [[nodiscard]] constexpr bool nothing_between() const { return segment() == reach(); }
  /// Queries of a block of the tail, c g. The triangles of a block are held together, and on plain oracles there are
  /// tiles for each of their tokens: both are bounded also where calls are not.
  [[nodiscard]] constexpr Index tail_block() const {
    if (!nothing_between()) return segment();
    const Index fit = (block() - riding_sinks()) / segment();
    const Index most = oracle == OracleKind::plain ? detail::most_halved / segment() : most_windows;
    return std::clamp<Index>(fit, 1, std::clamp<Index>(most, 1, most_windows)) * segment();
  }

  /// Blocks of the tail that are whole and see no end of the sequence: they differ by a shift alone.
  [[nodiscard]] constexpr Index whole_tail_blocks() const {
    return std::max<Index>(tokens - right - head_end(), 0) / tail_block();
  }

  /// Calls visit(keys) for the ranges of keys that all queries of a block see, triangles apart.
  template <class Visit>
  constexpr void for_each_rectangle(Index b, Visit&& visit) const {
    const Rows queries = queries_of(b);
    const Index lower = std::min(queries.begin + right, tokens);
    if (b < head_blocks()) return visit(Rows{0, lower});
    if (riding_sinks() < sinks) visit(Rows{0, sinks});
    if (!nothing_between()) visit(Rows{std::min(queries.begin - left - 1 + queries.size(), lower), lower});
  }

  /// The triangles of a block.
  [[nodiscard]] std::vector<Tile> triangles(Index b) const {
    const Rows queries = queries_of(b);
    std::vector<Tile> tiles;
    const bool tail = b >= head_blocks();
    const Index step = tail ? segment() : queries.size();
    const auto for_each_segment = [&](const auto& use) {
      for (Index begin = queries.begin; begin < queries.end; begin += step)
        use(Rows{begin, std::min(begin + step, queries.end)});
    };
    for_each_segment([&](Rows part) {
      const Rows keys{std::min(part.begin + right, tokens), std::min(part.end + right, tokens)};
      if (keys.empty()) return;
      tiles.push_back({part, keys, TileShape::lower, tail ? Rows{0, riding_sinks()} : Rows{}});
    });
    if (!tail) return tiles;
    for_each_segment([&](Rows part) {
      const Index begin = part.begin - left - 1;
      // With nothing between, a short last segment sees the whole previous one but its triangle.
      const Index end = nothing_between() ? part.begin + right : begin + part.size();
      const Rows keys{begin, std::min(end, tokens)};
      if (keys.size() > 1) tiles.push_back({part, keys, TileShape::strict_upper});
    });
    return tiles;
  }

  /// What rectangles of `queries` queries come to, `full` of them with all keys of a call and one with `rest` keys.
  [[nodiscard]] constexpr TilingCounts count_rectangles(Index queries, Index full, Index rest) const {
    TilingCounts total;
    const auto add = [&](Index keys, Index times) {
      if (keys == 0 || times == 0) return;
      TilingCounts one;
      detail::visit_rectangle({{0, queries}, {0, keys}}, oracle,
                              [&](std::span<const Tile> slot) { one.add_slot(slot); });
      total.add(one, times);
    };
    add(block(), full);
    add(rest, 1);
    return total;
  }

  [[nodiscard]] TilingCounts count_triangles(Index b) const {
    TilingCounts total;
    const auto count = [&](const SlotFill& slot) { total.add_slot(slot); };
    detail::visit_triangles(std::span<const Tile>(triangles(b)), oracle, rows, count);
    return total;
  }

  [[nodiscard]] TilingCounts count_block(Index b) const {
    TilingCounts total = count_triangles(b);
    for_each_rectangle(b, [&](Rows keys) {
      if (!keys.empty())
        total.add(count_rectangles(queries_of(b).size(), keys.size() / block(), keys.size() % block()));
    });
    return total;
  }

  void count_head(TilingCounts& total) const {
    const Index blocks = head_blocks();
    // Whole blocks whose keys the end of the sequence does not cut: block b has b more rectangles than the first.
    const Index whole = std::max<Index>(std::min(head_end(), tokens - right) - past, 0) / block();
    if (whole > 0) {
      const Index before = past + right;
      total.add(count_triangles(0), whole);
      total.add(count_rectangles(block(), before / block(), before % block()), whole);
      total.add(count_rectangles(block(), 1, 0), whole * (whole - 1) / 2);
    }
    for (Index b = whole; b < blocks; ++b) total.add(count_block(b));
  }
};

static_assert(Tiling<WindowTiling>);

}  // namespace twoheads
