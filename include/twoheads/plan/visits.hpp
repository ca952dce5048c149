#pragma once

#include <algorithm>
#include <cstddef>
#include <limits>
#include <span>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>
#include <twoheads/model/mask.hpp>
#include <twoheads/plan/plan.hpp>
#include <twoheads/plan/shares.hpp>
#include <twoheads/plan/tile.hpp>
#include <vector>

namespace twoheads {

/// What ranks work with unless they are told otherwise: keys that are fetched at a time,
/// and memory for queries in work.
constexpr Index default_piece_keys = 4096;
/// Memory for queries that the kernel works on, for each thread, unless told otherwise: bytes.
constexpr Index default_work_bytes = Index{3} << 20;

/// Bytes of one query in work in the tile kernel, for all heads of a group: a query, a value, and the sums beside them.
[[nodiscard]] constexpr Index bytes_of_a_lane(Index head_dim, Index value_dim, Index heads_of_a_group,
                                              Index scalar_bytes) {
  return heads_of_a_group * (head_dim + 4 * value_dim + 8) * scalar_bytes;
}

/// Rows of a visit: as many as there is memory for, in whole panels of the kernel.
[[nodiscard]] constexpr Index rows_of_a_visit(Index work_bytes, Index threads, Index lane_bytes) {
  const Index work = work_bytes > std::numeric_limits<Index>::max() / threads ? std::numeric_limits<Index>::max()
                                                                              : work_bytes * threads;
  return std::max<Index>(work / lane_bytes / detail::rows_of_a_kernel_atom, 1) * detail::rows_of_a_kernel_atom;
}

/// What a rank evaluates at a time: rows that follow each other and are its own, of one query block; in the tile
/// kernel, where all blocks read the keys in their order, of several.
struct Visit {
  Index query_block = 0;  ///< the first of them
  Rows queries;           ///< positions

  friend bool operator==(const Visit&, const Visit&) = default;
};

namespace detail {

/// Whether the tiles of every query block come in the order of their keys, no key twice, and begin where the kernel
/// cuts keys: blocks that are evaluated together then read the same keys at the same time.
[[nodiscard]] inline bool blocks_read_in_order(const Plan& plan) {
  const MaskKind kind = plan.request().mask.simplified(plan.tokens()).kind;
  return plan.oracle().kind == OracleKind::kernel && plan.sampled() == nullptr &&
         plan.block() % rows_of_a_kernel_atom == 0 && (kind == MaskKind::full || kind == MaskKind::causal);
}

/// The first query block that ends after a position.
[[nodiscard]] inline Index block_at(const Plan& plan, Index position) {
  Rows blocks{0, plan.query_blocks()};
  while (!blocks.empty()) {
    const Index middle = blocks.begin + blocks.size() / 2;
    if (plan.queries_of(middle).end <= position)
      blocks.begin = middle + 1;
    else
      blocks.end = middle;
  }
  return blocks.begin;
}

}  // namespace detail

/// Calls use(visit) for rows that follow each other and have one owner, no more than `most_rows` a visit.
template <class Use>
void for_each_visit(const Plan& plan, Rows own, Index most_rows, Use&& use) {
  TWOHEADS_ASSERT(own.begin >= plan.queries().begin && own.end <= plan.queries().end && most_rows >= 1);
  if (own.empty()) return;
  const bool several = detail::blocks_read_in_order(plan);
  for (Index block = detail::block_at(plan, own.begin), begin = own.begin; begin < own.end;) {
    const Index last = several ? own.end : std::min(plan.queries_of(block).end, own.end);
    const Index end = begin + std::min(most_rows, last - begin);
    use(Visit{block, {begin, end}});
    begin = end;
    while (begin < own.end && plan.queries_of(block).end <= begin) ++block;
  }
}
/// The same with visits of any length.
template <class Use>
void for_each_visit(const Plan& plan, Rows own, Use&& use) {
  for_each_visit(plan, own, own.size(), use);
}

/// Calls use(block, queries) for the query blocks of a visit, and its rows of each.
template <class Use>
void for_each_block(const Plan& plan, const Visit& visit, Use&& use) {
  for (Index block = visit.query_block, begin = visit.queries.begin; begin < visit.queries.end; ++block) {
    const Rows queries{begin, std::min(plan.queries_of(block).end, visit.queries.end)};
    use(block, queries);
    begin = queries.end;
  }
}

namespace detail {

/// Ranges in any order as ranges in order, with gaps between them.
inline void join_ranges(std::vector<Rows>& ranges) {
  std::sort(ranges.begin(), ranges.end(), [](const Rows& a, const Rows& b) { return a.begin < b.begin; });
  std::size_t kept = 0;
  for (std::size_t i = 0; i < ranges.size(); ++i) {
    const Rows range = ranges[i];
    if (range.empty()) continue;
    if (kept > 0 && range.begin <= ranges[kept - 1].end)
      ranges[kept - 1].end = std::max(ranges[kept - 1].end, range.end);
    else
      ranges[kept++] = range;
  }
  ranges.resize(kept);
}

}  // namespace detail

/// The keys that one or more of some queries see: ranges in order, with gaps between them.
///
///   Laws     the union of what a visit's tiles show its own rows, for a kernel's plan of the same mask that is exact
[[nodiscard]] inline std::vector<Rows> keys_seen(const Mask& mask, Rows queries, Index keys) {
  TWOHEADS_ASSERT(queries.begin >= 0 && !queries.empty());
  std::vector<Rows> seen;
  if (mask.kind == MaskKind::blocks) {
    const std::size_t last = mask.group_of(queries.end - 1);
    for (std::size_t group = mask.group_of(queries.begin); group <= last; ++group)
      seen.insert(seen.end(), mask.shown[group].begin(), mask.shown[group].end());
  } else {
    // Neither end of what a query sees lies before that of the query before it, and nothing lies between them. Where
    // the first query has no sinks apart, it sees keys from 0 on, or there are none.
    const VisibleKeys first = mask.visible_keys(queries.begin, keys);
    const VisibleKeys last = mask.visible_keys(queries.end - 1, keys);
    seen = {first.sinks, {first.keys.begin, last.keys.end}};
  }
  detail::join_ranges(seen);
  return seen;
}

/// Rows that a rank asks of others, and the ranges that they lie in: each of one share, and of no more than a piece.
struct Fetched {
  Index rows = 0;  ///< keys of other ranks
  Index ranges = 0;

