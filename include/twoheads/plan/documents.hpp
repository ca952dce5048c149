#pragma once

#include <algorithm>
#include <memory>
#include <span>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>
#include <twoheads/plan/fit.hpp>
#include <twoheads/plan/full.hpp>
#include <twoheads/plan/limits.hpp>
#include <twoheads/plan/tile.hpp>
#include <twoheads/plan/window.hpp>
#include <utility>
#include <vector>

namespace twoheads {

/// Documents that do not see each other, whole or causal inside. A document longer than a call has the tiles of full
/// or causal attention; shorter ones that follow each other are query blocks together, and share slots.
///
///   Laws     a query block of short documents has at most the rows of a call; counts are sums over the documents
///   Corner   ends rise and are not empty (Mask::require_defined). The positions where documents end are
///            shared with copies of the tiling, not copied
///   Source   Yu & Alman, Theorem 4.2: codes keep short inputs apart in one call
class DocumentsTiling {
 public:
  DocumentsTiling(const std::vector<Index>& ends, bool causal, Index rows, OracleKind oracle)
      : causal_(causal), rows_(rows), oracle_(oracle) {
    TWOHEADS_ASSERT(!ends.empty() && rows >= 2);
    auto parts = std::make_shared<Parts>();
    Index begin = 0;
    for (std::size_t d = 0; d < ends.size(); ++d) {
      const Index end = ends[d];
      const bool is_short = end - begin <= rows_ - 1;
      Part* open = parts->empty() ? nullptr : &parts->back();
      if (is_short && open != nullptr && open->is_short && end - open->tokens.begin <= rows_ - 1)
        open->tokens.end = end;
      else
        parts->push_back({{begin, end}, d, is_short, open == nullptr ? 0 : open->first_block + blocks_of(*open)});
      ++parts->back().documents;
      begin = end;
    }
    blocks_ = parts->back().first_block + blocks_of(parts->back());
    parts_ = std::move(parts);
    ends_ = std::make_shared<const std::vector<Index>>(ends);
  }

  [[nodiscard]] Index query_blocks() const { return blocks_; }

  [[nodiscard]] Rows queries_of(Index b) const {
    const Part& part = part_of(b);
    if (part.is_short) return part.tokens;
    const Rows rows = ask<Rows>(part, [&](const auto& inner) { return inner.queries_of(b - part.first_block); });
    return {part.tokens.begin + rows.begin, part.tokens.begin + rows.end};
  }

  [[nodiscard]] TilingCounts counts() const {
    TilingCounts total;
    for (const Part& part : *parts_) {
      if (part.is_short)
        for_each_slot(part.first_block, [&](std::span<const Tile> slot) { total.add_slot(slot); });
      else
        total.add(ask<TilingCounts>(part, [](const auto& inner) { return inner.counts(); }));
    }
    return total;
  }

  template <class Visit>
  void for_each_slot(Index b, Visit&& visit) const {
    const Part& part = part_of(b);
    if (part.is_short) return for_each_shared_slot(part, visit);
    std::vector<Tile> moved;
    const auto move = [&](std::span<const Tile> slot) {
      moved.assign(slot.begin(), slot.end());
      for (Tile& tile : moved)
        for (Index* position : {&tile.queries.begin, &tile.queries.end, &tile.keys.begin, &tile.keys.end})
          *position += part.tokens.begin;
      visit(std::span<const Tile>(moved));
    };
    ask<void>(part, [&](const auto& inner) { inner.for_each_slot(b - part.first_block, move); });
  }

  template <class Visit>
  void for_each_run(Index b, Visit&& visit) const {
    detail::TriangleRuns memory;
    for_each_run(b, visit, memory);
  }
  template <class Visit>
  void for_each_run(Index b, Visit&& visit, detail::TriangleRuns& memory) const {
    const Part& part = part_of(b);
    const auto run = [&](std::span<const Tile> slot) { visit(SlotRun{rows_of_slot(slot)}); };
    if (part.is_short) return for_each_shared_slot(part, run);
    ask<void>(part, [&](const auto& inner) {
      if constexpr (requires { inner.for_each_run(b, visit, memory); })
        inner.for_each_run(b - part.first_block, visit, memory);
      else
        inner.for_each_run(b - part.first_block, visit);
    });
  }

  [[nodiscard]] Index alike_until(Index b) const {
    const Part& part = part_of(b);
    if (part.is_short) return b + 1;
    return part.first_block + ask<Index>(part, [&](const auto& i) { return i.alike_until(b - part.first_block); });
  }

 private:
  /// One long document, or short ones that are a query block together.
  struct Part {
    Rows tokens;
    std::size_t first_document = 0;
    bool is_short = false;
    Index first_block = 0;
    std::size_t documents = 0;
  };
  using Parts = std::vector<Part>;

  [[nodiscard]] const Part& part_of(Index b) const {
    const auto next = std::upper_bound(parts_->begin(), parts_->end(), b,
                                       [](Index block, const Part& part) { return block < part.first_block; });
    return *(next - 1);
  }

  /// Asks the tiling of a long document, whose positions begin at 0.
  template <class Answer, class Question>
  Answer ask(const Part& part, const Question& question) const {
    const Index n = part.tokens.size();
    if (causal_) return question(WindowTiling{n, n - 1, 0, 0, rows_, oracle_});
    return question(FullTiling{n, n, rows_ - 1, oracle_});
  }

  [[nodiscard]] Index blocks_of(const Part& part) const {
    return part.is_short ? 1 : ask<Index>(part, [](const auto& inner) { return inner.query_blocks(); });
  }

  template <class Visit>
  void for_each_shared_slot(const Part& part, Visit& visit) const {
    std::vector<Tile> lower;
    std::vector<Tile> rest;
    for (std::size_t d = part.first_document; d < part.first_document + part.documents; ++d) {
      const Rows own{d == 0 ? 0 : (*ends_)[d - 1], (*ends_)[d]};
      const bool whole = !causal_ && oracle_ != OracleKind::causal;
      lower.push_back({own, own, whole ? TileShape::rectangle : TileShape::lower});
      if (!causal_ && !whole) rest.push_back({own, own, TileShape::strict_upper});
    }
    if (causal_ && oracle_ == OracleKind::plain)
      return detail::visit_triangles(std::span<const Tile>(lower), oracle_, rows_, visit);
    detail::SlotFiller<Visit> filler(rows_, visit);
    for (const Tile& tile : lower) filler.add(tile);
    for (const Tile& tile : rest) filler.add(tile);
    filler.close();
  }

  bool causal_;
  Index rows_;
  OracleKind oracle_;
  Index blocks_ = 0;
  std::shared_ptr<const Parts> parts_;
  std::shared_ptr<const std::vector<Index>> ends_;
};

static_assert(Tiling<DocumentsTiling>);

}  // namespace twoheads
