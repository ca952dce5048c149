#pragma once

#include <algorithm>
#include <limits>
#include <span>
#include <twoheads/attention/input.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/codec/anchors.hpp>
#include <twoheads/codec/decode.hpp>
#include <twoheads/codec/score_terms.hpp>
#include <twoheads/codec/slot_map.hpp>
#include <twoheads/plan/plan.hpp>
#include <utility>
#include <vector>

namespace twoheads::detail {

/// A job on its way through its calls.
template <RealScalar Scalar>
struct Task {
  explicit Task(const Job& j) : job(j) {}
  Job job;
  Vector<Scalar> anchors;
  Decoded<Scalar> found;
  std::vector<AnchorSearch<Scalar>> searches;  ///< one for each query row, once a Gibbs anchor did not do
};

/// The jobs that share one head's place in a call: they are repeated together.
template <RealScalar Scalar>
struct Slot {
  Slot(std::span<Task<Scalar>> t, SlotMap m, const AttentionInput<Scalar>& input)
      : tasks(t), map(std::move(m)), terms(input, t.front().job.head, map) {}
  std::span<Task<Scalar>> tasks;
  SlotMap map;
  ScoreTerms<Scalar> terms;

  [[nodiscard]] Index head() const { return tasks.front().job.head; }
  /// The first job with an unsafe row, or none.
  [[nodiscard]] const Task<Scalar>* first_unsafe() const {
    const auto found = std::find_if(tasks.begin(), tasks.end(),
                                    [](const Task<Scalar>& task) { return task.found.first_unsafe() >= 0; });
    return found == tasks.end() ? nullptr : &*found;
  }
  [[nodiscard]] bool lacks_value() const {
    return std::any_of(tasks.begin(), tasks.end(),
                       [](const Task<Scalar>& task) { return task.found.first_without_value() >= 0; });
  }

  /// Rows that see no key of a job's tile, since a bias hides all, have found nothing, whatever the numbers say.
  void forget_hidden_rows(Index job, Decoded<Scalar>& found) const {
    if (!terms.hides()) return;
    for (Index query = 0; query < found.partial.rows(); ++query) {
      if (!terms.hides_all(job, query)) continue;
      found.drift[static_cast<std::size_t>(query)] = Drift::none;
      found.partial.value.row(query).setZero();
      found.partial.log_weight[query] = -std::numeric_limits<double>::infinity();
      if (found.expected_keys.size() > 0) found.expected_keys.row(query).setZero();
    }
  }

  /// Gives the log weights what the terms left out of the logits.
  void shift_log_weights() {
    if (terms.empty()) return;
    for (std::size_t job = 0; job < tasks.size(); ++job) {
      Vector<double>& weights = tasks[job].found.partial.log_weight;
      for (Index query = 0; query < weights.size(); ++query)
        weights[query] += terms.shift(static_cast<Index>(job), query);
    }
  }
};

/// The slots of one call.
template <RealScalar Scalar>
using SlotGroup = std::vector<Slot<Scalar>*>;

/// The jobs of whole slots as tasks, and the slots that they share, cut into calls of so many.
template <RealScalar Scalar>
struct GroupedTasks {
  GroupedTasks(std::span<const Job> jobs, const Plan& plan, const AttentionInput<Scalar>& input, Index instances) {
    tasks.reserve(jobs.size());
    for (const Job& job : jobs) tasks.emplace_back(job);
    std::vector<Tile> tiles;
    for (std::size_t begin = 0; begin < tasks.size();) {
      std::size_t end = begin + 1;
      while (end < tasks.size() && jobs[end].slot == jobs[begin].slot) ++end;
      tiles.clear();
      for (const Job& job : jobs.subspan(begin, end - begin)) tiles.push_back(job.tile);
      slots.emplace_back(std::span<Task<Scalar>>(tasks).subspan(begin, end - begin),
                         SlotMap(std::span<const Tile>(tiles), plan.oracle().kind, plan.straight()), input);
      begin = end;
    }
    groups.resize(static_cast<std::size_t>(ceil_div(static_cast<Index>(slots.size()), instances)));
    for (std::size_t i = 0; i < slots.size(); ++i) groups[i / static_cast<std::size_t>(instances)].push_back(&slots[i]);
  }
  GroupedTasks(const GroupedTasks&) = delete;
  GroupedTasks& operator=(const GroupedTasks&) = delete;

  std::vector<Task<Scalar>> tasks;
  std::vector<Slot<Scalar>> slots;
  std::vector<SlotGroup<Scalar>> groups;
};

/// The same calls with nothing but the slots that pass a test.
template <RealScalar Scalar, class Test>
[[nodiscard]] std::vector<SlotGroup<Scalar>> only(const std::vector<SlotGroup<Scalar>>& groups, const Test& test) {
  std::vector<SlotGroup<Scalar>> kept;
  for (const SlotGroup<Scalar>& group : groups) {
    SlotGroup<Scalar> slots;
    for (Slot<Scalar>* slot : group)
      if (test(*slot)) slots.push_back(slot);
    if (!slots.empty()) kept.push_back(std::move(slots));
  }
  return kept;
}

template <RealScalar Scalar, class Use>
void for_each_task(const std::vector<SlotGroup<Scalar>>& groups, const Use& use) {
  for (const SlotGroup<Scalar>& group : groups)
    for (Slot<Scalar>* slot : group)
      for (Task<Scalar>& task : slot->tasks) use(task);
}

}  // namespace twoheads::detail
