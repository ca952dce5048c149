#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <tuple>
#include <twoheads/plan/cover.hpp>
#include <twoheads/plan/plan.hpp>
#include <utility>
#include <vector>

#include "fuzz/fuzz_input.hpp"
#include "support/in_shape.hpp"
#include "support/rows_filled.hpp"

namespace fuzz {

using twoheads::Mask;
using twoheads::MaskKind;
using twoheads::Plan;
using twoheads::Rows;

/// A mask over at most so many tokens, or one that contradicts itself.
inline Mask drawn_mask(Input& in, Index tokens, Index keys) {
  const Index most = std::max<Index>(tokens, 1);
  switch (in.number() % 8) {
    case 0:
      return Mask::full();
    case 1:
      return Mask::causal();
    case 2:
      return Mask::sliding_window(in.index(0, most + 1));
    case 3: {
      const Index window = in.index(0, most + 1);
      return Mask::window_and_sinks(window, in.index(0, most + 1));
    }
    case 4: {
      const Index left = in.index(0, most + 1);
      return Mask::band(left, in.index(0, most + 1));
    }
    case 5: {
      std::vector<Index> lengths;
      const bool causal = in.flag();
      // So many documents, the last one as long as it has to be.
      Index left = tokens;
      for (Index count = in.index(0, 20); count > 0 && left > 1; --count) {
        lengths.push_back(std::min(in.index(1, 40), left - 1));
        left -= lengths.back();
      }
      lengths.push_back(left);
      return Mask::documents(lengths, causal);
    }
    case 6: {
      std::vector<std::pair<Index, Index>> pairs;
      const Index block = in.index(1, 12);
      const Index rows = twoheads::ceil_div(most, block), cols = twoheads::ceil_div(std::max<Index>(keys, 1), block);
      for (Index count = in.index(0, 30); count > 0; --count) {
        const Index row = in.index(0, rows - 1);
        pairs.emplace_back(row, in.index(0, cols - 1));
      }
      return Mask::block_pairs(tokens, keys, block, pairs);
    }
    default: {
      // Any pairs, as bits of a word that depends on both.
      const auto word = in.number<std::uint64_t>();
      return Mask::pairs(tokens, keys, [=](Index i, Index j) { return ((word >> ((i * 7 + j * 3) % 64)) & 1U) != 0; });
    }
  }
}

/// Whether the definitions in model/mask.hpp show query i key j, said a second time.
[[nodiscard]] inline bool shows(const Mask& mask, Index i, Index j) {
  switch (mask.kind) {
    case MaskKind::full:
      return true;
    case MaskKind::causal:
      return j <= i;
    case MaskKind::window:
      return j <= i && i - j < mask.window;
    case MaskKind::sinks:
      return j <= i && (i - j < mask.window || j < mask.sinks);
    case MaskKind::band:
      return j <= i ? i - j <= mask.left : j - i <= mask.right;
    case MaskKind::documents: {
      const auto document = [&](Index at) {
        return std::count_if(mask.ends.begin(), mask.ends.end(), [&](Index end) { return end <= at; });
      };
      return document(i) == document(j) && (!mask.causal_documents || j <= i);
    }
    case MaskKind::blocks: {
      const auto group = static_cast<std::size_t>(
          std::count_if(mask.ends.begin(), mask.ends.end(), [&](Index end) { return end <= i; }));
      return std::any_of(mask.shown[group].begin(), mask.shown[group].end(),
                         [&](const Rows& range) { return range.begin <= j && j < range.end; });
    }
  }
  return false;
}

/// How often each pair of a plan lies in its tiles: (queries, keys).
class PairCount {
 public:
  PairCount(Rows queries, Index keys)
      : queries_(queries), keys_(keys), seen_(static_cast<std::size_t>(queries.size() * keys)) {}

