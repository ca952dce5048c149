#pragma once

#include <algorithm>
#include <optional>
#include <span>
#include <twoheads/base/index.hpp>
#include <twoheads/exec/block_kernel.hpp>
#include <twoheads/mpi/shared_keys.hpp>
#include <twoheads/plan/plan.hpp>
#include <twoheads/plan/shares.hpp>
#include <utility>
#include <vector>

namespace twoheads::detail {

/// Rows of one query block that one rank evaluates together.
struct Visit {
  Index block = 0;
  RowShare own;  ///< of the block's rows
};

/// What a rank evaluates of a plan: for each query block, the rows that follow each other there and are wanted, at most
/// `most_rows` of them at a time, in whole panels.
[[nodiscard]] inline std::vector<Visit> visits_of(const Plan& plan, std::span<const RowShare> wanted, Index most_rows) {
  const Index step = std::max<Index>(most_rows / rows_of_a_kernel_atom, 1) * rows_of_a_kernel_atom;
  std::vector<Visit> visits;
  Index block = 0;
  for (const RowShare& share : wanted) {
    for (Index begin = share.rows.begin; begin < share.rows.end;) {
      while (plan.queries_of(block).end <= begin) ++block;
      const Rows rows{begin, std::min({share.rows.end, plan.queries_of(block).end, begin + step})};
      visits.push_back({block, {rows, share.rank, share.place + begin - share.rows.begin}});
      begin = rows.end;
    }
  }
  return visits;
}

/// Some keys of a tile that a visit adds at once.
struct KernelStep {
  Tile tile;
  TileKeys of;
  Rows part;  ///< of `of.keys`
  Rows seen;  ///< of `part`, by the visit's own rows
};

/// Steps whose keys are fetched together.
struct KernelPortion {
  std::size_t visit = 0;
  Index kv_head = 0;
  Rows heads;                        ///< query heads that read it
  bool first = false, last = false;  ///< of the visit's steps for these heads
  bool ends_visit = false;           ///< the last of all heads
  std::vector<KernelStep> steps;
  std::vector<KeyRange> ranges;
};

/// All portions of a rank, in the order in which it works on them: visit by visit, head by head, in the order of the
/// plan's tiles.
class KernelWork {
 public:
  /// `first_head`: of the key/value heads, the one that each visit begins with; ranks that begin with others ask fewer
  /// keys of the same rank at the same time.
  KernelWork(const Plan& plan, std::vector<Visit> visits, Index heads_of_a_group, Index piece_keys, Index first_head)
      : plan_(plan),
        visits_(std::move(visits)),
        group_(plan.sampled() != nullptr ? 1 : heads_of_a_group),
        heads_of_kv_(heads_of_a_group),
        piece_(std::max<Index>(piece_keys, 1)),
        first_(first_head) {}

  [[nodiscard]] const std::vector<Visit>& visits() const { return visits_; }

  /// The next portion; none after the last.
  [[nodiscard]] std::optional<KernelPortion> next() {
    while (step_ == steps_.size()) {
      if (turn_ == turns()) {
        turn_ = 0;
        ++visit_;
      }
      if (visit_ >= visits_.size()) return std::nullopt;
      find_steps();
      ++turn_;
      if (steps_.empty()) return portion(true);
    }
    return portion(step_ == 0);
  }

 private:
  [[nodiscard]] Index turns() const { return plan_.request().heads / group_; }
  [[nodiscard]] Index head() const { return (turn_ - 1 + first_ * heads_of_kv_ / group_) % turns() * group_; }

  void find_steps() {
    // Parts of tiles: a few milliseconds of work, so that messages of others do not wait for long.
    constexpr Index step = 1024;
    const Visit& visit = visits_[visit_];
    const Index next_head = (turn_ + first_ * heads_of_kv_ / group_) % turns() * group_;
    steps_.clear();
    step_ = 0;
    plan_.for_each_joined_tile(visit.block, next_head, [&](const Tile& tile) {
      for_each_keys(tile, [&](const TileKeys& of) {
        for (Index begin = of.keys.begin; begin < of.keys.end; begin += step) {
          const Rows part{begin, std::min(begin + step, of.keys.end)};
          steps_.push_back({tile, of, part, seen_keys(tile, of, part, visit.own.rows)});
        }
      });
    });
  }

  [[nodiscard]] KernelPortion portion(bool first) {
    KernelPortion result;
    result.visit = visit_;
    result.heads = {head(), head() + group_};
    result.kv_head = head() / heads_of_kv_;
    result.first = first;
    for (Index keys = 0; step_ < steps_.size(); ++step_) {
      const KernelStep& next = steps_[step_];
      keys += next.seen.size();
      if (keys > piece_ && keys > next.seen.size()) break;
      result.steps.push_back(next);
      add_range(result, next.seen);
    }
    result.last = step_ == steps_.size();
    result.ends_visit = result.last && turn_ == turns();
    return result;
  }

  static void add_range(KernelPortion& portion, Rows keys) {
    if (keys.empty()) return;
    if (!portion.ranges.empty() && portion.ranges.back().keys.end == keys.begin)
      portion.ranges.back().keys.end = keys.end;
    else
      portion.ranges.push_back({portion.kv_head, keys});
  }

  const Plan& plan_;
  std::vector<Visit> visits_;
  Index group_;
  Index heads_of_kv_;
  Index piece_;
  Index first_;
  std::size_t visit_ = 0;
  Index turn_ = 0;  ///< groups of heads of the visit that were begun
  std::vector<KernelStep> steps_;
  std::size_t step_ = 0;
};

}  // namespace twoheads::detail
