#pragma once

#include <algorithm>
#include <cstdint>
#include <set>
#include <span>
#include <twoheads/base/draws.hpp>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>
#include <twoheads/plan/fit.hpp>
#include <twoheads/plan/limits.hpp>
#include <twoheads/plan/tile.hpp>
#include <vector>

namespace twoheads {

/// What a plan evaluates exactly, and how much of the rest it draws at random.
///
///   samples   S: key blocks drawn for each query block and head, of those that are not exact; 0: nothing is drawn,
///             the plan is exact
///   near      a query's last `near` keys are exact, its own included (full masks: as many on either side); rounded up
///             to whole key blocks. Causal masks have the query block's own keys exact in any case.
///   sinks     the first `sinks` keys are exact, rounded up to whole key blocks
///   seed      the same seed, layer, head and query block draw the same blocks;
///             other seeds, layers and heads draw independently
///   permute   full masks with no exact part have their keys put in a random order first, one for all heads of a layer
struct Sampling {
  Index samples = 0;
  Index near = 0;
  Index sinks = 0;
  std::uint64_t seed = 0;
  bool permute = true;
  Index layer = 0;  ///< set by whoever plans layer after layer

  friend bool operator==(const Sampling&, const Sampling&) = default;
};

/// The average case: every query block meets S key blocks drawn at random, beside those that are exact.
///
/// Queries and keys are cut into as few blocks as a call allows, and blocks of nearly one length: T = ceil(keys /
/// block) key blocks that differ by one key at most, so that a draw of S blocks is a draw of S / T of the keys
/// whichever blocks they are, and no short last block counts as much as the others. The F far blocks of a query block
/// are drawn without replacement, each set of S as likely as any other; a drawn tile stands for F / S tiles (Horvitz
/// and Thompson's weight), which makes numerator and denominator of a row unbiased, and the row a ratio of the two.
///
/// With nothing exact, one draw serves all query blocks of a head: block b takes it shifted by b, around the end. Each
/// query block still has every set of S with the same probability, and each key block is drawn equally often, as in the
/// paper, whose query blocks share one permutation. With an exact part, query blocks draw independently.
///
///   Laws     full, no near field: S T rectangles on a plain oracle, or as many pairs of triangles on a causal one.
///            Causal: the diagonal block is exact, query block t has F = t less its other exact blocks, of which it
///            draws min(S, F). Where F <= S nothing is drawn and the tiles are those of an exact plan. Tiles and slots
///            are counted by a sum over the blocks that differ; token_rows takes drawn blocks as of the greater length.
///   Corner   far blocks of causal masks and of plans with a near field are runs of neighbouring keys: what is drawn
///            stays unbiased, but neighbours that are alike make its error larger than that of as many scattered keys.
///            One far key that outweighs all others is found with probability S / F:
///            no error bar sees what was not drawn.
///   Source   Yu & Alman, Theorem 4.1 (S = 1, full, no near field); the rest is not in the paper. docs/paper_map.md
struct SampledTiling {
  Index queries = 1;  ///< N
  Index keys = 1;
  Index block = 1;  ///< most real tokens of a call
  OracleKind oracle = OracleKind::plain;
  bool causal = false;
  Sampling sampling;  ///< what is drawn

  [[nodiscard]] constexpr Index query_blocks() const { return ceil_div(queries, block); }
  [[nodiscard]] constexpr Index key_blocks() const { return ceil_div(keys, block); }  ///< T
  [[nodiscard]] constexpr Rows queries_of(Index b) const { return even_rows(b, query_blocks(), queries); }
  /// Keys of a key block.
  [[nodiscard]] constexpr Rows keys_of(Index b) const { return even_rows(b, key_blocks(), keys); }

  /// Key blocks that query block b sees exactly, the sinks apart; a diagonal block is one of them.
  [[nodiscard]] constexpr Rows near_blocks(Index b) const {
    if (causal) return {std::max<Index>(b - near_each_side(), 0), b + 1};
    if (sampling.near == 0) return {key_blocks(), key_blocks()};
    return {std::max<Index>(b - near_each_side(), 0), std::min(b + near_each_side() + 1, key_blocks())};
  }

  /// Key blocks of which query block b draws its sample: F.
  [[nodiscard]] constexpr Index far_blocks(Index b) const {
    const FarBlocks far = far_of(b);
    return far.before.size() + far.after.size();
  }
  /// Key blocks that query block b draws: S, or none where all F are evaluated.
  [[nodiscard]] constexpr Index drawn_blocks(Index b) const {
    return far_blocks(b) > sampling.samples ? sampling.samples : 0;
  }

