#pragma once

#include <algorithm>
#include <optional>
#include <span>
#include <twoheads/base/index.hpp>
#include <twoheads/base/sort.hpp>
#include <twoheads/exec/block_kernel.hpp>
#include <twoheads/mpi/shared_keys.hpp>
#include <twoheads/plan/plan.hpp>
#include <twoheads/plan/shares.hpp>
#include <twoheads/plan/visits.hpp>
#include <utility>
#include <vector>

namespace twoheads::detail {

/// A visit, and where its rows stand among the rank's own.
struct OwnVisit {
  Visit visit;
  RowShare own;
};

/// What a rank evaluates of a plan: visits of at most `most_rows` rows, in whole panels.
[[nodiscard]] inline std::vector<OwnVisit> visits_of(const Plan& plan, std::span<const RowShare> wanted,
                                                     Index most_rows) {
  std::vector<OwnVisit> visits;
  for (const RowShare& share : wanted)
    for_each_visit(plan, share.rows, most_rows, [&](const Visit& visit) {
      visits.push_back({visit, {visit.queries, share.rank, share.place + visit.queries.begin - share.rows.begin}});
    });
  return visits;
}

/// Some keys of a tile that a visit adds at once.
struct KernelStep {
  Index block = 0;  ///< the tile's query block
  Tile tile;
  TileKeys of;
  Rows part;  ///< of `of.keys`
  Rows seen;  ///< of `part`, by the visit's own rows of the block
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
  KernelWork(const Plan& plan, std::vector<OwnVisit> visits, Index heads_of_a_group, Index piece_keys, Index first_head)
      : plan_(plan),
        visits_(std::move(visits)),
        group_(plan.sampled() != nullptr ? 1 : heads_of_a_group),
        heads_of_kv_(heads_of_a_group),
        piece_(std::max<Index>(piece_keys, 1)),
        first_(first_head) {}

  [[nodiscard]] const std::vector<OwnVisit>& visits() const { return visits_; }

  /// The next portion; none after the last.
  [[nodiscard]] std::optional<KernelPortion> next() {
    while (step_ == steps_.size()) {
      if (turn_ == turns()) {
        turn_ = 0;
        ++visit_;
      }
      if (visit_ >= visits_.size()) return std::nullopt;
      ++turn_;
      find_steps();
      if (steps_.empty()) return portion(true);
    }
    return portion(step_ == 0);
  }

 private:
  [[nodiscard]] Index turns() const { return plan_.request().heads / group_; }
  [[nodiscard]] Index head() const { return (turn_ - 1 + first_ * heads_of_kv_ / group_) % turns() * group_; }

  void find_steps() {
    // Parts of tiles: a few milliseconds of work, so that messages of others do not wait for long.
    constexpr Index unit = rows_of_a_kernel_atom;
    const Index step = std::clamp<Index>(piece_ / unit * unit, unit, 1024);
    steps_.clear();
    step_ = 0;
    for_each_block(plan_, visits_[visit_].visit, [&](Index block, Rows own) {
      plan_.for_each_joined_tile(block, head(), [&](const Tile& tile) {
        for_each_keys(tile, [&](const TileKeys& of) {
          // Where they can, all tiles are cut at the same keys.
          const Index shift = of.keys.begin % unit == 0 ? of.keys.begin % step : 0;
          for (Index begin = of.keys.begin; begin < of.keys.end;) {
            const Index length = begin == of.keys.begin ? step - shift : step;
            const Rows part{begin, std::min(begin + length, of.keys.end)};
            steps_.push_back({block, tile, of, part, seen_keys(tile, of, part, own)});
            begin = part.end;
          }
        });
      });
    });
    // Several blocks read the keys in their order: together, each key once. The steps of a block keep theirs.
    if (steps_.empty() || steps_.front().block == steps_.back().block) return;
    sort_stably(steps_, [](const KernelStep& a, const KernelStep& b) { return a.part.begin < b.part.begin; });
  }

  [[nodiscard]] KernelPortion portion(bool first) {
    KernelPortion result;
    result.visit = visit_;
    result.heads = {head(), head() + group_};
    result.kv_head = head() / heads_of_kv_;
    result.first = first;
    for (Index keys = 0; step_ < steps_.size(); ++step_) {
      const KernelStep& next = steps_[step_];
      const Index fresh = next.seen.size() - known_rows(result, next.seen);
      // Not between steps that share keys, which would be fetched twice.
      if (keys > 0 && keys + fresh > piece_ && fresh == next.seen.size()) break;
      keys += fresh;
      result.steps.push_back(next);
      add_range(result, next.seen);
    }
    result.last = step_ == steps_.size();
    result.ends_visit = result.last && turn_ == turns();
    return result;
  }

  /// Of some keys, those that the portion's last range has.
  [[nodiscard]] static Index known_rows(const KernelPortion& portion, Rows keys) {
    if (portion.ranges.empty()) return 0;
    const Rows& known = portion.ranges.back().keys;
    return std::max<Index>(std::min(known.end, keys.end) - std::max(known.begin, keys.begin), 0);
  }

  static void add_range(KernelPortion& portion, Rows keys) {
    if (keys.empty()) return;
    if (!portion.ranges.empty()) {
      Rows& known = portion.ranges.back().keys;
      if (known.begin <= keys.begin && keys.begin <= known.end) {
        known.end = std::max(known.end, keys.end);
        return;
      }
    }
    portion.ranges.push_back({portion.kv_head, keys});
  }

  const Plan& plan_;
  std::vector<OwnVisit> visits_;
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
