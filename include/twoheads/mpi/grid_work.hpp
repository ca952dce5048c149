#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <twoheads/attention/input.hpp>
#include <twoheads/base/errors.hpp>
#include <twoheads/base/index.hpp>
#include <twoheads/exec/execute.hpp>
#include <twoheads/mpi/rank_input.hpp>
#include <twoheads/mpi/ranks.hpp>
#include <twoheads/mpi/shared_keys.hpp>
#include <twoheads/plan/plan.hpp>
#include <twoheads/plan/shares.hpp>
#include <utility>
#include <vector>

namespace twoheads::detail {

/// Throws SpecError unless no call of a plan has rows inside a share and rows outside of it.
/// Shares in order, gaps allowed.
inline void require_whole_calls(const Plan& plan, std::span<const RowShare> shares, Index layer) {
  Index block = 0;
  Index slots = 0;
  const Index call = plan.slots_per_call();
  SlotCounter counter(plan);
  const auto require_end = [&](Index position) {
    for (; block < plan.query_blocks() && plan.queries_of(block).end <= position; ++block)
      if (call > 1) slots += counter.slots(block) * plan.request().heads;
    if (block == plan.query_blocks()) return;
    if (plan.queries_of(block).begin == position && slots % call == 0) return;
    throw SpecError(text("layer ", layer, ": rows up to ", position,
                         " are one rank's and those after are another's, or not wanted, which would cut a call of the ",
                         name(plan.request().mask.kind),
                         " mask in two: expected layers whose calls end at the same rows, or an oracle of other rows "
                         "or of one head and layer"));
  };
  for (const RowShare& share : shares) {
    require_end(share.rows.begin);
    require_end(share.rows.end);
  }
}

/// Tells whoever wants to know which rows are finished, once each and in order.
class FinishedRows {
 public:
  explicit FinishedRows(const RankWork& work) : work_(work) {}

  /// The wanted rows up to a position are finished.
  void until(Index position) {
    for (; at_ < work_.wanted.size(); ++at_) {
      const RowShare& share = work_.wanted[at_];
      const Rows rows{std::max(done_, share.rows.begin), std::min(position, share.rows.end)};
      if (!rows.empty() && work_.finished)
        work_.finished({rows, share.rank, share.place + rows.begin - share.rows.begin});
      if (!rows.empty()) done_ = rows.end;
      if (position < share.rows.end) return;
    }
  }
  void all() {
    if (!work_.wanted.empty()) until(work_.wanted.back().rows.end);
  }

 private:
  const RankWork& work_;
  std::size_t at_ = 0;
  Index done_ = 0;
};

/// The first row of a rank that holds NaN or infinity, in the order in which one rank would find it.
struct NotFinite {
  static constexpr std::uint64_t none = std::numeric_limits<std::uint64_t>::max();
  std::uint64_t order = none;
  const char* what = "";
  Index head = 0;
  Index position = 0;
};

template <RealScalar Scalar>
[[nodiscard]] NotFinite first_not_finite(const RankInput<Scalar>& input, Index rank) {
  const AttentionSpec& spec = input.spec;
  std::uint64_t order = 0;
  NotFinite found;
  const auto look = [&](const char* what, Index head, const MatrixView<Scalar>& rows, const RowShares& shares) {
    if (found.order != NotFinite::none) return;
    if (const Index row = first_row_not_finite(rows); row >= 0)
      shares.for_each_own(rank, [&](const RowShare& share) {
        if (row < share.place || row >= share.place + share.rows.size()) return;
        const Index position = share.rows.begin + row - share.place;
        found = {order + static_cast<std::uint64_t>(position), what, head, position};
      });
    order += static_cast<std::uint64_t>(shares.rows());
  };
  for (Index head = 0; head < spec.heads; ++head)
    look("query", head, block_view(input.q, {0, input.q.rows()}, head * spec.head_dim, spec.head_dim),
         input.query_shares);
  const Index own = input.key_shares.size(rank);
  for (Index head = 0; head < spec.kv_heads; ++head)
    look("key", head, block_view(input.k, {head * own, (head + 1) * own}, 0, spec.head_dim), input.key_shares);
  for (Index head = 0; head < spec.kv_heads; ++head)
    look("value", head, block_view(input.v, {head * own, (head + 1) * own}, 0, spec.value_dim), input.key_shares);
  return found;
}

/// The keys that some jobs read, each once, by key/value head and position.
[[nodiscard]] inline std::vector<KeyRange> keys_of(const std::vector<std::vector<Job>>& batches,
                                                   const AttentionSpec& spec) {
  std::vector<KeyRange> ranges;
  for (const std::vector<Job>& jobs : batches)
    for (const Job& job : jobs)
      for (const Rows keys : {job.tile.sinks, job.tile.keys})
        if (!keys.empty()) ranges.push_back({spec.kv_head_of(job.head), keys});
  std::sort(ranges.begin(), ranges.end(), [](const KeyRange& a, const KeyRange& b) {
    return a.kv_head != b.kv_head ? a.kv_head < b.kv_head : a.keys.begin < b.keys.begin;
  });
  std::vector<KeyRange> merged;
  for (const KeyRange& range : ranges) {
    if (!merged.empty() && merged.back().kv_head == range.kv_head && range.keys.begin <= merged.back().keys.end)
      merged.back().keys.end = std::max(merged.back().keys.end, range.keys.end);
    else
      merged.push_back(range);
  }
  return merged;
}

/// Batches of calls for the rows of one share that a thread takes at once, and the keys that they read.
template <RealScalar Scalar>
struct GridPortion {
  RowShare share;
  std::vector<std::vector<Job>> batches;
  std::unique_ptr<KeyPiece<Scalar>> keys;
};

/// A portion has so many keys, each counted as often as it is read, and so many batches, or more, if the share has.
struct GridPortionSize {
  Index keys = 0;
  Index batches = 1;
};

/// The calls of a plan that are a rank's, share by share, in the plan's order; the keys of a portion are fetched while
/// the one before it is evaluated.
///
///   Laws     each portion holds the keys that it reads; beside those that were given out and have not come back, one
///            portion is held
///   Corner   next() and poll() call MPI, in Ranks::together(), one at a time; give_back() does not
template <RealScalar Scalar>
class GridWork {
 public:
  /// `wanted`: of the rank's own rows; see require_whole_calls().
  GridWork(const Plan& plan, std::span<const RowShare> wanted, const SharedKeys<Scalar>& keys,
           const AttentionSpec& spec, const GridPortionSize& size, RankCounts& counts)
      : plan_(plan), wanted_(wanted), keys_(keys), spec_(spec), size_(size), counts_(counts) {}