  /// True where no query block has more than S far blocks.
  [[nodiscard]] constexpr bool exact() const {
    if (causal) return far_blocks(query_blocks() - 1) <= sampling.samples;
    // The ends of the sequence cut the near field of the first and last blocks, and sinks that lie in it save nothing.
    for (Index b = 0; b < query_blocks(); ++b) {
      if (far_blocks(b) > sampling.samples) return false;
      if (b >= first_like_the_next() && b < last_like_the_next()) b = last_like_the_next();
    }
    return true;
  }

  /// True where some keys are always seen: far blocks are then places in the sequence.
  [[nodiscard]] constexpr bool has_exact_part() const { return causal || sampling.near > 0 || sampling.sinks > 0; }

  /// True where keys are to be put in the order of key_order() before any tile is evaluated.
  [[nodiscard]] constexpr bool permutes_keys() const { return sampling.permute && !has_exact_part(); }
  /// For each key position of a tile, the key that stands there: a random order from seed and layer.
  [[nodiscard]] std::vector<Index> key_order() const {
    return detail::Draws(detail::seed_of_part(layer_seed(), -1)).order(keys);
  }

  [[nodiscard]] TilingCounts counts() const {
    TilingCounts total;
    const TilingCounts rectangle = count_rectangle();
    for (Index b = 0; b < query_blocks(); ++b) {
      const bool repeats = b >= first_like_the_next() && b < last_like_the_next();
      const Index times = repeats ? last_like_the_next() - b : 1;
      total.add(rectangle, times * rectangles(b));
      b += times - 1;
    }
    if (!causal) return total;
    const Index longer = queries % query_blocks();
    if (longer > 0) total.add(count_diagonal(queries_of(0).size()), longer);
    total.add(count_diagonal(queries / query_blocks()), query_blocks() - longer);
    return total;
  }

  /// Calls visit(tiles) for the slots of a query block of one head: exact rectangles, the diagonal, drawn rectangles.
  template <class Visit>
  void for_each_slot(Index b, Index head, Visit&& visit) const {
    const Rows rows = queries_of(b);
    const FarBlocks far = far_of(b);
    const Index drawn = drawn_blocks(b);
    const auto rectangle = [&](Index key_block) { detail::visit_rectangle({rows, keys_of(key_block)}, oracle, visit); };
    const Index end = causal ? b : key_blocks();
    for (Index key_block = 0; key_block < end; ++key_block) {
      // With nothing to draw, far blocks are as exact as the others.
      if (drawn > 0 && far.before.contains(key_block)) key_block = far.before.end;
      if (drawn > 0 && far.after.contains(key_block)) key_block = far.after.end;
      if (key_block < end) rectangle(key_block);
    }
    if (causal) {
      const Tile diagonal{rows, rows, TileShape::lower};
      detail::visit_triangles(std::span<const Tile>(&diagonal, 1), oracle, block + 1, visit);
    }
    if (drawn == 0) return;
    const Index total = far_blocks(b);
    for (const Index number : numbers_drawn(b, head)) {
      const Index before = far.before.size();
      const Index key_block = number < before ? far.before.begin + number : far.after.begin + number - before;
      Tile tile{rows, keys_of(key_block)};
      tile.drawn = drawn;
      tile.stands_for = total;
      detail::visit_rectangle(tile, oracle, visit);
    }
  }

  template <class Visit>
  void for_each_slot(Index b, Visit&& visit) const {
    for_each_slot(b, 0, visit);
  }

  template <class Visit>
  void for_each_run(Index b, Index head, Visit&& visit) const {
    for_each_slot(b, head, [&](std::span<const Tile> slot) { visit(SlotRun{rows_of_slot(slot)}); });
  }

  template <class Visit>
  void for_each_run(Index b, Visit&& visit) const {
    for_each_run(b, 0, visit);
  }

  /// Each draws blocks of its own, which may differ by one row.
  [[nodiscard]] constexpr Index alike_until(Index b) const { return b + 1; }

