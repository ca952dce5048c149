#pragma once

#include <algorithm>
#include <memory>
#include <span>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>
#include <twoheads/model/mask.hpp>
#include <twoheads/plan/fit.hpp>
#include <twoheads/plan/limits.hpp>
#include <twoheads/plan/tile.hpp>
#include <type_traits>
#include <utility>
#include <vector>

namespace twoheads {
namespace detail {

/// Keys that are in both lists of ranges. Ranges of a list are in order, with gaps between them, here and below.
[[nodiscard]] inline std::vector<Rows> common_ranges(const std::vector<Rows>& a, const std::vector<Rows>& b) {
  std::vector<Rows> found;
  for (std::size_t i = 0, j = 0; i < a.size() && j < b.size();) {
    const Rows both{std::max(a[i].begin, b[j].begin), std::min(a[i].end, b[j].end)};
    if (!both.empty()) found.push_back(both);
    ++(a[i].end < b[j].end ? i : j);
  }
  return found;
}

/// Keys of a list without those of another, all of which it has.
[[nodiscard]] inline std::vector<Rows> ranges_without(const std::vector<Rows>& all, const std::vector<Rows>& part) {
  std::vector<Rows> left;
  auto next = part.begin();
  for (Rows range : all) {
    for (; next != part.end() && next->end <= range.end; ++next) {
      if (range.begin < next->begin) left.push_back({range.begin, next->begin});
      range.begin = next->end;
    }
    if (!range.empty()) left.push_back(range);
  }
  return left;
}

}  // namespace detail

/// Any pairs, as a mask of blocks has them: rectangles of queries that see the same keys.
///
/// Queries that see the same are a group. A query block is a part of a long group, or short groups that follow each
/// other. Keys that all its groups see are rectangles for the whole block; what is left is asked of either half of the
/// groups, and so on down to one. Tiles of a query block share slots.
///
///   Laws     each pair lies in the tile of the largest part that sees its key as a whole, and in no other; a query
///            block has at most the rows of a call; counts are sums over the tiles
///   Corner   a query block that sees no key has no tile. On a causal oracle a rectangle is one tile where its queries
///            fit after its keys, else two triangles. The mask is shared with copies of the tiling, not copied.
///   Source   Yu & Alman, Lemma 3.1 on the blocks that are there; Theorem 4.2's codes for tiles that share a slot
class BlocksTiling {
 public:
  BlocksTiling(const Mask& mask, Index block, OracleKind oracle)
      : mask_(std::make_shared<const Mask>(mask)), block_(block), oracle_(oracle) {
    TWOHEADS_ASSERT(mask.kind == MaskKind::blocks && block >= 1);
    auto ends = std::make_shared<std::vector<Index>>();
    Index begin = 0;   // of the group
    Index filled = 0;  // queries of the open block, of groups that lie in it as a whole
    for (const Index end : mask.ends) {
      if (filled > 0 && filled + end - begin > block) filled = 0;
      if (filled > 0)
        ends->back() = end;
      else
        for (Index next = begin; next < end; next = ends->back()) ends->push_back(std::min(next + block, end));
      filled = end - begin > block ? 0 : filled + end - begin;
      begin = end;
    }
    ends_ = std::move(ends);
  }

  [[nodiscard]] Index query_blocks() const { return static_cast<Index>(ends_->size()); }
  [[nodiscard]] Rows queries_of(Index b) const {
    const auto at = static_cast<std::size_t>(b);
    return {b == 0 ? 0 : (*ends_)[at - 1], (*ends_)[at]};
  }

  [[nodiscard]] TilingCounts counts() const {
    TilingCounts total;
    for (Index b = 0; b < query_blocks(); ++b)
      for_each_slot(b, [&](std::span<const Tile> slot) { total.add_slot(slot); });
    return total;
  }

  template <class Visit>
  void for_each_slot(Index b, Visit&& visit) const {
    if (oracle_ == OracleKind::kernel)
      return for_each_rectangle(b, [&](const Tile& tile) { detail::visit_one(tile, visit); });
    detail::SlotFiller<std::remove_reference_t<Visit>> filler(block_ + 1, visit);
    for_each_rectangle(b, [&](Tile tile) {
      tile.queries_last = oracle_ == OracleKind::causal && tile.keys.size() + tile.queries.size() - 1 <= block_;
      detail::visit_rectangle(tile, oracle_, [&](std::span<const Tile> one) { filler.add(one.front()); });
    });
    filler.close();
  }

  template <class Visit>
  void for_each_run(Index b, Visit&& visit) const {
    for_each_slot(b, [&](std::span<const Tile> slot) { visit(SlotRun{rows_of_slot(slot)}); });
  }
  [[nodiscard]] Index alike_until(Index b) const { return b + 1; }

 private:
  /// Queries of one group that lie in a query block, and the keys that they see and no tile has shown them.
  struct Part {
    Rows queries;
    std::vector<Rows> keys;
  };

  /// Calls add(tile) for the rectangles of a query block, none of which has more keys than a block.
  template <class Add>
  void for_each_rectangle(Index b, const Add& add) const {
    const Rows queries = queries_of(b);
    std::vector<Part> parts;
    for (Index begin = queries.begin; begin < queries.end; begin = parts.back().queries.end) {
      const std::size_t group = mask_->group_of(begin);
      parts.push_back({{begin, std::min(mask_->ends[group], queries.end)}, mask_->shown[group]});
    }
    split(std::span<Part>(parts), add);
  }

  template <class Add>
  void split(std::span<Part> parts, const Add& add) const {
    std::vector<Rows> common = parts.front().keys;
    for (const Part& part : parts.subspan(1)) common = detail::common_ranges(common, part.keys);
    const Rows queries{parts.front().queries.begin, parts.back().queries.end};
    for (const Rows& range : common)
      for (Index begin = range.begin; begin < range.end; begin += block_)
        add(Tile{queries, {begin, std::min(begin + block_, range.end)}});
    if (parts.size() == 1) return;
    if (!common.empty())
      for (Part& part : parts) part.keys = detail::ranges_without(part.keys, common);
    split(parts.first(parts.size() / 2), add);
    split(parts.subspan(parts.size() / 2), add);
  }

  std::shared_ptr<const Mask> mask_;
  std::shared_ptr<const std::vector<Index>> ends_;  ///< where query blocks end
  Index block_;
  OracleKind oracle_;
};

static_assert(Tiling<BlocksTiling>);

}  // namespace twoheads
