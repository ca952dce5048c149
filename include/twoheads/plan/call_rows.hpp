#pragma once

#include <algorithm>
#include <map>
#include <twoheads/base/index.hpp>
#include <twoheads/plan/plan.hpp>
#include <utility>
#include <vector>

namespace twoheads {

/// How many calls there are of each row count, fewest rows first.
using CallRows = std::map<Index, Index>;

namespace detail {

/// Cuts slots, in the order in which they come, into calls of so many instances;
/// a call has the rows of its longest slot.
class CallCutter {
 public:
  explicit CallCutter(Index instances) : instances_(instances) {}

  void add(const SlotRun& run) {
    if (run.others == 0) return add(run.rows, run.times);
    if (instances_ == 1) {
      add(run.rows, run.times);
      return add(run.others, run.times);
    }
    Index left = 2 * run.times;
    bool odd = false;  // whether the next slot is one of the others
    const auto take = [&](Index slots) {
      const Index next = odd ? run.others : run.rows;
      add_to_open(slots > 1 ? std::max(run.rows, run.others) : next, slots);
      left -= slots;
      odd = odd != (slots % 2 == 1);
    };
    if (filled_ > 0) take(std::min(left, instances_ - filled_));
    if (left / instances_ > 0) found_[std::max(run.rows, run.others)] += left / instances_;
    odd = odd != (left / instances_ * instances_ % 2 == 1);
    left %= instances_;
    if (left > 0) take(left);
  }

  /// The same runs again and again; calls repeat after a few times, and are then only counted.
  void repeat(const std::vector<SlotRun>& runs, Index times) {
    if (instances_ == 1) {
      for (const SlotRun& run : runs) add(SlotRun{run.rows, run.others, run.times * times});
      return;
    }
    CallRows then = found_;
    std::pair<Index, Index> state{filled_, most_};
    Index since = 0;
    Index patience = 1;
    for (Index done = 0; done < times; ++done) {
      for (const SlotRun& run : runs) add(run);
      ++since;
      if (state == std::pair(filled_, most_)) {
        const Index rounds = (times - done - 1) / since;
        if (rounds > 0)
          for (auto& [rows, calls] : found_) {
            const auto before = then.find(rows);
            calls += rounds * (calls - (before == then.end() ? 0 : before->second));
          }
        done += rounds * since;
        since = 0;
        then = found_;
      } else if (since == patience) {
        then = found_;
        state = {filled_, most_};
        since = 0;
        patience *= 2;
      }
    }
  }

  [[nodiscard]] CallRows finish() {
    close();
    return std::move(found_);
  }

 private:
  void add(Index rows, Index slots) {
    if (filled_ > 0) {
      const Index first = std::min(slots, instances_ - filled_);
      add_to_open(rows, first);
      slots -= first;
    }
    if (slots / instances_ > 0) found_[rows] += slots / instances_;
    if (slots % instances_ > 0) add_to_open(rows, slots % instances_);
  }

  void add_to_open(Index rows, Index slots) {
    most_ = std::max(most_, rows);
    filled_ += slots;
    if (filled_ == instances_) close();
  }

  void close() {
    if (filled_ > 0) ++found_[most_];
    filled_ = most_ = 0;
  }

  Index instances_;
  Index filled_ = 0;  ///< slots of the open call, and its rows so far
  Index most_ = 0;
  CallRows found_;
};

}  // namespace detail

/// The row counts of the calls of one layer and round, without repeats, where a call carries so many slots.
///
///   Laws     as many calls as the plan has in a layer and round; a call has the least rows that the oracle takes and
///            that hold its longest slot
[[nodiscard]] inline CallRows call_rows(const Plan& plan, Index instances) {
  const Index heads = plan.request().heads;
  detail::CallCutter cutter(instances);
  detail::TriangleRuns memory;
  std::vector<SlotRun> runs;
  const auto collect = [&](Index block, Index head) {
    runs.clear();
    plan.for_each_run(
        block, head, [&](const SlotRun& run) { runs.push_back(run); }, memory);
  };
  for (Index block = 0; block < plan.query_blocks();) {
    if (plan.sampled() != nullptr) {
      for (Index head = 0; head < heads; ++head) {
        collect(block, head);
        cutter.repeat(runs, 1);
      }
      ++block;
      continue;
    }
    const Index end = plan.alike_until(block);
    collect(block, 0);
    cutter.repeat(runs, heads * (end - block));
    block = end;
  }
  CallRows padded;
  for (const auto& [rows, calls] : cutter.finish()) padded[plan.oracle().call_rows(rows)] += calls;
  return padded;
}
/// The rows of all calls of a plan.
[[nodiscard]] inline CallRows call_rows(const Plan& plan) {
  return call_rows(plan, std::min(plan.slots_per_call(), plan.slots_per_layer()));
}

}  // namespace twoheads