  /// Adds what else is fetched.
  constexpr Fetched& operator+=(const Fetched& other) {
    rows += other.rows;
    ranges += other.ranges;
    return *this;
  }
  friend constexpr bool operator==(const Fetched&, const Fetched&) = default;
};

/// Counts what ranks fetch of rows that are shared, in a time that does not grow with the rows.
class FetchCounter {
 public:
  /// `piece`: rows that are fetched at once.
  FetchCounter(const RowShares& shares, Index piece) : piece_(piece), own_(static_cast<std::size_t>(shares.ranks())) {
    if (piece < 1) throw SpecError(detail::text("a piece has ", piece, " rows, expected 1 or more"));
    for (const RowShare& share : shares.shares()) {
      all_.add(share.rows, piece);
      own_[static_cast<std::size_t>(share.rank)].add(share.rows, piece);
    }
  }

  /// What `rank` has to ask for, to have all rows of a range.
  [[nodiscard]] Fetched fetched(Index rank, Rows rows) const {
    const Fetched all = all_.within(rows, piece_);
    const Fetched own = own_[static_cast<std::size_t>(rank)].within(rows, piece_);
    return {all.rows - own.rows, all.ranges - own.ranges};
  }
  /// Of ranges in order, with gaps between them.
  [[nodiscard]] Fetched fetched(Index rank, const std::vector<Rows>& ranges) const {
    Fetched sum;
    for (const Rows& range : ranges) sum += fetched(rank, range);
    return sum;
  }

 private:
  /// Shares in order, and what those before each of them come to.
  class Sums {
   public:
    void add(Rows rows, Index piece) {
      Fetched sum = shares_.empty() ? Fetched{} : before_.back();
      if (!shares_.empty()) sum += of(shares_.back(), piece);
      shares_.push_back(rows);
      before_.push_back(sum);
    }

    [[nodiscard]] Fetched within(Rows rows, Index piece) const {
      const auto ends_after = [](Index position, const Rows& share) { return position < share.end; };
      const auto begins_before = [](const Rows& share, Index position) { return share.begin < position; };
      const auto first = std::upper_bound(shares_.begin(), shares_.end(), rows.begin, ends_after);
      const auto end = std::lower_bound(first, shares_.end(), rows.end, begins_before);
      if (first == end) return {};
      const auto last = end - 1;
      Fetched sum = of({std::max(first->begin, rows.begin), std::min(first->end, rows.end)}, piece);
      if (first == last) return sum;
      sum += of({last->begin, std::min(last->end, rows.end)}, piece);
      const Fetched& after_first = before_[static_cast<std::size_t>(first - shares_.begin()) + 1];
      const Fetched& before_last = before_[static_cast<std::size_t>(last - shares_.begin())];
      sum += {before_last.rows - after_first.rows, before_last.ranges - after_first.ranges};
      return sum;
    }

   private:
    [[nodiscard]] static Fetched of(Rows rows, Index piece) { return {rows.size(), ceil_div(rows.size(), piece)}; }