  /// The next portion, its keys at hand; none after the last.
  [[nodiscard]] std::optional<GridPortion<Scalar>> next() {
    const std::lock_guard lock(mpi_);
    keys_.ranks().poll();
    if (!begun_) ahead_ = begin_next();
    begun_ = true;
    if (!ahead_) return std::nullopt;
    GridPortion<Scalar> portion = std::move(*ahead_);
    ahead_.reset();
    portion.keys->wait(counts_.fetch_seconds);
    ahead_ = begin_next();
    return portion;
  }

  /// Ranks::poll() from any thread, unless another one is with MPI already.
  void poll() {
    const std::unique_lock lock(mpi_, std::try_to_lock);
    if (lock.owns_lock()) keys_.ranks().poll();
  }

  /// Takes back the memory of keys that nobody reads any more.
  void give_back(GridPortion<Scalar>& portion) {
    const std::lock_guard lock(mutex_);
    free_.push_back(std::move(portion.keys));
  }

 private:
  [[nodiscard]] std::optional<GridPortion<Scalar>> begin_next() {
    GridPortion<Scalar> portion;
    Index keys = 0;
    while (portion.batches.empty()) {
      if (!batches_ && !find_share()) return std::nullopt;
      portion.share = share_;
      while (static_cast<Index>(portion.batches.size()) < size_.batches || keys < size_.keys) {
        std::vector<Job> batch = batches_->next();
        if (batch.empty()) {
          batches_.reset();
          break;
        }
        for (const Job& job : batch) keys += job.tile.keys.size();
        portion.batches.push_back(std::move(batch));
      }
    }
    portion.keys = room();
    portion.keys->start(keys_of(portion.batches, spec_), counts_.moved, counts_.fetch_seconds);
    return portion;
  }

  /// The next share, and the query blocks that are its.
  [[nodiscard]] bool find_share() {
    if (next_share_ == wanted_.size()) return false;
    share_ = wanted_[next_share_++];
    block_ = plan_.blocks_until(block_, share_.rows.begin).end;
    const Rows blocks = plan_.blocks_until(block_, share_.rows.end);
    block_ = blocks.end;
    batches_.emplace(plan_, blocks);
    return true;
  }

  [[nodiscard]] std::unique_ptr<KeyPiece<Scalar>> room() {
    const std::lock_guard lock(mutex_);
    if (free_.empty()) return std::make_unique<KeyPiece<Scalar>>(keys_);
    std::unique_ptr<KeyPiece<Scalar>> room = std::move(free_.back());
    free_.pop_back();
    return room;
  }

  const Plan& plan_;
  std::span<const RowShare> wanted_;
  const SharedKeys<Scalar>& keys_;
  const AttentionSpec& spec_;
  GridPortionSize size_;
  RankCounts& counts_;
  std::size_t next_share_ = 0;
  Index block_ = 0;  ///< of the plan: the first one that does not end before them
  RowShare share_;
  std::optional<Batches> batches_;  ///< of share_
  bool begun_ = false;
  std::optional<GridPortion<Scalar>> ahead_;
  std::mutex mpi_;    ///< one thread at a time is with MPI
  std::mutex mutex_;  ///< of free_
  std::vector<std::unique_ptr<KeyPiece<Scalar>>> free_;
};

}  // namespace twoheads::detail