  void add(const twoheads::Tile& tile) {
    const auto inside = [](const Rows& rows, Index begin, Index end) {
      return rows.empty() || (rows.begin >= begin && rows.end <= end);
    };
    require(inside(tile.queries, queries_.begin, queries_.end) && inside(tile.keys, 0, keys_) &&
                inside(tile.sinks, 0, keys_),
            "a tile lies in the plan, also with keys that none of its queries sees");
    for (Index i = 0; i < tile.queries.size(); ++i) {
      for (Index j = 0; j < tile.keys.size(); ++j)
        if (in_shape(tile.shape, i, j)) add(tile.queries.begin + i, tile.keys.begin + j);
      for (Index sink = tile.sinks.begin; sink < tile.sinks.end; ++sink) add(tile.queries.begin + i, sink);
    }
  }
  /// Throws unless each pair that the mask shows was seen once, or at most once, and no other.
  void require_cover(const Mask& mask, bool exact) const {
    for (Index i = queries_.begin; i < queries_.end; ++i)
      for (Index j = 0; j < keys_; ++j) {
        const int times = seen_[at(i, j)];
        const bool visible = shows(mask, i, j);
        if (times > (visible ? 1 : 0) || (exact && visible && times == 0))
          throw std::logic_error(twoheads::detail::text("query ", i, ", key ", j, " lies in ", times, " tiles"));
      }
  }

 private:
  [[nodiscard]] std::size_t at(Index i, Index j) const {
    return static_cast<std::size_t>((i - queries_.begin) * keys_ + j);
  }
  void add(Index i, Index j) {
    require(queries_.contains(i) && j >= 0 && j < keys_, "a tile lies in the plan");
    ++seen_[at(i, j)];
  }