    std::vector<Rows> shares_;
    std::vector<Fetched> before_;
  };

  Index piece_;
  Sums all_;
  std::vector<Sums> own_;
};

namespace detail {

/// What a rank fetches for a visit and one key/value head: for each tile, the keys from the first to the last that the
/// visit's own rows see.
[[nodiscard]] inline Fetched fetched_of(const Plan& plan, const FetchCounter& counter, Index rank, const Visit& visit) {
  const Mask mask = plan.request().mask.simplified(plan.tokens());
  // No two tiles of these share a key, and there may be many.
  if (mask.kind == MaskKind::full || mask.kind == MaskKind::causal)
    return counter.fetched(rank, keys_seen(mask, visit.queries, plan.keys()));
  Fetched sum;
  plan.for_each_joined_tile(visit.query_block, 0, [&](const Tile& tile) {
    const Rows own{std::max(tile.queries.begin, visit.queries.begin), std::min(tile.queries.end, visit.queries.end)};
    if (own.empty()) return;
    sum += counter.fetched(rank, tile.sinks);
    const Rows first = tile.visible_keys(own.begin - tile.queries.begin);
    const Rows last = tile.visible_keys(own.end - 1 - tile.queries.begin);
    const Rows seen = tile.shape == TileShape::strict_upper ? first : last;
    if (!seen.empty()) sum += counter.fetched(rank, seen);
  });
  return sum;
}

/// Counts what the ranks fetch for the calls of an oracle.
class BatchCounter {
 public:
  struct Sum {
    Fetched fetched;
    Index slots = 0;
    Index most_rows = 0;  ///< that a portion fetches

    Sum& operator+=(const Sum& other) {
      fetched += other.fetched;
      slots += other.slots;
      most_rows = std::max(most_rows, other.most_rows);
      return *this;
    }
  };

  BatchCounter(const Plan& plan, const FetchCounter& counter, Index kv_heads)
      : plan_(plan), counter_(counter), group_(plan.request().heads / kv_heads), slots_(plan), keys_(size(kv_heads)) {}

  /// Whether a query block of a rank needs a key that another rank has.
  [[nodiscard]] bool asks(Index rank, Index block) const {
    for (Rows keys : keys_seen(plan_.request().mask, plan_.queries_of(block), plan_.keys())) {
      // A strict upper triangle has a key before those that it shows.
      keys.begin = std::max<Index>(keys.begin - 1, 0);
      if (counter_.fetched(rank, keys).rows > 0) return true;
    }
    return false;
  }
  [[nodiscard]] Index slots(Index block) { return slots_.slots(block) * plan_.request().heads; }

  /// What is fetched for some query blocks of a rank: portions of whole batches, each of `portion_keys` keys or more,
  /// counted as often as tiles have them. Blocks that do not follow each other share no batch.
  [[nodiscard]] Sum count(Index rank, std::span<const Index> blocks, Index portion_keys) {
    Sum sum;
    Index filled = 0;
    Index keys_read = 0;
    Index last = -1;
    const auto end_portion = [&] {
      close(rank, sum);
      filled = keys_read = 0;
    };
    for (const Index block : blocks) {
      if (block != last + 1) end_portion();
      last = block;
      for (Index head = 0; head < plan_.request().heads; ++head)
        plan_.for_each_slot(block, head, [&](std::span<const Tile> slot) {
          std::vector<Rows>& keys = keys_[size(head / group_)];
          if (!slot.front().sinks.empty()) keys.push_back(slot.front().sinks);
          for (const Tile& tile : slot) {
            keys.push_back(tile.keys);
            keys_read += tile.keys.size();
          }
          ++sum.slots;
          if (++filled < plan_.slots_per_batch()) return;
          filled = 0;
          if (keys_read >= portion_keys) end_portion();
        });
    }
    close(rank, sum);
    return sum;
  }

 private:
  /// Ends a portion.
  void close(Index rank, Sum& sum) {
    Index rows = 0;
    for (std::vector<Rows>& keys : keys_) {
      if (keys.empty()) continue;
      join_ranges(keys);
      const Fetched found = counter_.fetched(rank, keys);
      sum.fetched += found;
      rows += found.rows;
      keys.clear();
    }
    sum.most_rows = std::max(sum.most_rows, rows);
  }

  [[nodiscard]] static std::size_t size(Index count) { return static_cast<std::size_t>(count); }

  const Plan& plan_;
  const FetchCounter& counter_;
  Index group_;
  SlotCounter slots_;
  std::vector<std::vector<Rows>> keys_;  ///< of the open portion, by key/value head
};

}  // namespace detail
}  // namespace twoheads