  /// Throws SpecError or LimitError that names what cannot be planned.
  void require_valid() const {
    const auto at_least = [](const char* what, Index value) {
      if (value < 0) throw SpecError(detail::text(what, " is ", value, ", expected 0 or more"));
    };
    if (sampling.samples < 1 || sampling.samples > key_blocks())
      throw SpecError(detail::text("the number of samples is ", sampling.samples, ", expected 1 to ", key_blocks(),
                                   ", the blocks of up to ", block, " keys that ", keys, " keys make"));
    at_least("the near field", sampling.near);
    at_least("the number of exact sinks", sampling.sinks);
    if (queries != keys && sampling.near > 0)
      throw SpecError(detail::text("a near field of ", queries, " queries and ", keys,
                                   " other keys is undefined: expected as many keys as queries"));
    // A block of one key among blocks of two has no upper triangle: the draw would decide how many calls there are.
    if (!causal && oracle == OracleKind::causal && block == 2 && keys % 2 == 1 && !exact())
      throw LimitError(detail::text("a sample of ", keys, " keys, an odd number, on a causal oracle of 3 rows is not ",
                                    "planned: expected 4 rows or more"));
  }

 private:
  struct FarBlocks {
    Rows before;
    Rows after;
  };

  /// Whole blocks that hold the near field on one side, the query's own block apart: the first query of a block asks
  /// for near - 1 keys before it.
  [[nodiscard]] constexpr Index near_each_side() const {
    const Index others = std::max<Index>(std::min(sampling.near, keys) - 1, 0);
    return std::min(ceil_div(others, keys / key_blocks()), key_blocks());
  }

  /// Blocks that hold the sinks.
  [[nodiscard]] constexpr Index sink_blocks() const {
    const Index wanted = std::min(sampling.sinks, keys);
    const Index length = keys / key_blocks();
    const Index longer = keys % key_blocks();
    if (wanted <= longer * (length + 1)) return ceil_div(wanted, length + 1);
    return longer + ceil_div(wanted - longer * (length + 1), length);
  }

  [[nodiscard]] constexpr FarBlocks far_of(Index b) const {
    const Rows near = near_blocks(b);
    const Index first = sink_blocks();
    return {{std::min(first, near.begin), near.begin},
            {std::max(first, std::min(near.end, key_blocks())), causal ? std::max(first, near.end) : key_blocks()}};
  }

  /// Exact and drawn rectangles of a query block.
  [[nodiscard]] constexpr Index rectangles(Index b) const {
    const Index far = far_blocks(b);
    return (causal ? b : key_blocks()) - far + std::min(far, sampling.samples);
  }

  /// The numbers of the far blocks that a query block draws, ascending.
  [[nodiscard]] std::set<Index> numbers_drawn(Index b, Index head) const {
    const std::uint64_t head_seed = detail::seed_of_part(layer_seed(), head);
    if (has_exact_part())
      return detail::Draws(detail::seed_of_part(head_seed, b)).distinct(drawn_blocks(b), far_blocks(b));
    std::set<Index> numbers;
    for (const Index number : detail::Draws(head_seed).distinct(sampling.samples, key_blocks()))
      numbers.insert((number + b) % key_blocks());
    return numbers;
  }

  /// Between the two, a query block has as many rectangles as the next one.
  [[nodiscard]] constexpr Index first_like_the_next() const {
    const Index exact = near_each_side() + sink_blocks();
    if (causal) return std::min(exact + sampling.samples, query_blocks());
    return sampling.near == 0 ? 0 : std::min(exact, query_blocks());
  }
  [[nodiscard]] constexpr Index last_like_the_next() const {
    const bool ends_cut = !causal && sampling.near > 0;
    return query_blocks() - 1 - (ends_cut ? std::min(near_each_side(), query_blocks() - 1) : 0);
  }

  [[nodiscard]] TilingCounts count_rectangle() const {
    TilingCounts total;
    detail::visit_rectangle({queries_of(0), keys_of(0)}, oracle,
                            [&](std::span<const Tile> slot) { total.add_slot(slot); });
    return total;
  }

  [[nodiscard]] TilingCounts count_diagonal(Index length) const {
    TilingCounts total;
    const auto count = [&](const SlotFill& slot) { total.add_slot(slot); };
    const Tile diagonal{{0, length}, {0, length}, TileShape::lower};
    detail::visit_triangles(std::span<const Tile>(&diagonal, 1), oracle, block + 1, count);
    return total;
  }

  [[nodiscard]] constexpr std::uint64_t layer_seed() const {
    return detail::seed_of_part(sampling.seed, sampling.layer);
  }
};

static_assert(Tiling<SampledTiling>);

}  // namespace twoheads