  Rows queries_;
  Index keys_;
  std::vector<unsigned char> seen_;
};

[[nodiscard]] inline Index rounded_up(Index a, Index b) { return a / b + (a % b != 0 ? 1 : 0); }

/// Counts a plan pair by pair and slot by slot, and holds all that against what it says of itself.
inline void require_true(const Plan& plan) {
  const twoheads::PlanRequest& request = plan.request();
  const bool kernel = request.oracle.kind == twoheads::OracleKind::kernel;
  for (Index head = 0; head < (plan.exact() ? 1 : request.heads); ++head) {
    PairCount pairs(plan.queries(), plan.keys()), joined(plan.queries(), plan.keys());
    Index tiles = 0, slots = 0, most = 0;
    twoheads::detail::TriangleRuns memory;
    for (Index block = 0; block < plan.query_blocks(); ++block) {
      std::vector<Index> rows, runs;
      plan.for_each_slot(block, head, [&](std::span<const twoheads::Tile> slot) {
        ++slots;
        most = std::max(most, static_cast<Index>(slot.size()));
        Index filled = slot.front().sinks.size();
        for (const twoheads::Tile& tile : slot) {
          ++tiles;
          filled += rows_filled(tile);
          pairs.add(tile);
        }
        require(filled + (plan.straight() || kernel ? 0 : 1) <= request.oracle.rows, "a slot fits a call");
        rows.push_back(filled + (plan.straight() ? 0 : 1));
      });
      plan.for_each_joined_tile(block, head, [&](const twoheads::Tile& tile) { joined.add(tile); });
      plan.for_each_run(
          block, head,
          [&](const twoheads::SlotRun& run) {
            for (Index time = 0; time < run.times; ++time) {
              runs.push_back(run.rows);
              if (run.others > 0) runs.push_back(run.others);
            }
          },
          memory);
      require(runs == rows, "runs have the rows of the slots, in their order");
      require(plan.alike_until(block) > block, "a block is like itself");
    }
    pairs.require_cover(request.mask, plan.exact());
    joined.require_cover(request.mask, plan.exact());
    require(tiles == plan.tiles() && slots == plan.slots() && most == plan.jobs_per_slot(), "counts are enumeration's");
  }
  const std::string cover = twoheads::check_cover(plan);
  require(plan.exact() ? cover == "exact" : cover.starts_with("a sample:"), "check_cover agrees: " + cover);

  // The closed forms of calls, from the number of slots.
  const Index rounds = plan.straight() || request.anchor != twoheads::Anchor::gibbs ? 1 : 2;
  const twoheads::OracleLimits& oracle = request.oracle;
  Index instances = oracle.heads;
  if (oracle.layers > 1)
    instances = (request.packing == twoheads::Packing::residual ? oracle.heads : oracle.heads - 1) * oracle.layers;
  require(plan.calls() == request.layers * rounds * rounded_up(plan.slots() * request.heads, instances), "calls");
  require(plan.rounds() == request.layers * rounds, "rounds");
  require(plan.jobs() == plan.tiles() * request.heads * request.layers, "jobs");
  require(plan.rows_used() >= 0 && plan.rows_used() <= 1, "rows used");
  // And the theorems', for one head and layer of an exact plan without a past.
  const Index t = rounded_up(request.tokens, plan.block()), u = rounded_up(plan.keys(), plan.block());
  const bool plain = oracle.kind == twoheads::OracleKind::plain, causal = oracle.kind == twoheads::OracleKind::causal;
  if (plan.straight() || !plan.exact() || request.past > 0) return;
  if (request.mask.kind == MaskKind::full && plain) require(plan.slots() == t * u, "full on plain takes T U");
  if (request.mask.kind == MaskKind::causal && causal && plan.block() > 1) require(plan.slots() == t * t, "causal T^2");
}

/// A plan from drawn numbers. The first byte says whether it is small and counted pair by pair, or of any numbers and
/// only asked for its counts.
inline void plan(std::span<const std::uint8_t> bytes) {
  Input in(bytes);
  const bool small = in.number() % 4 != 0;
  constexpr Index any = twoheads::OracleLimits::unlimited;
  const auto size = [&](Index least, Index most) { return small ? in.index(least, most) : in.index(-1, any); };
  twoheads::PlanRequest request;
  std::ignore = accepted([&] {
    const int kind = in.number() % 3;
    request.oracle.kind = kind == 0   ? twoheads::OracleKind::plain
                          : kind == 1 ? twoheads::OracleKind::causal
                                      : twoheads::OracleKind::kernel;
    request.tokens = size(0, 80);
    request.past = in.number() % 4 == 0 ? size(0, 40) : 0;
    request.oracle.rows = size(1, 40);
    request.heads = size(1, 3);
    request.layers = size(1, 3);
    request.oracle.heads = size(1, 4);
    request.oracle.layers = size(1, 3);
    request.oracle.residual = in.flag();
    request.packing = in.flag() ? twoheads::Packing::residual : twoheads::Packing::identity;
    request.anchor = static_cast<twoheads::Anchor>(in.number() % 4);
    request.log_weights = in.number() % 4 == 0;
    request.block = in.number() % 4 == 0 ? size(0, request.oracle.rows) : 0;
    if (in.number() % 4 == 0) {
      request.sampling.samples = size(0, 6);
      request.sampling.near = size(0, 40);
      request.sampling.sinks = size(0, 20);
      request.sampling.seed = in.number();
    }
    request.keys = in.number() % 4 == 0 ? size(0, 80) : 0;
    if (small) {
      const Index end = request.tokens + request.past;
      request.mask = drawn_mask(in, end, request.keys > 0 ? request.keys : end);
      require_true(Plan(request));
      return;
    }
    const int mask = in.number() % 5;
    request.mask.kind = static_cast<MaskKind>(mask);
    request.mask.window = in.index(-1, any);
    request.mask.sinks = in.index(-1, any);
    request.mask.left = in.index(-1, any);
    request.mask.right = in.index(-1, any);
    const Plan plan(request);
    require(plan.calls() >= 0 && plan.slots() >= 0 && plan.tiles() >= plan.slots(), "counts");
    require(plan.jobs() >= 0 && plan.rounds() >= 0 && plan.query_blocks() >= 1, "counts");
    require(plan.rows_used() >= 0 && plan.rows_used() <= 1.0 + 1e-9, "rows used");
    std::ignore = plan.paper_calls();
    std::ignore = plan.theorem();
    require(plan.queries_of(0).begin == plan.queries().begin, "the first block begins with the first query");
    require(plan.queries_of(plan.query_blocks() - 1).end == plan.queries().end, "the last one ends with the last");
  });
}

}  // namespace fuzz
