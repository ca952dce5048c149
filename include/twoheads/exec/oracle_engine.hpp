#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <string>
#include <twoheads/attention/input.hpp>
#include <twoheads/attention/partial.hpp>
#include <twoheads/base/matrix.hpp>
#include <twoheads/codec/anchors.hpp>
#include <twoheads/codec/decode.hpp>
#include <twoheads/codec/layout.hpp>
#include <twoheads/codec/score_terms.hpp>
#include <twoheads/codec/slot_map.hpp>
#include <twoheads/codec/stack.hpp>
#include <twoheads/exec/oracle_calls.hpp>
#include <twoheads/exec/oracle_tasks.hpp>
#include <twoheads/oracle/oracle.hpp>
#include <twoheads/plan/plan.hpp>
#include <utility>
#include <vector>

namespace twoheads {

/// Evaluates the jobs of one layer through oracle calls: encode, run, decode, and repeat what the anchor left unsafe.
///
///   Laws     slots are cut into calls of H' L' in their order; a call's repeats depend on that call alone, so neither
///            bits nor the number of calls change with the batch. The oracle is touched through limits(), run() and
///            run_batch() only.
///   Throws   LimitError if the instances of a call are together wider than the oracle, a head is wider than its, the
///            products of codes would leave the range of the scalar, or scores may exceed the oracle's largest;
///            SpecError if raw tokens cannot express the model, its scores or checksums, or a sample is drawn of scores
///            that are more than products; OracleError, AnchorError that name layer, head, tile and row
template <Oracle O>
class OracleEngine {
 public:
  using Scalar = typename O::Scalar;

  OracleEngine(O& oracle, const Plan& plan, const AttentionInput<Scalar>& input,
               const OracleEngineOptions& options = {})
      : oracle_(oracle), plan_(plan), input_(input), made_(plan, input, options) {}

  /// Calls made so far, repeats included, and the repeats alone.
  [[nodiscard]] Index calls() const { return calls_; }
  [[nodiscard]] Index repeats() const { return calls_ - planned_; }  ///< calls beyond the planned ones
  /// Most calls that had to wait for one another.
  [[nodiscard]] Index rounds() const { return rounds_; }

  /// Partials of jobs that share calls, in their order.
  [[nodiscard]] std::vector<Partial<Scalar>> evaluate(std::span<const Job> jobs) {
    detail::GroupedTasks<Scalar> made(jobs, plan_, input_, made_.instances());
    const std::vector<Group>& groups = made.groups;
    depth_ = 0;
    planned_ += static_cast<Index>(groups.size()) * plan_.rounds_per_layer();
    for (Slot& slot : made.slots)
      for (std::size_t job = 0; job < slot.tasks.size(); ++job)
        set_anchors(slot.tasks[job], first_anchors(slot, static_cast<Index>(job)));
    round(first_kind(), groups);
    if (!plan_.straight() && plan_.anchor() == Anchor::gibbs)
      weigh_by_gibbs(groups);
    else
      repeat_unsafe(groups);

    for (Slot& slot : made.slots) slot.shift_log_weights();

    std::vector<Partial<Scalar>> partials;
    partials.reserve(made.tasks.size());
    for (Task& task : made.tasks) partials.push_back(std::move(task.found.partial));
    return partials;
  }

 private:
  using Task = detail::Task<Scalar>;
  using Slot = detail::Slot<Scalar>;
  using Group = detail::SlotGroup<Scalar>;

  [[nodiscard]] CallKind first_kind() const { return first_call(plan_.straight(), plan_.anchor()); }

  [[nodiscard]] const OracleLimits& limits() const { return made_.limits(); }
  [[nodiscard]] JobPlace place(const Task& task) const { return made_.place(task); }

  [[nodiscard]] Vector<double> first_anchors(const Slot& slot, Index job) const {
    const Tile& tile = slot.map.tile(job);
    const bool by_mean = plan_.anchor() == Anchor::mean_key || plan_.anchor() == Anchor::adaptive;
    if (plan_.straight() || !by_mean) return Vector<double>::Zero(tile.queries.size());
    const Index head = slot.head();
    const MatrixView<Scalar> queries = input_.query_rows(head, tile.queries);
    const MatrixView<Scalar> keys = input_.key_rows(head, tile.keys);
    const MatrixView<Scalar> sinks = input_.key_rows(head, tile.sinks);
    const double scale = input_.spec.score_scale;
    if (slot.terms.empty()) return mean_key_anchors(tile, queries, keys, sinks, scale);
    const auto term = [&](Index query, Index key) { return slot.terms.term(job, query, key); };
    return mean_key_anchors(tile, queries, keys, sinks, scale, slot.terms.by_query(), term);
  }

  /// Anchors in logits become entries of the queries' anchor column, rounded to the scalar that the oracle will see.
  void set_anchors(Task& task, const Vector<double>& logits) const {
    task.anchors = (logits / limits().score_scale).template cast<Scalar>();
    for (Index query = 0; query < task.anchors.size(); ++query) {
      task.anchors[query] = held_anchor(task.anchors[query], limits().precision);
      if (!std::isfinite(task.anchors[query]))
        throw AnchorError(detail::text(detail::place(place(task), task.job.tile, query), ": logits of about ",
                                       logits[query], " exceed the range of the ",
                                       limits().precision.tokens == Precision::own ? "scalar" : "oracle's tokens"));
    }
  }

  /// One call for each group; what it finds is left in the tasks.
  void round(CallKind kind, const std::vector<Group>& groups) {
    const InstanceLayout columns = made_.layout(kind);
    const StackLayout stacked = made_.columns_of_calls(columns);
    const std::span<const OracleCall<Scalar>> calls = made_.make(columns, stacked, groups);
    detail::run_all_into(oracle_, calls, answers_, [&](std::size_t call) {
      const Task& first = groups[call].front()->tasks.front();
      return detail::place(place(first), first.job.tile, 0) + ": ";
    });
    calls_ += static_cast<Index>(groups.size());
    rounds_ = std::max(rounds_, ++depth_);
    for (std::size_t i = 0; i < groups.size(); ++i) read(answers_[i], calls[i], columns, stacked, groups[i]);
  }

  void read(const Matrix<Scalar>& answer, const OracleCall<Scalar>& call, const InstanceLayout& columns,
            const StackLayout& stacked, const Group& group) const {
    const Task& first = group.front()->tasks.front();
    const auto for_what = [&] { return detail::place(place(first), first.job.tile, 0) + ": "; };
    detail::require_answer(call, answer, for_what);
    if (call.fault)
      if (const std::string fault = call.fault(answer); !fault.empty()) throw OracleError(for_what() + fault);
    for (std::size_t instance = 0; instance < group.size(); ++instance) {
      const Slot& slot = *group[instance];
      const Index begin = stacked.answer_begin(static_cast<Index>(instance));
      for (std::size_t job = 0; job < slot.tasks.size(); ++job) {
        Task& task = slot.tasks[job];
        Decoded<Scalar> found =
            decode(answer, begin, columns, slot.map, static_cast<Index>(job), place(task), task.anchors,
                   limits().score_scale, limits().precision, stacked.template trace<Scalar>());
        slot.forget_hidden_rows(static_cast<Index>(job), found);
        if (columns.kind == CallKind::weight) {
          task.found.partial.log_weight = std::move(found.partial.log_weight);
          task.found.drift = std::move(found.drift);
        } else {
          task.found = std::move(found);
        }
      }
    }
  }

  /// The second call of the Gibbs anchor: the values are known, r and p are asked for.
  void weigh_by_gibbs(const std::vector<Group>& groups) {
    for (const Group& group : groups) {
      const Index rows = made_.call_rows(group);
      for (Slot* slot : group)
        for (std::size_t job = 0; job < slot->tasks.size(); ++job) {
          Task& task = slot->tasks[job];
          const auto copies = [&](Index query) {
            const Index row = slot->map.row_of(static_cast<Index>(job), query);
            return row == SlotMap::none ? Index{1} : std::max<Index>(slot->map.synthetic_seen(row, rows), 1);
          };
          Vector<double> anchors = gibbs_anchors(task.job.tile, input_.query_rows(task.job.head, task.job.tile.queries),
                                                 task.found.expected_keys, input_.spec.score_scale, copies);
          if (!slot->terms.empty())
            for (Index query = 0; query < anchors.size(); ++query)
              anchors[query] += static_cast<double>(task.found.expected_keys(
                  query, input_.spec.head_dim + slot->terms.column(static_cast<Index>(job), query)));
          set_anchors(task, anchors);
        }
    }
    round(CallKind::weight, groups);
    search_anchors(groups);
  }

  /// Rows that are unsafe even with a Gibbs anchor have logits so large (beyond 1e8 in float) that their rounding is
  /// larger than the anchor's window. The anchor is then searched for: the drift of a row says on which side it lies.
  void search_anchors(std::vector<Group> groups) {
    for (int tries = 0; tries < AnchorSearch<Scalar>::most_tries; ++tries) {
      // A call keeps all its slots while one of them is searched for: with fewer rows the oracle might round the
      // scores otherwise, and what is known of an anchor would no longer hold.
      std::erase_if(groups, [](const Group& group) {
        return std::none_of(group.begin(), group.end(), [](const Slot* slot) { return slot->first_unsafe(); });
      });
      if (groups.empty()) return;
      detail::for_each_task(groups, [this](Task& task) {
        if (task.searches.empty()) task.searches.resize(task.found.drift.size());
        for (std::size_t row = 0; row < task.searches.size(); ++row) {
          Scalar& anchor = task.anchors[static_cast<Index>(row)];
          const Scalar next = held_anchor(task.searches[row].next(anchor, task.found.drift[row]), limits().precision);
          // Neighbours of the precision enclose what would be right, or its range ends.
          if (task.found.drift[row] != Drift::none && (next == anchor || !std::isfinite(next))) fail_search(task);
          anchor = next;
        }
      });
      round(CallKind::weight, groups);
    }
    for (const Group& group : groups)
      for (const Slot* slot : group)
        if (const Task* task = slot->first_unsafe()) fail_search(*task);
  }

  [[noreturn]] void fail_search(const Task& task) const {
    throw AnchorError(detail::place(place(task), task.job.tile, task.found.first_unsafe()) +
                      ": no anchor keeps the row's weight in range; a wider scalar would do");
  }

  /// Adaptive: slots with an unsafe row are asked again, the values too where r underflowed. Otherwise an unsafe row is
  /// an error.
  void repeat_unsafe(const std::vector<Group>& groups) {
    const std::vector<Group> unsafe =
        detail::only(groups, [](const Slot& slot) { return slot.first_unsafe() != nullptr; });
    if (unsafe.empty()) return;
    if (plan_.anchor() != Anchor::adaptive) {
      const Task& task = *unsafe.front().front()->first_unsafe();
      const Index row = task.found.first_unsafe();
      const bool high = task.found.drift[static_cast<std::size_t>(row)] == Drift::too_high;
      throw AnchorError(detail::text(detail::place(place(task), task.job.tile, row), ": with the anchor ",
                                     name(plan_.anchor()), " the weight of the row's ",
                                     high ? "real keys" : "synthetic key",
                                     " underflows; the anchor adaptive repeats such tiles"));
    }
    const std::vector<Group> without_value = detail::only(unsafe, [](const Slot& slot) { return slot.lacks_value(); });
    if (!without_value.empty()) round(CallKind::values_and_keys, without_value);
    weigh_by_gibbs(unsafe);
  }

  O& oracle_;
  const Plan& plan_;
  const AttentionInput<Scalar>& input_;
  detail::OracleCalls<Scalar> made_;
  Index calls_ = 0;
  Index planned_ = 0;
  Index depth_ = 0;
  Index rounds_ = 0;
  std::vector<Matrix<Scalar>> answers_;  ///< memory that serves all rounds
};

}  // namespace twoheads
